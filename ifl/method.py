"""What a method is. A new one is a file `ifl/methods/NAME.py` with a subclass called `Method`, and a recipe.

IFL, augmentation, distribution and resuming are not a method's business: the loop adds them to any.

Axes: B rows of a micro-batch, D feature, K classes.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from sharding.reader import Batch


@dataclass(frozen=True)
class Task:
    """What a method may know of the run.

    Attributes:
        class_counts: int64 [K], training samples of each class, by class id.
        feature_dim: D.
        epochs: number of epochs.
    """

    class_counts: np.ndarray
    feature_dim: int
    epochs: int


class Output(NamedTuple):
    """A forward pass: features float [B, D] and logits float [B, K]."""

    features_BD: torch.Tensor
    logits_BK: torch.Tensor


class BaseMethod:
    """The defaults: a bias-free linear classifier, judged by its logits."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def head(self) -> nn.Module:
        """The classifier: float [B, D] -> float [B, K]."""
        return nn.Linear(self.task.feature_dim, len(self.task.class_counts), bias=False)

    def losses(self, output: Output, batch: Batch, epoch: int) -> torch.Tensor:
        """float [B]: each row's loss. The loop takes the mean over the global batch."""
        raise TypeError(f"{type(self).__module__} defines no losses()")

    def predict(self, output: Output) -> torch.Tensor:
        """float [B, K]: test-time logits."""
        return output.logits_BK


def load_method(name: str, task: Task) -> BaseMethod:
    return importlib.import_module(f"ifl.methods.{name}").Method(task)
