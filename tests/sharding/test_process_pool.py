"""Work spread over processes: what a killed parent leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.common.errors import DataError
from sharding.building.process_pool import end_of, in_order
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


def _end(code: int, number: int) -> int:
    """End the worker itself at its third job, by an exit code or (below 0) a signal."""
    if number == 2:
        if code > 0:
            os._exit(code)
        os.kill(os.getpid(), -code)
    return number


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (3, "ended by itself with exit code 3, and what it printed before may say why; the same command goes on"),
        (-signal.SIGSEGV, "was killed by SIGSEGV; the same"),
        (-signal.SIGKILL, "was killed, for want of memory perhaps .*: fewer workers= need less; the same"),
    ],
    ids=["exit code", "fault", "killed"],
)
def test_a_lost_worker_is_named_by_its_end(code: int, sentence: str) -> None:
    """An exit code is no kill, and a fault of a library no want of memory."""
    with pytest.raises(DataError, match=f"^one of 2 worker processes {sentence}"):
        list(in_order(_end, code, range(4), 2))


@pytest.mark.parametrize(
    ("codes", "sentence"),
    [
        ([None, -15, 3], "ended by itself with exit code 3"),
        ([-15, -9, -15], "was killed, for want of memory perhaps"),
        ([-15, -15], "was killed by SIGTERM"),
        ([0, None], "ended, and nothing says how"),
    ],
)
def test_of_an_end_what_is_known_is_told(codes: list[int | None], sentence: str) -> None:
    """A pool ends the other workers by SIGTERM, which hides no other end; memory is named where SIGKILL is."""
    assert end_of([SimpleNamespace(exitcode=code) for code in codes]).startswith(sentence)


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
