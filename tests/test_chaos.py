"""The chaos driver's short form, under `make test-full`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cluster as clusters


@pytest.mark.full
def test_runs_under_fire_end_with_the_same_bits() -> None:
    """Six faults at seeded random moments on a real SLURM: every run hit ends with the undisturbed run's bits, and no
    fault leads to a hang."""
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    result = subprocess.run([sys.executable, str(Path(__file__).parent / "chaos.py"), "faults=6", "seed=0"], capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "6 faults" in result.stdout and "PROBLEM" not in result.stdout
