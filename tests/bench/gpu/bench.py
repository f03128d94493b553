"""What a section is given, and the measuring that sections share: cells in turns, their ratios, what was left out.

A section writes a line of JSON for each thing it knows, at once, so that one that is killed loses only the rest.
"""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.gpu.device import CLOCKS, Device, is_out_of_memory
from tests.bench.gpu.scale import Scale

ROUNDS = 0.3
"""The share of a section's time in which nothing is built any more; what is not built by then is left out."""


@dataclass(frozen=True)
class Peer:
    """What a row is measured against.

    Attributes:
        what: the other row.
        least, most: what the ratio, this by that, should be; None: nothing is promised.
    """

    what: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Cell:
    """One thing that is timed in turns with others.

    Attributes:
        what: the row's name.
        make: builds it, and returns what makes one step.
        images: of a step.
        against: peers in the same section.
        needs_s: what building it may take, seconds; with less time left it is left out.
        steps, warm: where they differ from the scale's.
        least: of its images/s; None: nothing is promised.
    """

    what: str
    make: Callable[[], Callable[[], object]]
    images: int
    against: Sequence[Peer] = ()
    needs_s: float = 0.0
    steps: int | None = None
    warm: int | None = None
    least: float | None = None


class OutOfTime(Exception):
    """Building a cell took all the time that there was."""


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in what is done here, once it takes longer; a compilation is Python's work for most of it."""

    def over(number: int, frame: Any) -> None:
        raise OutOfTime(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """A section's hands: device, sizes, folders, the clock, and the file in which its findings go."""

    def __init__(self, scale: Scale, scratch: Path, out: Path, deadline: float) -> None:
        """Begin a section.

        Args:
            scale: the sizes.
            scratch: a folder for all sections.
            out: the section's file of lines.
            deadline: when it must be done, by `time.monotonic`.
        """
        self.scale, self.scratch, self._out, self._deadline = scale, scratch, out, deadline
        self.device = Device(scale.gpu)
        self._folders, self._whole_s = 0, self.left_s

    @property
    def data(self) -> Path:
        """The data root that the section `images` fills."""
        return self.scratch / "data"

    @property
    def workers(self) -> int:
        """Loader processes: one core is the training's."""
        return max(1, min(self.scale.workers, len(os.sched_getaffinity(0)) - 1))

    @property
    def left_s(self) -> float:
        """Seconds until the section must be done."""
        return self._deadline - time.monotonic()

    def folder(self) -> Path:
        """A new folder."""
        self._folders += 1
        path = self.scratch / f"{self._out.stem}-{self._folders}"
        path.mkdir(parents=True)
        return path

    # --------------------------------------------------------------------------------------------------------- findings
    def say(self, kind: str, **values: Any) -> None:
        """Write a line."""
        with open(self._out, "a") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def row(
        self,
        what: str,
        unit: str,
        values: Sequence[float],
        *,
        memory_gb: float | None = None,
        least: float | None = None,
        most: float | None = None,
    ) -> None:
        """Write a figure, one value of each round, and what it should be at least or at most."""
        promise = {"least": least, "most": most} if self.scale.gpu else {}
        self.say("row", what=what, unit=unit, **spread(values), memory_gb=memory_gb, **judged(values, **promise))

    def ratio(self, what: str, peer: Peer, values: Sequence[float]) -> None:
        """Write by how much a row is more than a peer, one value of each round."""
        promise = {"least": peer.least, "most": peer.most} if self.scale.gpu else {}
        self.say("ratio", what=what, against=peer.what, **spread(values), **judged(values, **promise))

    def note(self, text: str) -> None:
        """Write a sentence."""
        self.say("note", text=text)

    def leave_out(self, what: str, why: str) -> None:
        """Write what was not measured."""
        self.say("left out", what=what, why=why)

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Note that something failed, in place of ending the section; out of memory is told as such."""
        try:
            yield
        except Exception as error:
            known = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {_first_line(error)}"
            if not is_out_of_memory(error):
                traceback.print_exc()
            error.__traceback__ = None  # its frames hold the tensors
            self.leave_out(what, known)
            self.device.tidy()

    # -------------------------------------------------------------------------------------------------------- measuring
    def measure(self, cells: Sequence[Cell], kept: float = 0.0) -> None:
        """Build the cells, then time them in turns, and write rows in images/s and their ratios.

        The order is turned round each time, so that whoever comes first or last is not always the same. Memory is what
        building a cell and its first steps took at most, beside what was there before.

        Args:
            cells: in the order in which they are built.
            kept: the share of the section's time for what it does afterwards.
        """
        live, memory = self._built(cells, kept)
        clocks = [self.device.clocks()]
        values: dict[str, list[float]] = defaultdict(list)
        by_events: list[float] = []
        longest_s = 0.0
        for number in range(self.scale.rounds):
            if number and self.left_s - kept * self._whole_s < 1.2 * longest_s:
                self.note(f"{number} rounds of {self.scale.rounds}: no time was left for more")
                break
            began = time.monotonic()
            for cell in list(live) if number % 2 == 0 else list(live)[::-1]:
                with self.guarded(cell.what):
                    step = live.pop(cell)
                    for _ in range(1 if cell.warm is None else cell.warm):
                        step()
                    steps = cell.steps or self.scale.steps
                    took = self.device.timed(step, steps)
                    values[cell.what].append(cell.images * steps / took.host_s)
                    by_events.append(took.device_s / took.host_s)
                    live[cell] = step  # one that failed does not come back
            live = {cell: live[cell] for cell in cells if cell in live}
            longest_s = max(longest_s, time.monotonic() - began)
        for cell in cells:
            if found := values.get(cell.what):
                self.row(cell.what, "images/s", found, memory_gb=memory[cell.what], least=cell.least)
                for peer in cell.against:
                    if theirs := values.get(peer.what):
                        self.ratio(cell.what, peer, [one / two for one, two in zip(found, theirs, strict=False)])
        if self.scale.gpu and by_events:
            self.note(f"clocks ({CLOCKS}) before and after the rounds: {clocks[0]}; {self.device.clocks()}")
            self.note(
                f"by the device's events the same steps took {median(by_events):.3f} of the host's time "
                f"({min(by_events):.3f} to {max(by_events):.3f})"
            )

    def _built(
        self, cells: Sequence[Cell], kept: float
    ) -> tuple[dict[Cell, Callable[[], object]], dict[str, float | None]]:
        live: dict[Cell, Callable[[], object]] = {}
        memory: dict[str, float | None] = {}
        for cell in cells:
            left_s = self.left_s - (ROUNDS + kept) * self._whole_s
            if left_s < cell.needs_s:
                self.leave_out(cell.what, f"no time left: {max(0.0, left_s):.0f} s, and it may need {cell.needs_s:.0f}")
                continue
            with self.guarded(cell.what), stopped_after(max(1.0, left_s)):
                before = self.device.held()
                self.device.forget_peak()
                step = cell.make()
                for _ in range(self.scale.warm):
                    step()
                self.device.wait()
                memory[cell.what] = (self.device.peak() - before) / 1e9 if self.scale.gpu else None
                live[cell] = step
        return live, memory


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The values with n, median and range."""
    return {
        "values": list(values),
        "n": len(values),
        "median": median(values),
        "min": min(values),
        "max": max(values),
    }


def judged(values: Sequence[float], least: float | None = None, most: float | None = None) -> dict[str, Any]:
    """What was promised of the median, and whether it holds; empty where nothing was."""
    if least is None and most is None:
        return {}
    middle = median(values)
    met = (least is None or middle >= least) and (most is None or middle <= most)
    return {"least": least, "most": most, "met": met}


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300]
