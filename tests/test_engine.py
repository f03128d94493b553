"""DeepSpeed's compiled operator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from recipes.schema import PROJECT


def test_a_leftover_of_a_killed_build_does_not_hang() -> None:
    """torch leaves a lock file behind when a build is killed, and would wait for it for ever; ours removes it."""
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path(sys.prefix) / "torch_extensions")) / "deepspeed_shm_comm"
    assert cache.is_dir(), "`make test` compiles the operator first"
    (cache / "lock").touch()
    try:
        subprocess.run([sys.executable, "-m", "ifl.engine"], cwd=PROJECT, check=True, timeout=300, capture_output=True)
        assert not (cache / "lock").exists()
    finally:
        (cache / "lock").unlink(missing_ok=True)
