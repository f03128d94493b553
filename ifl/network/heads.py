"""Cosine classifiers, and the margins and weights that follow from class counts: what LDAM, RIDE and TADE are made of.

Axes: B rows of a micro-batch, D feature (of one expert), E experts, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ifl.method import Rows
from ifl.network.branches import EXPERTS


def unit_vectors(*shape: int) -> nn.Parameter:
    """Return float32 [..., D]: class vectors drawn from uniform(-1, 1) and brought to length 1."""
    return nn.Parameter(F.normalize(torch.empty(*shape).uniform_(-1, 1), dim=-1))


class CosineHead(nn.Module):
    """float [B, D] -> `scale` times the cosines of features and class vectors, float [B, K].

    The vectors are not named `weight`, so that no linear classifier can start from them.
    """

    def __init__(self, dim: int, classes: int, scale: float) -> None:
        super().__init__()
        self.scale, self.vectors_KD = scale, unit_vectors(classes, dim)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        return self.scale * F.linear(F.normalize(features_BD, dim=1), F.normalize(self.vectors_KD, dim=1))


class ExpertHeads(nn.Module):
    """A cosine head for each expert's part of the features.

    float [B, E D] -> the mean of the experts' logits, float [B, K], and all of them, float [B, E, K].
    """

    def __init__(self, dim: int, classes: int, scale: float, experts: int = EXPERTS) -> None:
        """Make the experts' class vectors; `dim` is E D."""
        super().__init__()
        assert dim % experts == 0, f"{dim} features are not those of {experts} experts"
        self.scale, self.vectors_EKD = scale, unit_vectors(experts, classes, dim // experts)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features_BED = features.unflatten(1, (len(self.vectors_EKD), -1))
        logits_BEK = self.scale * torch.einsum(
            "bed,ekd->bek", F.normalize(features_BED, dim=2), F.normalize(self.vectors_EKD, dim=2)
        )
        return logits_BEK.mean(dim=1), logits_BEK


def expert_losses(logits_BEK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Return float [B, E]: each expert's cross-entropy of each row."""
    return F.cross_entropy(
        logits_BEK.transpose(1, 2), labels_B[:, None].expand(-1, logits_BEK.shape[1]), reduction="none"
    )


def ldam_margins(class_counts: np.ndarray, largest: float) -> torch.Tensor:
    """Return float32 [K]: margins proportional to n_k^(-1/4), the rarest class's being `largest`.

    Source: LDAM, Cao et al., NeurIPS 2019, section 3.2. A class without samples counts as one with a single sample.
    """
    margins_K = np.maximum(class_counts, 1) ** -0.25
    return torch.from_numpy(largest * margins_K / margins_K.max()).float()


def drw_weights(class_counts: np.ndarray, beta: float) -> torch.Tensor:
    """Return float32 [K]: (1 - beta) / (1 - beta^n_k), brought to the sum K.

    Source: effective numbers, Cui et al., CVPR 2019, as LDAM's deferred re-weighting takes them. A class without
    samples counts as one with a single sample.
    """
    weights_K = (1 - beta) / (1 - beta ** np.maximum(class_counts, 1).astype(np.float64))
    return torch.from_numpy(weights_K * len(weights_K) / weights_K.sum()).float()


def less_margin(logits: torch.Tensor, labels_B: torch.Tensor, margins_K: torch.Tensor) -> torch.Tensor:
    """Return logits float [B, K] or [B, E, K], each row's own class lowered by its margin."""
    lowered_BK = F.one_hot(labels_B, len(margins_K)) * margins_K
    return logits - (lowered_BK if logits.dim() == 2 else lowered_BK[:, None])


def mean_weights(weights_K: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return float [B]: factors that turn the mean of the global batch's losses into one weighted by class."""
    return weights_K[rows.labels] / weights_K[rows.batch_labels].mean()
