"""ResNet-50 from scratch, BBN's backbone: torchvision's, without its classifier.

Also the forms of torchvision's 50-layer networks.
"""

from __future__ import annotations

from torch import nn

from ifl.network.branches import EXPERTS, Branches, Experts
from sharding.images.torchvision_cpu import torchvision

FORMS = ("plain", "experts", "branches")


def build(form: str = "plain") -> nn.Module:
    """Build float32 [B, 3, H, W] -> float32 [B, 2048], pooled and not normalised.

    As experts [B, 3 x 1536], as branches [B, 2 x 2048].
    """
    return in_form(torchvision.models.resnet50(weights=None), form)


def in_form(network: torchvision.models.ResNet, form: str) -> nn.Module:
    """Bring a fresh torchvision network of bottlenecks into one of FORMS.

    All convolutions start as He et al. (fan-out), as torchvision's.
    """
    assert form in FORMS, form
    if form == "plain":
        network.feature_dim = network.fc.in_features
        network.fc = nn.Identity()
        return network
    stem = (network.conv1, network.bn1, network.relu, network.maxpool)
    if form == "experts":  # layers 3 and 4 at three quarters of their width, as RIDE's
        trunk = nn.Sequential(*stem, network.layer1, network.layer2)
        return Experts(
            trunk,
            [
                nn.Sequential(*_layer(network, 512, 192, 6, stride=2), *_layer(network, 768, 384, 3, stride=2))
                for _ in range(EXPERTS)
            ],
            4 * 384,
        )
    trunk = nn.Sequential(*stem, network.layer1, network.layer2, network.layer3, network.layer4[:-1])
    cb_block, rb_block = (_layer(network, 2048, 512, 1)[0] for _ in range(2))
    return Branches(trunk, cb_block, rb_block, 4 * 512)


def _layer(network: torchvision.models.ResNet, c_in: int, planes: int, blocks: int, stride: int = 1) -> list[nn.Module]:
    """Chain bottlenecks of the network's kind: float [B, c_in, H, W] -> [B, 4 planes, H / stride, W / stride]."""
    bottleneck, c_out = torchvision.models.resnet.Bottleneck, 4 * planes
    shortcut = (
        nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        if (c_in, stride) != (c_out, 1)
        else None
    )
    kind = {"groups": network.groups, "base_width": network.base_width}
    layer = [
        bottleneck(c_in, planes, stride, shortcut, **kind),
        *(bottleneck(c_out, planes, **kind) for _ in range(blocks - 1)),
    ]
    for module in nn.ModuleList(layer).modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return layer
