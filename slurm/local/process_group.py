"""`cluster=local`: the same job on this machine, one process for each task."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ifl.evaluation.verdicts import expect, withdraw
from ifl.supervision.signals import LAUNCHER, REQUESTS
from recipes.common.addresses import free_port, with_command
from recipes.common.errors import RecipeError
from recipes.common.json_text import read_object, whole_lines
from recipes.common.locks import release, try_acquire
from recipes.schema import PROJECT
from slurm.environment import clean
from slurm.evaluator import LOG as EVALUATOR_LOG
from slurm.job import FAILED, FINISHED, STOPPED
from slurm.monitoring.events import newest_step, read
from slurm.monitoring.run_state import is_finished
from slurm.planning.schedule import Run
from slurm.run_folder import prepare

LOCK_S = 1.0
"""How long the folder's lock is asked for: a status view holds it for an instant too."""
LEAVE_S = 60.0
"""How long ranks whose launcher is gone may take to save and leave before a new start is refused."""
AGAIN = 3
"""So often an evaluator that ended before its run is started again."""
LAST_WORDS_S = 1.0
"""After the first rank has failed the others may be about to say why as well; then they are ended."""


class AlreadyFinished(RecipeError):
    """A run that was to be started is finished."""


class LocalRun:
    """A run under way on this machine, from its newest checkpoint on.

    Attributes:
        run: what is trained.
        step, steps: how far it is, and how far it goes; `steps` is None until the run knows it.
        code: the exit code once it is over, as of `slurm.job`; None before.
    """

    def __init__(self, run: Run, cores: int, bar: Callable[[], tqdm]) -> None:
        """Start its ranks.

        Args:
            run: what to train.
            cores: CPU cores that the ranks share.
            bar: makes what shows the steps, once the ranks have started; the caller closes it.

        Raises:
            RecipeError: another process is training in this folder.
            AlreadyFinished: another command has finished it.
        """
        self.recipe, self.folder, self.run = run.recipe, run.folder, run
        self.step = 0
        self.steps: int | None = None
        self.code: int | None = None
        self._failed_at: float | None = None
        self._seen: dict[str, Any] = {}  # what the bar shows beside the steps
        self._evaluator: subprocess.Popen[bytes] | None = None
        self._evaluators, self._threads = 0, threads_of(run, cores)
        self._lock = open(run.folder / "lock", "a+", errors="replace")  # noqa: SIM115 (held as long as the run)
        self._ended, self._alive = os.pipe()  # what it starts sees its end when this process ends
        try:
            _take(self._lock, run.folder)
            if is_finished(run.folder):  # by another command, since this one looked
                release(self._lock)
                raise AlreadyFinished(f"{run.folder} is finished: nothing to do")
            prepare(run.recipe, run.folder)  # not before: the recipe of a run in progress stays as it is
            self._lines = _new_lines(run.folder / "metrics.jsonl")
            self._processes = self._begin()
            if run.recipe.has_evaluator:
                self._evaluate()
            self.bar = bar()
        except BaseException:
            self._close()
            raise

    def _begin(self) -> list[subprocess.Popen[bytes]]:
        """Start the ranks."""
        return _start(self.run, self._lock, self._ended, self._threads)

    def _evaluate(self) -> None:
        """Start an evaluator, after any claim of an earlier one is gone; the run can do without it."""
        expect(self.folder)
        self._evaluator, self._evaluators = self._begin_evaluator(), self._evaluators + 1

    def _begin_evaluator(self) -> subprocess.Popen[bytes]:
        words = ["ifl.evaluation", str(self.folder)]
        return _process(self.run, words, EVALUATOR_LOG, self._threads, {LAUNCHER: self._ended}, [self._ended])

    def poll(self) -> int | None:
        """Draw what is new, and return `code`. The first rank that fails ends the others: they would wait for it."""
        self._draw()
        self._look_at_evaluator()
        codes = [process.poll() for process in self._processes]
        if self._failed_at is None and any(code not in (None, FINISHED, STOPPED) for code in codes):
            self._failed_at = time.monotonic()
        if self.code is None and (
            None not in codes or (self._failed_at is not None and time.monotonic() - self._failed_at > LAST_WORDS_S)
        ):
            self._draw()
            self.code = self._verdict(codes)
            self.end()
        return self.code

    def stop(self) -> None:
        """Ask all ranks to save and leave."""
        for process in self._processes:
            process.send_signal(signal.SIGUSR2)

    def pause(self, paused: bool) -> None:
        """Stop all ranks and their loader workers, or let them go on."""
        for process in [*self._processes, *([self._evaluator] if self._evaluator else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def end(self) -> None:
        """Leave nothing running, and let go of the folder."""
        for process in self._processes:
            if process.poll() is None:
                self._kill(process)
            process.wait()
        if self._evaluator:
            if self._evaluator.poll() is None:
                self._kill(self._evaluator)  # what it writes is whole or not there, and it judges again what it lost
            self._evaluator.wait()
        release(self._lock)
        self._close()

    def _close(self) -> None:
        os.close(self._alive)
        os.close(self._ended)
        self._lock.close()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()

    def _look_at_evaluator(self) -> None:
        """Start the evaluator again where it has ended before the ranks, or tell the user and them."""
        if not self._evaluator or self._evaluator.poll() is None or is_finished(self.folder):
            return
        code, self._evaluator = self._evaluator.returncode, None
        with contextlib.suppress(OSError):  # of a full disk the ranks hear by themselves
            if self._evaluators > AGAIN:
                withdraw(self.folder)
            elif any(process.poll() is None for process in self._processes):
                self._evaluate()
        what = "is started again" if self._evaluator else "does not come back: the run evaluates by itself"
        log = self.folder / "log" / EVALUATOR_LOG
        self.bar.write(f"the evaluator ended with {code} (see {log}) and {what}", file=sys.stderr)

    def _draw(self) -> None:
        for line in next(self._lines):
            with contextlib.suppress(ValueError, LookupError, TypeError):  # damaged, and the bar can do without
                self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        if self.steps is None and (self.folder / "meta.json").exists():
            of_epoch: int = read_object(self.folder / "meta.json", {"steps_per_epoch": int})["steps_per_epoch"]
            self.steps = self.bar.total = of_epoch * self.recipe.schedule.epochs
            self.bar.set_description(self.recipe.recipe)
        if line["kind"] == "saved":  # of a step that is some time past
            return
        if self.step == 0 and line["step"]:
            self.bar.initial = line["step"] if line["kind"] == "boot" else 0  # a resumed run's ETA counts from here
        if line["kind"] == "train":
            self._seen.update(
                epoch=f"{line['epoch'] + 1}/{self.recipe.schedule.epochs}",
                loss=f"{line['loss']:.3f}",
                img_s=f"{line['images_per_s']:.0f}",
            )
        elif line["kind"] == "eval":
            self._seen[line["split"]] = f"{100 * line['accuracy']['overall']:.1f}%"
        self.bar.set_postfix(self._seen, refresh=False)
        self.bar.update(line["step"] - self.step)
        self.step = line["step"]

    def _verdict(self, codes: list[int | None]) -> int:
        """Return the run's exit code from its ranks', and say what went wrong.

        The first to fail says why; the others only say that they lost it.
        """
        bad = [(rank, code) for rank, code in enumerate(codes) if code not in (None, FINISHED, STOPPED)]
        if bad:
            log, rank, code = min(
                ((self.folder / "log" / f"rank-{rank}.log", rank, code) for rank, code in bad),
                key=lambda entry: entry[0].stat().st_mtime_ns,
            )
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            self.bar.leave = False  # below its error a run's bar would look as if it went on
            said = f"rank {rank} {how} after step {max(self.step, newest_step(self.folder), 0)}; {goes_on(self.run)}"
            self.bar.write(f"{said}. The end of {log}:", file=sys.stderr)
            self.bar.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:]), file=sys.stderr)
            return FAILED
        if STOPPED in codes:
            return self._has_stopped()
        return FINISHED

    def _has_stopped(self) -> int:
        """Say that the run has stopped on a request, and what is saved; returns the code for it."""
        unsaved = next((event["error"] for event in read(self.folder)[-1:] if "error" in event), "")
        self.bar.write(unsaved or _saved(self.run))
        return STOPPED


def goes_on(run: Run) -> str:
    """Say from where the same command goes on with a run."""
    if newest_step(run.folder) < 0:
        return f"no checkpoint was made yet, so once the cause is mended {run.same_command} starts it again"
    return f"{run.same_command} goes on from the last checkpoint"


def _saved(run: Run) -> str:
    step = newest_step(run.folder)
    if step < 0:  # in its boot, or the evaluation of another run's weights
        return f"stopped; {run.same_command} makes it again"
    return f"stopped and saved after step {step}; {run.same_command} goes on from there"


def threads_of(run: Run, cores: int) -> int:
    """Return the threads of each rank: a run that goes on keeps its own, for with others floats round otherwise."""
    last: dict[str, Any] = next((event for event in reversed(read(run.folder)) if event["event"] == "start"), {})
    threads = last.get("threads")
    if newest_step(run.folder) >= 0 and last.get("world") == run.recipe.tasks and isinstance(threads, int):
        return max(1, threads)
    return max(1, cores // run.recipe.tasks)


def _take(lock: IO[str], folder: Path) -> None:
    """Take a run folder's lock, and note in it who has it.

    The ranks of a launcher that was killed save and leave by themselves: they are waited for.

    Raises:
        RecipeError: somebody has it, and keeps it.
    """
    patience_s, began, left = LOCK_S, time.monotonic(), ""
    while not try_acquire(lock):
        if time.monotonic() - began > patience_s:
            if left or not (left := _left_behind(lock)):
                still = f"still being trained by {left}" if left else "being trained by another process on this machine"
                raise RecipeError(f"{folder} is {still}")
            print(f"{folder.name}: {left} save and leave; this start waits for them", file=sys.stderr, flush=True)
            patience_s = LEAVE_S
        time.sleep(0.05)
    lock.truncate(0)
    lock.write(f"{socket.gethostname()} {os.getpid()}")
    lock.flush()


def _left_behind(lock: IO[str]) -> str:
    """Name the ranks that have a lock, where the launcher that took it is gone; empty where it may be there."""
    lock.seek(0)
    host, _, process = lock.read().rpartition(" ")
    if host != socket.gethostname() or not process.isdecimal():
        return ""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return f"the ranks of a launcher that is gone (process {process})"
    except PermissionError:
        pass
    return ""


def _start(run: Run, lock: IO[str], ended: int, threads: int) -> list[subprocess.Popen[bytes]]:
    """Start a process for each rank; its output goes to log/rank-R.log.

    Ranks share the lock: should this process be killed, it holds until the last of them has ended. Each has a process
    group of its own, so that what a terminal or shell sends to this process's group does not reach them: they see by
    the pipe `ended` that this process has ended.
    """
    port, tasks = free_port(), run.recipe.tasks
    processes: list[subprocess.Popen[bytes]] = []
    for rank in range(tasks):
        variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": tasks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            LAUNCHER: ended,
        }
        words = ["slurm.job", str(run.folder), *run.command]
        processes.append(_process(run, words, f"rank-{rank}.log", threads, variables, [lock.fileno(), ended]))
    return processes


def _process(
    run: Run, words: list[str], log_name: str, threads: int, variables: dict[str, Any], files: list[int]
) -> subprocess.Popen[bytes]:
    """Start a module with further environment variables and open files; its output goes to log/."""
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        **with_command(clean(), run.pipe),
        **{key: str(value) for key, value in variables.items()},
        "PYTHONUNBUFFERED": "1",
    }
    (run.folder / "log").mkdir(exist_ok=True)
    with open(run.folder / "log" / log_name, "a") as log, blocked():
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=PROJECT,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            pass_fds=files,
            process_group=0,
        )


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Block the requests to stop: a process that is started here keeps them until it listens."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _new_lines(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield again and again the whole lines added since the last time; those of earlier starts are passed over."""
    position = path.stat().st_size if path.exists() else 0
    while True:
        lines: list[dict[str, Any]] = []
        if path.exists():
            position = min(position, path.stat().st_size)  # a resumed run cuts the file
            with open(path, "rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    lines += whole_lines(line)
        yield lines
