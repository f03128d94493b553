"""BBN (Zhou et al., CVPR 2020): a conventional branch fed uniformly and a re-balancing branch fed the rare classes.

The weight moves from the first to the second in the course of training (equations 1, 3 and 5).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ifl.method import BaseMethod, Output, Rows

STREAMS = ("uniform", "class_inverse")
FORM = "branches"
SMOOTHS = True
ARGS = {
    # epochs by which the move lags behind; the reference counts from 0 where BBN's formula counts from 1
    "lag": {"paper": 1, "corrected": 0},
}
LIMITS = {"lag": {"ge": 0}}
REFUSES = {
    "ifl": "its two branches pair one uniform row with one class_inverse row, and environments instead of the uniform "
    "stream would leave rows without a partner",
    "mixup": "a row's label counts by the stream that it was drawn from, and mixup's partners come from either",
    "legacy_count_order": "it knows class counts by its class_inverse stream alone, and those the reference has in the "
    "right order",
}


class BilateralHead(nn.Module):
    """float [B, 2 D] -> z_cb + z_rb, z_cb and z_rb, each float [B, K].

    One bias-free linear classifier over both branches' features, and the shares of each branch in its logits.
    """

    def __init__(self, dim: int, classes: int) -> None:
        """`dim` is 2 D."""
        super().__init__()
        self.linear = nn.Linear(dim, classes, bias=False)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        cb_BK, rb_BK = (
            F.linear(part, weight)
            for part, weight in zip(features.chunk(2, dim=1), self.linear.weight.chunk(2, dim=1), strict=True)
        )
        return cb_BK + rb_BK, cb_BK, rb_BK


class Method(BaseMethod):
    def head(self) -> BilateralHead:
        return BilateralHead(self.task.feature_dim, len(self.task.class_counts))

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        share = 1 - ((rows.epoch - self.task.args["lag"]) / self.task.epochs) ** 2
        cb_BK, rb_BK = output.parts
        losses_B = F.cross_entropy(2 * (share * cb_BK + (1 - share) * rb_BK), rows.labels, reduction="none")
        return 2 * torch.where(rows.streams == 0, share, 1 - share) * losses_B  # twice: a pair is two rows of the mean
