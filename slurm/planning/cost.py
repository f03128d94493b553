"""What runs cost: training images, and hours by the speed of earlier runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.common.json_text import read_object, whole_lines
from recipes.declarations import declaration
from recipes.resolve import load_resolved
from recipes.schema import Recipe
from slurm.planning.schedule import Run

if TYPE_CHECKING:
    from sharding.format.dataset import Dataset


@dataclass(frozen=True)
class Cost:
    """What some runs still take.

    Attributes:
        runs: how many there are.
        images: their training images.
        hours: of one process (of one GPU where it has one); None where no run on the same network has been measured.
    """

    runs: int
    images: int
    hours: float | None

    def __str__(self) -> str:
        hours = (
            "hours unknown until a run on the same network was measured"
            if self.hours is None
            else f"about {self.hours:.2g} hours of one process by the images/s of earlier runs"
        )
        return f"{self.runs} runs to make, {self.images:,} training images, {hours}"


def cost(runs: Sequence[Run]) -> Cost:
    """Return what the runs that are not finished cost; those begun count as a whole.

    Raises:
        DataError: the training images cannot be counted.
    """
    todo = [run for run in runs if run.is_to_make]
    known = {source: measured(*source) for source in {(run.folder.parent, run.recipe.data.name) for run in todo}}
    images = 0
    hours: float | None = 0.0
    for asked in todo:
        recipe, own = asked.recipe, images_of(asked)
        images += own
        rates = [run.rate for run in comparable_runs(recipe, known[recipe.run_folder.parent, recipe.data.name])]
        if own:
            hours = hours + own / statistics.median(rates) / 3600 if hours is not None and rates else None
    return Cost(len(todo), images, hours)


def images_of(run: Run) -> int:
    """Return a run's training images: epochs x draws of all streams; none where nothing is trained.

    Raises:
        DataError: the data set cannot be read.
    """
    recipe = run.recipe
    if not recipe.trains:
        return 0
    dataset = opened(recipe.data_root, recipe.data.name, run.pipe)
    share = 1 if recipe.batch.budget == "matched" else recipe.streams
    return round(recipe.schedule.epochs * recipe.batch.draws_per_epoch * share * dataset.samples(recipe.train, "train"))


def steps_of(run: Run) -> int:
    """Return a training run's optimizer steps, those of all its epochs.

    Raises:
        DataError: the data set cannot be read.
    """
    from sharding.plan.epoch import BatchShape, draws_of_a_stream

    recipe, batch = run.recipe, run.recipe.batch
    samples = opened(recipe.data_root, recipe.data.name, run.pipe).samples(recipe.train, "train")
    draws = draws_of_a_stream(samples, recipe.streams, batch.draws_per_epoch, batch.budget == "matched")
    return recipe.schedule.epochs * BatchShape(batch.size, streams=recipe.streams).steps(draws)


@cache
def opened(root: str, name: str, pipe: str | None) -> Dataset:
    """Open a data set, once in a command however many runs are on it; `pipe` as in `Run`.

    Raises:
        DataError: it is not there or cannot be read.
    """
    from sharding.open import open_dataset

    return open_dataset(root, name, tries=1, pipe=pipe)


@dataclass(frozen=True)
class Measured:
    """What a run says about speed.

    Attributes:
        rate: its median images/s of one process.
        world: number of processes that it began with.
        boot_s: seconds of a start; 0 where none was noted.
        seconds: those of its parts, as `done` has them; empty where it is not finished.
        parameters, features, classes: of its network, those that are trained; 0 where its meta.json does not say.
    """

    recipe: Recipe
    rate: float
    world: int
    boot_s: float
    seconds: dict[str, float]
    parameters: int
    features: int
    classes: int


def measured(runs: Path, data: str) -> list[Measured]:
    """Measure all runs of a data set in a folder that have trained some steps."""
    found = []
    for metrics in sorted(runs.glob(f"*-{data}-*/metrics.jsonl")):
        folder = metrics.parent
        try:
            recipe = load_resolved(folder / "recipe.yaml")
            lines = list(whole_lines(metrics.read_bytes()))
            meta, done = (
                read_object(path, {}) if path.exists() else {} for path in (folder / "meta.json", folder / "done")
            )
            boots = [line for line in lines if line["kind"] == "boot"]
            world = boots[0]["world"] if boots else 1
            network = meta.get("network", {})
            if rates := [line["images_per_s"] / world for line in lines if line["kind"] == "train"]:
                found.append(
                    Measured(
                        recipe,
                        statistics.median(rates),
                        world,
                        statistics.median([line.get("seconds", 0.0) for line in boots] or [0.0]),
                        dict(done.get("seconds", {})),
                        int(network.get("trained_parameters", 0)),
                        int(network.get("features", 0)),
                        len(meta.get("class_counts", [])),
                    )
                )
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            continue  # a damaged file, or a recipe of other code: an estimate can do without
    return found


def comparable_runs(recipe: Recipe, among: Sequence[Measured]) -> list[Measured]:
    """Return the runs on the same network that are most like this one.

    These are runs of the same method; else those whose methods need the same form of the network and train as much of
    it; else all.
    """

    def likeness(other: Recipe) -> int:
        mine, its = declaration(recipe.method.name), declaration(other.method.name)
        return 2 if other.method.name == recipe.method.name else int((its.FORM, its.TRAINS) == (mine.FORM, mine.TRAINS))

    grades = [(likeness(run.recipe), run) for run in among if run.recipe.model == recipe.model]
    return [run for grade, run in grades if grade == max(grade for grade, _ in grades)]
