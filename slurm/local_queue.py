"""Runs on this machine: at most so many at once, each after those that it needs, with a view of how far all are."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from recipes.schema import Recipe, RecipeError
from slurm.cost import images_of
from slurm.job import FINISHED, STOPPED
from slurm.local import LocalRun
from slurm.several import Run, Step, arrange, finished_of, is_finished

PAUSE_S = 0.2
"""Between two looks at the runs under way."""


def run_all(runs: Sequence[Run], check: Callable[[Recipe], None], at_once: int | None = None) -> int:
    """Train on this machine, `at_once` runs at a time (default 1), which share its cores. A run that fails stops those that need it and no
    others; Ctrl-C lets those under way save and starts no other.

    Args:
        check: refuses a recipe before anything is started.

    Returns:
        The exit code: 0 if all are finished, else that of the first that is not.

    Raises:
        RecipeError: nothing was started, or the one run asked for is being trained by another process.
    """
    finished = finished_of(runs)
    outcomes = {run.folder: "finished" for run in runs if run.folder in finished}
    for folder in outcomes:
        print(f"{folder} is finished: nothing to do")
    steps = arrange(runs, finished, ())
    for step in steps:
        check(step.run.recipe)
    _refuse_queued([step.run.folder for step in steps])
    code = _work(steps, min(at_once or 1, len(steps)), outcomes) if steps else FINISHED
    if len(runs) > 1:
        print("\n".join(f"{outcomes[run.folder]}: {run.folder}" for run in runs))
    return code


def _work(steps: Sequence[Step], at_once: int, outcomes: dict[Path, str]) -> int:
    """Run `steps`, in their order where nothing hinders; puts what became of each into `outcomes`, and returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    waiting, under_way, code, interrupted = list(steps), {}, FINISHED, False
    view = _View(steps, at_once)
    try:
        while waiting or under_way:
            try:
                for step in list(waiting):
                    open_needs = [need for need in step.finished if not is_finished(need)]
                    lost = next((need for need in open_needs if need in outcomes), None)
                    if interrupted or code == STOPPED or lost:
                        outcomes[step.run.folder] = f"not started, needs {lost.name}" if lost else "not started"
                        waiting.remove(step)
                    elif not open_needs and len(under_way) < at_once:
                        waiting.remove(step)
                        lane = min(set(range(at_once)) - under_way.keys())
                        try:
                            under_way[lane] = view.start(lane, step.run)
                        except RecipeError as error:
                            if len(steps) == 1:
                                raise
                            view.write(f"launch.py: {error}", sys.stderr)
                            outcomes[step.run.folder], code = "failed", code or 2
                for lane, run in list(under_way.items()):
                    if (ended := run.poll()) is not None:
                        del under_way[lane]
                        outcomes[run.folder] = {FINISHED: "finished", STOPPED: "stopped"}.get(ended, "failed")
                        code = ended if ended == STOPPED or code == FINISHED else code
                        view.ended(lane, run, outcomes[run.folder])
                view.draw(under_way.values())
                time.sleep(PAUSE_S if under_way else 0)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                view.write("saving a checkpoint; the same command goes on from it (Ctrl-C again ends at once)")
                for run in under_way.values():
                    run.stop()
    finally:
        for run in under_way.values():
            run.end()
        view.close()
    return code


class _View:
    """A bar for each run under way, and with several runs one over all of them, in training images. Where nobody watches a terminal,
    bars of several runs would overwrite each other: there each run's end is a line."""

    def __init__(self, steps: Sequence[Step], at_once: int) -> None:
        self._several, self._at_once, self._runs = len(steps) > 1, at_once, len(steps)
        self._terminal = sys.stderr.isatty()
        self._images = {step.run.folder: images_of(step.run.recipe) for step in steps} if self._several else {}
        self._bars: dict[int, tqdm] = {}
        self._began: dict[int, float] = {}
        self._ended, self._ended_images, self._start = 0, 0, time.monotonic()
        self._all = tqdm(total=sum(self._images.values()), unit="img", unit_scale=True, position=at_once, dynamic_ncols=True, desc=f"{self._runs} runs", disable=not (self._several and self._terminal))

    def start(self, lane: int, run: Run) -> LocalRun:
        """Start a run in a lane. Raises RecipeError where it is being trained already."""
        run.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.write(f"run folder: {run.folder}" + (f" ({self._ended + len(self._bars) + 1} of {self._runs})" if self._several else ""))
        bar = functools.partial(tqdm, total=None, desc="starting", unit="step", dynamic_ncols=True, mininterval=0.1 if self._terminal else 2.0, position=lane, leave=not self._several,
                                disable=self._several and not self._terminal)
        started = LocalRun(run.recipe, run.folder, len(os.sched_getaffinity(0)) // self._at_once, bar)
        self._bars[lane], self._began[lane] = started.bar, time.monotonic()
        return started

    def ended(self, lane: int, run: LocalRun, outcome: str) -> None:
        self._bars.pop(lane).close()
        self._ended += 1
        self._ended_images += self._images.get(run.folder, 0)
        if self._several:
            gone = time.monotonic() - self._start
            left = gone * (sum(self._images.values()) / max(1, self._ended_images) - 1)
            self.write(f"{outcome}: {run.folder.name} ({self._ended} of {self._runs}, {tqdm.format_interval(time.monotonic() - self._began[lane])}; about {tqdm.format_interval(left)} left)")

    def draw(self, under_way: Sequence[LocalRun]) -> None:
        """Show how far all are together."""
        begun = sum(self._images.get(run.folder, 0) * run.step / run.steps for run in under_way if run.steps)
        self._all.update(self._ended_images + begun - self._all.n)

    def write(self, text: str, file=None) -> None:
        tqdm.write(text, file=file or sys.stdout)
        (file or sys.stdout).flush()

    def close(self) -> None:
        for bar in (*self._bars.values(), self._all):
            bar.close()


def _refuse_queued(folders: Sequence[Path]) -> None:
    """Two starts of a run would take it away from each other. Without SLURM on this machine a run folder may be a copy.

    Raises:
        RecipeError: one of the runs has a job in SLURM's queue, or may have one.
    """
    from slurm.events import read
    from slurm.status import ENDED, job_of, queue, state_of

    known = queue()
    for folder in folders:
        events = read(folder)
        job = job_of(folder, events, known or {})
        if known and job and known[job].state not in ENDED:
            raise RecipeError(f"{folder.name} has job {job} in SLURM's queue ({known[job].state}): `python slurm/status.py cancel={folder}` ends it, then cluster=local can go on")
        if shutil.which("squeue") and state_of(folder, events, known) == "unknown":
            raise RecipeError(f"SLURM does not answer (squeue), so nothing was started: {folder.name} may be in its queue")
