"""The class centers of IFL, equal on all ranks to the last bit.

Source: ECCV 2022 paper, section 4 (invariant feature loss). The reference learns the centers by SGD of rate `lr` on
the mean distance of the batch; both distances' gradients depend on the batch only through a sum and a count of each
class, and those are added up exactly (ifl/distributed/fixed_point.py). The centers are a plain tensor and never an
`nn.Parameter`: DeepSpeed reduces nothing that its optimizer does not own.

Axes: B batch, D feature, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from ifl.distributed.fixed_point import to_fixed, to_float

FEATURE_BITS = 30
"""Features are added up as multiples of 2**-30 (1e-9); with 1,024 terms values up to 2**22 fit."""


class Centers:
    """`centers_KD`: float32 [K, D], drawn from N(0, 1) with the run's seed as in the reference."""

    def __init__(
        self,
        classes: int,
        features: int,
        distance: Literal["l2", "cosine"],
        lr: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.distance, self.lr = distance, lr
        self._shape, self._seed = (classes, features), seed
        self.centers_KD = self._drawn().to(device)

    def _drawn(self) -> torch.Tensor:
        return torch.randn(self._shape, generator=torch.Generator().manual_seed(self._seed))

    def travelled(self) -> dict[str, list[float]]:
        """Return each center's L2 `norm` and its distance `from_start`, where it was drawn; [K] each, for figures."""
        centers_KD = self.centers_KD.cpu().double()
        lengths = {"norm": centers_KD, "from_start": centers_KD - self._drawn().double()}
        return {name: [round(value, 4) for value in rows_KD.norm(dim=1).tolist()] for name, rows_KD in lengths.items()}

    def distances(self, features_BD: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Return float32 [B]: squared L2 distance, or 1 - cosine, of each feature to its class's center.

        Gradients reach the features only.
        """
        centers_BD = self.centers_KD.index_select(0, labels_B)
        if self.distance == "l2":
            return (features_BD.float() - centers_BD).square().sum(1).clamp(1e-12, 1e12)
        return 1 - F.cosine_similarity(features_BD.float(), centers_BD, dim=1)

    def terms(
        self, features_BD: torch.Tensor, labels_B: torch.Tensor, batch: int, shares_B: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what each of some rows adds to its class's sums, in fixed point.

        That is its feature (for cosine: its unit feature) times its share, then the share.

        Rows with label -1 are padding. `batch` is the number of rows that may be added up in all. With mixup a row
        comes once for each of its labels, with the label's share (float [B]); otherwise shares are 1.

        Returns:
            int64 [B, D + 1] and the number of values that did not fit (int64 scalar).
        """
        rows_BD = features_BD.detach().float()
        if self.distance == "cosine":
            rows_BD = F.normalize(rows_BD, dim=1)
        shares_B1 = rows_BD.new_ones(len(rows_BD), 1) if shares_B is None else shares_B[:, None].to(rows_BD)
        rows_BD = torch.cat([rows_BD * shares_B1, shares_B1], dim=1)
        return to_fixed(torch.where((labels_B >= 0)[:, None], rows_BD, 0.0), FEATURE_BITS, batch)

    def class_sums(
        self, features_BD: torch.Tensor, labels_B: torch.Tensor, batch: int, shares_B: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add up the `terms` of some rows by class, as `move` needs them; shares of 1 add up to counts.

        Returns:
            int64 [K, D + 1] and the number of values that did not fit (int64 scalar).
        """
        fixed_BD, bad = self.terms(features_BD, labels_B, batch, shares_B)
        classes, dim = self.centers_KD.shape
        sums = torch.zeros(classes, dim + 1, dtype=torch.int64, device=fixed_BD.device)
        sums.index_add_(0, labels_B.clamp(min=0), fixed_BD)
        return sums, bad

    def move(self, sums: torch.Tensor, batch: int, labels_B: torch.Tensor | None = None) -> None:
        """Make one SGD step on the mean distance of a global batch of `batch` rows with class sums int64 [K, D + 1].

        For squared L2: C_k <- C_k - (2 lr / B) (n_k C_k - sum of the class's features); the reference's rate .5 makes
        it a moving average of rate n_k / B. A class without rows does not move; where the batch's labels (int64 [B],
        all that occur, as often as may be) are given and fewer than the classes, only theirs are computed.
        """
        if labels_B is not None and len(labels_B) >= len(self.centers_KD):
            labels_B = None  # all classes are as cheap
        old = self.centers_KD
        if labels_B is not None:
            old, sums = old.index_select(0, labels_B), sums.index_select(0, labels_B)
        feature_sums, counts = to_float(sums[:, :-1], FEATURE_BITS), to_float(sums[:, -1:], FEATURE_BITS)
        centers = old.double()
        if self.distance == "l2":
            gradient = 2 * (counts * centers - feature_sums)
        else:
            norms = centers.norm(dim=1, keepdim=True).clamp_min(1e-8)
            units = centers / norms
            gradient = ((feature_sums * units).sum(1, keepdim=True) * units - feature_sums) / norms
        moved = (centers - self.lr / batch * gradient).float()
        if labels_B is None:
            self.centers_KD.copy_(moved)
        else:
            self.centers_KD.index_copy_(0, labels_B, moved)

    def start_from_means(self, sums: torch.Tensor) -> None:
        """Put each center at the mean of its class's features; `sums` float64 [K, D + 1] over some steps.

        A class that was not seen keeps its center.
        """
        shares_K1 = sums[:, -1:]
        self.centers_KD.copy_(
            torch.where(shares_K1 > 0, sums[:, :-1] / shares_K1.clamp_min(1e-300), self.centers_KD.double())
        )
