"""Plans in one line, for tests: every number by keyword, with the defaults that most tests want."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sharding.plan import epoch as plans
from sharding.plan import ranks as rows
from sharding.plan.epoch import BatchShape, EpochPlan, stream_draws
from sharding.plan.philox import DrawKey
from sharding.plan.sampling import StreamDraw
from sharding.plan.windowed import ShardWindow


def plan_epoch(  # noqa: PLR0913 -- a test names each number, and most leave most out
    weights: Sequence[np.ndarray | None],
    samples: int,
    *,
    batch: int,
    group: int,
    by_stream: bool = False,
    seed: int,
    epoch: int,
    shards: np.ndarray | None = None,
    window: int = 0,
    **draws: Any,
) -> EpochPlan:
    """Call `sharding.plan.epoch.plan_epoch`; `draws` as for `stream_draws`, a window of 0 for none."""
    return plans.plan_epoch(
        stream_draws(weights, samples, **draws),
        BatchShape(batch, group, len(weights), by_stream),
        DrawKey(seed, epoch),
        _window(shards, window),
    )


def draw_ids(  # noqa: PLR0913 -- as above
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
    """Call `sharding.plan.epoch.draw_ids`."""
    draw = StreamDraw(weights, samples, draws, replacement)
    return plans.draw_ids(draw, DrawKey(seed, epoch, stream), _window(shards, window))


def micro_batches(
    batch: int, group: int, rank: int, ranks: int, *, synchronised: bool = False, streams: int = 1
) -> list[np.ndarray]:
    """Call `sharding.plan.ranks.micro_batches`."""
    return rows.micro_batches(BatchShape(batch, group, streams), rank, ranks, synchronised=synchronised)


def _window(shards: np.ndarray | None, size: int) -> ShardWindow | None:
    return ShardWindow(shards, size) if size and shards is not None else None
