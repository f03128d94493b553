"""Post-hoc logit adjustment (Menon et al., ICLR 2021, equation 9).

The training is plain cross-entropy. At test time the log of each class's share is subtracted from its logit. So
nothing is trained here: the recipes evaluate other recipes' weights (`method.eval_of`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows, Task

ARGS = {
    "tau": 1.0,  # how much of the log shares; 0 leaves the logits as they are
}
HEAD = "linear"
REFUSES = {"legacy_count_order": "the reference counts in the right order here"}
TINY = 1e-12  # a class without samples has a logarithm, too


class Method(BaseMethod):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.shift_K = task.args["tau"] * (task.prior_K + TINY).log()

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")

    def predict(self, output: Output) -> torch.Tensor:
        return output.logits_BK - self.shift_K
