"""One training step, and the refusal to keep what is not finite.

A step takes a global batch through the network in micro-batches, each a batch-normalisation group's rows of this rank,
reduces over the ranks what all must know, and makes all updates. The reduction begins after the last forward pass and
travels while the last gradients are computed.

Axes: B rows of a micro-batch, D feature, G rows of the global batch, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.distributed.transfers import to_device
from ifl.engine import Engine
from ifl.invariance.invariance import Invariance, Off
from ifl.method import BaseMethod, Rows, Targets, weighted_sum
from ifl.mixup import lam_of_step, mix, partners
from ifl.network.bn_statistics import RunningStatistics
from ifl.network.drop_path import RowMasks
from ifl.optimisation.smoothing import smoothed
from ifl.saving.state import State, step_seed
from ifl.step_reduction import MicroBatchSums, StepSync, StepTotals
from ifl.supervision.profiling import NoProfile
from ifl.supervision.stragglers import Stragglers
from ifl.supervision.waits import Waits
from recipes.schema import Recipe
from sharding.plan.epoch import EpochPlan
from sharding.reader import Batch


class Diverged(RuntimeError):
    """A loss, feature, batch statistic or gradient is not finite or out of range."""


class Held(Protocol):
    """What may be kept: an engine, or a copy of one in host memory (ifl/saving/snapshot.py)."""

    device: torch.device

    def finite(self) -> bool:
        """Say whether this rank's part of it is finite, and all gradients so far were."""
        ...


def refuse_pollution(engine: Held, comm: Comm, epoch: int, step: int, lr: float) -> None:
    """Stop on all ranks if on any of them parameters, buffers, optimizer state or gradients were not finite.

    A loss can be finite while its gradients are not. The step's reduction notices that one step later at best, so this
    is checked before anything is kept. A collective.

    Raises:
        Diverged: on all ranks.
    """
    if comm.sum(torch.tensor([int(not engine.finite())], device=engine.device)):
        raise Diverged(
            f"epoch {epoch}, step {step}: gradients overflowed in a step since the last checkpoint, so parameters or "
            f"optimizer state are lost; that checkpoint stays, and a lower optim.lr={lr} may help"
        )


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's own random numbers on the CPU and on `device`.

    The numbers are those after `torch.manual_seed`, which on a machine without GPUs takes a stack trace for each kind
    of device that might come later, at every micro-batch.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@dataclass
class TrainStep:
    """Makes the steps of a run.

    Attributes:
        labels: int64 [N], of the training set.
        rank_rows: this rank's rows of every global batch, int64 [B] for each micro-batch.
        statistics: the running statistics of batch normalisation.
        row_masks: told the rows of each micro-batch, for stochastic depth.
        reduction: what the ranks reduce once a step.
        heartbeat: called whenever a micro-batch has been read.
        waits: told of the ranks' waits.
        profile: marks the phases of the steps that are profiled.
        stragglers: told of the ranks' own times; None where nobody asks.
    """

    recipe: Recipe
    comm: Comm
    labels: np.ndarray
    rank_rows: list[np.ndarray]
    engine: Engine
    method: BaseMethod
    statistics: RunningStatistics
    row_masks: RowMasks
    invariance: Invariance | Off
    reduction: StepSync
    heartbeat: Callable[[], None]
    waits: Waits
    profile: NoProfile
    stragglers: Stragglers | None = None

    def take(
        self,
        state: State,
        plan: EpochPlan,
        batches: Iterator[Batch],
        save_due: Callable[[State], bool],
        stop_asked: Callable[[], bool],
    ) -> StepTotals:
        """Make step `state.step` of the epoch, and advance `state` by it. A collective.

        Args:
            state: where the run is; the method's memory and the class means change with it.
            plan: the epoch's global batches.
            batches: this rank's micro-batches, the step's own next.
            save_due: asked once, before the reduction: does this rank want a checkpoint after the step?
            stop_asked: asked once, too: was this rank asked to stop?

        Raises:
            Diverged: on all ranks, before any update: a number is not finite or out of range.
            Desynchronised: the ranks do not make the same step.
        """
        self.profile.before(state.epoch * plan.steps + state.step)
        self.reduction.begin()
        ids_G = plan.batch(state.step)
        labels_G = to_device(self.labels[ids_G], self.engine.device)
        lam = self._lam(state)
        for micro, rows_B in enumerate(self.rank_rows):
            last = micro + 1 == len(self.rank_rows)
            with self.profile.phase("load"):
                batch = self._load(batches)
            with self.profile.phase("forward"):
                loss = self._forward(state, batch, rows_B, labels_G, lam)
            if last:
                with self.profile.phase("reduction"):
                    self.reduction.start((state.epoch, state.step), save=save_due(state), stop=stop_asked())
            with self.profile.phase("backward"):
                self.engine.backward(loss, last)
            if not last:
                self.engine.step()
        with self.profile.phase("reduction"):
            totals = self.reduction.wait()
        if totals.bad:
            self._refuse(state, totals.bad)
        with self.profile.phase("optimizer"):
            self._update(state, totals, ids_G, labels_G)
        state.step += 1
        self.waits.count(totals.own_ns, totals.data_ns)
        if self.stragglers:
            self.stragglers.count(totals.own_ns)
        return totals

    def _lam(self, state: State) -> float:
        """Return mixup's weight of a row's own image in this step; 1 without mixup."""
        alpha = self.recipe.augment.mixup
        if not alpha:
            return 1.0
        return lam_of_step(alpha, step_seed(self.recipe.seed, state.epoch, state.step, self.recipe.batch.size))

    def _load(self, batches: Iterator[Batch]) -> tuple[torch.Tensor, ...]:
        """Return the next micro-batch on the device: images, labels, ids, streams."""
        began = time.perf_counter()
        batch = next(batches)
        self.reduction.waited_for_data(time.perf_counter() - began)
        self.heartbeat()
        return tuple(column.to(self.engine.device, non_blocking=True) for column in batch)

    def _forward(
        self, state: State, batch: tuple[torch.Tensor, ...], rows_B: np.ndarray, labels_G: torch.Tensor, lam: float
    ) -> torch.Tensor:
        """Take a micro-batch through the network and hand its sums to the reduction.

        Returns:
            The sum of the rows' losses with the center term (scalar), of which gradients are taken.
        """
        # Methods may use torch's own random numbers: they depend on the rows, never on the rank that holds them.
        seed_torch(step_seed(self.recipe.seed, state.epoch, state.step, int(rows_B[0])), self.engine.device)
        self.row_masks.begin(self.recipe.seed, state.epoch, state.step, rows_B, self.recipe.batch.size)
        images, labels_B, ids_B, streams_B = batch
        rows = Rows(labels_B, ids_B, streams_B, state.epoch, labels_G)
        targets: Targets = [(1.0, labels_B)]
        if self.recipe.augment.mixup:
            partner_B = partners(rows_B, self.recipe, state.epoch, state.step)
            images, targets = mix(images, labels_B, lam, partner_B)

        output = self.engine.forward(images)
        with smoothed(self.recipe.optim.label_smoothing):
            losses_B = weighted_sum(lambda of_B: self.method.losses(output, rows._replace(labels=of_B)), targets)
        distances_B = self.invariance.distances(output.features_BD, targets)
        self.invariance.score(ids_B, labels_B, output.logits_BK)
        self.reduction.add(
            MicroBatchSums(
                losses_B=losses_B,
                correct=(self.method.predict(output).argmax(1) == labels_B).sum(),
                statistics=self.statistics.group_statistics(),
                targets=targets,
                distances_B=distances_B,
                features_BD=output.features_BD if self.invariance.needs_features else None,
                counts=self._counts(rows_B),
                notes_BC=self.method.notes(output, rows),
                rows_B=rows_B,
            )
        )
        if distances_B is None:
            return losses_B.sum()
        return losses_B.sum() + self.invariance.alpha * distances_B.sum()

    def _counts(self, rows_B: np.ndarray) -> bool:
        """Say whether the running statistics move by this group: where a group is one stream's, only by the first's."""
        batch = self.recipe.batch
        return batch.bn_by == "mix" or bool(rows_B[0] < batch.size // self.recipe.streams)

    def _refuse(self, state: State, bad: int) -> None:
        """Stop on all ranks: `bad` numbers of the step are not finite or out of range."""
        self.refuse_pollution(state)  # if an earlier step did it, this error says more
        raise Diverged(
            f"epoch {state.epoch}, step {state.step}: {bad} losses, features or batch statistics are not finite or out "
            f"of range; a lower optim.lr={self.recipe.optim.lr} may help"
        )

    def _update(self, state: State, totals: StepTotals, ids_G: np.ndarray, labels_G: torch.Tensor) -> None:
        """Move all that a step moves: parameters, running statistics, centers, and the method's memory."""
        self.engine.step()
        self.statistics.update(totals.statistics)
        self.invariance.after_step(state, totals.class_sums, labels_G)
        if totals.notes is not None:
            self.method.remember(to_device(ids_G, self.engine.device), labels_G, totals.notes)
            state.memory = self.method.memory

    def refuse_pollution(self, state: State) -> None:
        """Stop on all ranks if numbers are not finite any more; see `refuse_pollution` above. A collective."""
        refuse_pollution(self.engine, self.comm, state.epoch, state.step, self.recipe.optim.lr)
