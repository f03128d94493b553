"""Plain cross-entropy: the paper's Baseline, and with RandAug its RandAug row."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output
from sharding.reader import Batch


class Method(BaseMethod):
    def losses(self, output: Output, batch: Batch, epoch: int) -> torch.Tensor:
        return F.cross_entropy(output.logits_BK, batch.labels, reduction="none")
