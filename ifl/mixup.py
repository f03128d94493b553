"""Mixup (Zhang et al., ICLR 2018), for any method: rows are mixed in pairs, losses and center terms in the same shares.

As in the reference one share holds for a whole step, and pairs form across environments; they form inside a
batch-normalisation group here, so that a step is the same on any number of ranks.
"""

from __future__ import annotations

import random

import torch

Targets = list[tuple[float, torch.Tensor]]
"""The labels of some rows, int64 [B], with the share that each has in a loss. Without mixup: [(1.0, labels)]."""


def share_of_step(alpha: float, seed: int) -> float:
    """The step's share ~ Beta(alpha, alpha), equation 1's lambda; a function of the seed alone."""
    return random.Random(seed).betavariate(alpha, alpha)


def mix(images: torch.Tensor, labels_B: torch.Tensor, share: float) -> tuple[torch.Tensor, Targets]:
    """uint8 [B, C, H, W] -> float32 of the same shape, `share` of each row and the rest of a partner, and its two labels.
    Partners are a permutation drawn from torch's generator."""
    partner = torch.randperm(len(labels_B)).to(labels_B.device)
    pixels = images.float()
    return share * pixels + (1 - share) * pixels[partner], [(share, labels_B), (1 - share, labels_B[partner])]
