"""Work spread over processes: what a killed parent leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers.paths import PROJECT

PROGRAM = """
import os, sys, time
from pathlib import Path
from sharding.building.process_pool import in_order

def job(folder, number):
    Path(folder, str(os.getpid())).touch()
    time.sleep(0.2)

if __name__ == "__main__":
    for _ in in_order(job, sys.argv[1], range(10**6), 2):
        print("one", flush=True)
"""


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """After SIGKILL of the parent alone no worker goes on with jobs that wait, or stays."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "pids").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "pids")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert process.stdout.readline() == b"one\n"
    process.kill()
    process.wait()
    workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    deadline = time.monotonic() + 60
    while (left := [pid for pid in workers if _running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, 9)
    assert workers and not left
