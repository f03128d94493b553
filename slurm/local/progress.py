"""A view of how far the runs on this machine are."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from tqdm import tqdm

from sharding.progress import ProgressBar
from slurm.local.process_group import LocalRun
from slurm.planning.cost import images_of
from slurm.planning.schedule import Run, Step

Begin = Callable[[Run, int, Callable[[], tqdm]], LocalRun]
"""Starts a run; its arguments are those of `LocalRun`."""


class View:
    """A bar for each run under way, and with several runs one for all of them, in training images.

    Where nobody watches a terminal, bars of several runs would overwrite each other: there each run's end is a line.
    """

    def __init__(self, steps: Sequence[Step], at_once: int, begin: Begin | None = None) -> None:
        self._begin = begin or LocalRun
        self._several, self._at_once, self._runs = len(steps) > 1, at_once, len(steps)
        self._terminal = sys.stderr.isatty()
        self._images = {step.run.folder: images_of(step.run) for step in steps} if self._several else {}
        self._bars: dict[int, ProgressBar] = {}
        self._began: dict[int, float] = {}
        self._ended, self._ended_images, self._start = 0, 0, time.monotonic()
        self._all = ProgressBar(
            sum(self._images.values()),
            f"{self._runs} runs",
            "img",
            unit_scale=True,
            position=at_once,
            dynamic_ncols=True,
            disable=not (self._several and self._terminal),
        )

    def start(self, lane: int, run: Run) -> LocalRun:
        """Start a run in a lane.

        Raises:
            RecipeError: it is being trained already.
        """
        run.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.write(
            f"run folder: {run.folder}"
            + (f" ({self._ended + len(self._bars) + 1} of {self._runs})" if self._several else "")
        )
        bar = functools.partial(
            ProgressBar,
            None,
            "starting",
            "step",
            dynamic_ncols=True,
            mininterval=0.1,
            position=lane,
            leave=not self._several,
            disable=self._several and not self._terminal,
        )
        started = self._begin(run, len(os.sched_getaffinity(0)) // self._at_once, bar)
        self._bars[lane], self._began[lane] = started.bar, time.monotonic()
        return started

    def ended(self, lane: int, run: LocalRun, outcome: str) -> None:
        """Free a run's lane, and say what became of it where there are several."""
        self._bars.pop(lane).close()
        self._ended += 1
        self._ended_images += self._images.get(run.folder, 0)
        if self._several:
            took = ProgressBar.format_interval(time.monotonic() - self._began[lane])
            self.write(f"{outcome}: {run.folder.name} ({self._ended} of {self._runs}, {took}{self._left()})")

    def _left(self) -> str:
        """Say how long the rest takes at the pace so far; empty before the first training image, as of evaluations."""
        if not self._ended_images:
            return ""
        gone, share = time.monotonic() - self._start, self._ended_images / sum(self._images.values())
        return f"; about {ProgressBar.format_interval(gone * (1 / share - 1))} left"

    def draw(self, under_way: Iterable[LocalRun]) -> None:
        """Show how far all are together."""
        begun = sum((self._images.get(run.folder, 0) * run.step / run.steps for run in under_way if run.steps), 0.0)
        self._all.update(self._ended_images + begun - self._all.n)

    def write(self, text: str, file: TextIO | None = None) -> None:
        """Print a line above the bars, to `file` or the standard output."""
        ProgressBar.write(text, file=file or sys.stdout)
        (file or sys.stdout).flush()

    def close(self) -> None:
        """End all bars."""
        for bar in (*self._bars.values(), self._all):
            bar.close()
