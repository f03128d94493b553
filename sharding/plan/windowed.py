"""The order of an epoch that is shuffled inside windows of shards."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sharding.plan import philox
from sharding.plan.sampling import bad_weights, check_length, check_sum, check_values


class WindowedShuffle:
    """Shards are permuted, and samples shuffled inside windows of so many of them: besides the weights, which are given, the state is O(shards), and a
    window's ids are made when they are asked for.

    The draws are first shared out among the shards by their weight, as whole epochs share theirs out among samples, and then inside each shard. Samples
    of a weighted stream without replacement so occur exactly as often as in a whole shuffle; independent draws are independent.
    """

    BLOCK = 1 << 14  # words made at a time

    def __init__(
        self,
        weights: np.ndarray | None,
        samples: int,
        draws: int,
        seed: int,
        epoch: int,
        stream: int,
        replacement: bool,
        bounds: np.ndarray,
        window: int,
    ) -> None:
        self._made: dict[int, np.ndarray] = {}
        self._weights, self._bounds, self._window, self._key, self._draws, self._replacement = (
            weights,
            bounds,
            window,
            (seed, epoch, stream),
            draws,
            replacement,
        )
        number = len(bounds) - 1
        order = philox.shuffled(np.arange(number), philox.random_words(number, seed, epoch, 0, philox.SHARDS))
        self.shards = [order[first : first + window] for first in range(0, number, window)]
        if weights is not None:
            self._edges, self._last, equal = _shard_edges(weights, samples, bounds)
            if equal and not replacement:
                self._weights = None
        if self._weights is None:
            self._edges, self._last = bounds[1:].astype(np.float64), samples - 1
        if replacement:
            self._drawn = np.zeros(number, dtype=np.int64)
            for uniforms in self._uniform_blocks():
                hit = np.searchsorted(self._edges, uniforms * self._edges[-1], side="right")
                self._drawn += np.bincount(np.minimum(hit, self._shard_of(self._last)), minlength=number)
            self._points = np.cumsum(self._drawn)
        else:
            self._uniform = float(philox.unit_floats(philox.random_words(1, *self._key, philox.DRAW))[0])
            self._points = self._points_at(self._edges, bounds[1:])
            self._drawn = np.diff(self._points, prepend=0)
        self.ends = np.cumsum([self._drawn[shards].sum() for shards in self.shards])

    def _uniform_blocks(self) -> Iterator[np.ndarray]:
        generator, left = philox.bit_generator(*self._key, philox.DRAW), self._draws
        while left:
            yield philox.unit_floats(generator.random_raw(min(left, self.BLOCK)))
            left -= min(left, self.BLOCK)

    def _shard_of(self, sample: int) -> int:
        return int(np.searchsorted(self._bounds, sample, side="right")) - 1

    def _points_at(self, edges: np.ndarray, after: np.ndarray) -> np.ndarray:
        """int64: the draws without replacement up to these edges of the weights, which lie after so many samples."""
        if (
            self._weights is None
        ):  # in integers: N draws are the whole part for each sample, and the rest is spread evenly
            samples = int(self._bounds[-1])
            whole, rest = divmod(self._draws, samples)
            return after * whole + (after * rest + int(self._uniform * samples)) // samples
        points = np.ceil(edges * (self._draws / self._edges[-1]) - self._uniform).astype(np.int64)
        points[after > self._last] = self._draws
        return np.clip(points, 0, self._draws)

    def _counts_in(self, shard: int) -> np.ndarray:
        """int64: how often each sample of a shard is drawn."""
        begin, end, drawn = int(self._bounds[shard]), int(self._bounds[shard + 1]), int(self._drawn[shard])
        before = self._edges[shard - 1] if shard else 0.0
        edges = (
            np.arange(begin + 1.0, end + 1)
            if self._weights is None
            else np.cumsum(np.concatenate([[before], self._weights[begin:end]]))[1:]
        )
        words = (*self._key, philox.DRAW, shard + 1)
        if self._replacement:
            hit = np.searchsorted(
                edges,
                before + philox.unit_floats(philox.random_words(drawn, *words)) * (edges[-1] - before),
                side="right",
            )
            inside = np.flatnonzero(np.diff(edges, prepend=before))
            return np.bincount(np.minimum(hit, inside[-1]) if drawn else hit, minlength=end - begin)
        if self._weights is None:
            counts = np.full(end - begin, self._draws // int(self._bounds[-1]))
            counts[np.argsort(philox.random_words(end - begin, *words), kind="stable")[: drawn - counts.sum()]] += 1
            return counts
        return np.diff(
            self._points_at(edges, np.arange(begin + 1, end + 1)), prepend=self._points[shard - 1] if shard else 0
        )

    def block(self, number: int) -> np.ndarray:
        if number not in self._made:
            while len(self._made) > 2:  # this one, the next, and at an epoch's end the first
                del self._made[next(iter(self._made))]
            self._made[number] = self._make(number)
        return self._made[number]

    def _make(self, number: int) -> np.ndarray:
        ids = [
            np.repeat(np.arange(self._bounds[shard], self._bounds[shard + 1], dtype=np.int64), self._counts_in(shard))
            for shard in self.shards[number].tolist()
        ]
        ids = np.concatenate(ids)
        return philox.shuffled(ids, philox.random_words(len(ids), *self._key, philox.ORDER, number * self._window + 1))


def _shard_edges(weights: np.ndarray, samples: int, bounds: np.ndarray) -> tuple[np.ndarray, int, bool]:
    """float64 [shards], the sum of the weights up to each shard's end, added from left to right as in a whole shuffle; the last sample that has a weight;
    whether all are equal. Raises PlanError, as `_counts` does."""
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
    return edges, last, equal
