"""Focal loss (Lin et al., ICCV 2017, equation 4): rows that the network is sure of count less."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows

ARGS = {
    "gamma": 2.0,  # how much less; 0 is cross-entropy
    "constant_factor": {
        "paper": True,
        "corrected": False,
    },  # whether no gradient flows through the factor, as in the reference and unlike in equation 4
}
LIMITS = {"gamma": {"ge": 0}}
HEAD = "linear"
TINY = 1e-12  # a root has no finite slope at 0, where a row is sure


class Method(BaseMethod):
    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        losses_B = F.cross_entropy(output.logits_BK, rows.labels, reduction="none")
        doubt_B, gamma = 1 - (-losses_B).exp(), self.task.args["gamma"]
        if gamma < 1:
            doubt_B = doubt_B.clamp_min(TINY)
        return (doubt_B.detach() if self.task.args["constant_factor"] else doubt_B) ** gamma * losses_B
