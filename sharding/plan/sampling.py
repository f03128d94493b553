"""How often each sample is drawn, and the order of an epoch that is shuffled as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recipes.common.errors import PlanError
from sharding.plan import philox
from sharding.plan.philox import DrawKey


@dataclass(frozen=True, eq=False)
class StreamDraw:
    """What one stream draws in one epoch.

    Without replacement the number of times that an id occurs is its expected number, rounded up or down (systematic
    sampling). For a uniform stream of N draws that is a permutation. With replacement the draws are independent.

    Attributes:
        weights: float64 [N], not negative, or None for the uniform stream; they must not change while a plan uses them.
        samples: N.
        draws: how many ids are drawn.
        replacement: whether the draws are independent.
    """

    weights: np.ndarray | None
    samples: int
    draws: int
    replacement: bool = False


class Order(Protocol):
    """The ids that one stream draws in one epoch, block by block. Without a window a single block holds them all."""

    @property
    def ends(self) -> np.ndarray:
        """The number of draws up to the end of each block, int64 [blocks]."""
        ...

    @property
    def shards(self) -> list[np.ndarray] | None:
        """The shards of each block, int64 [blocks][]; None if a single block holds all shards."""
        ...

    def block(self, number: int) -> np.ndarray:
        """Return the ids of a block in order, int64."""
        ...


class FullShuffle:
    """The order of an epoch that is shuffled as a whole; it keeps O(N) ids in memory.

    Raises:
        PlanError: the weights are not legal.
    """

    shards: list[np.ndarray] | None = None

    def __init__(self, draw: StreamDraw, key: DrawKey) -> None:
        self.ends = np.array([draw.draws])
        words = philox.random_words(draw.draws if draw.replacement else 1, key, philox.DRAW)
        counts = draw_counts(draw, philox.unit_floats(words))
        self._ids = philox.shuffled(
            np.repeat(np.arange(draw.samples, dtype=np.int64), counts),
            philox.random_words(draw.draws, key, philox.ORDER),
        )

    def block(self, number: int) -> np.ndarray:
        """Return all ids, int64 [draws]; `number` is 0."""
        assert number == 0
        return self._ids


def bad_weights(samples: int) -> PlanError:
    """Return the error for weights that are not `samples` legal numbers."""
    return PlanError(f"weights must be {samples} finite numbers, none negative and not all 0")


def check_length(weights: np.ndarray, samples: int) -> None:
    """Raise PlanError unless there is one weight for each sample."""
    if len(weights) != samples:
        raise bad_weights(samples)


def check_values(weights: np.ndarray, samples: int) -> None:
    """Raise PlanError unless these weights are finite and not negative."""
    if not np.all(np.isfinite(weights)) or (len(weights) and weights.min() < 0):
        raise bad_weights(samples)


def check_sum(total: float) -> None:
    """Raise PlanError unless the weights add up to a finite number."""
    if not np.isfinite(total):
        raise PlanError("weights must add up to a finite number")


def draw_counts(draw: StreamDraw, uniforms: np.ndarray) -> np.ndarray:
    """Return how often each id is drawn: int64 [N], whose sum is `draw.draws`.

    Args:
        draw: what the stream draws.
        uniforms: float64 in [0, 1): one for each draw with replacement, else a single one.

    Raises:
        PlanError: the weights are not legal.
    """
    weights = np.ones(draw.samples) if draw.weights is None else draw.weights
    check_length(weights, draw.samples)
    check_values(weights, draw.samples)
    if not weights.any():
        raise bad_weights(draw.samples)
    # cumsum adds from left to right on every machine; sum() may not.
    edges = np.cumsum(weights, dtype=np.float64)
    check_sum(edges[-1])
    if draw.replacement:
        # Count the draws below each edge. They are sorted first, because searching for each one would miss the caches.
        points = np.searchsorted(np.sort(uniforms * edges[-1]), edges, side="left")
        points[np.flatnonzero(weights)[-1] :] = draw.draws  # u * total may round up to the total itself
        return np.diff(points, prepend=0)
    # Systematic sampling: the number of grid points u + j below each edge. A uniform stream is exact in integers.
    if np.all(weights == weights[0]):
        whole, rest = divmod(draw.draws, draw.samples)
        counts = np.full(draw.samples, whole, dtype=np.int64)
        counts[_extra(draw.samples, rest, uniforms)] += 1
        return counts
    points = np.ceil(edges * (draw.draws / edges[-1]) - uniforms[0]).astype(np.int64)
    points[np.flatnonzero(weights)[-1] :] = draw.draws
    return np.diff(np.clip(points, 0, draw.draws), prepend=0)


def _extra(samples: int, rest: int, uniforms: np.ndarray) -> np.ndarray:
    """Choose `rest` ids at random: those with the smallest words of a generator that the uniform seeds."""
    words = np.random.Philox(key=int(uniforms[0] * 2**53)).random_raw(samples)
    return np.argsort(words, kind="stable")[:rest]
