"""`log.profile=FIRST:END`: what the steps from FIRST to END do, as a trace of each rank and as seconds by phase.

The trace is torch's own, `log/trace-FIRST-rank-R.json.gz`, which Perfetto (ui.perfetto.dev) opens. The phases' times
are the device's, by its events on a GPU, and stand in a line of metrics.jsonl. A profiled step computes what any other
does, to the bit; it takes longer.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ifl.distributed.comm import Comm
from ifl.supervision.stragglers import mark
from recipes.common.errors import RunError

OWN = ("load", "forward")
"""Phases in which no rank waits for another."""
PHASES = (*OWN, "backward", "reduction", "optimizer")
NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


class NoProfile:
    """Where no step is profiled."""

    def before(self, done: int) -> None:
        """Be told that a step begins, `done` steps after the run's beginning."""

    def after(self, done: int) -> dict[str, Any]:
        """Be told that one has ended; return what a line of the log says, empty where there is nothing to say."""
        return {}

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Mark a phase of the step."""
        return NOTHING


class Profile(NoProfile):
    """Profiles some steps of a run, in one start."""

    def __init__(self, steps: tuple[int, int], total: int, folder: Path, comm: Comm, device: torch.device) -> None:
        """Prepare.

        Args:
            steps: from how many steps on, and to how many.
            total: steps of the run.
            folder: of the traces.
            comm: the ranks.
            device: where they train.

        Raises:
            RunError: the run has not so many steps.
        """
        self._first, self._end = steps
        if self._end > total:
            raise RunError(
                f"log.profile={self._first}:{self._end}: the run has {total} steps, so up to {total} is legal"
            )
        self._folder, self._comm, self._device = folder, comm, device
        self._on_device = device.type == "cuda"
        self._profile: profile | None = None
        self._marks: list[tuple[str, Any, Any]] = []

    def before(self, done: int) -> None:
        """Begin to profile where it is time; where a start goes on in the midst of these steps, too."""
        if self._profile is None and self._first <= done < self._end:
            self._began_at = done
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_device else [])]
            self._profile = profile(activities=activities)
            self._profile.start()
            self._began = time.perf_counter()

    def after(self, done: int) -> dict[str, Any]:
        """End where it is time, write the trace, and return all ranks' seconds a step by phase. A collective then."""
        if self._profile is None or done < self._end:
            return {}
        if self._on_device:
            torch.cuda.synchronize(self._device)
        wall_s, profiled = time.perf_counter() - self._began, self._profile
        profiled.stop()
        self._profile = None
        self._write(profiled)
        steps = done - self._began_at
        ranks = self._comm.gather_objects(self._seconds(profiled, wall_s, steps), self._device)
        slowest = max(range(len(ranks)), key=lambda rank: sum(ranks[rank][name] for name in OWN))
        return {"first": self._began_at, "steps": steps, "ranks": ranks, "slowest": slowest}

    def _write(self, profiled: profile) -> None:
        """Write the trace; a run does not end, and no rank leaves the others, for want of it."""
        path = self._folder / f"trace-{self._began_at:06d}-rank-{self._comm.rank}.json.gz"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            profiled.export_chrome_trace(str(path))
        except OSError as error:
            why = error.strerror or error
            print(f"log.profile: the trace {path} cannot be written ({why}); metrics.jsonl has the phases", flush=True)

    @contextlib.contextmanager
    def _marked(self, name: str) -> Iterator[None]:
        began = mark(self._device)
        with record_function(f"phase {name}"):
            yield
        self._marks.append((name, began, mark(self._device)))

    def phase(self, name: str) -> AbstractContextManager[None]:
        return NOTHING if self._profile is None else self._marked(name)

    def _seconds(self, profiled: profile, wall_s: float, steps: int) -> dict[str, float]:
        """Return the seconds a step of each phase, and in which the device (without one, this rank) did nothing."""
        taken: dict[str, float] = defaultdict(float)
        for name, began, ended in self._marks:
            taken[name] += began.elapsed_time(ended) / 1e3 if self._on_device else ended - began
        self._marks = []
        busy_s = busy_us(device_spans(profiled)) / 1e6 if self._on_device else sum(taken.values())
        every = {**{name: taken[name] for name in PHASES}, "idle": max(0.0, wall_s - busy_s)}
        return {name: round(seconds / steps, 6) for name, seconds in every.items()}


def device_spans(profiled: Any) -> list[tuple[float, float]]:
    """Return when the GPU was at work, from and to, in microseconds; `profiled`: torch's profile, ended."""
    return [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]


def busy_us(spans: Iterable[tuple[float, float]]) -> float:
    """Return how much of the time spans cover, each moment once."""
    covered, until = 0.0, float("-inf")
    for began, ended in sorted(spans):
        covered += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return covered
