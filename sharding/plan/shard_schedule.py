"""Which steps of an epoch need which shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sharding.plan.epoch import EpochPlan


@dataclass(frozen=True, eq=False)
class ShardUse:
    """The steps that may need each shard, judged by the places of the blocks.

    Attributes:
        first: int64 [shards], the first such step; T where no step needs the shard.
        last: int64 [shards], the last such step; -1 where no step needs the shard.
        refill: int64 [shards], T - 1 for the shards from which the epoch's last batch is filled, T for the others.
    """

    first: np.ndarray
    last: np.ndarray
    refill: np.ndarray


def shard_arrivals(plan: EpochPlan, shards: np.ndarray, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the shards in the order in which an epoch needs them.

    Args:
        plan: the epoch's plan.
        shards: int [N], the shard of each id, ascending.
        start: the first step that is still to come.

    Yields:
        A step from `start` on, and the shards that may first be needed in it or later.
    """
    use = _shard_use(plan, shards)
    over = use.last < start  # not needed any more, but perhaps for the last batch
    steps = np.where(over, use.refill, np.maximum(use.first, start))
    todo = np.flatnonzero((start <= steps) & (steps < plan.steps))
    for step in np.unique(steps[todo]):
        here = todo[steps[todo] == step]
        # inside a step in the order in which the blocks come
        yield int(step), here[np.lexsort((use.first[here], over[here]))]


def last_use(plan: EpochPlan, shards: np.ndarray) -> np.ndarray:
    """Return the last step that may need each shard, int64 [shards]; -1 if no step does.

    Args:
        plan: the epoch's plan.
        shards: int [N], the shard of each id, ascending.
    """
    use = _shard_use(plan, shards)
    return np.where(use.refill < plan.steps, use.refill, use.last)


def _shard_use(plan: EpochPlan, shards: np.ndarray) -> ShardUse:
    number = int(shards[-1]) + 1
    use = ShardUse(np.full(number, plan.steps), np.full(number, -1), np.full(number, plan.steps))
    for order in plan.orders:
        begin = 0
        over = plan.steps * plan.share - int(order.ends[-1])  # draws beyond the order's end, taken from its front
        for block, end in enumerate(order.ends.tolist()):
            there = slice(None) if order.shards is None else order.shards[block]
            if end > begin:
                use.first[there] = np.minimum(use.first[there], begin // plan.share)
                use.last[there] = np.maximum(use.last[there], (end - 1) // plan.share)
                if begin < over:
                    use.refill[there] = plan.steps - 1
            begin = end
    return use
