"""ResNeXt-50 32x4d from scratch, the paper's backbone: torchvision's, without its classifier."""

from __future__ import annotations

from torch import nn

from ifl.torchvision_cpu import torchvision


def build() -> nn.Module:
    """float32 [B, 3, H, W] -> float32 [B, 2048], pooled and not normalised."""
    network = torchvision.models.resnext50_32x4d(weights=None)
    network.feature_dim = network.fc.in_features
    network.fc = nn.Identity()
    return network
