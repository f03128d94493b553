"""How the ranks' features become the class sums by which the centers move: added up by class, or gathered.

Adding up takes a K x (D + 1) table of int64 in the step's one reduction. Where the batch's B x D features are fewer
bytes, these are gathered instead and added up on every rank. Both give the same bits, and have the same calls:

1. `add` the features of each micro-batch, with their labels;
2. `start`, which sends what has to travel by itself and returns what the reduction is to carry;
3. `finish` with what the reduction has summed, which returns the class sums and is ready for the next step.

Axes: B rows, D feature, K classes, R ranks.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from ifl.distributed.comm import Comm, Pending
from ifl.invariance.centers import Centers
from ifl.method import Targets


class Started(NamedTuple):
    """What a rank's rows bring to the reduction.

    Attributes:
        sums: int64 [K, D + 1] for the reduction to carry; None where there is nothing, or it travels by itself.
        bad: how many values did not fit (int64 scalar); None where nothing was added.
    """

    sums: torch.Tensor | None = None
    bad: torch.Tensor | None = None


class ClassSums(Protocol):
    """The calls that all ways share."""

    def add(self, features_BD: torch.Tensor, targets: Targets) -> None: ...

    def start(self) -> Started: ...

    def finish(self, summed: torch.Tensor | None) -> torch.Tensor | None: ...


class NoClassSums:
    """A run without centers."""

    def add(self, features_BD: torch.Tensor, targets: Targets) -> None:
        raise TypeError("features were given to a run without centers")

    def start(self) -> Started:
        return Started()

    def finish(self, summed: torch.Tensor | None) -> torch.Tensor | None:
        return None


class _Rows:
    """The rows of a step that a rank has collected; with mixup a row comes once for each of its labels."""

    def __init__(self, centers: Centers, comm: Comm, batch: int, targets: int = 1) -> None:
        """Prepare for the steps of a run.

        Args:
            centers: those that will be moved.
            comm: the ranks.
            batch: rows of the global batch.
            targets: labels of a row: 2 with mixup.
        """
        self._centers, self._comm, self._batch, self._targets = centers, comm, batch, targets
        self._terms = batch * targets
        self._clear()

    def _clear(self) -> None:
        self._features: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []

    def add(self, features_BD: torch.Tensor, targets: Targets) -> None:
        """Collect a micro-batch: features float [B, D] and their labels."""
        for weight, labels_B in targets:
            self._features.append(features_BD.detach().float())
            self._labels.append(labels_B)
            self._weights.append(torch.full((len(labels_B),), weight, device=features_BD.device))

    def _collected(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return features float32 [B, D], labels int64 [B] and weights float32 [B] of all that was added."""
        return torch.cat(self._features), torch.cat(self._labels), torch.cat(self._weights)


class AddedUp(_Rows):
    """Each rank adds its rows up by class, and the reduction carries the sums."""

    def start(self) -> Started:
        if not self._features:
            return Started()
        features_BD, labels_B, weights_B = self._collected()
        return Started(*self._centers.class_sums(features_BD, labels_B, self._terms, weights_B))

    def finish(self, summed: torch.Tensor | None) -> torch.Tensor | None:
        """Return the class sums int64 [K, D + 1] over all ranks, or None if nothing was added."""
        self._clear()
        return summed


class Gathered(_Rows):
    """The rows themselves are gathered, and every rank adds up all of them.

    They travel as one float32 block [rows, D + 2] a rank: the feature, its weight, its label.
    """

    FEATURE, WEIGHT, LABEL = slice(None, -2), -2, -1
    _gathered: Pending | None = None

    def start(self) -> Started:
        if not self._features:
            return Started()
        features_BD, labels_B, weights_B = self._collected()
        # float32 is exact for labels below 2**24
        block = torch.cat([features_BD, weights_B[:, None], labels_B.to(features_BD)[:, None]], dim=1)
        # Ranks may hold one row less than others: they are padded with rows of label -1, which count nowhere.
        rows = self._targets * -(-self._batch // self._comm.size)
        self._gathered = self._comm.start_gather(F.pad(block, (0, 0, 0, rows - len(block)), value=-1.0))
        # Counted here, before the reduction: counting in what was gathered would mean one more wait for the device.
        _, bad = self._centers.terms(features_BD, labels_B, self._terms, weights_B)
        return Started(None, bad)

    def finish(self, summed: torch.Tensor | None) -> torch.Tensor | None:
        """Return the class sums int64 [K, D + 1] over all ranks, or None if nothing was added."""
        self._clear()
        if self._gathered is None:
            return None
        rows = self._gathered.wait().flatten(0, 1)
        self._gathered = None
        sums, _ = self._centers.class_sums(
            rows[:, self.FEATURE], rows[:, self.LABEL].long(), self._terms, rows[:, self.WEIGHT]
        )
        return sums


def gather_is_smaller(batch: int, classes: int) -> bool:
    """Say whether B rows of float32 are fewer bytes than K rows of int64, on any number of ranks.

    A gathered row is D + 2 numbers long and one of the sums D + 1, which is left out of account.
    """
    return 4 * batch < 8 * classes


def smaller_way(centers: Centers, comm: Comm, batch: int, targets: int = 1) -> AddedUp | Gathered:
    """Choose the way that moves fewer bytes; arguments as for both of them."""
    way = Gathered if gather_is_smaller(batch * targets, len(centers.centers_KD)) else AddedUp
    return way(centers, comm, batch, targets)
