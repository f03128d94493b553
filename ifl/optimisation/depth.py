"""How deep each parameter of a backbone lies, for learning rates that fall from layer to layer.

A layer is a block: an item of a chain (`nn.Sequential`, `nn.ModuleList`) that is made of modules and is no chain
itself. What comes before the first block is layer 0, the stem; what stands between blocks goes with the one before. A
backbone of timm says itself which of its parameters form a layer, by `group_matcher`. Parts that a backbone names in
its attribute `side_by_side` begin at one depth, above its `trunk`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from torch import nn

CLASSIFIER = "<classifier>"
"""A name that no pattern of timm finds: its layer is that of a classifier."""
Depths = dict[str, int]
"""Parameters' names -> layers, from 0 at the image."""


def depths_of(backbone: nn.Module) -> tuple[Depths, int]:
    """Return the depths of a backbone's parameters, and that of the classifier above it."""
    inside = next((name for name, part in backbone.named_modules() if hasattr(type(part), "group_matcher")), None)
    if sides := getattr(backbone, "side_by_side", ()):
        depths = _below(backbone, sides)
    elif inside is not None:
        return _as_timm_says(backbone, inside)
    else:
        depths = _by_blocks(backbone)
    return depths, 1 + max(depths.values(), default=-1)


def _below(backbone: nn.Module, sides: Sequence[str]) -> Depths:
    """Put the parts that lie side by side above the trunk, if there is one."""
    trunk = getattr(backbone, "trunk", None)
    below, layers = depths_of(trunk) if isinstance(trunk, nn.Module) else ({}, 0)
    found = {f"trunk.{name}": depth for name, depth in below.items()}
    for side in sides:
        above, _ = depths_of(backbone.get_submodule(side))
        found |= {f"{side}.{name}": layers + depth for name, depth in above.items()}
    return found


def _as_timm_says(backbone: nn.Module, inside: str) -> tuple[Depths, int]:
    """Group the parameters of the part `inside` as timm does.

    What it has no layer for, such as a last norm, is as high as the classifier, and so is what is around the part.
    """
    from timm.models import group_parameters

    part, prefix = backbone.get_submodule(inside), f"{inside}." if inside else ""
    names = [name for name, _ in backbone.named_parameters()]
    own = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
    matcher = part.group_matcher(coarse=False)  # type: ignore[operator]
    named: Any = SimpleNamespace(named_parameters=lambda: ((name, None) for name in [*own, CLASSIFIER]))
    layer_of: Depths = group_parameters(named, matcher, reverse=True)
    head = layer_of[CLASSIFIER]
    return {**dict.fromkeys(names, head), **{own[name]: layer_of[name] for name in own}}, head


def _by_blocks(backbone: nn.Module) -> Depths:
    depths: Depths = {}
    layer, block = 0, None
    for name, _ in backbone.named_parameters():
        its_block = _block_of(backbone, name)
        if its_block not in (None, block):
            layer, block = layer + bool(depths), its_block
        depths[name] = layer
    return depths


def _block_of(backbone: nn.Module, name: str) -> str | None:
    """Return the name of the block that a parameter belongs to; None where it is in none."""
    words, above = name.split("."), backbone
    for number, word in enumerate(words[:-1], 1):
        part = above.get_submodule(word)
        is_chain = isinstance(part, nn.Sequential | nn.ModuleList)
        if isinstance(above, nn.Sequential | nn.ModuleList) and not is_chain and any(part.children()):
            return ".".join(words[:number])
        above = part
    return None
