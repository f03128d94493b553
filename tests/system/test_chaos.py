"""The chaos driver's short form, under `make test-full`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import cluster as clusters
from tests.helpers.paths import PROJECT

KINDS = ["kill-save", "preempt", "preempt-grace", "cancel", "corrupt", "exception", "evaluator-killed"]


@pytest.mark.full
def test_runs_under_fire_end_with_the_same_bits() -> None:
    """Seven faults of seven kinds, two of them preemptions by a job of higher priority, at seeded random moments on a
    real SLURM: every run hit, each with an evaluator beside it, ends with the bits of an undisturbed run that has none;
    no fault leads to a hang or leaves an evaluator, and status and reason are told right."""
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    words = [f"faults={len(KINDS)}", "seed=0", "eval=job", f"kinds={','.join(KINDS)}"]
    result = subprocess.run(
        [sys.executable, "-m", "tests.system.chaos", *words], cwd=PROJECT, capture_output=True, text=True, timeout=1800
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert f"{len(KINDS)} faults" in result.stdout and "PROBLEM" not in result.stdout
