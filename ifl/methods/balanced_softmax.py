"""Balanced softmax, 'BLSoftmax' (Ren et al., NeurIPS 2020, theorem 1).

In training the log of each class's share of the training set is added to its logit. At test time it is not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows, Task

HEAD = "linear"
COUNTS = True
SMOOTHS = True
TINY = 1e-12  # a class without samples has a logarithm, too


class Method(BaseMethod):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.log_prior_K = (task.prior_K + TINY).log()

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        return F.cross_entropy(output.logits_BK + self.log_prior_K, rows.labels, reduction="none")
