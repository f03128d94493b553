"""cRT, classifier re-training (Kang et al., ICLR 2020, section 4).

A first stage's backbone stays, and a new classifier is trained on classes drawn equally often.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows

STREAMS = ("class_balanced",)
TRAINS = "head"
SMOOTHS = True
ARGS = {
    # whether the backbone's batch normalisation is frozen, too; else its statistics drift to the balanced stream's
    "frozen_bn": {"paper": False, "corrected": True},
}


class Method(BaseMethod):
    def adopt(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value for name, value in weights.items() if not name.startswith("head.")}

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")
