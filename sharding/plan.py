"""The epoch plan: which sample is drawn where, as a pure function of (weights, seed, epoch).

Every rank computes the same plan without communication. Step t of an epoch is the same global batch on any number of
ranks and with any number of loader workers, every rank takes the same number of steps, and resuming is `start=t`.

Axes: N samples, S streams, B global batch, T steps, R ranks, G batch-normalisation groups of B/G rows.

A global batch has a canonical row order: group after group, and inside a group stream after stream, so that each group
holds the same mix of streams (or, if asked for, a single one). `draw = t * B + row` numbers the draws of an epoch; augmentation is keyed by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# The purposes for which an epoch's random words are used; each has a Philox key of its own.
_DRAW, _ORDER, _SHARDS = 0, 1, 2


class PlanError(ValueError):
    """A batch that cannot be shared out as asked; the message says what would be legal."""


def _generator(seed: int, epoch: int, stream: int, purpose: int, block: int = 0) -> np.random.Philox:
    assert seed < 2**32 and epoch < 2**32 and stream < 2**16 and purpose < 2**16 and block < 2**32
    return np.random.Philox(key=np.array([seed << 32 | epoch, block << 32 | stream << 16 | purpose], dtype=np.uint64))


def _words(count: int, seed: int, epoch: int, stream: int, purpose: int, block: int = 0) -> np.ndarray:
    """uint64 [count] random words. Raw Philox output is part of its definition and, unlike numpy's derived
    distributions, the same for every numpy version."""
    return _generator(seed, epoch, stream, purpose, block).random_raw(count)


def _uniforms(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from the top 53 bits of each word."""
    return (words >> np.uint64(11)) * 2.0**-53


def _shuffled(values: np.ndarray, words: np.ndarray) -> np.ndarray:
    return values[np.argsort(words, kind="stable")]


class _Order(Protocol):
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


def _taken(order: _Order, first: int, last: int) -> np.ndarray:
    """int64 [last - first]: the ids at these places of the order, which begins anew where it ends."""
    parts, draws = [], int(order.ends[-1])
    while first < last:
        place = first % draws
        number = int(np.searchsorted(order.ends, place, side="right"))
        begin = int(order.ends[number - 1]) if number else 0
        part = order.block(number)[place - begin : place - begin + last - first]
        parts.append(part)
        first += len(part)
    return np.concatenate(parts)


class _Whole:
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
        counts = _counts(
            weights,
            samples,
            draws,
            _uniforms(_words(draws if replacement else 1, seed, epoch, stream, _DRAW)),
            replacement,
        )
        self._ids = _shuffled(
            np.repeat(np.arange(samples, dtype=np.int64), counts), _words(draws, seed, epoch, stream, _ORDER)
        )

    def block(self, number: int) -> np.ndarray:
        assert number == 0
        return self._ids


class _Windowed:
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
        order = _shuffled(np.arange(number), _words(number, seed, epoch, 0, _SHARDS))
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
            self._uniform = float(_uniforms(_words(1, *self._key, _DRAW))[0])
            self._points = self._points_at(self._edges, bounds[1:])
            self._drawn = np.diff(self._points, prepend=0)
        self.ends = np.cumsum([self._drawn[shards].sum() for shards in self.shards])

    def _uniform_blocks(self) -> Iterator[np.ndarray]:
        generator, left = _generator(*self._key, _DRAW), self._draws
        while left:
            yield _uniforms(generator.random_raw(min(left, self.BLOCK)))
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
        words = (*self._key, _DRAW, shard + 1)
        if self._replacement:
            hit = np.searchsorted(edges, before + _uniforms(_words(drawn, *words)) * (edges[-1] - before), side="right")
            inside = np.flatnonzero(np.diff(edges, prepend=before))
            return np.bincount(np.minimum(hit, inside[-1]) if drawn else hit, minlength=end - begin)
        if self._weights is None:
            counts = np.full(end - begin, self._draws // int(self._bounds[-1]))
            counts[np.argsort(_words(end - begin, *words), kind="stable")[: drawn - counts.sum()]] += 1
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
        return _shuffled(ids, _words(len(ids), *self._key, _ORDER, number * self._window + 1))


def _shard_edges(weights: np.ndarray, samples: int, bounds: np.ndarray) -> tuple[np.ndarray, int, bool]:
    """float64 [shards], the sum of the weights up to each shard's end, added from left to right as in a whole shuffle; the last sample that has a weight;
    whether all are equal. Raises PlanError, as `_counts` does."""
    _check_length(weights, samples)
    edges, total, last, equal = np.empty(len(bounds) - 1), 0.0, -1, True
    for shard in range(len(edges)):
        part = weights[bounds[shard] : bounds[shard + 1]]
        _check_values(part, samples)
        total = float(np.cumsum(np.concatenate([[total], part]))[-1])
        edges[shard] = total
        if part.any():
            last = int(bounds[shard] + np.flatnonzero(part)[-1])
        equal = equal and bool((part == weights[0]).all())
    if last < 0:
        raise _bad_weights(samples)
    _check_sum(total)
    return edges, last, equal


def _bad_weights(samples: int) -> PlanError:
    return PlanError(f"weights must be {samples} finite numbers, none negative and not all 0")


def _check_length(weights: np.ndarray, samples: int) -> None:
    if len(weights) != samples:
        raise _bad_weights(samples)


def _check_values(weights: np.ndarray, samples: int) -> None:
    if not np.all(np.isfinite(weights)) or (len(weights) and weights.min() < 0):
        raise _bad_weights(samples)


def _check_sum(total: float) -> None:
    if not np.isfinite(total):
        raise PlanError("weights must add up to a finite number")


def _counts(
    weights: np.ndarray | None, samples: int, draws: int, uniforms: np.ndarray, replacement: bool
) -> np.ndarray:
    """int64 [N]: how often each id is drawn; the sum is `draws`."""
    if weights is None:
        weights = np.ones(samples)
    _check_length(weights, samples)
    _check_values(weights, samples)
    if not weights.any():
        raise _bad_weights(samples)
    # cumsum adds from left to right on every machine; sum() may not.
    edges = np.cumsum(weights, dtype=np.float64)
    _check_sum(edges[-1])
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


def _ordered(
    weights: np.ndarray | None,
    samples: int,
    draws: int,
    seed: int,
    epoch: int,
    stream: int,
    replacement: bool,
    shards: np.ndarray | None,
    window: int,
) -> _Order:
    if not window:
        return _Whole(weights, samples, draws, seed, epoch, stream, replacement)
    assert shards is not None
    bounds = np.searchsorted(shards, np.arange(int(shards[-1]) + 2))
    return _Windowed(weights, samples, draws, seed, epoch, stream, replacement, bounds, window)


def draw_ids(
    weights: np.ndarray | None,
    samples: int,
    draws: int,
    *,
    seed: int,
    epoch: int,
    stream: int = 0,
    replacement: bool = False,
    shards: np.ndarray | None = None,
    window: int = 0,
) -> np.ndarray:
    """The ids that one stream draws in one epoch, in order.

    Without replacement every id occurs the floor or the ceiling of its expected number of times (systematic sampling):
    for a uniform stream of N draws that is a permutation. With replacement the draws are independent.

    Args:
        weights: float64 [N], not negative, or None for the uniform stream.
        samples: N.
        draws: length of the result.
        shards: int [N], the shard of each id, ascending; needed for a window.
        window: 0 shuffles the whole epoch; k permutes the shards and shuffles inside windows of k of them, so that
            reads stay nearly sequential.

    Returns:
        int64 [draws].
    """
    return _taken(_ordered(weights, samples, draws, seed, epoch, stream, replacement, shards, window), 0, draws)


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """An epoch's global batches, each made when it is asked for.

    Attributes:
        steps: T.
        streams: int64 [B], the stream of each row; the same in every step.
        epoch: the epoch, which keys the augmentation.
    """

    steps: int
    streams: np.ndarray
    epoch: int
    _orders: tuple[_Order, ...]
    _groups: int  # into which each stream's share of a batch is cut

    def batch(self, step: int) -> np.ndarray:
        """int64 [B]: the sample ids of a step, in canonical row order. Any step may be asked for; it costs no more than one later on."""
        share = len(self.streams) // len(self._orders)
        rows = [_taken(order, step * share, (step + 1) * share).reshape(self._groups, -1) for order in self._orders]
        return np.concatenate(rows, axis=1).reshape(-1)

    @property
    def ids(self) -> np.ndarray:
        """int64 [T, B]: all of them, in memory."""
        return np.stack([self.batch(step) for step in range(self.steps)])


def needs(plan: EpochPlan, shards: np.ndarray, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """From step `start` on, in order: (a step, the shards that it or a later one may be the first to need). `shards`: as for `plan_epoch`."""
    first, last, again = _spans(plan, shards)
    over = last < start  # needed no more, but perhaps again
    steps = np.where(over, again, np.maximum(first, start))
    todo = np.flatnonzero((start <= steps) & (steps < plan.steps))
    for step in np.unique(steps[todo]):
        # inside a step in the order in which the blocks come
        yield int(step), (here := todo[steps[todo] == step])[np.lexsort((first[here], over[here]))]


def last_need(plan: EpochPlan, shards: np.ndarray) -> np.ndarray:
    """int64 [shards]: the last step that may need a shard; -1: none does."""
    _, last, again = _spans(plan, shards)
    return np.where(again < plan.steps, again, last)


def _spans(plan: EpochPlan, shards: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By the places of the blocks, the first and the last step that may need each shard, T and -1 where none does; and the last step of the epoch for those
    from which it is completed, T for the others."""
    number = int(shards[-1]) + 1
    first, last, again = np.full(number, plan.steps), np.full(number, -1), np.full(number, plan.steps)
    share = len(plan.streams) // len(plan._orders)
    for order in plan._orders:
        begin = 0
        over = plan.steps * share - int(order.ends[-1])  # draws beyond the order's end, taken from its front
        for block, end in enumerate(order.ends.tolist()):
            mine = slice(None) if order.shards is None else order.shards[block]
            if end > begin:
                first[mine] = np.minimum(first[mine], begin // share)
                last[mine] = np.maximum(last[mine], (end - 1) // share)
                if begin < over:
                    again[mine] = plan.steps - 1
            begin = end
    return first, last, again


def plan_epoch(
    weights: Sequence[np.ndarray | None],
    samples: int,
    *,
    batch: int,
    group: int,
    draws_per_epoch: float = 1.0,
    matched: bool = False,
    by_stream: bool = False,
    replacement: bool = False,
    seed: int,
    epoch: int,
    shards: np.ndarray | None = None,
    window: int = 0,
) -> EpochPlan:
    """The plan of one epoch.

    Args:
        weights: S entries, float64 [N] or None for uniform; they must not change while the plan is used.
        samples: N.
        batch: B, of which each stream gets B/S rows.
        group: rows of a batch-normalisation group, a multiple of S; 0 makes the batch one group.
        draws_per_epoch: draws in units of N, for each stream; with `matched` for all streams together.
        by_stream: each group holds rows of one stream only, instead of the same mix as all others.
        shards: int [N], the shard of each id, ascending; needed for a window.
        window: 0 shuffles the whole epoch; k shuffles inside windows of k permuted shards, with O(shards) of state and one window's ids.

    Raises:
        PlanError: the batch cannot be shared out among the streams.

    A last batch that is not full is completed from the front of the same order: without replacement every id occurs
    once, plus fewer than B repeats.
    """
    number = len(weights)
    group = group or batch
    draws = max(1, round(draws_per_epoch * samples / (number if matched else 1)))
    share, groups = batch // number, batch // group
    if batch % group or batch % number or (share % group if by_stream else group % number):
        wanted = "each stream's share a multiple of the group" if by_stream else "the group a multiple of the streams"
        raise PlanError(
            f"a batch of {batch} in groups of {group} cannot be shared out among {number} streams: the batch must be a multiple of both, and {wanted}"
        )
    orders = tuple(
        _ordered(weight, samples, draws, seed, epoch, stream, replacement, shards, window)
        for stream, weight in enumerate(weights)
    )
    rows = (
        np.repeat(np.arange(number), share)
        if by_stream
        else np.tile(np.repeat(np.arange(number), group // number), groups)
    )
    return EpochPlan(-(-draws // share), rows, epoch, orders, 1 if by_stream else groups)


def micro_batches(
    batch: int, group: int, rank: int, ranks: int, *, synchronised: bool = False, streams: int = 1
) -> list[np.ndarray]:
    """The canonical rows (int64) that one rank takes of every global batch, as a list of micro-batches.

    With batch normalisation (group > 0) a micro-batch is one group; where there are more ranks than groups, the ranks
    of a group share it, each of its `streams` in the same way, and must synchronise its statistics (`synchronised`).
    Without, a rank takes one slice, and the slices may differ by one row.

    Raises:
        PlanError: the ranks cannot share the batch; names the legal numbers of ranks.
    """
    rows = np.arange(batch)
    if not group:
        if ranks > batch:
            raise PlanError(f"{ranks} ranks cannot share a batch of {batch}: at most {batch} are legal")
        return [np.array_split(rows, ranks)[rank]]
    groups = batch // group
    if ranks <= groups:
        if groups % ranks:
            legal = [r for r in range(1, groups + 1) if groups % r == 0]
            raise PlanError(
                f"{ranks} ranks cannot share the {groups} groups of batch.bn={group}: {', '.join(map(str, legal))} ranks are legal"
            )
        mine = groups // ranks
        return [rows[g * group : (g + 1) * group] for g in range(rank * mine, (rank + 1) * mine)]
    if not synchronised:
        raise PlanError(
            f"{ranks} ranks are more than the {groups} groups of batch.bn={group}, and synchronised batch normalisation needs a GPU: at most {groups} ranks are legal here"
        )
    if ranks % groups or ranks // groups > group // streams:
        raise PlanError(
            f"{ranks} ranks cannot share the {groups} groups of batch.bn={group}: a multiple of {groups} up to {batch // streams} is legal"
        )
    sharing = ranks // groups
    mine = rows[(rank // sharing) * group : (rank // sharing + 1) * group]
    return [np.concatenate([np.array_split(part, sharing)[rank % sharing] for part in np.split(mine, streams)])]


@dataclass(frozen=True)
class Draws:
    """The samples of one micro-batch, in order: what the reader is asked for.

    Attributes:
        ids: int64 [M], sample ids.
        draws: int64 [M], their numbers within the epoch.
        streams: int64 [M].
        seed, epoch: key the augmentation together with `draws`; epoch is -1 for evaluation, which draws nothing.
    """

    ids: np.ndarray
    draws: np.ndarray
    streams: np.ndarray
    seed: int
    epoch: int


def rank_draws(plan: EpochPlan, rows: Sequence[np.ndarray], seed: int, start: int = 0) -> Iterator[Draws]:
    """One rank's micro-batches from step `start` to the end of the epoch, `len(rows)` of them a step."""
    for step in range(start, plan.steps):
        ids = plan.batch(step)
        for mine in rows:
            yield Draws(ids[mine], step * len(ids) + mine, plan.streams[mine], seed, plan.epoch)
