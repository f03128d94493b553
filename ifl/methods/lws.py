"""LWS, learnable weight scaling (Kang et al., ICLR 2020, section 4).

A first stage's backbone and linear classifier stay, and one scale of each class's logit is learnt on classes drawn
equally often.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ifl.method import BaseMethod, Output, Rows

STREAMS = ("class_balanced",)
HEAD = "linear"
TRAINS = "head"
SMOOTHS = True
ARGS = {
    # whether the backbone's batch normalisation is frozen, too; else its statistics drift to the balanced stream's
    "frozen_bn": {"paper": False, "corrected": True},
}


class ScaledHead(nn.Module):
    """float [B, D] -> float [B, K]: the logits of a fixed bias-free linear classifier times the classes' scales.

    The classifier is a buffer under the name that it has in its first stage, so it is adopted as it is and no optimiser
    owns it.
    """

    weight: torch.Tensor

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, dim))
        self.scale_K = nn.Parameter(torch.ones(classes))

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        return F.linear(features_BD, self.weight) * self.scale_K


class Method(BaseMethod):
    def head(self) -> ScaledHead:
        return ScaledHead(self.task.feature_dim, len(self.task.class_counts))

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")
