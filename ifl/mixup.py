"""Mixup (Zhang et al., ICLR 2018), for any method: rows are mixed in pairs, losses and center terms in the same shares.

As in the reference one share holds for a whole step, and pairs form across environments; they form inside blocks of a
batch-normalisation group here (`Recipe.mixup_blocks`), which no two ranks share, so that a step is the same on any number of ranks.
"""

from __future__ import annotations

import random

import numpy as np
import torch

Targets = list[tuple[float, torch.Tensor]]
"""The labels of some rows, int64 [B], with the share that each has in a loss. Without mixup: [(1.0, labels)]."""


def share_of_step(alpha: float, seed: int) -> float:
    """The step's share ~ Beta(alpha, alpha), equation 1's lambda; a function of the seed alone."""
    return random.Random(seed).betavariate(alpha, alpha)


def partners(rows_B: np.ndarray, group: int, streams: int, blocks: int, seed: int) -> torch.Tensor:
    """int64 [B]: the place among a rank's rows of each row's partner, which is never the row itself where its block has others.

    Each block holds as many rows of every stream, and its rows in a random order are a ring in which each mixes with the next.

    Args:
        rows_B: the canonical rows of one group that the rank holds, whole blocks of it.
        group: rows of a group, stream after stream.
        seed: the group's own, the same on all ranks that share it.
    """
    blocks_NM = torch.arange(group).view(streams, blocks, -1).transpose(0, 1).flatten(1)
    order_NM = torch.rand(blocks_NM.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).argsort(dim=1, stable=True)
    ring_NM = blocks_NM.gather(1, order_NM)
    partner_G = torch.empty(group, dtype=torch.int64)
    partner_G[ring_NM] = ring_NM.roll(-1, dims=1)
    mine_B = torch.from_numpy(rows_B) % group
    place_G = torch.full((group,), -1)
    place_G[mine_B] = torch.arange(len(mine_B))
    found_B = place_G[partner_G[mine_B]]
    assert (found_B >= 0).all(), "a rank holds a part of a block"
    return found_B


def mix(images: torch.Tensor, labels_B: torch.Tensor, share: float, partner_B: torch.Tensor) -> tuple[torch.Tensor, Targets]:
    """uint8 [B, C, H, W] -> float32 of the same shape, `share` of each row and the rest of its partner, and its two labels."""
    partner_B, pixels = partner_B.to(labels_B.device), images.float()
    return share * pixels + (1 - share) * pixels[partner_B], [(share, labels_B), (1 - share, labels_B[partner_B])]
