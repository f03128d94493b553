"""Faults of a run on this machine: what ends the launcher. Its ranks must save, and the same command go on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

from recipes.common.locks import is_held
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm.monitoring import events
from tests.helpers.jobs import launched

LEAVE_S = 60


class Terminal:
    """A launcher in the foreground of a terminal of its own."""

    def __init__(self, words: list[str]) -> None:
        self.ours, theirs = pty.openpty()

        def take() -> None:
            os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # where all of this runs under nohup, too
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / "slurm" / "launch.py"), *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=take,
        )
        os.close(theirs)

    def kill(self) -> None:
        self.process.kill()

    def lose(self) -> None:
        os.close(self.ours)

    def end(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):  # it was lost
            os.close(self.ours)


LOCAL: dict[str, Callable[[Terminal], None]] = {"launcher-killed": Terminal.kill, "terminal-lost": Terminal.lose}
"""The kinds, and what each does."""


def strike(kind: str, words: list[str], pause_s: float) -> tuple[Path, float | None, str]:
    """Start a run, strike it once, and launch it again to its end.

    Args:
        kind: one of `LOCAL`.
        words: the launcher's.
        pause_s: how long after the first steps the fault comes.

    Returns:
        The run folder; the seconds until its ranks had left, None where it was finished before; what was not as it must
        be, empty where all was.
    """
    folder, terminal = resolve(words).run_folder, Terminal(words)
    try:
        _until(lambda: _steps(folder) > 2, 90)
        time.sleep(pause_s)
        if terminal.process.poll() is not None:
            return folder, None, ""
        began = time.monotonic()
        LOCAL[kind](terminal)
        left = _until(lambda: not is_held(folder / "lock"), LEAVE_S)
        took = time.monotonic() - began
    finally:
        terminal.end()
    last = events.read(folder)[-1]["event"]
    launched(words, seconds=900)
    if not left or last not in ("stopped", "finished"):
        return folder, took, f"after {kind} the ranks {'left' if left else 'stayed'}, and the last event was {last}"
    return folder, took, ""


def _steps(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count('"train"') if path.exists() else 0


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
