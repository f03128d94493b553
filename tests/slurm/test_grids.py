"""`grid=`: each run of a recipe or table once for each point, by the same names as typed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from recipes.sweeps.grid import read_grid
from recipes.table_layout import available, load_layout
from slurm.planning.requested_runs import requested_runs
from slurm.planning.schedule import Run, schedule, tree
from slurm.site_file import Site

ON_DIGITS = ("recipe=glt_ifl", "data=digits_glt")


def runs_of(*words: str, runs: Path) -> list[Run]:
    return requested_runs([f"runs={runs}", *words], Site()).runs


def test_the_runs_of_a_grid_are_those_typed_by_hand(tmp_path: Path) -> None:
    """The product of the values, the last key's fastest, for each seed; folders are those of ordinary commands."""
    found = runs_of(*ON_DIGITS, "grid=optim.lr:.05,.2+ifl.alpha:[0.1,0.2],[0,1]", "seeds=0,3", runs=tmp_path)
    by_hand = [
        resolve([*ON_DIGITS, f"runs={tmp_path}", f"seed={seed}", f"optim.lr={rate}", f"ifl.alpha={alpha}"]).run_folder
        for seed in (0, 3)
        for rate in (".05", ".2")
        for alpha in ("[0.1,0.2]", "[0,1]")
    ]
    assert [run.folder for run in found] == by_hand
    assert found[1].point == "optim.lr=.05 ifl.alpha=[0,1]"
    assert f"{by_hand[1]}  optim.lr=.05 ifl.alpha=[0,1]" in tree(schedule(found, (), ()), {}).splitlines()


def test_every_row_of_a_table_gets_the_grid(tmp_path: Path) -> None:
    """Each row, source and seed has a run for each point; how many there are is said before anything is made."""
    layout = load_layout(available()["demo"])
    asked = requested_runs([f"runs={tmp_path}", "table=demo", "seeds=0", "grid=optim.lr:.05,.3"], Site())
    wanted = {
        resolve([*layout.words(row, source), f"runs={tmp_path}", f"optim.lr={rate}"]).run_folder
        for row in layout.rows
        for source in layout.sources
        for rate in (".05", ".3")
    }
    assert {run.folder for run in asked.runs} == wanted and len(asked.runs) == len(wanted)
    rows = len(layout.rows)
    assert f"grid: optim.lr (2), 2 points, for each of {rows} rows: {len(wanted)} runs" in asked.said


def test_a_first_stage_has_no_point(tmp_path: Path) -> None:
    """What a second stage builds on is made once, as it stands, and said beside the count."""
    asked = requested_runs([f"runs={tmp_path}", "recipe=glt_crt", "data=digits_glt", "grid=optim.lr:.05,.3"], Site())
    first = resolve(["recipe=glt_baseline", "data=digits_glt", f"runs={tmp_path}"]).run_folder
    assert [(run.folder == first, run.point) for run in asked.runs] == [
        (True, ""),
        (False, "optim.lr=.05"),
        (False, "optim.lr=.3"),
    ]
    assert asked.said == ("grid: optim.lr (2), 2 points: 2 runs, and 1 that they build on, without the grid's values",)


def test_a_grid_may_be_of_the_first_stage(tmp_path: Path) -> None:
    """`first.KEY` in grid= makes a first stage for each value, and a second stage or an evaluation on each."""
    for recipe in ("glt_crt", "glt_logit_adjust"):
        words = [f"recipe={recipe}", "data=digits_glt", f"runs={tmp_path / recipe}"]
        asked = requested_runs([*words, "grid=first.optim.lr:.05,.3"], Site())
        by_hand = [resolve([*words, f"first.optim.lr={rate}"]) for rate in (".05", ".3")]
        assert [run.folder for run in asked.runs if run.point] == [recipe.run_folder for recipe in by_hand]
        assert [run.recipe.optim.lr for run in asked.runs if not run.point] == [0.05, 0.3]
        assert asked.said[0].endswith("2 runs, and 2 that they build on, with its first. values") and not asked.said[1:]


def test_what_trains_nothing_has_no_grid_of_training(tmp_path: Path) -> None:
    """A row that judges another's run is there once, as it stands, where the grid's values change no number of it; said
    beside the count. Of values that change its numbers it has each.
    """
    words = ["recipe=glt_logit_adjust", "data=digits_glt", f"runs={tmp_path}"]
    asked = requested_runs([*words, "grid=optim.lr:.05,.3"], Site())
    assert [run.folder.name for run in asked.runs][1:] == [resolve(words).run_name] and not asked.runs[1].point
    assert "what trains nothing, glt_logit_adjust: made once" in asked.said[1] and "first.KEY in grid=" in asked.said[1]
    for grid in ("method.args.tau:.5,1+optim.lr:.1,.2", "batch.budget:paper,matched"):
        made = requested_runs([*words, f"grid={grid}"], Site()).runs
        assert len([run for run in made if run.point]) == len(read_grid(grid).points)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*ON_DIGITS, "grid=lr:.1"], r"lr is no science key of a recipe; did you mean optim.lr\?"),
        ([*ON_DIGITS, "grid=optim.zero:0,1"], "optim.zero is no science key of a recipe"),
        ([*ON_DIGITS, "grid=seed:0,1"], "seed is no key of a grid: the command says it beside, as seeds=0,1,2"),
        ([*ON_DIGITS, "grid=data:a,b"], "data is no key of a grid: the command says it beside, as data=NAME"),
        ([*ON_DIGITS, "grid=train:glt"], "train is no key of a grid: .* as train=glt or train=cbl"),
        ([*ON_DIGITS, "grid=optim.lr=.1"], "keys with their values are"),
        ([*ON_DIGITS, "grid=optim.lr:.1,x"], r"optim.lr=x \(grid=optim.lr:.1,x\): input should be a valid number"),
        ([*ON_DIGITS, "grid=optim.lr:.1,,.2"], "optim.lr= has no value"),
        ([*ON_DIGITS, "grid=optim.lr:.1,0.1"], r"\.1 and 0\.1 are one value of optim\.lr; each once is legal"),
        ([*ON_DIGITS, "grid=optim.lr:.1,.2,1e-1"], r"\.1 and 1e-1 are one value of optim\.lr"),
        ([*ON_DIGITS, "grid=ifl.milestones:[.6,.8],[36,48]"], r"ifl\.milestones=\[36,48\], which make the same run"),
        ([*ON_DIGITS, "grid=optim.lr:.1+optim.lr:.2"], "optim.lr is there twice"),
        ([*ON_DIGITS, "optim.lr=.1", "grid=optim.lr:.1,.2"], "give optim.lr in one of the two"),
        (["table=demo", "grid=batch.budget:paper,matched"], "the table demo says batch.budget"),
        (["table=demo", "grid=ifl.center_lr:.1,.2"], "would switch IFL on"),
        (["table=demo", "grid=first.optim.lr:.1,.2"], "is of a first stage, and the row of glt_baseline has none"),
        (["table=demo", "grid=first.batch.budget:paper,matched"], "the table demo says first.batch.budget"),
        ([*ON_DIGITS, "grid=first.optim.lr:.1,.2"], "the recipe glt_ifl has no first stage"),
        (["recipe=glt_crt", "grid=first.optim.r:.1"], r"first.optim.r is no science key of a recipe; did you mean"),
        (["recipe=glt_crt", "grid=first.model.name:a"], "of a first stage schedule, optim, .* can be set"),
        (["recipe=glt_crt", "grid=first.optim.lr:x"], r"first.optim.lr=x \(grid=.*\): input should be a valid number"),
    ],
)
def test_what_no_grid_is_is_refused(words: list[str], sentence: str, tmp_path: Path) -> None:
    """In one sentence that names the key, before anything is made."""
    with pytest.raises(RecipeError, match=sentence):
        runs_of(*words, runs=tmp_path)


def test_values_are_read_as_the_field_reads_them() -> None:
    """Numbers, texts, lists with their commas, and null; words stay as typed."""
    grid = read_grid("optim.lr:5e-2,1e+0+ifl.unseen:zero,null+ifl.milestones:[.5,.75]")
    assert [point.values for point in grid.points] == [
        {"optim.lr": rate, "ifl.unseen": unseen, "ifl.milestones": [0.5, 0.75]}
        for rate in (0.05, 1.0)
        for unseen in ("zero", None)
    ]
    assert grid.points[1].words == ("optim.lr=5e-2", "ifl.unseen=null", "ifl.milestones=[.5,.75]")
