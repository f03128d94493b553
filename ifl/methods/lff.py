"""Learning from failure, LfF (Nam et al., NeurIPS 2020, section 3 and algorithm 1).

A first network is driven to what is easy by generalised cross-entropy. A second network, which is the one that is used,
learns most from the samples that the first one fails at.

Axes: B rows of a micro-batch, G rows of the global batch, D feature of one network, K classes, N samples, 2: debiased
and biased.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ifl.method import BaseMethod, Output, Rows, Task

FORM = "twin"
ARGS = {
    "q": 0.7,  # of the generalised cross-entropy: the larger, the more easy rows count; near 0 all count alike
    "ema": {
        "paper": 0.0,
        "corrected": 0.7,
    },  # weight of a sample's earlier losses in the moving average; the reference takes the step's losses only
    "by_class": {"paper": False, "corrected": True},  # whether the averages are divided by the class's largest
}
POSITIVE = ("q",)
LIMITS = {"ema": {"ge": 0, "lt": 1}}
REFUSES = {
    "ifl": "the center term would pull the features of the biased network, too, which shall follow what is easy alone",
    "mixup": "it weighs a sample by its own record of losses, and a mixed row is no sample",
}
TINY = 1e-8


class TwinHeads(nn.Module):
    """float [B, 2 D] -> logits of the debiased and of the biased network, each float [B, K], linear and bias-free."""

    def __init__(self, dim: int, classes: int) -> None:
        """`dim` is 2 D."""
        super().__init__()
        self.debiased, self.biased = (nn.Linear(dim // 2, classes, bias=False) for _ in range(2))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first_BD, second_BD = features.chunk(2, dim=1)
        return self.debiased(first_BD), self.biased(second_BD)


class Method(BaseMethod):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if task.args["ema"] or task.args["by_class"]:
            self.memory = {
                "losses_N2": torch.zeros(task.samples, 2, dtype=torch.float64),
                "labels_N": torch.zeros(task.samples, dtype=torch.int64),
                "largest_K2": torch.zeros(len(task.class_counts), 2, dtype=torch.float64),
            }

    def head(self) -> TwinHeads:
        return TwinHeads(self.task.feature_dim, len(self.task.class_counts))

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        q, losses_B2 = self.task.args["q"], cross_entropies(output, rows)
        easy_B = (-losses_B2[:, 1].detach()).exp() ** q  # p(y|x)^q
        return q * easy_B * losses_B2[:, 1] + self.difficulty(losses_B2.detach(), rows) * losses_B2[:, 0]

    def difficulty(self, losses_B2: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return W(x), float [B] in 0..1: the biased network's share of both networks' summed losses of each row."""
        if self.memory:
            ema = self.task.args["ema"]
            losses_B2 = ema * self.memory["losses_N2"][rows.ids] + (1 - ema) * losses_B2
            if self.task.args[
                "by_class"
            ]:  # the class's largest up to the step before: this step's are known only after it
                losses_B2 = losses_B2 / torch.maximum(self.memory["largest_K2"][rows.labels], losses_B2).clamp_min(TINY)
        return (losses_B2[:, 1] / (losses_B2.sum(dim=1) + TINY)).float()

    def notes(self, output: Output, rows: Rows) -> torch.Tensor | None:
        return cross_entropies(output, rows).detach() if self.memory else None

    def remember(self, ids_G: torch.Tensor, labels_G: torch.Tensor, notes_GC: torch.Tensor) -> None:
        """Take the mean of a sample that was drawn more than once.

        The notes are multiples of a power of two, so their sums are exact.
        """
        losses_N2, labels_N, ema = self.memory["losses_N2"], self.memory["labels_N"], self.task.args["ema"]
        ids, place_G, times = ids_G.unique(return_inverse=True, return_counts=True)
        means = notes_GC.new_zeros(len(ids), 2).index_add_(0, place_G, notes_GC) / times[:, None]
        losses_N2[ids] = ema * losses_N2[ids] + (1 - ema) * means
        labels_N[ids_G] = labels_G
        self.memory["largest_K2"].zero_().scatter_reduce_(0, labels_N[:, None].expand(-1, 2), losses_N2, "amax")


def cross_entropies(output: Output, rows: Rows) -> torch.Tensor:
    """Return float [B, 2]: the rows' cross-entropy of the debiased and of the biased network."""
    return torch.stack(
        [F.cross_entropy(logits_BK, rows.labels, reduction="none") for logits_BK in (output.logits_BK, *output.parts)],
        dim=1,
    )
