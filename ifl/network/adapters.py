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

from ifl.network.added_layers import Added, called
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


def insert(backbone: nn.Module, width: int, scale: float, model: str, image_size: int) -> Added:
    """Put an adapter beside every module of a backbone that is called `mlp`, by its name and in its forward pass.

    The `mlp` of timm's and torchvision's ViTs and of timm's ConvNeXts are such modules. Its first linear layer or 1x1
    convolution says C, and the last gives C again.

    Args:
        backbone: keeps the names of its weights.
        width: of the bottlenecks.
        scale: s.
        model: names it in messages.
        image_size: H = W, pixels.

    Raises:
        RunError: there is no such module.
    """
    named = {name: module for name, module in backbone.named_modules() if name.rpartition(".")[2] == "mlp"}
    mlps = {name: module for name, module in named.items() if _width(module)}
    acting = called(backbone, mlps.values(), image_size)
    added: list[nn.Parameter] = []
    for name, mlp in mlps.items():
        if mlp not in acting:
            continue
        block: Any = backbone.get_submodule(name.rpartition(".")[0])
        make: Any = nn.Linear if isinstance(_layers(mlp)[0], nn.Linear) else partial(nn.Conv2d, kernel_size=1)
        block.adapter = Adapter(_width(mlp), width, scale, make)
        mlp.register_forward_hook(partial(_add, block.adapter))
        added += block.adapter.parameters()
    if not added:
        raise RunError(
            f"model.train=adapter: the network of {model} has no blocks that call a module `mlp`, beside which an "
            "adapter could learn, as ViTs and ConvNeXts have; all, head and norm are legal"
        )
    return Added(added, [name for name, mlp in mlps.items() if mlp not in acting])


def _layers(mlp: nn.Module) -> list[nn.Module]:
    return [layer for layer in mlp.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def _width(mlp: nn.Module) -> int:
    """Return C of an MLP that takes and gives C; 0 of any other module."""
    layers = _layers(mlp)
    (taken, _), (_, given) = (_shape(layers[0]), _shape(layers[-1])) if layers else ((0, 0), (0, 0))
    return taken if taken == given else 0


def _shape(layer: Any) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _add(adapter: Adapter, mlp: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Add the adapter's output to its MLP's."""
    total: torch.Tensor = output + adapter(given[0])
    return total
