"""How sure the network was of each training sample in this epoch: sum and count of p(y|x), in fixed point.

Each rank adds what it sees; the ranks' tables are added up only when somebody asks. Integers make the total exact for
any order and any number of ranks. (The reference keeps the last occurrence, which many ranks cannot define.)
"""

from __future__ import annotations

import numpy as np
import torch

from ifl.distributed.comm import Comm

SCORE_BITS = 30
"""Probabilities count in multiples of 2**-30; a sample may be drawn 2**33 times an epoch."""
HELD = 64
"""Micro-batches that are collected before they are added up together.

Adding them one by one would cost half a percent of a small network's step.
"""


class ConfidenceTable:
    """This rank's sums and counts."""

    def __init__(self, samples: int, device: torch.device | str = "cpu") -> None:
        self._table = torch.zeros(2, samples, dtype=torch.int64, device=device)
        self._held: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def table(self) -> torch.Tensor:
        """int64 [2, N]: sums (fixed point) and counts of all that was added."""
        self._add_held()
        return self._table

    def _add_held(self) -> None:
        if self._held:
            ids, scores = map(torch.cat, zip(*self._held, strict=True))
            self._held = []
            fixed = (scores.double().nan_to_num(0) * 2.0**SCORE_BITS).round().to(torch.int64)
            self._table[0].index_add_(0, ids, fixed)
            self._table[1].index_add_(0, ids, torch.ones_like(fixed))

    def add(self, ids_B: torch.Tensor, scores_B: torch.Tensor) -> None:
        """Count p(y|x) in [0, 1] of the drawn samples; an id may occur more than once.

        A score that is not a number counts as 0 (the step that made it stops the run).
        """
        # A copy: the batch's own ids may lie in shared memory, where each is an open file as long as it is kept.
        self._held.append((ids_B.clone(), scores_B.detach()))
        if len(self._held) == HELD:
            self._add_held()

    def total(self, comm: Comm) -> torch.Tensor:
        """Return int64 [2, N] over all ranks. The ranks' own tables stay as they are."""
        return comm.sum(self.table.clone())

    def restart(self, total: torch.Tensor | None = None, rank: int = 0) -> None:
        """Empty the table, or go on from a `total`, which rank 0 takes over whole."""
        self._held = []
        self._table.zero_()
        if total is not None and rank == 0:
            self._table.copy_(total)


def mean_scores(total: torch.Tensor) -> np.ndarray:
    """Return float64 [N]: mean p(y|x) of each sample, NaN where it was not drawn."""
    sums, counts = total.cpu().numpy()
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, sums * 2.0**-SCORE_BITS / counts, np.nan)
