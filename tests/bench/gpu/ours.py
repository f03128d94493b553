"""The suite's own step, driven by hand: all is made as `ifl/train.py` makes it, and `take()` makes one step.

Nothing is logged, saved or evaluated; the rate is set and the batch is read as there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from ifl.optimisation.learning_rate import learning_rate
from ifl.setup import USUAL_PARTS, make_invariance, make_planner, make_step, set_up
from ifl.supervision.startup_timer import Boot
from ifl.train import start
from recipes.resolve import resolve
from recipes.schema import Recipe
from sharding.reader import Batch
from tests.bench.gpu.bench import Bench

HELD = 2
"""Steps whose batches are kept on the device, where nothing is to be read."""
IFL = ("recipe=glt_ifl", "ifl.milestones=[0,1]", "ifl.rebuild=every_epoch", "batch.budget=matched")
"""IFL with all that it does in a step, from the first on: center term, scores, center moves."""


def recipe_of(bench: Bench, *words: str, side: int | None = None) -> Recipe:
    """Return a recipe on the bench's data, bf16 with momentum, in a run folder that is there."""
    scale, side = bench.scale, side or bench.scale.sides[0]
    usual = [
        "recipe=glt_baseline",
        "data=imagenet_glt",
        f"model.name={scale.model}",
        f"batch.size={scale.batch}",
        f"batch.bn={scale.batch}",
        "batch.draws_per_epoch=64",
        "schedule.epochs=1000",
        "optim.momentum=0.9",
        "optim.precision=bf16",
        "optim.lr=0.01",
        f"data.image_size={side}",
        f"data.test_resize={side * 8 // 7}",
        "data.workers=0",
        "log.every=100000",
        "log.digest_every=100000",
        "log.save_every_s=100000",
        "cluster=local",
        f"data.root={bench.data}",
        f"runs={bench.folder()}",
    ]
    given = {word.partition("=")[0] for word in words}
    recipe = resolve([*(word for word in usual if word.partition("=")[0] not in given), *words])
    recipe.run_folder.mkdir(parents=True)
    return recipe


class Ours:
    """A training of the suite."""

    def __init__(
        self, bench: Bench, *words: str, side: int | None = None, held: bool = True, searching: bool = False
    ) -> None:
        """Make everything that is there before the first step.

        Args:
            bench: the section's.
            words: of the recipe, besides the usual ones.
            side: pixels of the crops; default: the scale's first.
            held: the first steps' batches are read beforehand and lie on the device; else the loader feeds each step.
            searching: whether cuDNN tries its algorithms.
        """
        self._device, self._searching = bench.device, searching
        self.recipe = recipe_of(bench, *words, side=side)
        self.run = set_up(self.recipe, self.recipe.run_folder, Boot(lambda said: None), fresh=True)
        self.invariance = make_invariance(self.run, USUAL_PARTS)
        self._state, self._planner = start(self.run, USUAL_PARTS), make_planner(self.run)
        self._micro = len(self.run.model.rank_rows)
        self._begin(0)
        self._step = make_step(self.run, self.invariance, lambda: None, USUAL_PARTS, self._plan.steps)
        self._round = 0
        if held:
            first = list(itertools.islice(self._batches, HELD * self._micro))
            on_device = [Batch(*(column.to(bench.device.torch) for column in batch)) for batch in first]
            self._batches, self._round = itertools.cycle(on_device), HELD

    def _begin(self, epoch: int) -> None:
        self._state.epoch, self._state.step = epoch, 0
        self.invariance.begin_epoch(epoch)
        self._plan = self._planner.plan(epoch, self._state.weights)
        self._batches: Iterator[Any] = iter(self.run.train_reader.read(self._plan, start=0))

    @property
    def network(self) -> torch.nn.Module:
        """What is trained: with `backbone` and `head`."""
        return self.run.model.network

    def batches(self) -> Iterator[Any]:
        """Yield batches of the loader over all epochs, for another loop; no step may be made besides."""
        for epoch in itertools.count():
            if epoch:
                self._begin(epoch)
            yield from self._batches

    def take(self) -> None:
        """Make a step."""
        state, recipe = self._state, self.recipe
        if self._round:
            state.step %= self._round
        elif state.step == self._plan.steps:
            next(self._batches, None)
            self._begin(state.epoch + 1)
        lr = learning_rate(state.epoch, recipe.schedule, recipe.optim.lr, state.step, self._plan.steps)
        with self._device.searching(self._searching):
            self.run.model.engine.set_lr(lr)
            self._step.take(state, self._plan, self._batches, lambda state: False, lambda: False)
