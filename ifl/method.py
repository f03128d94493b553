"""The contract of a method.

A new method is a file `ifl/methods/NAME.py` with a subclass called `Method`, and a recipe. What the launcher must know
about it is written in the file as literals (recipes/declarations.py).

IFL, mixup, augmentation, distribution and resuming are not a method's business: the loop adds them to any.

Axes: B rows of a micro-batch, G rows of the global batch, C notes of a row, D feature, K classes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import operator
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from recipes.common import search_path
from recipes.common.errors import RunError, one_line
from sharding.images.torchvision_operators import define_missing

Targets = Sequence[tuple[float, torch.Tensor]]
"""The labels of some rows, int64 [B], with the weight that each has in a loss. Without mixup: [(1.0, labels)]."""


@dataclass(frozen=True)
class Task:
    """What a method may know of the run.

    Attributes:
        class_counts: int64 [K], training samples of each class, by class id.
        feature_dim: D.
        epochs: number of epochs.
        args: the method's arguments, every one of its ARGS.
    """

    class_counts: np.ndarray
    feature_dim: int
    epochs: int
    args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """N, training samples."""
        return int(self.class_counts.sum())

    @property
    def prior_K(self) -> torch.Tensor:
        """float32 [K]: n_k / sum n, the share of each class in the training set."""
        return torch.from_numpy(self.class_counts / self.class_counts.sum()).float()


class Output(NamedTuple):
    """A forward pass: features float [B, D], logits float [B, K], and what else the method's head gave."""

    features_BD: torch.Tensor
    logits_BK: torch.Tensor
    parts: tuple[torch.Tensor, ...] = ()


class Rows(NamedTuple):
    """The rows of a micro-batch, and what a loss may ask about their step.

    Attributes:
        labels, ids, streams: int64 [B]; a group's rows come stream after stream.
        epoch: 0-based.
        batch_labels: int64 [G], the labels of the global batch, on all ranks; for means that are weighted.
    """

    labels: torch.Tensor
    ids: torch.Tensor
    streams: torch.Tensor
    epoch: int
    batch_labels: torch.Tensor


class BaseMethod:
    """The defaults: a linear classifier without bias, evaluated by its logits.

    Attributes:
        memory: tensors that the method carries from step to step besides parameters and buffers, equal on all ranks;
            checkpoints hold them. See `remember`.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.memory: dict[str, torch.Tensor] = {}

    def to(self, device: torch.device) -> None:
        """Move every tensor and module of the method to the device."""
        for key, value in vars(self).items():
            if isinstance(value, torch.Tensor | nn.Module):
                setattr(self, key, value.to(device))
        self.memory = {key: value.to(device) for key, value in self.memory.items()}

    def head(self) -> nn.Module:
        """Make the classifier: features float [B, D] -> logits float [B, K], or a tuple of these and `Output.parts`.

        All that a method learns is a parameter of this module; beside it nothing is trained or saved.
        """
        return nn.Linear(self.task.feature_dim, len(self.task.class_counts), bias=False)

    def adopt(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Choose what this network starts from, of a first stage's `weights`; the rest keeps its fresh values.

        Returns:
            The tensors under their names in this network, which begin with `backbone.` or `head.`.
        """
        return weights

    def losses(self, output: Output, rows: Rows) -> torch.Tensor:
        """Return float [B]: each row's loss. The loop takes the mean over the global batch."""
        raise TypeError(f"{type(self).__module__} defines no losses()")

    def predict(self, output: Output) -> torch.Tensor:
        """Return float [B, K]: test-time logits."""
        return output.logits_BK

    def notes(self, output: Output, rows: Rows) -> torch.Tensor | None:
        """Return float [B, C]: what all ranks need to know about each row of the step; see `remember`.

        They travel as multiples of 2**-24 (6e-8), below 2**38: smaller ones become 0, unless the method scales them.
        """
        return None

    def remember(self, ids_G: torch.Tensor, labels_G: torch.Tensor, notes_GC: torch.Tensor) -> None:
        """Take in the notes of the whole global batch after each step; here a method may change its `memory`.

        Args:
            ids_G: int64 [G], sample ids.
            labels_G: int64 [G].
            notes_GC: float64 [G, C], the `notes` rounded to multiples of 2**-24, in canonical row order, the same on
                all ranks.
        """


def weighted_sum(value_of: Callable[[torch.Tensor], torch.Tensor], targets: Targets) -> torch.Tensor:
    """Add up the values of the targets' labels, each times its weight."""
    return functools.reduce(operator.add, (weight * value_of(labels_B) for weight, labels_B in targets))


def load_file(kind: str, name: str) -> ModuleType:
    """Import `ifl/KIND/NAME.py` of the project or of a folder of GLT_PATH; `kind`: methods or models.

    Raises:
        RunError: the file cannot be imported; with the line.
    """
    define_missing()  # it may import torchvision, or what needs it, such as timm
    path = search_path.find(f"ifl/{kind}", name)
    try:
        if path is not None and search_path.is_own(path):
            return _own_module(path)
        return importlib.import_module(f"ifl.{kind}.{name}")
    except Exception as error:  # a file may raise any type
        file = search_path.place(f"ifl/{kind}", name)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if os.path.basename(frame.filename) == f"{name}.py"]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        place = f"{file}, line {lines[-1]}" if lines else file
        raise RunError(one_line(f"{place}: it cannot be imported: {type(error).__name__}: {error}")) from error


def _own_module(path: Path) -> ModuleType:
    """Import a file of a folder of GLT_PATH.

    Its folder is a package whose name no import can spell, so that it clashes with none; `from . import X` finds what
    lies beside the file.
    """
    package = f"glt-path-{hashlib.sha256(str(path.parent).encode()).hexdigest()[:16]}"
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(path.parent)]
    importlib.invalidate_caches()
    return importlib.import_module(f"{package}.{path.stem}")


def load_method(name: str, task: Task) -> BaseMethod:
    """Make the method of the file NAME.

    Raises:
        RunError: the file cannot be imported, or has no class `Method` on the base class.
    """
    made, file = getattr(load_file("methods", name), "Method", None), search_path.place(search_path.METHODS, name)
    if not (isinstance(made, type) and issubclass(made, BaseMethod)):
        raise RunError(f"{file} has no `class Method(BaseMethod)`, and a method is such a class")
    method = made(task)
    if not hasattr(method, "memory"):
        raise RunError(f"{file}: the __init__ of Method does not call super().__init__(task)")
    memory = method.memory
    if not isinstance(memory, dict) or not all(isinstance(value, torch.Tensor) for value in memory.values()):
        raise RunError(f"{file}: self.memory={memory!r} is not legal: a mapping of names to tensors is")
    return method
