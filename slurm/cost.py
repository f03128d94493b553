"""What runs cost: training images, and hours by the speed of earlier runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.methods import declaration
from recipes.resolve import load_resolved
from recipes.schema import Recipe, RecipeError
from slurm.several import Run


@dataclass(frozen=True)
class Cost:
    """What some runs still take: training images, and hours of processes (GPUs where a process has one), or None where no run
    on the same network has been measured yet."""

    runs: int
    images: int
    hours: float | None

    def __str__(self) -> str:
        hours = "hours unknown until a run on the same network was measured" if self.hours is None else f"about {self.hours:.2g} hours of one process by the images/s of earlier runs"
        return f"{self.runs} runs to make, {self.images:,} training images, {hours}"


def cost(runs: Sequence[Run]) -> Cost:
    """What the runs that are not finished cost; those begun count as a whole."""
    todo = [run.recipe for run in runs if not (run.folder / "done").exists()]
    measured = {source: _measured(*source) for source in {(recipe.run_folder.parent, recipe.data.name) for recipe in todo}}
    images, hours = 0, 0.0
    for recipe in todo:
        own = images_of(recipe)
        images += own
        rate = _rate(recipe, measured[recipe.run_folder.parent, recipe.data.name]) if own else 1.0
        hours = None if hours is None or rate is None else hours + own / rate / 3600
    return Cost(len(todo), images, hours)


def images_of(recipe: Recipe) -> int:
    """Training images of a run: epochs x draws of all streams; none where another run's weights are judged."""
    if recipe.method.eval_of:
        return 0
    from sharding.dataset import open_dataset

    dataset = open_dataset(recipe.data_root, recipe.data.name, recipe.data.cache_folder, recipe.data.cache_gb)
    share = 1 if recipe.batch.budget == "matched" else recipe.streams
    return round(recipe.schedule.epochs * recipe.batch.draws_per_epoch * share * len(dataset.split(recipe.train, "train")))


@dataclass(frozen=True)
class _Measured:
    """What a run says about speed: its recipe and its median images/s of one process."""

    recipe: Recipe
    rate: float


def _measured(runs: Path, data: str) -> list[_Measured]:
    """Of all runs of a data set in a folder that have trained some steps."""
    found = []
    for metrics in sorted(runs.glob(f"*-{data}-*/metrics.jsonl")):
        try:
            recipe = load_resolved(metrics.parent / "recipe.yaml")
            lines = [json.loads(line) for line in metrics.read_text().splitlines()]
        except (RecipeError, OSError, ValueError):
            continue  # half a line, or a recipe of other code: an estimate can do without
        world = next((line["world"] for line in lines if line["kind"] == "boot"), 1)
        if rates := [line["images_per_s"] / world for line in lines if line["kind"] == "train"]:
            found.append(_Measured(recipe, statistics.median(rates)))
    return found


def _rate(recipe: Recipe, measured: Sequence[_Measured]) -> float | None:
    """Median images/s of the runs on the same network that are most like this one: of the same method; or whose methods need the same form
    of the network and train as much of it; or of any."""

    def likeness(other: Recipe) -> int:
        mine, its = declaration(recipe.method.name), declaration(other.method.name)
        return 2 if other.method.name == recipe.method.name else int((its.FORM, its.TRAINS) == (mine.FORM, mine.TRAINS))

    grades = [(likeness(run.recipe), run.rate) for run in measured if run.recipe.model == recipe.model]
    return statistics.median(rate for grade, rate in grades if grade == max(grades)[0]) if grades else None
