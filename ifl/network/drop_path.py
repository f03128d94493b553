"""Stochastic depth (Huang et al., ECCV 2016): a residual branch leaves out some rows of a batch.

timm's `DropPath` and torchvision's `StochasticDepth` draw the rows from torch's generator, so they depend on how a
batch is cut into micro-batches. With `model.drop_path` the layers here take their place: whether a branch leaves out a
row is a function of (seed, epoch, step, layer, row of the global batch), the same on any number of ranks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ifl.distributed.transfers import to_device
from ifl.network.branches import Branches
from recipes.common.errors import RunError
from sharding.plan.philox import unit_floats

ARGUMENTS = ("drop_path", "drop_path_rate", "stochastic_depth_prob")
"""What a function that builds a network calls the rate: files of ifl/models, timm and torchvision."""
_DOMAIN = int.from_bytes(b"droppath", "big")
"""The top word of the Philox counter, apart from the plan's, the augmentation's and the step's words."""


class RowMasks:
    """Says which rows of the present micro-batch each layer keeps."""

    def __init__(self) -> None:
        self._at: tuple[int, int, int, np.ndarray, int] | None = None

    def begin(self, seed: int, epoch: int, step: int, rows_B: np.ndarray, batch: int) -> None:
        """Begin a micro-batch.

        Args:
            seed: the run's.
            epoch: 0-based.
            step: of the epoch, 0-based.
            rows_B: int64 [B], its canonical rows in the global batch.
            batch: rows of the global batch.
        """
        self._at = (seed, epoch, step, rows_B, batch)

    def kept(self, layer: int, rate: float, part: int | None = None) -> np.ndarray:
        """Return bool [B]: the rows that the layer keeps, each with probability 1 - rate.

        Args:
            layer: its number in the backbone.
            rate: its own.
            part: 0 or 1, the half of the micro-batch that it sees; None: all of it.
        """
        assert self._at is not None, "a network in training is told the rows of each micro-batch"
        seed, epoch, step, rows_B, batch = self._at
        if part is not None:
            rows_B = np.split(rows_B, 2)[part]
        key = np.array([seed << 32 | epoch, step << 32 | layer], dtype=np.uint64)
        words = np.random.Philox(key=key, counter=np.array([0, 0, 0, _DOMAIN], dtype=np.uint64)).random_raw(batch)
        kept: np.ndarray = unit_floats(words)[rows_B] >= rate
        return kept


class DropPath(nn.Module):
    """float [B, ...] -> the same: in training a row is 0 with probability `rate`, else divided by 1 - rate."""

    def __init__(self, rate: float, layer: int, masks: RowMasks, part: int | None = None) -> None:
        """Draw the rows of a layer by `masks`; `layer` and `part` as for `RowMasks.kept`."""
        super().__init__()
        self.rate, self.layer, self.masks, self.part = rate, layer, masks, part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.rate:
            return x
        kept = self.masks.kept(self.layer, self.rate, self.part)
        if len(kept) != len(x):
            raise RunError(
                f"model.drop_path: a layer of stochastic depth sees {len(x)} rows where there are {len(kept)} images, "
                "and what it leaves out is drawn for each image: a network is legal whose layers keep a row an image"
            )
        kept_B = to_device(kept, x.device).to(x.dtype) / (1 - self.rate)
        return x * kept_B.view(-1, *[1] * (x.dim() - 1))


def drawn_by_row(backbone: nn.Module, model: str) -> RowMasks:
    """Replace a backbone's layers of stochastic depth, in place, and return what draws their rows.

    Raises:
        RunError: it has none; `model` names it.
    """
    masks, layers, halves = RowMasks(), 0, _halves(backbone)
    for outer in list(backbone.modules()):
        for name, layer in list(outer.named_children()):
            rate = _rate(layer)
            if rate is not None:
                setattr(outer, name, DropPath(rate, layers, masks, halves.get(layer)))
                layers += 1
    if not layers:
        raise RunError(f"model.drop_path: the network of {model} has no layer of stochastic depth (DropPath)")
    return masks


def _halves(backbone: nn.Module) -> dict[nn.Module, int]:
    """Return the half of the rows that the layers of two branches see in training; other layers see all."""
    both = [network for network in backbone.modules() if isinstance(network, Branches)]
    return {
        layer: half
        for network in both
        for half, branch in enumerate((network.cb_block, network.rb_block))
        for layer in branch.modules()
    }


def _rate(layer: Any) -> float | None:
    """Return the rate of a layer of stochastic depth by row, known by its class's name; None of any other."""
    name = type(layer).__name__
    if name == "DropPath":
        return float(layer.drop_prob or 0)
    return float(layer.p) if name == "StochasticDepth" and layer.mode == "row" else None


def depth_argument(build: Callable[..., Any], rate: float | None, whose: str) -> dict[str, float]:
    """Return the rate under the name that a function which builds a network gives it; empty where None is asked for.

    Raises:
        RunError: the function takes no such argument; `whose` names it.
    """
    if rate is None:
        return {}
    taken = inspect.signature(build).parameters
    for name in ARGUMENTS:
        if name in taken:
            return {name: rate}
    raise RunError(f"model.drop_path={rate}: {whose} takes no argument {', '.join(ARGUMENTS[:-1])} or {ARGUMENTS[-1]}")
