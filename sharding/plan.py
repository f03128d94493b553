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

import numpy as np

# The purposes for which an epoch's random words are used; each has a Philox key of its own.
_DRAW, _ORDER, _SHARDS = 0, 1, 2


class PlanError(ValueError):
    """A batch that cannot be shared out as asked; the message says what would be legal."""


def _words(count: int, seed: int, epoch: int, stream: int, purpose: int, block: int = 0) -> np.ndarray:
    """uint64 [count] random words. Raw Philox output is part of its definition and, unlike numpy's derived
    distributions, the same for every numpy version."""
    assert seed < 2**32 and epoch < 2**32 and stream < 2**16 and purpose < 2**16 and block < 2**32
    key = np.array([seed << 32 | epoch, block << 32 | stream << 16 | purpose], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def _uniforms(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from the top 53 bits of each word."""
    return (words >> np.uint64(11)) * 2.0**-53


def _shuffled(values: np.ndarray, words: np.ndarray) -> np.ndarray:
    return values[np.argsort(words, kind="stable")]


def draw_ids(weights: np.ndarray | None, samples: int, draws: int, *, seed: int, epoch: int, stream: int = 0, replacement: bool = False,
             shards: np.ndarray | None = None, window: int = 0) -> np.ndarray:
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
    counts = _counts(weights, samples, draws, _uniforms(_words(draws if replacement else 1, seed, epoch, stream, _DRAW)), replacement)
    if not window:
        ids = np.repeat(np.arange(samples, dtype=np.int64), counts)
        return _shuffled(ids, _words(draws, seed, epoch, stream, _ORDER))
    assert shards is not None
    number = int(shards[-1]) + 1
    bounds = np.searchsorted(shards, np.arange(number + 1))
    order = _shuffled(np.arange(number), _words(number, seed, epoch, 0, _SHARDS))
    parts = []
    for block in range(0, number, window):
        ids = np.concatenate([np.arange(bounds[s], bounds[s + 1], dtype=np.int64) for s in order[block : block + window]])
        ids = np.repeat(ids, counts[ids])
        parts.append(_shuffled(ids, _words(len(ids), seed, epoch, stream, _ORDER, block + 1)))
    return np.concatenate(parts)


def _counts(weights: np.ndarray | None, samples: int, draws: int, uniforms: np.ndarray, replacement: bool) -> np.ndarray:
    """int64 [N]: how often each id is drawn; the sum is `draws`."""
    if weights is None:
        weights = np.ones(samples)
    if len(weights) != samples or not np.all(np.isfinite(weights)) or weights.min() < 0 or weights.max() <= 0:
        raise PlanError(f"weights must be {samples} finite numbers, none negative and not all 0")
    # cumsum adds from left to right on every machine; sum() may not.
    edges = np.cumsum(weights, dtype=np.float64)
    if not np.isfinite(edges[-1]):
        raise PlanError("weights must add up to a finite number")
    if replacement:
        ids = np.searchsorted(edges, uniforms * edges[-1], side="right")
        last = np.flatnonzero(weights)[-1]  # u * total may round up to the total itself
        return np.bincount(np.minimum(ids, last), minlength=samples)
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


@dataclass(frozen=True)
class EpochPlan:
    """An epoch's global batches.

    Attributes:
        ids: int64 [T, B], sample ids in canonical row order.
        streams: int64 [B], the stream of each row; the same in every step.
        epoch: the epoch, which keys the augmentation.
    """

    ids: np.ndarray
    streams: np.ndarray
    epoch: int

    @property
    def steps(self) -> int:
        return len(self.ids)


def plan_epoch(weights: Sequence[np.ndarray | None], samples: int, *, batch: int, group: int, draws_per_epoch: float = 1.0, matched: bool = False, by_stream: bool = False,
               replacement: bool = False, seed: int, epoch: int, shards: np.ndarray | None = None, window: int = 0) -> EpochPlan:
    """The plan of one epoch.

    Args:
        weights: S entries, float64 [N] or None for uniform.
        samples: N.
        batch: B, of which each stream gets B/S rows.
        group: rows of a batch-normalisation group, a multiple of S; 0 makes the batch one group.
        draws_per_epoch: draws in units of N, for each stream; with `matched` for all streams together.
        by_stream: each group holds rows of one stream only, instead of the same mix as all others.

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
        raise PlanError(f"a batch of {batch} in groups of {group} cannot be shared out among {number} streams: the batch must be a multiple of both, and {wanted}")
    steps = -(-draws // share)
    columns = []
    for stream, weight in enumerate(weights):
        ids = draw_ids(weight, samples, draws, seed=seed, epoch=epoch, stream=stream, replacement=replacement, shards=shards, window=window)
        columns.append(np.resize(ids, steps * share))  # np.resize wraps around
    if by_stream:
        rows = np.concatenate([column.reshape(steps, share) for column in columns], axis=1)
        return EpochPlan(rows, np.repeat(np.arange(number), share), epoch)
    rows = np.concatenate([column.reshape(steps, groups, group // number) for column in columns], axis=2).reshape(steps, batch)
    return EpochPlan(rows, np.tile(np.repeat(np.arange(number), group // number), groups), epoch)


def micro_batches(batch: int, group: int, rank: int, ranks: int, *, synchronised: bool = False, streams: int = 1) -> list[np.ndarray]:
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
            raise PlanError(f"{ranks} ranks cannot share the {groups} groups of batch.bn={group}: {', '.join(map(str, legal))} ranks are legal")
        mine = groups // ranks
        return [rows[g * group : (g + 1) * group] for g in range(rank * mine, (rank + 1) * mine)]
    if not synchronised:
        raise PlanError(f"{ranks} ranks are more than the {groups} groups of batch.bn={group}, and synchronised batch normalisation needs a GPU: at most {groups} ranks are legal here")
    if ranks % groups or ranks // groups > group // streams:
        raise PlanError(f"{ranks} ranks cannot share the {groups} groups of batch.bn={group}: a multiple of {groups} up to {batch // streams} is legal")
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
    batch = plan.ids.shape[1]
    for step in range(start, plan.steps):
        for mine in rows:
            yield Draws(plan.ids[step, mine], step * batch + mine, plan.streams[mine], seed, plan.epoch)
