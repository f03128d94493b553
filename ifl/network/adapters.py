"""AdaptFormer (Chen et al., NeurIPS 2022): a bottleneck beside each block's MLP.

Equations 3 and 4: x = MLP(LN(x')) + s ReLU(LN(x') W_down) W_up + x', with all but the bottleneck fixed. W_up is zero at
the start, so that the first step begins at the network as it was. Where a block scales its MLP's output (LayerScale),
it scales the adapter's with it. Weights of the network keep their names; an adapter's are extra entries beside its
MLP's, such as `blocks.0.adapter.down.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from recipes.common.errors import RunError


class Adapter(nn.Module):
    """float [..., C] -> [..., C], or [B, C, H, W] -> the same where the MLP is one of 1x1 convolutions."""

    def __init__(self, dim: int, width: int, scale: float, make: Callable[[int, int], nn.Module]) -> None:
        """Draw a bottleneck.

        Args:
            dim: C.
            width: of the bottleneck.
            scale: s.
            make: makes a layer from its numbers of inputs and outputs, as those of the MLP.
        """
        super().__init__()
        self.down, self.up, self.scale = make(dim, width), make(width, dim), scale
        parameters: dict[str, nn.Parameter] = dict(self.named_parameters())
        nn.init.kaiming_uniform_(parameters["down.weight"], a=math.sqrt(5))
        for name in ("down.bias", "up.weight", "up.bias"):
            nn.init.zeros_(parameters[name])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is added to the MLP's output; x: its normalised input."""
        added: torch.Tensor = self.scale * self.up(F.relu(self.down(x)))
        return added


def insert(backbone: nn.Module, width: int, scale: float, model: str) -> list[nn.Parameter]:
    """Put an adapter beside every module of a backbone that is called `mlp`, and return what the adapters train.

    The `mlp` of timm's and torchvision's ViTs and of timm's ConvNeXts are such modules. Its first linear layer or 1x1
    convolution says C, and the last gives C again.

    Args:
        backbone: keeps the names of its weights.
        width: of the bottlenecks.
        scale: s.
        model: names it in messages.

    Raises:
        RunError: there is no such module.
    """
    added: list[nn.Parameter] = []
    for block in [module for module in backbone.modules() if isinstance(getattr(module, "mlp", None), nn.Module)]:
        mlp: Any = block.mlp
        layers = [layer for layer in mlp.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if not layers or (shape := _shape(layers[0]))[0] != _shape(layers[-1])[1]:
            continue
        make: Any = nn.Linear if isinstance(layers[0], nn.Linear) else partial(nn.Conv2d, kernel_size=1)
        block.adapter = Adapter(shape[0], width, scale, make)
        mlp.register_forward_hook(partial(_add, block.adapter))
        added += block.adapter.parameters()
    if not added:
        raise RunError(
            f"model.train=adapter: the network of {model} has no blocks with a module `mlp`, beside which an adapter "
            "could learn, as ViTs and ConvNeXts have; all, head and norm are legal"
        )
    return added


def _shape(layer: Any) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _add(adapter: Adapter, mlp: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Add the adapter's output to its MLP's."""
    total: torch.Tensor = output + adapter(given[0])
    return total
