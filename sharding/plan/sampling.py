"""How often each sample is drawn, and the order of an epoch that is shuffled as a whole."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator
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
        """Return the ids of a block in order, int32 or int64."""
        ...


class FullShuffle:
    """The order of an epoch that is shuffled as a whole; it keeps 4 bytes a draw, and takes 16 while it is made.

    Raises:
        PlanError: the weights are not legal.
    """

    shards: list[np.ndarray] | None = None

    def __init__(self, draw: StreamDraw, key: DrawKey) -> None:
        self.ends = np.array([draw.draws])
        drawn = drawn_ids(draw, key)
        self._ids = philox.random_order(draw.draws, key, philox.ORDER)
        if drawn is not None:
            self._ids = drawn[self._ids]

    def block(self, number: int) -> np.ndarray:
        """Return all ids, int32 or int64 [draws]; `number` is 0."""
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


def drawn_ids(draw: StreamDraw, key: DrawKey) -> np.ndarray | None:
    """Return the ids that are drawn, ascending: int32 or int64 [draws]; None if each is drawn once.

    Args:
        draw: what the stream draws.
        key: seed, epoch and stream.

    Raises:
        PlanError: the weights are not legal.
    """
    weights, last = draw.weights, draw.samples - 1
    if weights is not None:
        check_length(weights, draw.samples)
        check_values(weights, draw.samples)
        if not weights.any():
            raise bad_weights(draw.samples)
        last -= int(np.argmax(weights[::-1] != 0))
        if (weights == weights[0]).all():  # equal weights are the uniform stream, which is exact in integers
            check_sum(float(np.cumsum(weights)[-1]))
            weights = None
    if weights is None and not draw.replacement and draw.draws == draw.samples:
        return None
    even = weights is None and not draw.replacement
    ids, first, filled = np.empty(draw.draws, philox.narrow(draw.samples)), 0, 0
    for counts in _even_counts(draw, key) if even else _counts(draw, key, last):
        for begin, end in _pieces(counts):
            part = np.repeat(np.arange(first + begin, first + end), counts[begin:end])
            ids[filled : filled + len(part)] = part
            filled += len(part)
        first += len(counts)
    return ids


def _pieces(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield bounds between which the counts add up to a chunk, and the last of them more.

    A few ids may have most of the draws, and `np.repeat` lets no other thread work meanwhile.
    """
    ends = np.cumsum(counts)
    cuts = np.searchsorted(ends, np.arange(philox.CHUNK, ends[-1], philox.CHUNK)) + 1
    yield from itertools.pairwise(np.unique([0, *cuts.tolist(), len(counts)]).tolist())


def _counts(draw: StreamDraw, key: DrawKey, last: int) -> Iterator[np.ndarray]:
    """Yield how often each id is drawn by its weight, int64, a chunk of ids at a time; `last`: the last not of 0."""
    total = collections.deque(_edges(draw), maxlen=1)[0][-1]
    check_sum(total)
    words = philox.random_words(draw.draws if draw.replacement else 1, key, philox.DRAW)
    uniforms = words.view(np.float64)  # in their own memory
    for start in range(0, len(words), philox.CHUNK):
        uniforms[start : start + philox.CHUNK] = philox.unit_floats(words[start : start + philox.CHUNK])
    if draw.replacement:
        uniforms *= total
        uniforms.sort()  # counting the draws below each edge; searching for each draw would miss the caches
    first, before = 0, 0
    for edges in _edges(draw):
        # Without replacement by systematic sampling: the number of grid points u + j below each edge.
        points = (
            np.searchsorted(uniforms, edges, side="left")
            if draw.replacement
            else np.ceil(edges * (draw.draws / total) - uniforms[0]).astype(np.int64).clip(0, draw.draws)
        )
        points[max(last - first, 0) :] = draw.draws  # u * total may round up to the total itself
        yield np.diff(points, prepend=before)
        first, before = first + len(edges), int(points[-1])


def _edges(draw: StreamDraw) -> Iterator[np.ndarray]:
    """Yield the sum of the weights up to each sample's end, float64, a chunk of samples at a time.

    They are added from left to right on every machine, which `sum` does not promise.
    """
    total = np.zeros(1)
    for first in range(0, draw.samples, philox.CHUNK):
        number = min(philox.CHUNK, draw.samples - first)
        part = np.ones(number) if draw.weights is None else draw.weights[first : first + number]
        edges = np.cumsum(np.concatenate([total, part]))[1:]
        total = edges[-1:]
        yield edges


def _even_counts(draw: StreamDraw, key: DrawKey) -> Iterator[np.ndarray]:
    """Yield how often each id of a uniform stream is drawn without replacement, a chunk of ids at a time.

    Those that are drawn once more have the smallest words of a generator that the epoch's uniform seeds.
    """
    whole, rest = divmod(draw.draws, draw.samples)
    more = np.zeros(draw.samples, dtype=bool)
    if rest:
        uniform = philox.unit_floats(philox.random_words(1, key, philox.DRAW))[0]
        more[philox.order_of(lambda: np.random.Philox(key=int(uniform * 2**53)).random_raw(draw.samples))[:rest]] = True
    for first in range(0, draw.samples, philox.CHUNK):
        yield whole + more[first : first + philox.CHUNK].astype(np.int64)
