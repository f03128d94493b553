"""RIDE (Wang et al., ICLR 2021), its first stage.

Three experts, each with LDAM's loss, are pushed apart by a diversity term (section 3), with temperatures by class once
re-weighting begins. Each expert is compared with the experts' mean, where the paper compares pairs. Routing, the second
stage, is left out.
"""

from __future__ import annotations

import torch

from ifl.method import BaseMethod, Output, Rows, Task
from ifl.network.heads import ExpertHeads, drw_weights, expert_losses, ldam_margins, less_margin, mean_weights
from recipes.rules import epoch_at

FORM = "experts"
ARGS = {
    "margin": 0.5,  # the rarest class's, in units of the cosine
    "scale": 30.0,  # s, of the cosines
    "beta": 0.9999,  # of the class weights
    "reweight_after": 0.8,  # fraction of the epochs, the last without class weights and temperatures; 1 is all
    "diversity": -0.2,  # factor of the divergence of an expert from the experts' mean
    "temperature": 0.02,  # how much a class's temperature depends on its share
}
POSITIVE = ("scale",)
LIMITS = {
    "margin": {"ge": 0},
    "beta": {"ge": 0, "lt": 1},
    "reweight_after": {"ge": 0},
    "temperature": {"ge": 0, "lt": 1},
}
FRACTIONS = ("reweight_after",)
COUNTS = True


class Method(BaseMethod):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.margins_K = task.args["scale"] * ldam_margins(task.class_counts, task.args["margin"])
        self.weights_K = drw_weights(task.class_counts, task.args["beta"])
        temperatures_K = len(task.prior_K) * task.prior_K * task.args["temperature"] + 1 - task.args["temperature"]
        self.temperatures_K = temperatures_K / temperatures_K.max()
        self.last_plain = epoch_at(task.args["reweight_after"], task.epochs)

    def head(self) -> ExpertHeads:
        return ExpertHeads(self.task.feature_dim, len(self.task.class_counts), self.task.args["scale"])

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        (logits_BEK,), weighted = output.parts, rows.epoch > self.last_plain
        losses_BE = expert_losses(less_margin(logits_BEK, rows.labels, self.margins_K), rows.labels)
        if weighted:
            losses_BE = losses_BE * mean_weights(self.weights_K, rows)[:, None]
        temperatures_K = self.temperatures_K if weighted else torch.ones_like(self.temperatures_K)
        divergences_BE = divergences(logits_BEK, temperatures_K)
        return (losses_BE + self.task.args["diversity"] * temperatures_K.mean() ** 2 * divergences_BE).sum(dim=1)


def divergences(logits_BEK: torch.Tensor, temperatures_K: torch.Tensor) -> torch.Tensor:
    """Return float [B, E]: KL(mean || expert) of the softmaxes of logits / T.

    The mean is detached: it is the distribution with the smallest sum of divergences, so its gradient would be 0.
    """
    with torch.no_grad():
        mean_B1K = (logits_BEK.mean(dim=1, keepdim=True) / temperatures_K).log_softmax(dim=2)
    return (mean_B1K.exp() * (mean_B1K - (logits_BEK / temperatures_K).log_softmax(dim=2))).sum(dim=2)
