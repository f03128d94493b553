"""How often each sample is drawn, and the order of an epoch that is shuffled as a whole."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recipes.common.errors import PlanError
from sharding.plan import philox


class Order(Protocol):
    """The ids that one stream draws in one epoch, block by block. Without a window there is one block, and it holds them all.

    Attributes:
        ends: int64 [blocks], the draws up to the end of each block.
        shards: int64 [blocks][], the shards of each block; None where there is one block.
    """

    ends: np.ndarray
    shards: list[np.ndarray] | None

    def block(self, number: int) -> np.ndarray:
        """int64: the ids of a block, in order."""
        ...


class FullShuffle:
    """The whole epoch is shuffled: O(N) of state."""

    shards = None

    def __init__(
        self,
        weights: np.ndarray | None,
        samples: int,
        draws: int,
        seed: int,
        epoch: int,
        stream: int,
        replacement: bool,
    ) -> None:
        self.ends = np.array([draws])
        counts = draw_counts(
            weights,
            samples,
            draws,
            philox.unit_floats(philox.random_words(draws if replacement else 1, seed, epoch, stream, philox.DRAW)),
            replacement,
        )
        self._ids = philox.shuffled(
            np.repeat(np.arange(samples, dtype=np.int64), counts),
            philox.random_words(draws, seed, epoch, stream, philox.ORDER),
        )

    def block(self, number: int) -> np.ndarray:
        assert number == 0
        return self._ids


def bad_weights(samples: int) -> PlanError:
    return PlanError(f"weights must be {samples} finite numbers, none negative and not all 0")


def check_length(weights: np.ndarray, samples: int) -> None:
    if len(weights) != samples:
        raise bad_weights(samples)


def check_values(weights: np.ndarray, samples: int) -> None:
    if not np.all(np.isfinite(weights)) or (len(weights) and weights.min() < 0):
        raise bad_weights(samples)


def check_sum(total: float) -> None:
    if not np.isfinite(total):
        raise PlanError("weights must add up to a finite number")


def draw_counts(
    weights: np.ndarray | None, samples: int, draws: int, uniforms: np.ndarray, replacement: bool
) -> np.ndarray:
    """int64 [N]: how often each id is drawn; the sum is `draws`."""
    if weights is None:
        weights = np.ones(samples)
    check_length(weights, samples)
    check_values(weights, samples)
    if not weights.any():
        raise bad_weights(samples)
    # cumsum adds from left to right on every machine; sum() may not.
    edges = np.cumsum(weights, dtype=np.float64)
    check_sum(edges[-1])
    if (
        replacement
    ):  # the number of draws below each edge: sorted, since a search for each in turn would miss the processor's caches
        points = np.searchsorted(np.sort(uniforms * edges[-1]), edges, side="left")
        points[np.flatnonzero(weights)[-1] :] = draws  # u * total may round up to the total itself
        return np.diff(points, prepend=0)
    # Systematic sampling: the number of grid points u + j below each edge. A uniform stream is exact in integers.
    if np.all(weights == weights[0]):
        whole, rest = divmod(draws, samples)
        counts = np.full(samples, whole, dtype=np.int64)
        counts[_extra(samples, rest, uniforms)] += 1
        return counts
    points = np.ceil(edges * (draws / edges[-1]) - uniforms[0]).astype(np.int64)
    points[np.flatnonzero(weights)[-1] :] = draws
    return np.diff(np.clip(points, 0, draws), prepend=0)


def _extra(samples: int, rest: int, uniforms: np.ndarray) -> np.ndarray:
    """`rest` of the ids at random: those with the smallest words of a generator that the one uniform seeds."""
    words = np.random.Philox(key=int(uniforms[0] * 2**53)).random_raw(samples)
    return np.argsort(words, kind="stable")[:rest]
