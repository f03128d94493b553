"""Mixup (Zhang et al., ICLR 2018), for any method: rows are mixed in pairs, losses and center terms in the same shares.

As in the reference one share holds for a whole step, and pairs form across environments; they form inside blocks of a
batch-normalisation group here (`Recipe.mixup_blocks`), which no two ranks share, so that a step is the same on any number of ranks.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from ifl.saving.state import step_seed
from recipes.schema import Recipe

Targets = list[tuple[float, torch.Tensor]]
"""The labels of some rows, int64 [B], with the share that each has in a loss. Without mixup: [(1.0, labels)]."""


def share_of_step(alpha: float, seed: int) -> float:
    """The step's share ~ Beta(alpha, alpha), equation 1's lambda; a function of the seed alone."""
    return random.Random(seed).betavariate(alpha, alpha)


def partners(rows_B: np.ndarray, recipe: Recipe, epoch: int, step: int) -> torch.Tensor:
    """int64 [B]: the place among a rank's rows of each row's partner, which is never the row itself where its block has others.
    `rows_B` are the canonical rows of one batch-normalisation group that the rank holds, whole blocks of it.

    A group's rows stand stream after stream, a block holds as many of each, and its rows in a random order are a ring
    in which each mixes with the next. Axes: G rows of a group, N blocks of M rows.
    """
    group = recipe.batch.bn
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
    images: torch.Tensor, labels_B: torch.Tensor, share: float, partner_B: torch.Tensor
) -> tuple[torch.Tensor, Targets]:
    """uint8 [B, C, H, W] -> float32 of the same shape, `share` of each row and the rest of its partner, and its two labels."""
    partner_B, pixels = partner_B.to(labels_B.device), images.float()
    return share * pixels + (1 - share) * pixels[partner_B], [(share, labels_B), (1 - share, labels_B[partner_B])]
