"""The plans of a run's epochs, the next one made in a thread while the present one trains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from sharding.plan.epoch import BatchShape, EpochPlan, plan_epoch, stream_order
from sharding.plan.philox import DrawKey
from sharding.plan.sampling import Order, StreamDraw
from sharding.plan.windowed import ShardWindow

Weights = Sequence[np.ndarray | None]


@dataclass(frozen=True, eq=False)
class _Made:
    """What was made of an epoch's plan before it was asked for.

    Attributes:
        epoch: the epoch.
        weights: of all streams, as they were known then.
        orders: the order of each stream that was known, or the error of making them.
    """

    epoch: int
    weights: Weights
    orders: Future[dict[int, Order]] = field(default_factory=Future)

    def of(self, epoch: int, weights: Weights) -> Mapping[int, Order]:
        """Return the orders that are those of this epoch and these weights; wait for them.

        Raises:
            PlanError: the weights are not legal.
        """
        if epoch != self.epoch:
            return {}
        return {
            stream: order for stream, order in self.orders.result().items() if weights[stream] is self.weights[stream]
        }


class Planner:
    """Plans epochs, one after the other.

    A plan is a pure function of weights, seed and epoch, so a plan has the same bits whether it was begun ahead or not.
    An order that was made of other weights than those that the epoch has in the end is made again.
    """

    def __init__(
        self,
        draws: Callable[[Weights], tuple[StreamDraw, ...]],
        shape: BatchShape,
        seed: int,
        window: ShardWindow | None = None,
    ) -> None:
        """Plan nothing yet.

        Args:
            draws: what each stream draws by these weights.
            shape: the global batch.
            seed: the run's.
            window: as for `plan_epoch`.
        """
        self._draws, self._shape, self._seed, self._window = draws, shape, seed, window
        self._ahead: _Made | None = None
        self._last: tuple[int, Weights, EpochPlan] | None = None

    def plan(self, epoch: int, weights: Weights) -> EpochPlan:
        """Return the plan of an epoch, with what `begin` has made of it; the last plan is kept.

        Args:
            epoch: 0 to 2**32 - 1.
            weights: of each stream float64 [N], or None for uniform; not to be changed while a plan uses them.

        Raises:
            PlanError: as for `plan_epoch`, also where it was met in the thread.
        """
        if self._last and self._last[0] == epoch and _same(self._last[1], weights):
            return self._last[2]
        ahead, self._ahead, self._last = self._ahead, None, None
        made = ahead.of(epoch, weights) if ahead else {}
        plan = plan_epoch(self._draws(weights), self._shape, DrawKey(self._seed, epoch), self._window, made)
        self._last = epoch, list(weights), plan
        return plan

    def begin(self, epoch: int, weights: Weights, unknown: Container[int] = ()) -> None:
        """Make an epoch's plan in a thread, as far as its weights are known; `unknown`: the streams that wait."""
        made = self._ahead = _Made(epoch, list(weights))
        known = [
            (stream, draw, DrawKey(self._seed, epoch, stream))
            for stream, draw in enumerate(self._draws(weights))
            if stream not in unknown
        ]

        def work() -> None:
            try:
                made.orders.set_result({stream: stream_order(draw, key, self._window) for stream, draw, key in known})
            except BaseException as error:  # raised where the plan is asked for
                made.orders.set_exception(error)

        threading.Thread(target=work, name="plan", daemon=True).start()


def _same(one: Weights, two: Weights) -> bool:
    return len(one) == len(two) and all(mine is theirs for mine, theirs in zip(one, two, strict=True))
