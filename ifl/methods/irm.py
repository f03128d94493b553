"""IRM, invariant risk minimisation (Arjovsky et al., 2019, 'IRMv1').

It uses IFL's environments without the center term. The loss is cross-entropy plus a penalty on how much the classifier
could still gain by scaling its logits.

The penalty is computed for each batch-normalisation group, and its gradients in closed form: the gradient by v, at
v = 1, of the mean cross-entropy of v z is the mean of (softmax(z) - onehot(y)) z. The reference has a v for each class
and takes the L1 norm of their gradient over all rows of all environments. IRMv1 has one v, and squares its gradient in
each environment.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifl.method import BaseMethod, Output, Rows
from recipes.rules import epoch_at

ARGS = {
    "weight": 0.001,  # of the penalty at the start
    "growth": 10.0,  # factor by which the weight grows
    "grows_every": 0.3,  # as a fraction of all epochs: the weight grows again each time so many have passed; 1 is never
    "lag": 0,  # epochs by which it grows later; 1 is the reference, which asks for epoch 30 when that epoch is over
    "by_environment": {
        "paper": False,
        "corrected": True,
    },  # IRMv1 in each environment, or the reference's penalty on all rows together
}
HEAD = "linear"
POSITIVE = ("grows_every",)
LIMITS = {"weight": {"ge": 0}, "growth": {"ge": 0}, "lag": {"ge": 0}}
FRACTIONS = ("grows_every",)
NEEDS = {
    "environments": "its penalty compares them",
    "whole_groups": "its penalty is that of a whole group",
}


class Method(BaseMethod):
    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        args = self.task.args
        period = max(1, epoch_at(args["grows_every"], self.task.epochs))
        weight = args["weight"] * args["growth"] ** (max(0, rows.epoch - args["lag"]) // period)
        gradients_BK = scale_gradients(output.logits_BK, rows.labels)
        penalty = by_environment(gradients_BK, rows.streams) if args["by_environment"] else pooled(gradients_BK)
        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none") + weight * penalty


def scale_gradients(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Return float [B, K]: d CE(v z, y) / dv at v = 1 of each row, with a v for each class.

    The sum over K is the derivative for one v that all classes share.
    """
    return (logits_BK.softmax(dim=1) - F.one_hot(labels_B, logits_BK.shape[1])) * logits_BK


def pooled(gradients_BK: torch.Tensor) -> torch.Tensor:
    """Return the reference's penalty, a float scalar."""
    return gradients_BK.mean(dim=0).abs().sum()


def by_environment(gradients_BK: torch.Tensor, streams_B: torch.Tensor) -> torch.Tensor:
    """Return IRMv1's penalty, a float scalar: the mean over the environments."""
    return torch.stack(
        [gradients_BK[streams_B == stream].sum(dim=1).mean().square() for stream in streams_B.unique()]
    ).mean()
