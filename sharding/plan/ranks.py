"""Which rows of every global batch a rank takes, and its draws in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.common.errors import PlanError
from sharding.plan.epoch import EpochPlan


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
