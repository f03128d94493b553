"""The epoch plan: which sample is drawn where, as a pure function of (weights, seed, epoch).

Every rank computes the same plan without communication. Step t of an epoch is the same global batch on any number of
ranks and with any number of loader workers, every rank takes the same number of steps, and resuming is `start=t`.

Axes: N samples, S streams, B global batch, T steps, R ranks, G batch-normalisation groups of B/G rows.

A global batch has a canonical row order: group after group, and inside a group stream after stream, so that each group
holds the same mix of streams (or, if asked for, a single one). `draw = t * B + row` numbers the draws of an epoch; augmentation is keyed by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.common.errors import PlanError
from sharding.plan.sampling import FullShuffle, Order
from sharding.plan.windowed import WindowedShuffle


def _taken(order: Order, first: int, last: int) -> np.ndarray:
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
) -> Order:
    if not window:
        return FullShuffle(weights, samples, draws, seed, epoch, stream, replacement)
    assert shards is not None
    bounds = np.searchsorted(shards, np.arange(int(shards[-1]) + 2))
    return WindowedShuffle(weights, samples, draws, seed, epoch, stream, replacement, bounds, window)


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
    _orders: tuple[Order, ...]
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
