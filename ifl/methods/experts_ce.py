"""Plain cross-entropy of each of RIDE's three experts, added up: 'CE, RIDE-50' of table 4."""

from __future__ import annotations

import torch

from ifl.method import BaseMethod, Output, Rows
from ifl.network.heads import ExpertHeads, expert_losses

FORM = "experts"
SMOOTHS = True
ARGS = {
    "scale": 30.0,  # s, of the cosines
}
POSITIVE = ("scale",)


class Method(BaseMethod):
    def head(self) -> ExpertHeads:
        return ExpertHeads(self.task.feature_dim, len(self.task.class_counts), self.task.args["scale"])

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return expert_losses(output.parts[0], rows.labels).sum(dim=1)
