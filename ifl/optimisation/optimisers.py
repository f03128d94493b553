"""The optimisers that a recipe can name, made for parameter groups."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ifl.optimisation.groups import Group
from recipes.common.errors import RunError
from recipes.schema import BETAS, EPS, Optim
from sharding.images.torchvision_operators import define_missing

WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods of torch's optimisers that are kept out of compiled code; `step` is, too."""


def make_optimiser(groups: Sequence[Group], optim: Optim, device: torch.device) -> torch.optim.Optimizer:
    """Make the recipe's optimiser; the groups' learning rates are set at every step (`Engine.set_lr`).

    SGD and LARS (You et al., 2017) add the weight decay to the gradient; AdamW (Loshchilov and Hutter, ICLR 2019) takes
    it off the parameters, times the learning rate. On a GPU AdamW is torch's fused one. SGD is not: its runs were made
    without, and a fused step may round otherwise.

    Args:
        groups: what it moves.
        optim: the recipe's, resolved.
        device: where the parameters are.

    Raises:
        RunError: the optimiser's package is not installed.
    """
    of_torch: list[dict[str, Any]] = [
        {"params": list(group.parameters.values()), "weight_decay": group.weight_decay} for group in groups
    ]
    if optim.name == "adamw":
        fused = True if device.type == "cuda" else None
        betas, eps = optim.betas or BETAS, optim.eps or EPS
        return eager(torch.optim.AdamW)(of_torch, lr=optim.lr, betas=betas, eps=eps, fused=fused)
    momentum = optim.momentum or 0.0
    if optim.name == "sgd":
        return eager(torch.optim.SGD)(of_torch, lr=optim.lr, momentum=momentum)
    if lacking := optim.lacking():
        raise RunError(lacking)
    define_missing()
    from timm.optim.lars import Lars

    return eager(Lars)(of_torch, lr=optim.lr, momentum=momentum)


@functools.cache
def eager(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return a class of optimisers that is `kind` without its wrappers for torch.compile.

    Each of these wrappers imports torch._dynamo and sympy when it is first called, a third of a rank's start, only to
    tell a compiler to keep out. The train loop calls the optimiser outside of all that a model may have compiled.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in WRAPPED}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})
