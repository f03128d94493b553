"""However the launcher of a local run ends, or what it writes to, the run is saved or goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.schema import PROJECT
from slurm.local import stop_signals

RANK = """
import os, pathlib, sys, time
sys.path.append({project!r})
from ifl.supervision.signals import watch
stop, here = watch(), pathlib.Path({place!r})
(here / ("pid-" + os.environ["RANK"])).write_text(str(os.getpid()))
os.rename(here / ("pid-" + os.environ["RANK"]), here / ("ready-" + os.environ["RANK"]))
while not stop():
    time.sleep(0.02)
    if (here / "go").exists():
        sys.exit(0)
(here / ("saved-" + os.environ["RANK"])).touch()
time.sleep(0.3)
sys.exit(99)
"""
"""Stands in for a rank: it saves when it is asked to, and finishes when the test says so."""
LAUNCHER = """
import pathlib, sys
sys.path.insert(0, {project!r})
from recipes.resolve import resolve
from recipes.common.output import go_on_unread
from slurm.local import process_group, run_queue
from slurm.planning.schedule import Run
process_group.PROJECT = pathlib.Path({place!r})
recipe = resolve(["data=digits_glt", "cluster=local", "tasks_per_node=2", "runs=" + {place!r} + "/runs"])
go_on_unread(anyhow=True)
sys.exit(run_queue.run_all([Run(recipe)], lambda recipe: None))
"""


class Launched:
    """A launcher with two stand-in ranks, in a process group of its own."""

    def __init__(self, place: Path, before: Callable[[], object] = os.setsid, **streams: int) -> None:
        self.place = place
        (place / "slurm").mkdir(exist_ok=True)
        (place / "slurm" / "__init__.py").touch()
        names = {"project": str(PROJECT), "place": str(place)}
        (place / "slurm" / "job.py").write_text(RANK.format(**names))
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER.format(**names)],
            preexec_fn=before,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **streams},
        )

    def both(self, word: str, seconds: float = 20.0) -> bool:
        """Whether both ranks come to say a word within some seconds."""
        deadline = time.monotonic() + seconds
        while not all((self.place / f"{word}-{rank}").exists() for rank in (0, 1)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def end_by_kill(process: subprocess.Popen[bytes], terminal: int) -> None:
    process.kill()


def end_of_the_group(process: subprocess.Popen[bytes], terminal: int) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def hang_up(process: subprocess.Popen[bytes], terminal: int) -> None:
    os.killpg(process.pid, signal.SIGHUP)


def twice(process: subprocess.Popen[bytes], terminal: int) -> None:
    process.terminate()
    os.killpg(process.pid, signal.SIGTERM)


def close_terminal(process: subprocess.Popen[bytes], terminal: int) -> None:
    os.close(terminal)


@pytest.mark.parametrize(
    "end, code",
    [(end_by_kill, -9), (end_of_the_group, -9), (hang_up, 99), (twice, 99), (close_terminal, 99)],
    ids=["killed", "group killed", "hung up", "SIGTERM twice, as by timeout", "terminal lost"],
)
def test_the_ranks_save_however_the_launcher_ends(
    end: Callable[..., None], code: int, terminal: tuple[int, int], tmp_path: Path
) -> None:
    """Whatever ends the launcher, its group or its terminal, both ranks save within seconds; one that can still wait
    for them does, and ends with 99."""
    import fcntl
    import termios

    ours, theirs = terminal

    def on_the_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    launched = Launched(tmp_path, on_the_terminal, stdin=theirs, stdout=theirs, stderr=theirs)
    assert launched.both("ready")
    end(launched.process, ours)
    assert launched.both("saved", 3.0)
    assert launched.process.wait(10) == code


def test_ignored_hangups_and_lost_output_stop_nothing(tmp_path: Path) -> None:
    """Under nohup SIGHUP is ignored; output that cannot be written (a reader that has gone, a full disk) is dropped:
    the run goes on to its end, and the exit code is 0."""

    def as_nohup() -> None:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    reads, writes = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    launched = Launched(tmp_path, as_nohup, stdout=writes, stderr=full)
    for handle in (reads, writes, full):
        os.close(handle)
    assert launched.both("ready")
    os.killpg(launched.process.pid, signal.SIGHUP)
    assert not launched.both("saved", 0.3)
    (tmp_path / "go").touch()
    assert launched.process.wait(10) == 0


def test_the_same_command_waits_for_ranks_that_are_saving(tmp_path: Path) -> None:
    """Right after a launcher was killed the same command waits until its ranks have left, and then trains."""
    first = Launched(tmp_path)
    assert first.both("ready")
    first.process.kill()
    for rank in (0, 1):
        (tmp_path / f"ready-{rank}").unlink()
    second = Launched(tmp_path, stderr=subprocess.PIPE)
    assert second.both("ready")
    (tmp_path / "go").touch()
    assert second.process.wait(10) == 0


def test_signals_within_a_second_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first signal asks at once, one that follows within a second is the same wish, and a later one ends."""
    asked: list[str] = []
    signals = stop_signals.StopSignals(lambda: asked.append("stop"), lambda paused: None)
    with signals.heard():
        signal.raise_signal(signal.SIGTERM)
        assert signals.came and asked == ["stop"]
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(stop_signals, "TOGETHER_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == ["stop"]


def test_suspending_the_launcher_suspends_its_ranks(tmp_path: Path) -> None:
    """Ctrl-Z stops the ranks too, though they are in groups of their own, and `fg` lets them go on."""
    launched = Launched(tmp_path)
    assert launched.both("ready")
    ranks = [int((tmp_path / f"ready-{rank}").read_text()) for rank in (0, 1)]

    def all_stopped() -> bool:
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in ranks]
        return states == ["T", "T"]

    launched.process.send_signal(signal.SIGTSTP)
    deadline = time.monotonic() + 5
    while not all_stopped() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all_stopped()
    launched.process.send_signal(signal.SIGCONT)
    (tmp_path / "go").touch()
    assert launched.process.wait(10) == 0


@pytest.mark.parametrize("words", (["launch.py", "data=digits_glt", "cluster=dry"], ["launch.py", "check=nodes"]))
def test_ctrl_c_before_anything_runs_is_no_traceback(tmp_path: Path, words: list[str]) -> None:
    """At the start (here while the site file is read, a pipe that nobody writes), the launcher ends with 130 and
    without a word."""
    pipe = tmp_path / "site.yaml"
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "slurm" / words[0]), *words[1:], f"runs={tmp_path}"],
        env={**os.environ, "GLT_SITE": str(pipe)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with open(pipe, "w"):  # returns once the launcher has opened it
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
    assert (process.returncode, *said) == (130, b"", b"")
