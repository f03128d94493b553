"""Plain cross-entropy: the paper's Baseline; with RandAug or mixup on, its rows of these names."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows

HEAD = "linear"
SMOOTHS = True


class Method(BaseMethod):
    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")
