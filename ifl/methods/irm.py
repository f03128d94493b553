"""IRM, invariant risk minimisation (Arjovsky et al., 2019, 'IRMv1').

It works on IFL's environments and without its center term: cross-entropy
and a penalty on how much the classifier could still gain by scaling its logits.

The penalty is that of a batch-normalisation group, and its gradients are in closed form: that of the mean
cross-entropy of v z by v, at v = 1, is the mean of (softmax(z) - onehot(y)) z. The reference has a v for each class
and takes the L1 norm of their gradient over all rows, whatever their environment; IRMv1 has one v, squares its
gradient and does so in each environment.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows
from ifl.network.heads import deferred

ARGS = {
    "weight": 0.001,  # of the penalty at the start
    "growth": 10.0,  # factor by which the weight grows
    "grows_every": 0.3,  # fraction of the epochs after which it does, again and again
    "lag": 0,  # epochs by which it grows later; 1 is the reference, which asks for epoch 30 when that epoch is over
    "by_environment": {
        "paper": False,
        "corrected": True,
    },  # IRMv1 in each environment, or the reference's penalty on all rows together
}
NEEDS = {
    "environments": "its penalty compares them",
    "whole_groups": "its penalty is that of a whole group",
}


class Method(BaseMethod):
    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        args = self.task.args
        period = max(1, deferred(args["grows_every"], self.task.epochs))
        weight = args["weight"] * args["growth"] ** (max(0, rows.epoch - args["lag"]) // period)
        gradients_BK = scale_gradients(output.logits_BK, rows.labels)
        penalty = by_environment(gradients_BK, rows.streams) if args["by_environment"] else pooled(gradients_BK)
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none") + weight * penalty


def scale_gradients(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """float [B, K]: d CE(v z, y) / dv at v = 1 of each row, with a v for each class.

    The sum over K is that of a common v.
    """
    return (logits_BK.softmax(dim=1) - F.one_hot(labels_B, logits_BK.shape[1])) * logits_BK


def pooled(gradients_BK: torch.Tensor) -> torch.Tensor:
    """float scalar: the reference's penalty."""
    return gradients_BK.mean(dim=0).abs().sum()


def by_environment(gradients_BK: torch.Tensor, streams_B: torch.Tensor) -> torch.Tensor:
    """float scalar: IRMv1's penalty, the mean over the environments."""
    return torch.stack(
        [gradients_BK[streams_B == stream].sum(dim=1).mean().square() for stream in streams_B.unique()]
    ).mean()
