"""The one reduction of a training step.

It carries everything that all ranks must agree on: the requests to save or stop, the losses, the groups' batch
statistics and the centers' class sums, all as exact integers (ifl/distributed/fixed_point.py), and each rank's place in the run: sums of
different steps, after a collective that one rank left out or made twice, would be wrong without a sign. It starts after
the last forward pass and travels while the gradients are computed. The centers' sums need a K x D table of int64; where
the batch's B x D features are fewer bytes, these are gathered instead and added up on every rank: the same bits either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ifl.distributed.comm import Comm, Pending
from ifl.distributed.consistency import ranks_of
from ifl.distributed.fixed_point import to_fixed, to_float
from ifl.invariance.centers import Centers

LOSS_BITS = 24
"""Losses and center distances of single rows count in multiples of 2**-24 (6e-8); with a batch of 256 values up to 2**30 fit."""
STATISTIC_BITS = 32
"""Batch statistics count in multiples of 2**-32 (2e-10); with a batch of 256 values up to 2**22 fit."""

_SAVE, _STOP, _BAD, _LOSS, _CENTER, _CORRECT, _GROUPS, _HEAD = range(8)


class Desynchronised(RuntimeError):
    """The ranks' reductions do not belong to one step; the message says where each of them stands."""


@dataclass
class StepTotals:
    """What all ranks know after a step, equal on all of them: sums over the global batch, the mean of its groups'
    statistics (float64), the centers' class sums, and the method's notes float64 [B, C] in canonical row order."""

    save: bool
    stop: bool
    bad: int
    loss: float
    center: float
    correct: int
    statistics: torch.Tensor
    class_sums: torch.Tensor | None
    notes: torch.Tensor | None


class StepSync:
    """Collects a step's micro-batches of one rank, then reduces once."""

    def __init__(self, comm: Comm, batch: int, centers: Centers | None, device: torch.device, targets: int = 1) -> None:
        """`targets` is the number of labels that a row has: 2 with mixup."""
        self.comm, self.batch, self.centers, self.device, self.targets = comm, batch, centers, device, targets
        self.gathers = centers is not None and gather_is_smaller(batch * targets, *centers.centers_KD.shape)
        self._reset()

    def _reset(self) -> None:
        self._head = torch.zeros(_HEAD + self.comm.size, dtype=torch.int64, device=self.device)
        self._statistics: torch.Tensor | None = None
        self._features: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._shares: list[torch.Tensor] = []
        self._notes: torch.Tensor | None = None

    def add(
        self,
        losses_B: torch.Tensor,
        distances_B: torch.Tensor | None,
        correct: torch.Tensor,
        statistics: torch.Tensor,
        features_BD: torch.Tensor | None,
        targets: Sequence[tuple[float, torch.Tensor]],
        counts: bool = True,
        notes_BC: torch.Tensor | None = None,
        rows_B: np.ndarray | None = None,
    ) -> None:
        """One micro-batch: its rows' losses and center distances, the number of right rows, its group's batch
        statistics (and whether the running ones move by them), with centers its features and labels (with mixup more
        than one, each with its share), and what the method notes of its canonical rows `rows_B`."""
        loss, bad_loss = to_fixed(losses_B, LOSS_BITS, self.batch)
        center, bad_center = to_fixed(
            losses_B.new_zeros(1) if distances_B is None else distances_B, LOSS_BITS, self.batch
        )
        group, bad_group = to_fixed(statistics * counts, STATISTIC_BITS, self.batch)
        self._head[_GROUPS] += int(counts)
        self._head[_LOSS] += loss.sum()
        self._head[_CENTER] += center.sum()
        self._head[_CORRECT] += correct
        self._head[_BAD] += bad_loss + bad_center + bad_group
        self._statistics = group if self._statistics is None else self._statistics + group
        for share, labels_B in targets if features_BD is not None else ():
            self._features.append(features_BD.detach().float())
            self._labels.append(labels_B)
            self._shares.append(torch.full((len(labels_B),), share, device=self.device))
        if notes_BC is not None:
            fixed, bad = to_fixed(notes_BC, LOSS_BITS, 1)
            self._head[_BAD] += bad
            if self._notes is None:
                self._notes = fixed.new_zeros(self.batch, fixed.shape[1])
            self._notes[torch.from_numpy(rows_B).to(self.device)] = fixed

    def start(self, place: tuple[int, int], save: bool, stop: bool) -> None:
        """Send this rank's part on its way; `place` is the epoch and the step in it."""
        self._place = (place[0] << 32) + place[1] + 1
        self._head[_HEAD + self.comm.rank] = self._place
        self._head[_SAVE], self._head[_STOP] = int(save), int(stop)
        parts = [self._head, self._statistics]
        self._gathered: Pending | None = None
        if self._features:
            features, labels, shares = torch.cat(self._features), torch.cat(self._labels), torch.cat(self._shares)
            if self.gathers:
                rows = self.targets * -(
                    -self.batch // self.comm.size
                )  # ranks may hold one row less: padded, with label -1
                padding = rows - len(labels)
                block = torch.cat(
                    [features, shares[:, None], labels.to(features)[:, None]], dim=1
                )  # float32 is exact for labels below 2**24
                self._gathered = self.comm.start_gather(F.pad(block, (0, 0, 0, padding), value=-1.0))
                self._head[_BAD] += self.centers.terms(features, labels, self.batch * self.targets, shares)[
                    1
                ]  # counted here: of what is gathered, `wait` would have to ask the device once more
            else:
                sums, bad = self.centers.class_sums(features, labels, self.batch * self.targets, shares)
                self._head[_BAD] += bad
                parts.append(sums.flatten())
        if self._notes is not None:
            parts.append(self._notes.flatten())
        self._sizes = [len(part) for part in parts]
        self._pending = self.comm.start_sum(torch.cat(parts))

    def wait(self) -> StepTotals:
        """The totals; also readies for the next step.

        Raises:
            Desynchronised: not all ranks' parts are of this step.
        """
        head, statistics, *more = self._pending.wait().split(self._sizes)
        save, stop, bad, loss, center, correct, groups, *places = head.tolist()
        if set(places) != {self._place}:
            raise Desynchronised(
                f"rank {self.comm.rank} reduced with others that are not where it is: {_standing(places)}; "
                "one of them left a collective out or made it twice"
            )
        notes = None if self._notes is None else to_float(more.pop().view(self.batch, -1), LOSS_BITS)
        class_sums = more[0].view(len(self.centers.centers_KD), -1) if more else None
        if self._gathered is not None:
            rows = self._gathered.wait().flatten(0, 1)
            class_sums, _ = self.centers.class_sums(
                rows[:, :-2], rows[:, -1].long(), self.batch * self.targets, rows[:, -2]
            )
        totals = StepTotals(
            save > 0,
            stop > 0,
            bad,
            loss * 2.0**-LOSS_BITS,
            center * 2.0**-LOSS_BITS,
            correct,
            to_float(statistics, STATISTIC_BITS) / groups,
            class_sums,
            notes,
        )
        self._reset()
        return totals


def _standing(places: list[int]) -> str:
    ranks_at = {place: [rank for rank, other in enumerate(places) if other == place] for place in places}
    return ", ".join(
        f"{ranks_of(ranks)} in {f'epoch {place - 1 >> 32}, step {place - 1 & 0xFFFFFFFF}' if place else 'no step'}"
        for place, ranks in ranks_at.items()
    )


def gather_is_smaller(batch: int, classes: int, features: int) -> bool:
    """Whether B x (D + 1) float32 are fewer bytes than K x (D + 1) int64. Independent of the number of ranks."""
    return 4 * batch < 8 * classes
