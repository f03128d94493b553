"""A network of a library cut in two: a trunk, and an end that is made once for each expert or branch.

As in the suite's own networks an expert is the last stage, and a branch the last block. A ViT has no stages: its
experts are the last quarter of its blocks (at least one), with its own norm and pooling.

Axes: B rows of a micro-batch, C channels, D feature of one end, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from recipes.common.errors import RunError

STAGE = "experts"
"""The form whose ends are whole last stages; the other one's are last blocks."""


class Trunk(nn.Module):
    """A timm network whose end was cut off: float [B, 3, H, W] -> what its last stage takes."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.forward_features(images)  # type: ignore[no-any-return]


class TokensEnd(nn.Module):
    """The last blocks of a timm ViT with its norm and its own pooling: float [B, N, D] -> [B, D]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens_BND: torch.Tensor) -> torch.Tensor:
        network = self.network
        return network.forward_head(network.norm(network.blocks(tokens_BND)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Cut:
    """How a kind of network is cut.

    Attributes:
        trunk: makes of a fresh network its trunk for a form.
        end: makes of another fresh one an end: what the trunk gives -> float [B, D].
    """

    trunk: Callable[[Any, str], nn.Module]
    end: Callable[[Any, str], nn.Module]


def cut_of(network: nn.Module) -> Cut | None:
    """Return how a network is cut; None where nobody has said how."""
    return CUTS.get((type(network).__module__.partition(".")[0], type(network).__name__))


def forms_of(network: nn.Module) -> tuple[str, ...]:
    """Return the forms in which a network can be built."""
    return ("plain", *(("experts", "branches") if cut_of(network) else ()), "twin")


def cut_for(network: nn.Module, name: str, form: str) -> Cut:
    """Return how a network is cut for a form.

    Raises:
        RunError: it is of a kind that is not cut.
    """
    if cut := cut_of(network):
        return cut
    kinds = ", ".join(f"{library}'s {kind}" for library, kind in CUTS)
    raise RunError(
        f"model.name={name} comes as plain and twin, not as {form}: where a {type(network).__name__} parts into a "
        f"trunk and ends nobody has said; the kinds {kinds} come so"
    )


# ----------------------------------------------------------------------------------------------------------------- timm
def _vit_blocks(network: Any, form: str) -> int:
    """Return how many blocks an end has."""
    if not len(network.blocks):
        raise RunError(f"a ViT without blocks has no {form}: model.args.depth=1 or more is legal")
    return max(1, len(network.blocks) // 4) if form == STAGE else 1


def _vit_trunk(network: Any, form: str) -> nn.Module:
    network.blocks = network.blocks[: -_vit_blocks(network, form)]
    network.norm = network.fc_norm = network.head_drop = nn.Identity()
    network.attn_pool = None
    return Trunk(network)


def _vit_end(network: Any, form: str) -> nn.Module:
    network.blocks = network.blocks[-_vit_blocks(network, form) :]
    network.patch_embed = network.norm_pre = network.pos_drop = network.patch_drop = nn.Identity()
    network.pos_embed = network.cls_token = network.reg_token = None
    return TokensEnd(network)


def _convnext_trunk(network: Any, form: str) -> nn.Module:
    network.norm_pre = network.head = nn.Identity()
    if form == STAGE:
        network.stages = network.stages[:-1]
    else:
        network.stages[-1].blocks = network.stages[-1].blocks[:-1]
    return Trunk(network)


def _convnext_end(network: Any, form: str) -> nn.Module:
    network.stem = nn.Identity()
    last = network.stages[-1]
    if form != STAGE:
        last.downsample, last.blocks = nn.Identity(), last.blocks[-1:]
    network.stages = nn.Sequential(last)
    return network  # type: ignore[no-any-return]


def _resnet_trunk(network: Any, form: str) -> nn.Module:
    network.layer4 = nn.Identity() if form == STAGE else network.layer4[:-1]
    network.global_pool = nn.Identity()
    return Trunk(network)


def _resnet_end(network: Any, form: str) -> nn.Module:
    last = network.layer4 if form == STAGE else network.layer4[-1:]
    return nn.Sequential(last, network.global_pool, nn.Dropout(float(network.drop_rate)))


# ---------------------------------------------------------------------------------------------------------- torchvision
def _tv_resnet_trunk(network: Any, form: str) -> nn.Module:
    stem = (network.conv1, network.bn1, network.relu, network.maxpool)
    last = () if form == STAGE else (network.layer4[:-1],)
    return nn.Sequential(*stem, network.layer1, network.layer2, network.layer3, *last)


def _tv_resnet_end(network: Any, form: str) -> nn.Module:
    last = network.layer4 if form == STAGE else network.layer4[-1:]
    return nn.Sequential(last, network.avgpool, nn.Flatten(1))


def _tv_convnext_trunk(network: Any, form: str) -> nn.Module:
    stages = network.features  # a stem, then stages with a down-sampling before each but the first
    return stages[:-2] if form == STAGE else nn.Sequential(stages[:-1], stages[-1][:-1])


def _tv_convnext_end(network: Any, form: str) -> nn.Module:
    stages = network.features
    return nn.Sequential(stages[-2:] if form == STAGE else stages[-1][-1:], network.avgpool, network.classifier)


CUTS = {
    ("timm", "VisionTransformer"): Cut(_vit_trunk, _vit_end),
    ("timm", "ConvNeXt"): Cut(_convnext_trunk, _convnext_end),
    ("timm", "ResNet"): Cut(_resnet_trunk, _resnet_end),
    ("torchvision", "ResNet"): Cut(_tv_resnet_trunk, _tv_resnet_end),
    ("torchvision", "ConvNeXt"): Cut(_tv_convnext_trunk, _tv_convnext_end),
}
"""By library and class. A subclass may be put together in another way, so it is not meant."""
