"""Deconfound-TDE (Tang et al., NeurIPS 2020, section 4).

A classifier with several normalised heads, from whose logits the part that lies along the training's mean feature is
taken away at test time.

Axes: B rows of a micro-batch, D feature, H heads, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ifl.method import BaseMethod, Output, Rows
from recipes.common.errors import RunError

SMOOTHS = True
ARGS = {
    "heads": 2,  # parts of the feature, each normalised by itself
    "tau": 16.0,  # scale of the logits
    "gamma": 0.03125,  # added to the norm of a class vector; 1/32
    "momentum": 0.005,  # by which the mean feature moves towards a step's
    "alpha": 2.0,  # how much is taken away at test time; the recipe has each data set's
}
HEAD = "normalised parts"
POSITIVE = ("heads", "tau")
LIMITS = {"gamma": {"ge": 0}, "momentum": {"ge": 0, "le": 1}}


class TDEHead(nn.Module):
    """float [B, D] -> float [B, K]: in training (tau / H) sum_h x_h/|x_h| . w_h/(|w_h| + gamma).

    In evaluation each x_h/|x_h| has lost alpha times its projection onto the direction of the mean feature's part e_h.
    `running_mean`, float32 [D], is e, 0 at first; it moves like batch normalisation's statistics
    (ifl/network/bn_statistics.py).
    """

    running_mean: torch.Tensor

    def __init__(
        self, dim: int, classes: int, *, heads: int, tau: float, gamma: float, momentum: float, alpha: float
    ) -> None:
        super().__init__()
        if dim % heads:
            raise RunError(
                f"method.args.heads={heads} does not divide the feature's {dim} dimensions: a divisor is legal"
            )
        self.tau, self.gamma, self.momentum, self.alpha = tau, gamma, momentum, alpha
        self.weight_HKD = nn.Parameter(torch.empty(heads, classes, dim // heads).uniform_(-(dim**-0.5), dim**-0.5))
        self.register_buffer("running_mean", torch.zeros(dim))

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        heads = len(self.weight_HKD)
        units_BHD = F.normalize(features_BD.unflatten(1, (heads, -1)), dim=2)
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(features_BD.to(self.running_mean).mean(dim=0), self.momentum)
        else:
            mean_HD = F.normalize(self.running_mean.unflatten(0, (heads, -1)), dim=1)
            units_BHD = units_BHD - self.alpha * (units_BHD * mean_HD).sum(dim=2, keepdim=True) * mean_HD
        weight_HKD = self.weight_HKD / (self.weight_HKD.norm(dim=2, keepdim=True) + self.gamma)
        return self.tau / heads * torch.einsum("bhd,hkd->bk", units_BHD, weight_HKD)


class Method(BaseMethod):
    def head(self) -> TDEHead:
        return TDEHead(self.task.feature_dim, len(self.task.class_counts), **self.task.args)

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")
