"""What `cluster=dry` foretells: from what earlier runs have shown, and not at all where they have shown nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.resolve import dump, resolve
from recipes.schema import Recipe
from slurm.planning.cost import comparable_runs, measured
from slurm.planning.forecast import evaluations_s, fitted, forecast, history
from slurm.planning.schedule import Run
from slurm.scaling import Assumptions, best_every_s, run_s, step_s, suite_bytes
from tests.helpers.launching import launch

EPOCHS, IMAGES = 50, 209
"""Training images of the tiny data set."""


def recipe_of(root: Path, runs: Path, *words: str) -> Recipe:
    return resolve(
        ["recipe=glt_ifl", "data=digits_glt", f"data.root={root}", f"runs={runs}", f"schedule.epochs={EPOCHS}", *words]
    )


def earlier(
    recipe: Recipe, rate: float, world: int = 2, finished: bool = True, network: bool = True, evaluate_s: float = 100.0
) -> None:
    """A run folder as a run leaves it that trained at `rate` images/s on `world` processes."""
    folder = recipe.run_folder
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump(recipe))
    lines: list[dict[str, Any]] = [
        {"kind": "boot", "world": world, "seconds": 8.0},
        *({"kind": "train", "images_per_s": value} for value in (rate / 9, rate, rate * 1.1)),
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "meta.json").write_text(
        json.dumps(
            {
                "class_counts": [1] * 10,
                **({"network": {"trained_parameters": 78_000, "features": 64}} if network else {}),
            }
        )
    )
    if finished:  # of 600 s: one save a minute, one at each end, and one for each milestone
        (folder / "done").write_text(
            json.dumps({"seconds": {"save": 28.0, "boot": 8.0, "train": 600.0, "evaluate": evaluate_s}})
        )


def test_nothing_is_foretold_that_was_not_measured(tiny_root: Path, tmp_path: Path) -> None:
    """Without a run on the same network the hours are unknown, with one sentence; how often to save follows from what
    is assumed, and says so.
    """
    hours, saves = forecast([Run(recipe_of(tiny_root, tmp_path))])
    assert hours == "hours and efficiency unknown until a run on the same network was measured"
    assert (
        "an interruption in 24 hours (assumed) and 3 s a save (assumed)" in saves
        and "log.save_every_s=60 costs" in saves
    )
    earlier(recipe_of(tiny_root, tmp_path, "seed=1", "model.name=resnet50"), 100.0)
    assert forecast([Run(recipe_of(tiny_root, tmp_path))]) == [hours, saves]
    earlier(
        recipe_of(tiny_root, tmp_path, "seed=2"), 100.0, finished=False, network=False
    )  # does not say how large its network is
    assert forecast([Run(recipe_of(tiny_root, tmp_path))])[0] == hours


def test_the_model_is_fitted_to_the_runs_of_the_same_network(tiny_root: Path, tmp_path: Path) -> None:
    """Its step on one rank with the measured share takes the measured time; bytes, boot, evaluation and saves are the
    earlier run's; the rest are the defaults.
    """
    recipe = recipe_of(tiny_root, tmp_path, "nodes=4")
    earlier(recipe_of(tiny_root, tmp_path, "seed=1"), 800.0)
    given = fitted(recipe, comparable_runs(recipe, measured(tmp_path, "digits_glt")), 1 / 24)
    assert given.fixed_s + 64 * given.image_s == pytest.approx(64 / 400)  # of two processes, 400 images/s each
    assert (given.gradient_bytes, given.suite_bytes) == (4 * 78_000, suite_bytes(128, 10, 64)) and given.boot_s == 8.0
    assert given.evaluate_s == pytest.approx(2 * 100 / EPOCHS) and given.save_s == pytest.approx(28 / 14)
    assert (given.interruptions_h, given.limit_s) == (1 / 24 / 4, 86_400.0) and given.latency_s == Assumptions(
        0.0
    ).latency_s
    baseline = recipe_of(tiny_root, tmp_path, "ifl=null")
    assert fitted(baseline, comparable_runs(baseline, measured(tmp_path, "digits_glt")), 1 / 24).suite_bytes == 0


@pytest.mark.parametrize("nodes", [1, 4])
def test_hours_and_efficiency_are_the_models(nodes: int, tiny_root: Path, tmp_path: Path) -> None:
    """The line's numbers are those of slurm.scaling for this run; a finished run needs none."""
    recipe = recipe_of(tiny_root, tmp_path, f"nodes={nodes}", f"schedule.epochs={100 * EPOCHS}")
    earlier(recipe_of(tiny_root, tmp_path, "seed=1"), 800.0)
    given = fitted(recipe, comparable_runs(recipe, measured(tmp_path, "digits_glt")), 1 / 24)
    together, alone = step_s(given, 128, 32, nodes, nodes, 2), step_s(given, 128, 32, 1, 1, 2)
    images = 2 * IMAGES * 100 * EPOCHS
    hours = run_s(given, images / 128 * together + 100 * EPOCHS * given.evaluate_s / nodes, 60.0, nodes) / 3600
    line, saves = forecast([Run(recipe)])
    assert line == (
        f"about {hours:.2g} hours on {nodes} rank{'s' * (nodes > 1)}, interruptions included; efficiency "
        f"{alone / together / nodes:.2f} against 1 rank (model), "
        "from 400 images/s of one process (measured: 1 earlier run on the same network)"
    )
    assert (
        f"saving every {best_every_s(given, nodes) / 60:.2g} min is best" in saves and "2 s a save (measured)" in saves
    )
    recipe.run_folder.mkdir()
    (recipe.run_folder / "done").write_text("{}")
    assert forecast([Run(recipe)]) == []


def test_an_evaluator_takes_evaluations_from_the_ranks(tiny_root: Path, tmp_path: Path) -> None:
    """With `log.eval=job` the ranks evaluate the last epoch, and wait for an evaluator that is slower than an epoch's
    steps; what ranks took beside an evaluator is no evaluation's time.
    """
    earlier(recipe_of(tiny_root, tmp_path, "seed=1", "log.eval=job"), 800.0, evaluate_s=3.0)
    inline, beside = (
        recipe_of(tiny_root, tmp_path, "nodes=4", "schedule.epochs=5000", f"log.eval={who}")
        for who in ("inline", "job")
    )
    assert "interruptions included, evaluations not (none was measured); efficiency" in forecast([Run(inline)])[0]
    earlier(recipe_of(tiny_root, tmp_path, "seed=2"), 800.0)
    given = fitted(inline, comparable_runs(inline, measured(tmp_path, "digits_glt")), 1 / 24)
    assert given.evaluate_s == pytest.approx(2 * 100 / EPOCHS)
    assert evaluations_s(inline, given, 1e6) == pytest.approx(5000 * 4.0 / 4)
    assert evaluations_s(beside, given, 1e6) == pytest.approx(4.0 / 4)
    assert evaluations_s(beside, given, 5000 * 3.0) == pytest.approx(4.0 / 4 + 4999 * (4.0 - 3.0))
    steps_s = 2 * IMAGES * 5000 / 128 * step_s(given, 128, 32, 4, 4, 2)
    for recipe in (inline, beside):
        hours = run_s(given, steps_s + evaluations_s(recipe, given, steps_s), 60.0, 4) / 3600
        assert forecast([Run(recipe)])[0].startswith(f"about {hours:.2g} hours on 4 ranks, interruptions included; ")


def test_several_runs_are_added_up(tiny_root: Path, tmp_path: Path) -> None:
    """Hours of all one after the other, the longest, and the span of ranks and efficiency."""
    earlier(recipe_of(tiny_root, tmp_path, "seed=9"), 800.0)
    one, two = (
        forecast([Run(recipe_of(tiny_root, tmp_path, f"nodes={nodes}", f"seed={nodes}", "schedule.epochs=5000"))])[0]
        for nodes in (1, 4)
    )
    both = forecast(
        [
            Run(recipe_of(tiny_root, tmp_path, f"nodes={nodes}", f"seed={nodes}", "schedule.epochs=5000"))
            for nodes in (1, 4)
        ]
    )[0]
    each = [float(re.search(r"about ([\d.]+) hours", line)[1]) for line in (one, two)]
    total, longest = map(
        float, re.search(r"about ([\d.]+) hours one after the other, the longest ([\d.]+),", both).groups()
    )
    assert longest == max(each) and total == pytest.approx(sum(each), rel=0.05)
    assert "on 1 to 4 ranks" in both and re.search(r"efficiency 0\.\d\d to 1\.00", both)


def test_history_counts_what_lost_steps(tmp_path: Path) -> None:
    """A start that follows another without a stop in between lost steps; one after a stop, or the first of a run, did
    not. Hours are from a run's first start to its last event; torn lines and runs that never started count nothing."""

    def told(name: str, *events: tuple[str, float]) -> None:
        (tmp_path / name / "log").mkdir(parents=True)
        lines = [
            json.dumps({"event": event, "incarnation": "1.0", "step": 0, "time": hour * 3600}) for event, hour in events
        ]
        (tmp_path / name / "log" / "events.jsonl").write_text("\n".join([*lines, '{"event": "sta']) + "\n")

    told("calm", ("submitted", 0), ("start", 1), ("finished", 4))
    told("warned", ("start", 0), ("stopped", 2), ("verdict", 2), ("start", 3), ("finished", 5))
    told(
        "struck", ("start", 0), ("start", 2), ("failed", 3), ("start", 4), ("stopped", 5), ("start", 6), ("finished", 8)
    )
    told("waiting", ("submitted", 0))
    assert history(tmp_path) == (2, 3 + 5 + 8) and history(tmp_path / "none") == (0, 0.0)


def test_what_was_seen_outweighs_what_is_assumed(tiny_root: Path, tmp_path: Path) -> None:
    """Two losses in 16 hours, beside the one that a day's assumption adds: one in 13 hours, and saves come closer
    together.
    """
    quiet = forecast([Run(recipe_of(tiny_root, tmp_path))])[-1]
    (tmp_path / "other" / "log").mkdir(parents=True)
    events = [{"event": "start", "incarnation": "1.0", "step": 0, "time": 3600.0 * hour} for hour in (0, 8, 16)]
    (tmp_path / "other" / "log" / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    saves = forecast([Run(recipe_of(tiny_root, tmp_path))])[-1]
    assert "an interruption in 13 hours (2 in 16 hours of earlier jobs and one a day assumed)" in saves
    minutes = [float(re.search(r"every ([\d.]+) min", line)[1]) for line in (quiet, saves)]
    assert minutes[1] < minutes[0]


def test_dry_foretells_as_comments(tiny_root: Path, tmp_path: Path) -> None:
    """`cluster=dry` shows the lines of one run above its recipe, and of several above their tree; without data it says
    why it cannot.
    """
    words = ["recipe=glt_ifl", "data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path}", "cluster=dry"]
    lines = forecast([Run(resolve(words))])
    output = launch(*words).stdout
    assert (
        output.splitlines()[2:4] == [f"# {line}" for line in lines]
        and yaml.safe_load(output[: output.index("#!/bin/bash")])["recipe"] == "glt_ifl"
    )
    several = launch(*words, "seeds=0,1").stdout.splitlines()
    assert "hours unknown" in several[1] and several[2] == f"# {lines[1]}" and not several[3].startswith("#")
    assert (
        "# hours unknown: data set 'digits_glt' is not there" in launch(*words, f"data.root={tmp_path / 'none'}").stdout
    )
