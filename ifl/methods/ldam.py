"""LDAM with deferred re-weighting (Cao et al., NeurIPS 2019).

A cosine classifier with a margin that grows as a class gets rarer (section 3.2), and class weights late in training
(section 3.3, algorithm 1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows, Task
from ifl.network.heads import CosineHead, drw_weights, ldam_margins, less_margin, mean_weights
from recipes.rules import epoch_at

ARGS = {
    "margin": 0.5,  # the rarest class's, in units of the cosine
    "scale": 30.0,  # s, of the cosines in the loss
    "beta": 0.9999,  # of the class weights; 0 weights all alike
    "reweight_from": 0.8,  # fraction of the epochs from which on classes are weighted; 1 is never
    "scaled_scores": {
        "paper": False,
        "corrected": True,
    },  # whether IFL's p(y|x) is that of s cos, as in the loss, or of the bare cosines, which is nearly flat
}
HEAD = "cosine"
POSITIVE = ("scale",)
LIMITS = {"margin": {"ge": 0}, "beta": {"ge": 0, "lt": 1}, "reweight_from": {"ge": 0}}
FRACTIONS = ("reweight_from",)
COUNTS = True


class Method(BaseMethod):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.head_scale = task.args["scale"] if task.args["scaled_scores"] else 1.0
        self.margins_K = task.args["scale"] * ldam_margins(task.class_counts, task.args["margin"])
        self.weights_K = drw_weights(task.class_counts, task.args["beta"])
        self.first_weighted = epoch_at(task.args["reweight_from"], task.epochs)

    def head(self) -> CosineHead:
        return CosineHead(self.task.feature_dim, len(self.task.class_counts), self.head_scale)

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        logits_BK = self.task.args["scale"] / self.head_scale * output.logits_BK
        losses_B = F.cross_entropy(less_margin(logits_BK, rows.labels, self.margins_K), rows.labels, reduction="none")
        return losses_B * mean_weights(self.weights_K, rows) if rows.epoch >= self.first_weighted else losses_B
