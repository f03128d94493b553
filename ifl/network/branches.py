"""Backbones with several ends: a shared trunk, and last stages, one for each expert or branch.

Axes: B rows of a micro-batch, C channels, D feature of one end, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

EXPERTS = 3
"""E of RIDE and TADE."""


def pooled(given: torch.Tensor) -> torch.Tensor:
    """Return float [B, D]: the mean over height and width of [B, D, H'', W''], or an end's own pooled [B, D]."""
    return given.mean(dim=(2, 3)) if given.dim() == 4 else given


class Experts(nn.Module):
    """RIDE's backbone (Wang et al., ICLR 2021, section 3).

    float [B, 3, H, W] -> the experts' pooled features one after the other, [B, E D]; non-negative where the experts end
    in a ReLU, as those of the ResNets do. No method asks for that.
    """

    def __init__(self, trunk: nn.Module, experts: Iterable[nn.Module], dim: int) -> None:
        """Join the experts to their trunk.

        Args:
            trunk: float [B, 3, H, W] -> [B, C, H', W'], or a ViT's tokens [B, N, C].
            experts: each what the trunk gives -> float [B, dim, H'', W''], or pooled [B, dim].
            dim: D.
        """
        super().__init__()
        self.trunk, self.experts = trunk, nn.ModuleList(experts)
        self.feature_dim: int = dim * len(self.experts)
        self.side_by_side = [f"experts.{number}" for number in range(len(self.experts))]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shared_BCHW = self.trunk(images)
        return torch.cat([pooled(expert(shared_BCHW)) for expert in self.experts], dim=1)


class Branches(nn.Module):
    """BBN's backbone (Zhou et al., CVPR 2020, section 4.2).

    float [B, 3, H, W] -> pooled features [B, 2 D], those of the conventional branch and then those of the
    re-balancing one.

    In training the first half of the rows belongs to the conventional branch (drawn uniformly) and the second half to
    the re-balancing one (drawn class_inverse). Row i of both halves are a pair: both rows hold its two features side by
    side, so each row's loss sees the pair. In evaluation both branches see every row.
    """

    def __init__(self, trunk: nn.Module, cb_block: nn.Module, rb_block: nn.Module, dim: int) -> None:
        """Join the branches to their trunk.

        Args:
            trunk: float [B, 3, H, W] -> [B, C, H', W'], or a ViT's tokens [B, N, C].
            cb_block: the conventional branch, what the trunk gives -> float [B, dim, H'', W''], or pooled [B, dim].
            rb_block: the re-balancing branch, the same.
            dim: D.
        """
        super().__init__()
        self.trunk, self.cb_block, self.rb_block = trunk, cb_block, rb_block
        self.feature_dim: int = 2 * dim
        self.side_by_side = ["cb_block", "rb_block"]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shared_BCHW = self.trunk(images)
        if not self.training:
            return torch.cat([pooled(self.cb_block(shared_BCHW)), pooled(self.rb_block(shared_BCHW))], dim=1)
        assert len(images) % 2 == 0, f"{len(images)} rows are no pairs of a uniform and a class_inverse one"
        uniform, inverse = shared_BCHW.chunk(2)
        pairs = torch.cat([pooled(self.cb_block(uniform)), pooled(self.rb_block(inverse))], dim=1)
        return torch.cat([pairs, pairs])
