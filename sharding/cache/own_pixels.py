"""A small split's decoded images in the memory of the process that reads them. numpy only."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sharding.format.dataset import Split

SMALL = 1 << 25
"""Bytes of all image files of the splits, up to which a process keeps their decoded images by itself."""
PER_FILE_BYTE = 8
"""Bytes of pixels that a split may keep for each byte of its image files."""


def are_small(splits: Iterable[Split]) -> bool:
    """Return whether a process keeps the decoded images of all these splits."""
    return sum(int(split.index.size.sum()) for split in splits) <= SMALL


class OwnPixels:
    """The pixels of one split's samples, as they were first made.

    They take at most `PER_FILE_BYTE` times the bytes of its image files; what is beyond is decoded each time.
    """

    def __init__(self, split: Split) -> None:
        """Keep nothing of `split` yet."""
        self._left = PER_FILE_BYTE * int(split.index.size.sum())
        self._pixels: dict[int, np.ndarray] = {}
        self.takes_more = True

    def get(self, sample: int) -> np.ndarray | None:
        """Return uint8 [H, W, 3] of a sample, not to be changed; None if it is not here."""
        return self._pixels.get(sample)

    def put(self, sample: int, pixels: np.ndarray) -> None:
        """Keep uint8 [H, W, 3] for a sample, unless the cache is full."""
        self.takes_more = self.takes_more and pixels.nbytes <= self._left
        if self.takes_more and sample not in self._pixels:
            kept = self._pixels[sample] = np.array(pixels)  # a view would keep the whole picture that it is a part of
            kept.flags.writeable = False
            self._left -= kept.nbytes
