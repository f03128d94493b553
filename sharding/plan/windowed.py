"""The order of an epoch that is shuffled inside windows of shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sharding.plan import philox
from sharding.plan.philox import DrawKey
from sharding.plan.sampling import StreamDraw, bad_weights, check_length, check_sum, check_values


@dataclass(frozen=True, eq=False)
class ShardWindow:
    """Shuffling inside windows: reads stay nearly sequential, and an epoch can start before all shards are fetched.

    Attributes:
        shards: int [N], the shard of each id, ascending.
        size: permuted shards in a window, at least 1.
    """

    shards: np.ndarray
    size: int


@dataclass(frozen=True, eq=False)
class _ShardWeights:
    """The weights of a stream, summed by shard.

    Attributes:
        edges: float64 [shards], the sum of the weights up to each shard's end.
        last: the last sample whose weight is not 0.
        equal: whether all weights are equal.
    """

    edges: np.ndarray
    last: int
    equal: bool


class WindowedShuffle:
    """An order in which shards are permuted, and samples are shuffled inside windows of some shards.

    Besides the weights it keeps O(shards) numbers; a window's ids are computed when they are asked for.

    The draws are first divided among the shards by their weight, as a full shuffle divides them among samples, and then
    inside each shard. So without replacement the samples of a weighted stream occur exactly as often as in a full
    shuffle. With replacement draws are independent.

    Raises:
        PlanError: the weights are not legal.
    """

    BLOCK = 1 << 14
    """Random words made at a time."""

    shards: list[np.ndarray] | None

    def __init__(self, draw: StreamDraw, key: DrawKey, window: ShardWindow) -> None:
        shards = np.arange(int(window.shards[-1]) + 2, dtype=window.shards.dtype)  # of another type it would copy N
        bounds = np.searchsorted(window.shards, shards)
        number = len(bounds) - 1
        self._draw, self._key, self._bounds, self._window = draw, key, bounds, window.size
        self._made: dict[int, np.ndarray] = {}
        order = philox.random_order(number, key.of_stream(0), philox.SHARDS)  # the same for all streams
        self._windows = [order[first : first + window.size] for first in range(0, number, window.size)]
        self.shards = self._windows
        uniform = _ShardWeights(bounds[1:].astype(np.float64), draw.samples - 1, True)
        summed = uniform if draw.weights is None else _summed_by_shard(draw.weights, draw.samples, bounds)
        # Equal weights are the uniform stream, which integers represent exactly.
        self._weights = None if summed.equal and not draw.replacement else draw.weights
        self._summed = uniform if self._weights is None else summed
        if draw.replacement:
            self._drawn = self._drawn_with_replacement()
            self._points = np.cumsum(self._drawn)
        else:
            self._uniform = float(philox.unit_floats(philox.random_words(1, key, philox.DRAW))[0])
            self._points = self._points_at(self._summed.edges, bounds[1:])
            self._drawn = np.diff(self._points, prepend=0)
        self.ends = np.cumsum([self._drawn[shards].sum() for shards in self._windows])

    def block(self, number: int) -> np.ndarray:
        """Return the ids of a window in order, int64. Three windows are kept."""
        if number not in self._made:
            while len(self._made) > 2:  # this one, the next, and at an epoch's end the first
                del self._made[next(iter(self._made))]
            self._made[number] = self._make(number)
        return self._made[number]

    def _make(self, number: int) -> np.ndarray:
        parts = [
            np.repeat(np.arange(self._bounds[shard], self._bounds[shard + 1], dtype=np.int64), self._counts_in(shard))
            for shard in self._windows[number].tolist()
        ]
        ids = np.concatenate(parts)
        order = philox.random_order(len(ids), self._key, philox.ORDER, number * self._window + 1)
        shuffled: np.ndarray = ids[order]
        return shuffled

    def _drawn_with_replacement(self) -> np.ndarray:
        """Return how many of the independent draws fall into each shard, int64 [shards]."""
        number, edges = len(self._bounds) - 1, self._summed.edges
        last = int(np.searchsorted(self._bounds, self._summed.last, side="right")) - 1  # the shard of that sample
        drawn = np.zeros(number, dtype=np.int64)
        for uniforms in self._uniform_blocks():
            hit = np.searchsorted(edges, uniforms * edges[-1], side="right")
            drawn += np.bincount(np.minimum(hit, last), minlength=number)
        return drawn

    def _uniform_blocks(self) -> Iterator[np.ndarray]:
        generator, left = philox.bit_generator(self._key, philox.DRAW), self._draw.draws
        while left:
            yield np.sort(philox.unit_floats(generator.random_raw(min(left, self.BLOCK))))  # so searches are neighbours
            left -= min(left, self.BLOCK)

    def _points_at(self, edges: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return the draws without replacement up to these edges of the weights, int64; `after`: samples before."""
        draws = self._draw.draws
        if self._weights is None:
            # In integers: every sample gets the whole part of draws / N, and the rest is spread evenly.
            samples = int(self._bounds[-1])
            whole, rest = divmod(draws, samples)
            even: np.ndarray = after * whole + (after * rest + int(self._uniform * samples)) // samples
            return even
        points: np.ndarray = np.ceil(edges * (draws / self._summed.edges[-1]) - self._uniform).astype(np.int64)
        points[after > self._summed.last] = draws
        return points.clip(0, draws)

    def _counts_in(self, shard: int) -> np.ndarray:
        """Return how often each sample of a shard is drawn, int64."""
        begin, end, drawn = int(self._bounds[shard]), int(self._bounds[shard + 1]), int(self._drawn[shard])
        before = self._summed.edges[shard - 1] if shard else 0.0
        edges = (
            np.arange(begin + 1.0, end + 1)
            if self._weights is None
            else np.cumsum(np.concatenate([[before], self._weights[begin:end]]))[1:]
        )
        if self._draw.replacement:
            uniforms = philox.unit_floats(philox.random_words(drawn, self._key, philox.DRAW, shard + 1))
            hit = np.searchsorted(edges, before + uniforms * (edges[-1] - before), side="right")
            inside = np.flatnonzero(np.diff(edges, prepend=before))
            return np.bincount(np.minimum(hit, inside[-1]) if drawn else hit, minlength=end - begin)
        if self._weights is None:
            counts = np.full(end - begin, self._draw.draws // int(self._bounds[-1]))
            more = drawn - int(counts.sum())
            counts[philox.random_order(end - begin, self._key, philox.DRAW, shard + 1)[:more]] += 1
            return counts
        first = self._points[shard - 1] if shard else 0
        return np.diff(self._points_at(edges, np.arange(begin + 1, end + 1)), prepend=first)


def _summed_by_shard(weights: np.ndarray, samples: int, bounds: np.ndarray) -> _ShardWeights:
    """Sum the weights by shard, adding from left to right as a full shuffle does.

    Raises:
        PlanError: as for `sampling.drawn_ids`.
    """
    check_length(weights, samples)
    edges, total, last, equal = np.empty(len(bounds) - 1), 0.0, -1, True
    for shard in range(len(edges)):
        part = weights[bounds[shard] : bounds[shard + 1]]
        check_values(part, samples)
        total = float(np.cumsum(np.concatenate([[total], part]))[-1])
        edges[shard] = total
        if part.any():
            last = int(bounds[shard] + np.flatnonzero(part)[-1])
        equal = equal and bool((part == weights[0]).all())
    if last < 0:
        raise bad_weights(samples)
    check_sum(total)
    return _ShardWeights(edges, last, equal)
