"""ResNeXt-50 32x4d from scratch, the paper's backbone: torchvision's, without its classifier."""

from __future__ import annotations

from torch import nn

from ifl.models.resnet50 import in_form
from sharding.images.torchvision_cpu import torchvision

FORMS = ("plain", "experts", "branches")


def build(form: str = "plain") -> nn.Module:
    """Build float32 [B, 3, H, W] -> float32 [B, 2048], pooled and not normalised.

    As experts [B, 3 x 1536], as branches [B, 2 x 2048].
    """
    return in_form(torchvision.models.resnext50_32x4d(weights=None), form)
