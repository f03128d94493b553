"""LoRA (Hu et al., ICLR 2022): low-rank updates of linear layers, by the package peft.

Equation 3: h = W x + s B A x, with W fixed, A [r, d_in] drawn and B [d_out, r] zero at the start, so that the first
step begins at the network as it was. s is alpha / r. There is no dropout.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from ifl.network.added_layers import Added, called
from recipes.common.errors import RunError
from sharding.images.torchvision_operators import define_missing

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
"""Parts of the names that peft gives to a layer's own weights, to A and to B."""


def insert(backbone: nn.Module, rank: int, scale: float, model: str, image_size: int) -> Added:
    """Put updates beside all linear layers and 1x1 convolutions of stride 1 that the backbone calls, in place.

    In a ViT these are query, key and value, the projection and the MLP, in a ConvNeXt the MLP.

    Args:
        backbone: gets other names for the layers' weights; see `BASE`.
        rank: r.
        scale: s.
        model: names it in messages.
        image_size: H = W, pixels.

    Raises:
        RunError: there is no such layer, or peft is not installed.
    """
    fitting = {name: layer for name, layer in backbone.named_modules() if _fits(layer)}
    acting = called(backbone, fitting.values(), image_size)
    names = [name for name, layer in fitting.items() if layer in acting]
    if not names:
        raise RunError(
            f"model.train=lora: the network of {model} has no linear layer and no 1x1 convolution of stride 1 that it "
            "calls, beside which LoRA could learn; all, head and norm are legal"
        )
    try:
        define_missing()  # peft imports torchvision
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise RunError(
            f"model.train=lora needs the package peft ({error}): `.venv/bin/python -m pip install peft`, or another "
            "model.train"
        ) from None
    # A pattern of whole names: peft takes each of a list for an ending, too.
    pattern = "|".join(map(re.escape, names))
    settings: dict[str, Any] = {"r": rank, "lora_alpha": scale * rank, "target_modules": pattern}
    inject_adapter_in_model(LoraConfig(**settings), backbone)
    added = [parameter for name, parameter in backbone.named_parameters() if name.endswith((DOWN, UP))]
    return Added(added, [name for name, layer in fitting.items() if layer not in acting])


def _fits(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return (layer.kernel_size, layer.stride, layer.groups) == ((1, 1), (1, 1), 1)
    return isinstance(layer, nn.Linear)


def merged(weights: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Return the weights of the plain network that computes the same: W + s B A under the name that W had before.

    Args:
        weights: of a network with updates, all with one rank and scale.
        scale: s.
    """
    plain = {}
    for name, value in weights.items():
        if name.endswith((DOWN, UP)):
            continue
        layer, _, last = name.rpartition(BASE)
        if layer and last == "weight":
            up, down = weights[layer + UP], weights[layer + DOWN]
            value = value + scale * (up.flatten(1) @ down.flatten(1)).reshape(value.shape)
        plain[f"{layer}.{last}" if layer else name] = value
    return plain
