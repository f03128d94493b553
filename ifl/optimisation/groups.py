"""Parameter groups: which parameters decay, and whose learning rate is lower by their depth.

Without either there is one group of all that is trained, in the network's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ifl.optimisation.depth import depths_of
from recipes.schema import Optim


@dataclass(frozen=True)
class Group:
    """Parameters that one step treats alike.

    Attributes:
        parameters: by their names in the network.
        weight_decay: of this group.
        lr_scale: by which the learning rate is multiplied.
    """

    parameters: Mapping[str, nn.Parameter]
    weight_decay: float
    lr_scale: float


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Say whether a parameter is a weight: it has two axes or more and is no bias.

    The rest are biases, scales and shifts of normalisation, and other vectors and single numbers.
    """
    return parameter.dim() > 1 and name.rpartition(".")[2] != "bias"


def groups_of(network: nn.Module, optim: Optim) -> list[Group]:
    """Return the groups of a network's trained parameters, in the order of their first parameters.

    Args:
        network: with `backbone` and `head` where `optim.layer_decay` is less than 1.
        optim: the recipe's.
    """
    found: dict[tuple[float, float], dict[str, nn.Parameter]] = {}
    for name, parameter, scale in _scaled(network, optim.layer_decay):
        weight_decay = optim.weight_decay if optim.decay == "all" or decays(name, parameter) else 0.0
        found.setdefault((weight_decay, scale), {})[name] = parameter
    return [Group(parameters, *key) for key, parameters in found.items()]


def _scaled(network: nn.Module, layer_decay: float) -> Iterator[tuple[str, nn.Parameter, float]]:
    """Yield the trained parameters with their names and the factors of their learning rates.

    The head's is 1, and each layer below has `layer_decay` times that of the one above it (BEiT, Bao et al., ICLR 2022,
    appendix; ELECTRA, Clark et al., ICLR 2020).
    """
    depths, layers = depths_of(network.get_submodule("backbone")) if layer_decay < 1 else ({}, 0)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            depth = depths.get(name.removeprefix("backbone."), layers)
            yield name, parameter, layer_decay ** (layers - depth)
