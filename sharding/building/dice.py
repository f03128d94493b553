"""Random integers for builders: numpy's raw Philox stream, the same on any machine and numpy version."""

from __future__ import annotations

import numpy as np


class Dice:
    """Integers from numpy's raw Philox stream, the same on any machine and numpy version."""

    def __init__(self, seed: int, stream: int) -> None:
        self._philox = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """Draw int64 integers [*shape], uniform over low..high, both included."""
        raw = self._philox.random_raw(int(np.prod(shape, dtype=np.int64))) >> np.uint64(32)
        return ((raw * np.uint64(high - low + 1)) >> np.uint64(32)).astype(np.int64).reshape(shape) + low

    def permutation(self, count: int) -> np.ndarray:
        """Draw a random order of 0..count-1, int64 [count]."""
        return np.argsort(self._philox.random_raw(count), kind="stable")
