"""Millions of texts in two arrays: their UTF-8 bytes, and where each ends.

A path may hold bytes that are not UTF-8. Python's texts keep such a byte as a surrogate; here it is the byte again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_AT_ONCE = 100_000


class Texts(Sequence[str]):
    """N texts in as many bytes as they have, and 8 for each.

    Attributes:
        blob: uint8, the bytes of all, one behind the other.
        ends: int64 [N + 1], text `i` is `blob[ends[i]:ends[i + 1]]`.
    """

    def __init__(self, blob: np.ndarray, ends: np.ndarray) -> None:
        self.blob, self.ends = blob, ends

    def __len__(self) -> int:
        """Return N."""
        return len(self.ends) - 1

    def __getitem__(self, i: Any) -> Any:
        """Return text `i`, 0 <= i < N."""
        return self.blob[self.ends[i] : self.ends[i + 1]].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        """Yield the texts in their order."""
        return map(self.__getitem__, range(len(self)))

    def taken(self, rows: np.ndarray) -> Texts:
        """Return the texts of some rows, int64 [n], in that order."""
        lengths = np.diff(self.ends)[rows]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        blob = np.empty(int(ends[-1]), np.uint8)
        for first in range(0, len(rows), _AT_ONCE):  # the places of all bytes at once would take 8 times their memory
            part = slice(first, first + _AT_ONCE)
            begin, end = int(ends[first]), int(ends[min(first + _AT_ONCE, len(rows))])
            shift = self.ends[rows[part]] - (ends[:-1][part] - begin)
            blob[begin:end] = self.blob[np.repeat(shift, lengths[part]) + np.arange(end - begin)]
        return Texts(blob, ends)


class GrowingTexts:
    """Texts that come one by one."""

    def __init__(self) -> None:
        self._blob, self._ends = bytearray(), array("q", [0])

    def __len__(self) -> int:
        """Return how many there are by now."""
        return len(self._ends) - 1

    def add(self, text: str) -> None:
        """Append a text."""
        self._blob += text.encode(errors="surrogateescape")
        self._ends.append(len(self._blob))

    def texts(self) -> Texts:
        """Return all of them; none may be added after that."""
        return Texts(np.frombuffer(self._blob, np.uint8), np.frombuffer(self._ends, np.int64))


NO_TEXTS = Texts(np.empty(0, np.uint8), np.zeros(1, np.int64))
