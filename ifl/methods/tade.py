"""TADE (also SADE; Zhang et al., NeurIPS 2022), its training.

One expert is for the training set's class distribution, one for the uniform and one for the inverse distribution (its
skill-diverse expert learning). The test-time aggregation is left out: predictions are those of the experts' mean.
"""

from __future__ import annotations

import torch

from ifl.method import BaseMethod, Output, Rows, Task
from ifl.network.heads import ExpertHeads, expert_losses

FORM = "experts"
ARGS = {
    "scale": 30.0,  # s, of the cosines
    "tau": 2.0,  # how strongly the third expert leans towards the inverse distribution
}
POSITIVE = ("scale",)
COUNTS = True
TINY = 1e-9  # a class without samples has a logarithm, too


class Method(BaseMethod):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        log_K = (task.prior_K + TINY).log()
        self.shifts_EK = torch.stack(
            [torch.zeros_like(log_K), log_K, log_K - task.args["tau"] * (reversed_ranks(task.prior_K) + TINY).log()]
        )

    def head(self) -> ExpertHeads:
        return ExpertHeads(self.task.feature_dim, len(self.task.class_counts), self.task.args["scale"])

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return expert_losses(output.parts[0] + self.shifts_EK, rows.labels).sum(dim=1)


def reversed_ranks(prior_K: torch.Tensor) -> torch.Tensor:
    """Return the same values, float [K], with the i-th smallest in the place of the i-th largest.

    Among equal values the first counts as smaller.
    """
    ascending = prior_K.argsort(stable=True)
    inverse_K = torch.empty_like(prior_K)
    inverse_K[ascending] = prior_K[ascending].flip(0)
    return inverse_K
