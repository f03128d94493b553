"""Invariant feature learning as a switch: `Invariance`, and `Off`, which has the same calls and does nothing.

Source: ECCV 2022 paper, section 4 and algorithm 1. What IFL adds to the training of any method:

* the center term: `alpha` times each feature's distance to its class's center, from the first milestone on;
* the environments: after a milestone (or every epoch) the streams of environments 2..n get new weights, by how sure
  the network was of each training sample.

The train loop calls either of them in the same places and never asks which one it has.

Axes: B rows of a micro-batch, D feature, G rows of the global batch, K classes, N training samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.distributed.consistency import check_equal, digest
from ifl.distributed.fixed_point import to_float
from ifl.invariance.centers import FEATURE_BITS, Centers
from ifl.invariance.class_sums import ClassSums, NoClassSums, smaller_way
from ifl.invariance.confidence import ConfidenceTable, mean_scores
from ifl.invariance.environments import stream_weights
from ifl.method import Targets, weighted_sum
from recipes.schema import Ifl


class Progress(Protocol):
    """What the invariance reads and changes of the run's state (ifl/saving/state.py), which checkpoints hold."""

    epoch: int
    weights: list[np.ndarray | None]
    class_means: torch.Tensor | None
    memory: dict[str, torch.Tensor]


def center_weight(epoch: int, ifl: Ifl) -> float:
    """Return alpha, the center term's weight: 0 before the first milestone, then that of the last one reached."""
    reached = [alpha for milestone, alpha in zip(ifl.milestones, ifl.alpha, strict=True) if milestone <= epoch]
    return reached[-1] if reached else 0.0


class Off:
    """Training without IFL.

    Attributes:
        alpha: weight of the center term in this epoch.
        needs_features: whether this epoch's steps add features up by class.
        renews: the streams that get new weights at this epoch's end.
        centers_KD: float32 [K, D], or None.
    """

    alpha = 0.0
    needs_features = False
    renews = range(0)
    centers_KD: torch.Tensor | None = None

    def class_sums(self, batch: int, targets: int) -> ClassSums:
        return NoClassSums()

    def begin_epoch(self, epoch: int) -> None:
        pass

    def distances(self, features_BD: torch.Tensor, targets: Targets) -> torch.Tensor | None:
        return None

    def score(self, ids_B: torch.Tensor, labels_B: torch.Tensor, logits_BK: torch.Tensor) -> None:
        pass

    def after_step(self, state: Progress, class_sums: torch.Tensor | None, labels_G: torch.Tensor) -> None:
        pass

    def travelled(self) -> dict[str, list[float]]:
        return {}

    def end_epoch(self, state: Progress) -> bool:
        return False

    def pack(self) -> dict[str, torch.Tensor | None]:
        return {"centers": None, "confidence": None}

    def unpack(self, packed: dict[str, Any], state: Progress) -> None:
        pass


class Invariance:
    """Training with IFL: the centers, the confidence table, and when each of them is at work.

    Attributes: as those of `Off`.
    """

    def __init__(
        self, ifl: Ifl, centers: Centers, labels: np.ndarray, streams: Sequence[str], comm: Comm, device: torch.device
    ) -> None:
        """Begin with an empty confidence table.

        Args:
            ifl: the recipe's section.
            centers: as they were drawn.
            labels: int64 [N], of the training set.
            streams: the names of a batch's streams; those called `environment` are ours.
            comm: the ranks.
            device: where the features are.
        """
        self._ifl, self._centers, self._labels, self._comm, self._device = ifl, centers, labels, comm, device
        self._confidence = ConfidenceTable(len(labels), device)
        self._streams = streams
        self.begin_epoch(0)

    @property
    def centers_KD(self) -> torch.Tensor | None:
        return self._centers.centers_KD

    @property
    def needs_features(self) -> bool:
        return bool(self.alpha) or self._averages

    @property
    def renews(self) -> range:
        if not self._scores:
            return range(0)
        first = self._streams.index("environment")  # which stays uniform
        return range(first + 1, first + self._ifl.environments)

    def class_sums(self, batch: int, targets: int) -> ClassSums:
        """Choose how the ranks' features come together, for batches of `batch` rows with `targets` labels each."""
        return smaller_way(self._centers, self._comm, batch, targets)

    def begin_epoch(self, epoch: int) -> None:
        """Decide what happens in this epoch."""
        ifl = self._ifl
        self.alpha = center_weight(epoch, ifl)
        self._scores = ifl.environments > 1 and (ifl.rebuild == "every_epoch" or epoch in ifl.milestones)
        # The epoch before the center term begins is the one whose class means the centers start from.
        self._averages = ifl.center_init == "class_means" and epoch + 1 == ifl.milestones[0]

    def distances(self, features_BD: torch.Tensor, targets: Targets) -> torch.Tensor | None:
        """Return float32 [B]: each row's distance to the centers of its labels; None while the center term is off."""
        if not self.alpha:
            return None
        return weighted_sum(lambda labels_B: self._centers.distances(features_BD, labels_B), targets)

    def score(self, ids_B: torch.Tensor, labels_B: torch.Tensor, logits_BK: torch.Tensor) -> None:
        """Note p(y|x) of a micro-batch in an epoch after which the environments are rebuilt."""
        if self._scores:
            self._confidence.add(ids_B, logits_BK.detach().softmax(1).gather(1, labels_B[:, None])[:, 0])

    def after_step(self, state: Progress, class_sums: torch.Tensor | None, labels_G: torch.Tensor) -> None:
        """Move the centers by the global batch's class sums int64 [K, D + 1], or add these up for the class means."""
        if class_sums is None:
            return
        if self.alpha:
            self._centers.move(class_sums, len(labels_G), labels_G)
        if self._averages:
            added = to_float(class_sums, FEATURE_BITS)
            state.class_means = added if state.class_means is None else state.class_means + added

    def travelled(self) -> dict[str, list[float]]:
        """Return each center's `norm` and distance `from_start` for the log, [K] each; empty while the term is off."""
        return self._centers.travelled() if self.alpha else {}

    def end_epoch(self, state: Progress) -> bool:
        """Start the centers and rebuild the environments where this epoch asks for it. A collective.

        Returns:
            Whether `state.weights` are new.

        Raises:
            RankMismatch: the ranks do not hold the same weights.
        """
        if self._averages:
            assert state.class_means is not None, "an epoch has at least one step"
            self._centers.start_from_means(state.class_means)
            state.class_means = None
        if not self._scores:
            return False
        ifl, total, first = self._ifl, self._confidence.total(self._comm), self._streams.index("environment")
        assert ifl.unseen is not None, "a resolved recipe names it"
        own = stream_weights(
            ifl.environments,
            mean_scores(total),
            self._labels,
            sample_scale=ifl.sample_scale,
            class_balanced=ifl.class_balanced,
            unseen=ifl.unseen,
        )
        state.weights[first : first + ifl.environments] = [
            None if weights_N is None else self._comm.numbers_of_first(weights_N, self._device) for weights_N in own
        ]
        check_equal(
            f"confidence and environment weights after epoch {state.epoch}",
            digest(self.centers_KD, *state.weights, total, *state.memory.values()),
            self._comm,
            self._device,
        )
        self._confidence.restart()
        return True

    def pack(self) -> dict[str, torch.Tensor | None]:
        """Return what a checkpoint holds of it, equal on all ranks. A collective; changes nothing."""
        return {"centers": self._centers.centers_KD, "confidence": self._confidence.total(self._comm)}

    def unpack(self, packed: dict[str, Any], state: Progress) -> None:
        """Go on from what `pack` gave, with the class means of `state` on the device."""
        self._centers.centers_KD.copy_(packed["centers"])
        if state.class_means is not None:
            state.class_means = state.class_means.to(self._device)
        self._confidence.restart(packed["confidence"], self._comm.rank)
