"""What `model.train` adds to a backbone, and which of its layers a forward pass calls.

Libraries also use the weight of a layer without calling the layer: Swin's and BEiT's attention, torch's
MultiheadAttention. What stands beside such a layer never acts, and never learns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Added:
    """What alone trains of a backbone; nothing where all may.

    Attributes:
        trains: its parameters.
        left_out: names of the layers beside which nothing was put, since the backbone never calls them.
    """

    trains: Sequence[nn.Parameter] = ()
    left_out: Sequence[str] = ()


def called(backbone: nn.Module, layers: Collection[nn.Module], image_size: int) -> set[nn.Module]:
    """Return those of some layers of a backbone in training that a forward pass calls.

    The pass is over one empty image, in evaluation, and draws nothing from torch's generator. It keeps gradients:
    without them torch's own transformer layers call none of their parts.

    Args:
        backbone: is in training again afterwards.
        layers: of it.
        image_size: H = W, pixels.
    """
    found: set[nn.Module] = set()
    hooks = [layer.register_forward_pre_hook(lambda layer, given: found.add(layer)) for layer in layers]
    image = torch.zeros(1, 3, image_size, image_size, device=next(backbone.parameters()).device)
    backbone.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            backbone(image)
    finally:
        backbone.train()
        for hook in hooks:
            hook.remove()
    return found
