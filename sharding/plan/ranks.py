"""The rows of every global batch that a rank takes, and its draws in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.common.errors import PlanError
from sharding.plan.epoch import BatchShape, EpochPlan


def micro_batches(shape: BatchShape, rank: int, ranks: int, *, synchronised: bool = False) -> list[np.ndarray]:
    """Return the canonical rows that one rank takes of every global batch: int64, one array for each micro-batch.

    With batch normalisation (`shape.group` > 0) a micro-batch is one group. If there are more ranks than groups,
    several ranks share a group, each of its streams in the same way, and must synchronise its statistics. Without
    batch normalisation a rank takes one slice, and the slices may differ by one row.

    Args:
        shape: the global batch.
        rank: 0 to `ranks` - 1.
        ranks: R.
        synchronised: whether several ranks can take a group's statistics together.

    Raises:
        PlanError: the ranks cannot share the batch; the sentence names the legal numbers of ranks.
    """
    rows = np.arange(shape.size)
    if not shape.group:
        if ranks > shape.size:
            raise PlanError(f"{ranks} ranks cannot share a batch of {shape.size}: at most {shape.size} are legal")
        return [np.array_split(rows, ranks)[rank]]
    groups = shape.size // shape.group
    of_groups = f"the {groups} groups of {shape.key}={shape.group}"
    if ranks <= groups:
        if groups % ranks:
            legal = ", ".join(str(number) for number in range(1, groups + 1) if groups % number == 0)
            raise PlanError(f"{ranks} ranks cannot share {of_groups}: {legal} ranks are legal")
        each = groups // ranks
        return np.split(rows[rank * each * shape.group : (rank + 1) * each * shape.group], each)
    if not synchronised:
        raise PlanError(
            f"{ranks} ranks are more than {of_groups}, and synchronised batch normalisation needs a GPU: "
            f"at most {groups} ranks are legal here"
        )
    streams, sharing = shape.streams_in_group, ranks // groups
    if ranks % groups or sharing > shape.group // streams:
        raise PlanError(
            f"{ranks} ranks cannot share {of_groups}: a multiple of {groups} up to {shape.size // streams} is legal"
        )
    group = rows[(rank // sharing) * shape.group :][: shape.group]
    return [np.concatenate([np.array_split(part, sharing)[rank % sharing] for part in np.split(group, streams)])]


@dataclass(frozen=True)
class Draws:
    """The samples of one micro-batch of M rows, in order: what the reader is asked for.

    Attributes:
        ids: int64 [M], sample ids.
        draws: int64 [M], their numbers within the epoch.
        streams: int64 [M].
        seed: the run's; with `epoch` and `draws` it is the augmentation's random key.
        epoch: the epoch, or -1 for evaluation, where nothing is random.
    """

    ids: np.ndarray
    draws: np.ndarray
    streams: np.ndarray
    seed: int
    epoch: int


def rank_draws(plan: EpochPlan, rows: Sequence[np.ndarray], seed: int, start: int = 0) -> Iterator[Draws]:
    """Yield one rank's micro-batches from step `start` to the end of the epoch, `len(rows)` for each step."""
    for step in range(start, plan.steps):
        ids = plan.batch(step)
        for mine in rows:
            yield Draws(ids[mine], step * len(ids) + mine, plan.streams[mine], seed, plan.epoch)
