"""Mixup (Zhang et al., ICLR 2018), for any method.

Rows are mixed in pairs, losses and center terms by the same weights. As in the reference one weight (lambda) holds
for a whole step, and pairs form across environments. Here they form inside blocks of a batch-normalisation group
(`Recipe.mixup_blocks`), which no two ranks share, so that a step is the same on any number of ranks.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from ifl.distributed.transfers import to_device
from ifl.method import Targets
from ifl.saving.state import step_seed
from recipes.schema import Recipe


def lam_of_step(alpha: float, seed: int) -> float:
    """Return the step's lambda ~ Beta(alpha, alpha) of equation 1; a function of the seed only."""
    return random.Random(seed).betavariate(alpha, alpha)


def partners(rows_B: np.ndarray, recipe: Recipe, epoch: int, step: int) -> torch.Tensor:
    """Draw each row's partner, which is never the row itself where its block has others.

    A group's rows come stream after stream, a block holds as many of each, and its rows in a random order are a ring in
    which each mixes with the next. Axes: G rows of a group, N blocks of M rows.

    Args:
        rows_B: the canonical rows of one group of the batch that the rank holds, whole blocks of it.
        recipe: gives the seed, the group's size, the streams and the blocks.
        epoch: 0-based.
        step: of the epoch, 0-based.

    Returns:
        int64 [B]: the partner's place among these rows.
    """
    group = recipe.batch.group
    first = int(rows_B[0]) // group * group  # the group's, not the rank's
    random_bits = torch.Generator().manual_seed(step_seed(recipe.seed, epoch, step, first))
    blocks_NM = torch.arange(group).view(recipe.streams, recipe.mixup_blocks, -1).transpose(0, 1).flatten(1)
    order_NM = torch.rand(blocks_NM.shape, generator=random_bits, dtype=torch.float64).argsort(dim=1, stable=True)
    ring_NM = blocks_NM.gather(1, order_NM)
    partner_G = torch.empty(group, dtype=torch.int64)
    partner_G[ring_NM] = ring_NM.roll(-1, dims=1)
    mine_B = torch.from_numpy(rows_B) - first
    place_G = torch.full((group,), -1)
    place_G[mine_B] = torch.arange(len(mine_B))
    found_B = place_G[partner_G[mine_B]]
    assert (found_B >= 0).all(), "a rank holds a part of a block"
    return found_B


def mix(
    images: torch.Tensor, labels_B: torch.Tensor, lam: float, partner_B: torch.Tensor
) -> tuple[torch.Tensor, Targets]:
    """Mix images uint8 [B, C, H, W], `lam` of each row and the rest of its partner.

    Returns:
        The images, float32 of the same shape, and each row's two labels with their weights.
    """
    partner_B, pixels = to_device(partner_B, labels_B.device), images.float()
    return lam * pixels + (1 - lam) * pixels[partner_B], [(lam, labels_B), (1 - lam, labels_B[partner_B])]
