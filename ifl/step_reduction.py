"""The one reduction of a training step.

It carries everything that all ranks must agree on: the requests to save or stop, the losses, the groups' batch
statistics and the centers' class sums, all as exact integers (ifl/distributed/fixed_point.py). It also carries each
rank's place in the run: if one rank left out a collective or made one twice, sums of different steps would be added up
unnoticed. And each rank's own time of the step before rides in it (ifl/supervision/stragglers.py). It starts after the
last forward pass and travels while the gradients are computed.

Axes: B rows of a micro-batch, C notes of a row, D feature, G rows of the global batch, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.distributed.consistency import ranks_of
from ifl.distributed.fixed_point import to_fixed, to_float
from ifl.distributed.transfers import FirstNumbers, to_device
from ifl.invariance.class_sums import ClassSums, NoClassSums
from ifl.method import Targets
from ifl.supervision.stragglers import OwnTime

LOSS_BITS = 24
"""Losses and center distances of single rows count in multiples of 2**-24 (6e-8); with a batch of 256 values up to
2**30 fit."""
STATISTIC_BITS = 32
"""Batch statistics count in multiples of 2**-32 (2e-10); with a batch of 256 values up to 2**22 fit."""


class Desynchronised(RuntimeError):
    """The ranks' reductions do not belong to one step; the message says where each of them is."""


@dataclass(frozen=True)
class MicroBatchSums:
    """What a rank knows of one micro-batch.

    Attributes:
        losses_B: float [B], each row's loss.
        correct: how many rows are right (int64 scalar).
        statistics: float [2 x channels], the group's batch statistics.
        targets: the labels of the rows, with mixup two, each with its weight.
        distances_B: float [B], each row's distance to its class's center; None where the center term is off.
        features_BD: float [B, D] for the class sums; None where no class sums are needed.
        counts: whether the running statistics move by this group's.
        notes_BC: float [B, C], what the method notes of the rows; None if it notes nothing.
        rows_B: int64 [B], the rows' places in the global batch; needed with notes.
    """

    losses_B: torch.Tensor
    correct: torch.Tensor
    statistics: torch.Tensor
    targets: Targets
    distances_B: torch.Tensor | None = None
    features_BD: torch.Tensor | None = None
    counts: bool = True
    notes_BC: torch.Tensor | None = None
    rows_B: np.ndarray | None = None


@dataclass
class StepTotals:
    """What all ranks know after a step, equal on all of them: sums over the global batch.

    Attributes:
        save: whether any rank asked for a checkpoint.
        stop: whether any rank asked for a stop.
        bad: how many values were not finite or out of range.
        loss: sum of the rows' losses.
        center: sum of the rows' center distances.
        correct: how many rows are right.
        statistics: float64 [2 x channels], the mean of the groups' batch statistics.
        class_sums: int64 [K, D + 1] as the centers' `move` takes them, or None.
        notes: float64 [G, C], the method's notes in canonical row order, or None.
        own_ns: of each rank its own nanoseconds an image in the step before; 0 where they are not known.
        data_ns: of each rank the nanoseconds of that step in which it waited for its batches.
    """

    save: bool
    stop: bool
    bad: int
    loss: float
    center: float
    correct: int
    statistics: torch.Tensor
    class_sums: torch.Tensor | None
    notes: torch.Tensor | None
    own_ns: list[int]
    data_ns: list[int]


class Field(IntEnum):
    """The numbers at the beginning of the message; after them come the numbers of `OfRank`, for all ranks each."""

    SAVE = 0
    STOP = 1
    BAD = 2
    LOSS = 3
    CENTER = 4
    CORRECT = 5
    GROUPS = 6


class OfRank(IntEnum):
    """What each rank says of itself: where it is, its own time of the step before, and how long it waited for data."""

    PLACE = 0
    OWN = 1
    DATA = 2


class Message:
    """The int64 message of one step: a head of named numbers, then named tensors end to end.

    Only this class knows what lies where. A rank writes its own part; `read` names the parts of the ranks' sum.
    """

    def __init__(self, comm: Comm, device: torch.device) -> None:
        self._rank, self._size = comm.rank, comm.size
        self._head = torch.zeros(len(Field) + len(OfRank) * comm.size, dtype=torch.int64, device=device)
        self._tensors: dict[str, torch.Tensor] = {}

    def add(self, field: Field, value: torch.Tensor | int) -> None:
        """Add to a number of the head."""
        self._head[field] += value

    def set_own(self, field: OfRank, value: int) -> None:
        """Write a number of this rank, in the rank's own place."""
        self._head[len(Field) + field * self._size + self._rank] = value

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Append an int64 tensor of any shape, the same on all ranks."""
        self._tensors[name] = tensor

    def packed(self) -> torch.Tensor:
        """Return int64, flat: what the ranks sum."""
        return torch.cat([self._head, *(tensor.flatten() for tensor in self._tensors.values())])

    @property
    def numbers(self) -> int:
        """How many numbers the head has; they come first."""
        return len(self._head)

    def read(
        self, numbers: list[int], summed: torch.Tensor
    ) -> tuple[dict[Field, int], dict[OfRank, list[int]], dict[str, torch.Tensor]]:
        """Cut the ranks' sum apart: the head's numbers, those of the ranks, the tensors in shape.

        Args:
            numbers: the head's, summed.
            summed: int64, flat: all of the sum.
        """
        sizes = [len(self._head), *(tensor.numel() for tensor in self._tensors.values())]
        _, *rest = torch.split(summed, sizes)
        tensors = {
            name: part.view(tensor.shape) for (name, tensor), part in zip(self._tensors.items(), rest, strict=True)
        }
        of_ranks = {field: numbers[len(Field) + field * self._size :][: self._size] for field in OfRank}
        return dict(zip(Field, numbers[: len(Field)], strict=True)), of_ranks, tensors


class StepSync:
    """Collects a step's micro-batches of one rank, then reduces once."""

    def __init__(self, comm: Comm, batch: int, class_sums: ClassSums | None, device: torch.device) -> None:
        """Prepare for the steps of a run.

        Args:
            comm: the ranks.
            batch: rows of the global batch.
            class_sums: how the ranks' features come together; None without centers.
            device: where the message is made.
        """
        self.comm, self.batch, self.device = comm, batch, device
        self.class_sums = class_sums or NoClassSums()
        self._own_time, self._data_ns = OwnTime(device), 0
        self._first = FirstNumbers(device)
        self._reset()

    def _reset(self) -> None:
        self._message = Message(self.comm, self.device)
        self._statistics: torch.Tensor | None = None
        self._notes: torch.Tensor | None = None
        self._rows = 0

    def begin(self) -> None:
        """Begin the clock of this rank's own part of a step; without it the step has no own time."""
        self._message.set_own(OfRank.OWN, self._own_time.taken_ns())
        self._message.set_own(OfRank.DATA, self._data_ns)
        self._own_time.begin()
        self._data_ns = 0

    def waited_for_data(self, seconds: float) -> None:
        """Note that this rank waited so long for a batch of the step."""
        self._data_ns += int(1e9 * seconds)

    def add(self, part: MicroBatchSums) -> None:
        """Collect one micro-batch."""
        self._rows += len(part.losses_B)
        loss, bad_loss = to_fixed(part.losses_B, LOSS_BITS, self.batch)
        distances_B = part.losses_B.new_zeros(1) if part.distances_B is None else part.distances_B
        center, bad_center = to_fixed(distances_B, LOSS_BITS, self.batch)
        group, bad_group = to_fixed(part.statistics * part.counts, STATISTIC_BITS, self.batch)
        self._message.add(Field.GROUPS, int(part.counts))
        self._message.add(Field.LOSS, loss.sum())
        self._message.add(Field.CENTER, center.sum())
        self._message.add(Field.CORRECT, part.correct)
        self._message.add(Field.BAD, bad_loss + bad_center + bad_group)
        self._statistics = group if self._statistics is None else self._statistics + group
        if part.features_BD is not None:
            self.class_sums.add(part.features_BD, part.targets)
        if part.notes_BC is not None:
            assert part.rows_B is not None, "notes come with the places of their rows"
            self._note(part.notes_BC, part.rows_B)

    def _note(self, notes_BC: torch.Tensor, rows_B: np.ndarray) -> None:
        """Put a micro-batch's notes where its rows are in the global batch; the other ranks' rows are zeros here."""
        fixed, bad = to_fixed(notes_BC, LOSS_BITS, 1)
        self._message.add(Field.BAD, bad)
        if self._notes is None:
            self._notes = fixed.new_zeros(self.batch, fixed.shape[1])
        self._notes[to_device(rows_B, self.device)] = fixed

    def start(self, place: tuple[int, int], save: bool, stop: bool) -> None:
        """Send this rank's part on its way.

        Args:
            place: the epoch, and the step in it.
            save: this rank asks for a checkpoint after the step.
            stop: this rank asks for a stop after the step.
        """
        assert self._statistics is not None, "a step has at least one micro-batch"
        self._place = (place[0] << 32) + place[1] + 1
        self._message.set_own(OfRank.PLACE, self._place)
        self._message.add(Field.SAVE, int(save))
        self._message.add(Field.STOP, int(stop))
        self._message.put("statistics", self._statistics)
        sums, bad = self.class_sums.start()
        if bad is not None:
            self._message.add(Field.BAD, bad)
        if sums is not None:
            self._message.put("class sums", sums)
        if self._notes is not None:
            self._message.put("notes", self._notes)
        self._own_time.end(self._rows)
        self._pending = self.comm.start_sum(self._message.packed())
        self._first.begin(self._pending, self._message.numbers)

    def wait(self) -> StepTotals:
        """Return the totals, and be ready for the next step.

        Raises:
            Desynchronised: not all ranks' parts are of this step.
        """
        numbers = self._first.tolist()  # the one wait for the device
        number, of_ranks, tensors = self._message.read(numbers, self._pending.wait())
        if set(places := of_ranks[OfRank.PLACE]) != {self._place}:
            raise Desynchronised(
                f"rank {self.comm.rank} reduced with others that are not where it is: {_standing(places)}; "
                "one of them left a collective out or made it twice"
            )
        notes = tensors.get("notes")
        totals = StepTotals(
            save=number[Field.SAVE] > 0,
            stop=number[Field.STOP] > 0,
            bad=number[Field.BAD],
            loss=number[Field.LOSS] * 2.0**-LOSS_BITS,
            center=number[Field.CENTER] * 2.0**-LOSS_BITS,
            correct=number[Field.CORRECT],
            statistics=to_float(tensors["statistics"], STATISTIC_BITS) / number[Field.GROUPS],
            class_sums=self.class_sums.finish(tensors.get("class sums")),
            notes=None if notes is None else to_float(notes, LOSS_BITS),
            own_ns=of_ranks[OfRank.OWN],
            data_ns=of_ranks[OfRank.DATA],
        )
        self._reset()
        return totals


def _standing(places: list[int]) -> str:
    ranks_at = {place: [rank for rank, other in enumerate(places) if other == place] for place in places}
    return ", ".join(
        f"{ranks_of(ranks)} in {f'epoch {place - 1 >> 32}, step {place - 1 & 0xFFFFFFFF}' if place else 'no step'}"
        for place, ranks in ranks_at.items()
    )
