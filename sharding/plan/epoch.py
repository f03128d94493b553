"""The epoch plan: which sample is drawn where, as a pure function of (weights, seed, epoch).

Every rank computes the same plan without communication. Step t of an epoch is the same global batch on any number of
ranks and loader workers. Every rank takes the same number of steps, and resuming is `start=t`.

Axes: N samples, S streams, B global batch, T steps, R ranks, G batch-normalisation groups of B/G rows.

A global batch has a canonical row order: group after group, and inside a group stream after stream, so that each group
holds the same mix of streams (or, if asked for, a single one). `draw = t * B + row` numbers the draws of an epoch; it
is part of the augmentation's random key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from recipes.common.errors import PlanError
from sharding.plan.philox import DrawKey
from sharding.plan.sampling import FullShuffle, Order, StreamDraw
from sharding.plan.windowed import ShardWindow, WindowedShuffle


@dataclass(frozen=True)
class BatchShape:
    """How a global batch is made up.

    Attributes:
        size: B rows, of which each stream gets B/S.
        group: rows of a batch-normalisation group; 0 without batch normalisation, where the batch is one group.
        streams: S.
        by_stream: each group holds rows of a single stream, instead of the same mix in all groups.
        key: the recipe's key of `group`, for sentences.
    """

    size: int
    group: int = 0
    streams: int = 1
    by_stream: bool = False
    key: str = "batch.bn"

    @property
    def share(self) -> int:
        """Rows of each stream in a batch."""
        return self.size // self.streams

    @property
    def streams_in_group(self) -> int:
        """Streams whose rows a group holds."""
        return 1 if self.by_stream else self.streams

    def check(self) -> None:
        """Check that the batch can be divided among the streams and the groups.

        Raises:
            PlanError: it cannot; the sentence says which multiples are legal.
        """
        group = self.group or self.size
        uneven = self.share % group if self.by_stream else group % self.streams
        if self.size % group or self.size % self.streams or uneven:
            rule = (
                "each stream's share a multiple of the group"
                if self.by_stream
                else "the group a multiple of the streams"
            )
            raise PlanError(
                f"a batch of {self.size} in groups of {group} cannot be shared out among {self.streams} streams: "
                f"the batch must be a multiple of both, and {rule}"
            )

    def steps(self, draws: int) -> int:
        """Return the steps in which each stream draws so many ids; the last batch is filled up."""
        return -(-draws // self.share)

    def row_streams(self) -> np.ndarray:
        """Return the stream of each row, int64 [B], in canonical row order."""
        group = self.group or self.size
        if self.by_stream:
            return np.repeat(np.arange(self.streams), self.share)
        return np.tile(np.repeat(np.arange(self.streams), group // self.streams), self.size // group)


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """An epoch's global batches, each computed when it is asked for.

    Attributes:
        steps: T.
        streams: int64 [B], the stream of each row; the same in every step.
        epoch: the epoch, part of the augmentation's random key.
        orders: each stream's order of draws.
        cuts: parts into which each stream's share of a batch is cut: one for each group that holds some of it.
    """

    steps: int
    streams: np.ndarray
    epoch: int
    orders: tuple[Order, ...]
    cuts: int

    @property
    def share(self) -> int:
        """Rows of each stream in a batch."""
        return len(self.streams) // len(self.orders)

    def batch(self, step: int) -> np.ndarray:
        """Return the sample ids of a step, int64 [B], in canonical row order. All steps cost the same, in any order."""
        share = self.share
        rows = [_taken(order, step * share, (step + 1) * share).reshape(self.cuts, -1) for order in self.orders]
        return np.concatenate(rows, axis=1).reshape(-1)

    @property
    def ids(self) -> np.ndarray:
        """Return the sample ids of all steps, int64 [T, B]; they are all in memory."""
        return np.stack([self.batch(step) for step in range(self.steps)])


def draws_of_a_stream(samples: int, streams: int, draws_per_epoch: float, matched: bool) -> int:
    """Return how many ids each stream draws in an epoch; the arguments are those of `stream_draws`."""
    return max(1, round(draws_per_epoch * samples / (streams if matched else 1)))


def stream_draws(
    weights: Sequence[np.ndarray | None],
    samples: int,
    *,
    draws_per_epoch: float = 1.0,
    matched: bool = False,
    replacement: bool = False,
) -> tuple[StreamDraw, ...]:
    """Return what each stream draws in an epoch.

    Args:
        weights: for each of the S streams float64 [N], or None for uniform; not to be changed while a plan uses them.
        samples: N.
        draws_per_epoch: draws in units of N, for each stream; with `matched` for all streams together.
        matched: whether all streams together draw as much as a single one would.
        replacement: whether the draws are independent.
    """
    draws = draws_of_a_stream(samples, len(weights), draws_per_epoch, matched)
    return tuple(StreamDraw(weight, samples, draws, replacement) for weight in weights)


def plan_epoch(
    draws: Sequence[StreamDraw],
    shape: BatchShape,
    key: DrawKey,
    window: ShardWindow | None = None,
    made: Mapping[int, Order] = MappingProxyType({}),
) -> EpochPlan:
    """Plan one epoch.

    An incomplete last batch is filled from the front of the same order. So without replacement every id occurs once,
    plus fewer than B repeats.

    Args:
        draws: what each of the S streams draws, all the same number.
        shape: the global batch.
        key: the run's seed and the epoch; the stream's number is added to it.
        window: None shuffles the whole epoch and keeps 4 bytes a draw; a window keeps O(shards) and some windows' ids.
        made: the orders of streams, by their numbers, where they were made before.

    Raises:
        PlanError: the batch cannot be divided among the streams, or weights are not legal.
    """
    shape.check()
    number = draws[0].draws
    assert len(draws) == shape.streams and all(draw.draws == number for draw in draws)
    orders = tuple(
        made[stream] if stream in made else stream_order(draw, key.of_stream(stream), window)
        for stream, draw in enumerate(draws)
    )
    cuts = 1 if shape.by_stream or not shape.group else shape.size // shape.group
    return EpochPlan(shape.steps(number), shape.row_streams(), key.epoch, orders, cuts)


def draw_ids(draw: StreamDraw, key: DrawKey, window: ShardWindow | None = None) -> np.ndarray:
    """Return the ids that one stream draws in one epoch, in order: int64 [draws].

    Args:
        draw: what the stream draws.
        key: seed, epoch and stream.
        window: None shuffles the whole epoch.

    Raises:
        PlanError: the weights are not legal.
    """
    return _taken(stream_order(draw, key, window), 0, draw.draws)


def stream_order(draw: StreamDraw, key: DrawKey, window: ShardWindow | None = None) -> Order:
    """Return the order in which one stream draws in one epoch; arguments and errors are those of `draw_ids`."""
    return FullShuffle(draw, key) if window is None else WindowedShuffle(draw, key, window)


def _taken(order: Order, first: int, last: int) -> np.ndarray:
    """Return the ids at these places of the order, int64 [last - first]; after its end it begins again."""
    parts, draws = [], int(order.ends[-1])
    while first < last:
        place = first % draws
        number = int(np.searchsorted(order.ends, place, side="right"))
        begin = int(order.ends[number - 1]) if number else 0
        part = order.block(number)[place - begin : place - begin + last - first]
        parts.append(part)
        first += len(part)
    return np.concatenate(parts, dtype=np.int64)
