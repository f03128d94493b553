"""The findings of a check: places and sentences, in an order that does not depend on the workers."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Finding(NamedTuple):
    """One sentence about one place. Findings sort by file, then byte offset (-1: the whole file), then text."""

    place: str
    offset: int
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass
class Findings:
    """The first `limit` findings in sorted order, and their number: a broken disk must not fill the memory."""

    limit: int
    count: int = 0
    _kept: list[Finding] = field(default_factory=list)

    def add(self, place: str, text: str, offset: int = -1) -> None:
        """Add one finding."""
        self.merge([Finding(place, offset, text)], 1)

    def merge(self, found: Iterable[Finding], count: int) -> None:
        """Add the findings that another `Findings` kept, and its `count`."""
        self._kept.extend(found)
        self.count += count
        if len(self._kept) > 2 * self.limit:
            self._kept = heapq.nsmallest(self.limit, self._kept)

    def first(self) -> list[Finding]:
        """Return the first `limit` findings, sorted."""
        return heapq.nsmallest(self.limit, self._kept)


def first_difference(one: bytes, two: bytes) -> int:
    """Return the first position at which two byte strings differ; the length of the shorter if it begins the other."""
    pairs = enumerate(itertools.zip_longest(one, two))
    return next((position for position, (a, b) in pairs if a != b), len(one))
