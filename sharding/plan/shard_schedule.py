"""Which step of an epoch needs which shard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sharding.plan.epoch import EpochPlan


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
