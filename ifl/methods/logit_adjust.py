"""Post-hoc logit adjustment (Menon et al., ICLR 2021, equation 9).

Plain cross-entropy, whose logits lose the classes' log shares at test time. Nothing of it is trained, so its recipes
evaluate other recipes' weights (`method.eval_of`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows, Task

ARGS = {
    "tau": 1.0,  # how much of the log shares; 0 leaves the logits as they are
}
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
