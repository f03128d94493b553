"""A small residual network with batch normalisation for 32x32 images, cheap enough for a laptop's cores."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ifl.network.branches import EXPERTS, Branches, Experts

FORMS = ("plain", "experts", "branches")
WIDTHS = (16, 32, 64)
EXPERT_WIDTH = 48
INIT_GAIN = 0.25


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut: [B, C_in, H, W] -> [B, C_out, H/stride, W/stride]."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return non-negative float [B, C_out, H/stride, W/stride]."""
        # In place: no gradient needs what is overwritten, and there is less to write and to read.
        y_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        y_BCHW = self.bn2(self.conv2(y_BCHW))
        y_BCHW += self.shortcut(x_BCHW)
        return F.relu(y_BCHW, inplace=True)


class SmallResNet(nn.Module):
    """float [B, 3, 32, 32] -> non-negative float [B, feature_dim]; the classifier is the method's."""

    feature_dim: int

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = WIDTHS[-1]
        # the stem halves the resolution at once: at 32x32 the first layer would cost more than all the rest
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True)
        )
        c_ins = (WIDTHS[0], *WIDTHS)
        self.blocks = nn.Sequential(*(Block(c_ins[i], width, 1 if i == 0 else 2) for i, width in enumerate(WIDTHS)))
        initialise(self)

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Turn float [B, 3, 32, 32], normalised, into pooled features [B, feature_dim], each >= 0."""
        return self.blocks(self.stem(image_BCHW)).mean(dim=(2, 3))


def initialise(network: nn.Module) -> None:
    """Draw the convolutions' weights from torch's global generator."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            # batch normalisation makes a convolution's scale irrelevant but for the step size, which goes with
            # 1 / scale^2: with SGD at 0.1 and no momentum, as the recipes have it, small weights learn in time
            with torch.no_grad():
                module.weight.mul_(INIT_GAIN)


def build(form: str = "plain") -> nn.Module:
    """Build a freshly initialised network (from torch's global generator) with the attribute `feature_dim`.

    It is 64; as experts, each with its own last block at three quarters of the width, 3 x 48; as branches, each with
    its own last block, 2 x 64.
    """
    assert form in FORMS, form
    plain = SmallResNet()
    if form == "plain":
        return plain
    trunk, c_in = nn.Sequential(plain.stem, *list(plain.blocks.children())[:-1]), WIDTHS[-2]
    if form == "experts":
        network: nn.Module = Experts(trunk, [Block(c_in, EXPERT_WIDTH, 2) for _ in range(EXPERTS)], EXPERT_WIDTH)
    else:
        network = Branches(trunk, Block(c_in, WIDTHS[-1], 2), Block(c_in, WIDTHS[-1], 2), WIDTHS[-1])
    initialise(network)
    return network
