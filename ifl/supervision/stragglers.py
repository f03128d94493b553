"""Nodes that are slower than the others over many steps.

A rank's own time in a step, from its beginning to the start of the reduction, holds the wait for its batch and its
forward passes, and no wait for others. Each step's reduction carries the time of the step before, by the image, for
ranks may have unequal shares (ifl/step_reduction.py). So every rank knows everyone's, without a message more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from ifl.supervision.node_limits import NodeLimits


class OwnTime:
    """Clocks this rank's own part of a step; on a GPU by its events, which nobody waits for."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_device = device, device.type == "cuda"
        self._marks: list[Any] = []  # moments, in seconds or as the device's events
        self._rows = 0

    def begin(self) -> None:
        """Begin a step's own part."""
        self._marks = [mark(self._device)]

    def end(self, rows: int) -> None:
        """End it; `rows` is the number of its images."""
        if self._marks:
            self._marks[1:], self._rows = [mark(self._device)], rows

    def taken_ns(self) -> int:
        """Return the nanoseconds an image of the step that was ended last; 0 where none was.

        On a GPU that step must be over: what it reduced has arrived.
        """
        if len(self._marks) < 2 or not self._rows:
            return 0
        began, ended = self._marks
        taken_s = began.elapsed_time(ended) / 1e3 if self._on_device else ended - began
        return max(1, int(1e9 * taken_s / self._rows))


def mark(device: torch.device) -> Any:
    """Return the moment: on a GPU an event behind the work queued so far, elsewhere seconds of the clock."""
    if device.type != "cuda":
        return time.perf_counter()
    event: Any = torch.Event(device, enable_timing=True)
    event.record()
    return event


class Stragglers:
    """Adds up the nodes' own times, and tells of those that are slow."""

    def __init__(self, nodes: Sequence[str], limits: NodeLimits, tell: Callable[..., object]) -> None:
        """Prepare for a start.

        Args:
            nodes: the node of each rank.
            limits: from when on a node is slow.
            tell: called with an event's name and values, once for each slow node.
        """
        self._limits, self._tell = limits, tell
        self._ranks = {node: [rank for rank, its in enumerate(nodes) if its == node] for node in nodes}
        self._told: set[str] = set()
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, int] = dict.fromkeys(self._ranks, 0)
        self._steps = 0

    def count(self, own_ns: Sequence[int]) -> None:
        """Add a step's own times by rank, in nanoseconds an image; a node is as slow as its slowest rank."""
        if len(self._sums) < 2 or 0 in own_ns:
            return
        for node, ranks in self._ranks.items():
            self._sums[node] += max(own_ns[rank] for rank in ranks)
        self._steps += 1
        if self._steps >= self._limits.slow_steps:
            self._judge()
            self._reset()

    def _judge(self) -> None:
        for node, own in self._sums.items():
            factor = own / median(other for name, other in self._sums.items() if name != node)
            if factor > self._limits.slow_factor and node not in self._told:
                self._told.add(node)
                self._tell("slow", node=node, factor=round(factor, 2), steps=self._steps)
