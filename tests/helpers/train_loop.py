"""The train loop on the tiny data set: recipes of five steps an epoch, a network without normalisation, endings."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from recipes.resolve import resolve
from recipes.schema import Model, Recipe
from tests.helpers.ranks import my_rank

STEPS = 5


class _Poison(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.nan


class _Plain(nn.Module):
    """A small network without batch normalisation; on one rank its input, output or gradient turns NaN at one forward
    pass if asked.
    """

    def __init__(self, nan_rank: int = -1, nan_at: int = -1, nan_in: str = "output") -> None:
        super().__init__()
        self.feature_dim, self.forwards, self.nan_in, self.nan_at = (
            12,
            0,
            nan_in,
            nan_at if nan_rank == my_rank() else -1,
        )
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        due = self.nan_in if self.forwards == self.nan_at else None
        output = self.body(x * math.nan if due == "input" else x).mean((2, 3))
        return _Poison.apply(output) if due == "gradient" else output * math.nan if due == "output" else output


def offer(name: str, **options: Any) -> None:
    """Put a network of this file where the loop looks for `ifl/models/NAME.py`."""
    module = types.ModuleType(f"ifl.models.{name}")
    module.build = lambda: _Plain(**options)
    sys.modules[module.__name__] = module


def trained(
    recipe: str, folder: str, nan: dict[str, Any] | None = None, flip: tuple[int, str, int] | None = None
) -> dict[str, Any]:
    """Train in a rank; return the error if there was one, and the rank's final tensors.

    `flip` names a rank, what gets one bit flipped (parameters, centers or weights), and the step after which.
    """
    from ifl import setup
    from ifl import train as loop
    from ifl.distributed.consistency import RankMismatch
    from ifl.step import Diverged

    offer("plain", **(nan or {}))
    kept: dict[str, Any] = {}

    def flips(what: str, array: np.ndarray, step: int) -> None:
        if flip and (my_rank(), what, step) == flip:
            array.reshape(-1).view(np.int8)[1] ^= 1

    class Counted(setup.State):
        def count(self, images: int, totals: Any) -> None:
            flips("parameters", next(kept["engine"].network.parameters()).detach().numpy(), self.step)
            if self.weights[-1] is not None:
                flips("weights", self.weights[-1], self.epoch * STEPS + self.step)
            super().count(images, totals)

    class Moved(setup.Centers):
        moves = 0

        def move(self, *args: Any) -> None:
            super().move(*args)
            self.moves += 1
            flips("centers", self.centers_KD.numpy(), self.moves)

    class Kept(setup.Engine):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            kept["engine"] = self

    parts = setup.Parts(engine=Kept, state=Counted, centers=Moved)
    try:
        finished, error = loop.train(Recipe.model_validate_json(recipe), Path(folder), parts=parts), None
    except (Diverged, RankMismatch) as stopped:
        finished, error = False, str(stopped)
    return {
        "finished": finished,
        "error": error,
        "network": {key: value.numpy().copy() for key, value in kept["engine"].network.state_dict().items()},
    }


BN_BATCH = ("batch.size=64", "batch.bn=16")
IFL = ("ifl.environments=1", "ifl.milestones=[0]", "ifl.alpha=[0.02]")


def loop_recipe(
    root: Path, name: str, *words: str, epochs: int = 1, model: str | None = None, draws: float | None = None
) -> Recipe:
    """Return a recipe of five steps an epoch on the tiny data set."""
    recipe = resolve(
        [
            f"recipe={name}",
            "data=digits_glt",
            f"data.root={root}",
            "optim.momentum=0.9",
            f"schedule.epochs={epochs}",
            "log.every=1",
            "log.save_every_steps=2",
            *words,
        ]
    )
    if model:
        recipe = recipe.model_copy(update={"model": Model(name=model)})
    samples = 209
    draws = draws or (STEPS * recipe.batch.size / recipe.streams - 1) / samples
    return recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"draws_per_epoch": draws})})


def final_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Return all tensors of the newest checkpoint (centers, weights, and the network's of DeepSpeed's file)."""
    newest = sorted(folder.glob("ckpt/step-*"))[-1]
    suite = torch.load(newest / "suite.pt", weights_only=True)
    file = newest / "engine" / "mp_rank_00_model_states.pt"
    network = torch.load(file, map_location="cpu", weights_only=False)["module"]
    result = {f"network.{key}": value.numpy() for key, value in network.items()}
    if suite["centers"] is not None:
        result["centers"] = suite["centers"].numpy()
    return result | {f"weights.{s}": w.numpy() for s, w in enumerate(suite["weights"]) if w is not None}
