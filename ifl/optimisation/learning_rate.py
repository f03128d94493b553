"""The learning rate, a pure function of the place in the run, so that a resumed run has the same one."""

from __future__ import annotations

import math

from recipes.schema import Schedule


def learning_rate(epoch: int, schedule: Schedule, lr: float, step: int = 0, steps: int = 1) -> float:
    """Return the learning rate of a step: a linear rise to `lr`, then a cosine to 0, or a fall by gamma at each drop.

    The rise moves at every step and ends in the last step of the warm-up. The cosine (Loshchilov and Hutter, ICLR 2017,
    equation 5, without restarts) runs over the epochs that are left; drops stay where they are.

    Args:
        epoch: 0-based.
        schedule: the recipe's.
        lr: the highest.
        step: 0-based, of the epoch.
        steps: of an epoch.
    """
    now = epoch + step / steps if schedule.by == "step" else epoch
    rise = 1.0
    if schedule.warmup:
        rise = min(1.0, (epoch * steps + step + 1) / (schedule.warmup * steps))
    if schedule.decay == "steps":
        drops = schedule.drops
        if schedule.by == "step":  # not brought to whole epochs when the recipe was resolved
            drops = [drop * schedule.epochs if drop < 1 else drop for drop in drops]
        return rise * lr * schedule.gamma ** sum(drop <= now for drop in drops)
    fallen = max(0.0, now - schedule.warmup)
    return rise * lr * 0.5 * (1 + math.cos(math.pi * fallen / (schedule.epochs - schedule.warmup)))
