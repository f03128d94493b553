"""What `cluster=dry` foretells: hours, efficiency and how often to save.

It comes from the model of slurm/scaling.py and from what earlier runs have shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

from recipes.schema import Recipe
from slurm.monitoring.events import read
from slurm.planning.cost import Measured, comparable_runs, images_of, measured
from slurm.planning.schedule import Run
from slurm.scaling import Assumptions, best_every_s, run_s, step_s, suite_bytes

ASSUMED_H = 24.0
"""Hours of a job to an interruption that loses steps, where nothing is known; it counts as one interruption seen."""


def forecast(runs: Sequence[Run]) -> list[str]:
    """Return lines on those of the runs that are not finished.

    Raises:
        DataError: the training images cannot be counted.
    """
    asked = [run for run in runs if run.is_to_make]
    if not asked:
        return []
    todo = [run.recipe for run in asked]
    known = {source: measured(*source) for source in {(recipe.run_folder.parent, recipe.data.name) for recipe in todo}}
    like = [comparable_runs(recipe, known[recipe.run_folder.parent, recipe.data.name]) for recipe in todo]
    seen, hours = history(todo[0].run_folder.parent)
    interruptions_h = (1 + seen) / (ASSUMED_H + hours)
    images = [images_of(run) for run in asked]
    return [*_hours(todo, images, like, interruptions_h), _saves(todo[0], like[0], interruptions_h, seen, hours)]


def history(runs: Path) -> tuple[int, float]:
    """Count how often the runs of a folder lost steps: they began again without having stopped.

    Returns:
        That count, and the hours from the runs' first to their last events, summed.
    """
    lost, seconds = 0, 0.0
    for log in runs.glob("*/log/events.jsonl"):
        events = [event for event in read(log.parent.parent) if "time" in event]
        starts = [place for place, event in enumerate(events) if event["event"] == "start"]
        if starts:
            seconds += events[-1]["time"] - events[starts[0]]["time"]
            lost += sum(all(event["event"] != "stopped" for event in events[one:two]) for one, two in pairwise(starts))
    return lost, seconds / 3600


def fitted(recipe: Recipe, like: Sequence[Measured], interruptions_h: float) -> Assumptions:
    """Return the model's assumptions for a recipe, with what the runs like it have shown in place of the defaults.

    Args:
        recipe: the run's.
        like: measured runs like it; may be empty.
        interruptions_h: of a job and hour; jobs are interrupted as a whole, whatever their nodes.
    """
    usual = Assumptions(image_s=0.0, interruptions_h=interruptions_h / recipe.nodes, limit_s=60.0 * recipe.slurm.time)
    if not like:
        return usual
    steps = [(run.recipe.batch.size / run.world, run.recipe.batch.size / run.world / run.rate) for run in like]
    fixed_s = min(usual.fixed_s, *(seconds / 2 for _, seconds in steps))
    given = replace(usual, fixed_s=fixed_s, image_s=median((seconds - fixed_s) / share for share, seconds in steps))
    if booted := [run.boot_s for run in like if run.boot_s]:
        given = replace(given, boot_s=median(booted))
    if finished := [run for run in like if run.seconds.get("train")]:
        # saved at the start and the end, at the epochs that are kept, and by the clock
        saves = [
            run.seconds.get("save", 0.0)
            / (2 + len(run.recipe.kept_epochs) + run.seconds["train"] // run.recipe.log.save_every_s)
            for run in finished
        ]
        given = replace(given, save_s=max(1e-3, median(saves)))
    # with an evaluator beside them, the ranks' seconds are only what was left to them
    if evaluated := [run for run in like if run.seconds.get("evaluate") and not run.recipe.has_evaluator]:
        shared = [run.world * run.seconds["evaluate"] / run.recipe.schedule.epochs for run in evaluated]
        given = replace(given, evaluate_s=median(shared))
    if sized := [run for run in like if run.parameters]:
        network = sized[-1]
        given = replace(
            given,
            gradient_bytes=4.0 * network.parameters,
            suite_bytes=suite_bytes(recipe.batch.size, network.classes, network.features) if recipe.ifl else 0.0,
        )
    return given


@cache
def _step_s(given: Assumptions, batch: int, group: int, ranks: int, nodes: int, streams: int) -> float:
    return step_s(given, batch, group, ranks, nodes, streams)


def evaluations_s(recipe: Recipe, given: Assumptions, training_s: float) -> float:
    """Return the seconds that evaluations add to a run whose steps take `training_s` in all.

    An evaluator is one process. It is waited for where it takes longer than an epoch's steps, and the last epoch is the
    ranks'.
    """
    epochs, of_ranks_s = recipe.schedule.epochs, given.evaluate_s / recipe.tasks
    if not recipe.has_evaluator:
        return epochs * of_ranks_s
    return of_ranks_s + (epochs - 1) * max(0.0, given.evaluate_s - training_s / epochs)


def _hours(
    todo: Sequence[Recipe], images: Sequence[int], like: Sequence[Sequence[Measured]], interruptions_h: float
) -> list[str]:
    """Write one line, if there is something to train and all that it takes was measured; for one run, say why not."""
    hours: list[float] = []
    shares: list[float] = []
    sources: dict[str, float] = {}
    lacking = ""
    for recipe, seen, runs in zip(todo, images, like, strict=True):
        batch = recipe.batch
        if not seen:
            continue
        if not runs or not any(run.parameters for run in runs):
            lacks = "hours and efficiency unknown until a run on the same network was measured"
            return [lacks] if len(todo) == 1 else []
        given, streams = fitted(recipe, runs, interruptions_h), recipe.streams if batch.bn_by == "mix" else 1
        alone, together = (
            _step_s(given, batch.size, batch.group, ranks, nodes, streams)
            for ranks, nodes in ((1, 1), (recipe.tasks, recipe.nodes))
        )
        training_s = seen / batch.size * together
        work_s = training_s + evaluations_s(recipe, given, training_s)
        hours.append(run_s(given, work_s, recipe.log.save_every_s, recipe.nodes) / 3600)
        lacking = lacking or (", evaluations not (none was measured)" if not given.evaluate_s else "")
        shares.append(alone / together / recipe.tasks)
        sources |= {str(run.recipe.run_folder): run.rate for run in runs}
    if not hours:
        return []
    of = (
        f"about {hours[0]:.2g} hours"
        if len(hours) == 1
        else f"about {sum(hours):.2g} hours one after the other, the longest {max(hours):.2g},"
    )
    efficiency = " to ".join(dict.fromkeys(f"{share:.2f}" for share in (min(shares), max(shares))))
    ranks = " to ".join(
        dict.fromkeys(
            str(tasks) for tasks in (min(recipe.tasks for recipe in todo), max(recipe.tasks for recipe in todo))
        )
    )
    return [
        f"{of} on {ranks} rank{'s' * (ranks != '1')}, interruptions included{lacking}; efficiency {efficiency} against "
        "1 rank (model), "
        f"from {median(sources.values()):,.0f} images/s of one process (measured: {len(sources)} earlier "
        f"run{'s' * (len(sources) > 1)} on the same network)"
    ]


def _saves(recipe: Recipe, like: Sequence[Measured], interruptions_h: float, seen: int, hours: float) -> str:
    given, every_s, month_s = fitted(recipe, like, interruptions_h), recipe.log.save_every_s, 30 * 86400.0
    best_s = best_every_s(given, recipe.nodes)
    more = run_s(given, month_s, every_s, recipe.nodes) / run_s(given, month_s, best_s, recipe.nodes) - 1
    source = f"{seen} in {hours:.0f} hours of earlier jobs and one a day assumed" if hours >= 1 else "assumed"
    saved = "measured" if any(run.seconds.get("train") for run in like) else "assumed"
    return (
        f"saving every {best_s / 60:.2g} min is best with an interruption in {1 / interruptions_h:.0f} hours "
        f"({source}) and {given.save_s:.2g} s a save ({saved}); "
        f"log.save_every_s={every_s:g} costs {100 * max(0.0, more):.2g} % of the time more"
    )
