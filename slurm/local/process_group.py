"""`cluster=local`: the same job on this machine, one process for each task."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from recipes.common.addresses import free_port, with_command
from recipes.common.errors import RecipeError
from recipes.common.json_text import read_object, whole_lines
from recipes.common.locks import try_acquire
from recipes.schema import PROJECT
from slurm.environment import clean
from slurm.job import FAILED, FINISHED, STOPPED
from slurm.planning.schedule import Run
from slurm.run_folder import prepare

LOCK_S = 1.0
"""How long the folder's lock is asked for: a status view holds it for an instant too."""
LAST_WORDS_S = 1.0
"""After the first rank has failed the others may be about to say why as well; then they are ended."""


class LocalRun:
    """A run under way on this machine, from its newest checkpoint on.

    Attributes:
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
        """
        self.recipe, self.folder = run.recipe, run.folder
        self.step = 0
        self.steps: int | None = None
        self.code: int | None = None
        self._failed_at: float | None = None
        self._seen: dict[str, Any] = {}  # what the bar shows beside the steps
        self._lock = open(run.folder / "lock", "w")  # noqa: SIM115 (held as long as the run)
        try:
            _take(self._lock, run.folder)
            prepare(run.recipe, run.folder)  # not before: the recipe of a run in progress stays as it is
            self._lines = _new_lines(run.folder / "metrics.jsonl")
            self._processes = _start(run, self._lock, max(1, cores // run.recipe.tasks))
            self.bar = bar()
        except BaseException:
            self._lock.close()
            raise

    def poll(self) -> int | None:
        """Draw what is new, and return `code`. The first rank that fails ends the others: they would wait for it."""
        self._draw()
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
            if process.poll() is None:
                process.send_signal(signal.SIGUSR2)

    def end(self) -> None:
        """Leave nothing running, and let go of the folder."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._lock.close()

    def _draw(self) -> None:
        for line in next(self._lines):
            with contextlib.suppress(ValueError, LookupError, TypeError):  # damaged, and the bar can do without
                self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        if self.steps is None and (self.folder / "meta.json").exists():
            of_epoch: int = read_object(self.folder / "meta.json", {"steps_per_epoch": int})["steps_per_epoch"]
            self.steps = self.bar.total = of_epoch * self.recipe.schedule.epochs
            self.bar.set_description(self.recipe.recipe)
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
            self.bar.write(
                (
                    f"rank {rank} {how} after step {self.step}; the same command goes on from the last checkpoint. "
                    f"The end of {log}:"
                ),
                file=sys.stderr,
            )
            self.bar.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:]), file=sys.stderr)
            return FAILED
        if STOPPED in codes:
            self.bar.write(f"stopped and saved after step {self.step}; the same command goes on from there")
            return STOPPED
        return FINISHED


def _take(lock: IO[str], folder: Path) -> None:
    deadline = time.monotonic() + LOCK_S
    while not try_acquire(lock):
        if time.monotonic() > deadline:
            raise RecipeError(f"{folder} is being trained by another process on this machine")
        time.sleep(0.05)


def _start(run: Run, lock: IO[str], threads: int) -> list[subprocess.Popen[bytes]]:
    """Start a process for each rank; its output goes to log/rank-R.log.

    Ranks share the lock: should this process be killed, it holds until the last of them has ended.
    """
    port, folder, tasks = free_port(), run.folder, run.recipe.tasks
    processes: list[subprocess.Popen[bytes]] = []
    (folder / "log").mkdir(exist_ok=True)
    for rank in range(tasks):
        variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": tasks,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            **with_command(clean(), run.pipe),
            **{key: str(value) for key, value in variables.items()},
            "PYTHONUNBUFFERED": "1",
        }
        with open(folder / "log" / f"rank-{rank}.log", "a") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "slurm.job", str(folder), *run.command],
                    cwd=PROJECT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[lock.fileno()],
                )
            )
    return processes


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
