"""Tries beside each other and beside the table: val chooses, rows keep to their recipe, a sweep shows what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis.__main__ import main
from analysis.inputs.frame import tidy
from analysis.inputs.runs import load_runs
from analysis.sweeps import sweep, tuned
from analysis.tables.cells import Table, fill_table
from ifl.metrics import evaluate
from recipes.resolve import dump, resolve
from recipes.sweeps.grid import read_grid
from recipes.table_layout import Layout, available, load_layout
from tests.helpers.paths import PROJECT
from tests.helpers.tables import ATTRIBUTE, GROUP, HALF, LABEL, MOST, NONE_RIGHT, TABLE_COLUMNS, layout, write_run

BASE = {"recipe": "glt_baseline", "label": "Plain", "group": "G"}
IFL = {"recipe": "glt_ifl", "label": "+ IFL", "group": "G", "twin": "glt_baseline"}
SOURCE = ("digits_glt", "glt")


def tried(folder: Path, right: int, *words: str, recipe: str = "glt_baseline", seed: int = 0, **change: Any) -> Path:
    """Write a run with values of its own that is right on so many of val's ten samples."""
    made = resolve([f"recipe={recipe}", "data=digits_glt", f"seed={seed}", *words])
    path = write_run(folder, recipe, seed, hash_=made.hash8, **change)
    (path / "recipe.yaml").write_text(dump(made))
    prediction = np.where(np.arange(10) < right, LABEL, (LABEL + 1) % 4)
    arrays = {"label": LABEL, "group": GROUP, "attribute": ATTRIBUTE, "prediction": prediction}
    np.savez(path / "preds" / "last" / "val.npz", **arrays)
    return path


def launched(path: Path, grid: str) -> None:
    file = path / "meta.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "argv": ["slurm/launch.py", f"grid={grid}"]}))


def choose(folder: Path, made: Layout, grid: str | None = None) -> tuple[Table, tuned.Searches]:
    runs, _ = load_runs(folder)
    numbers, problems = tidy(runs)
    searches = tuned.search_all(made, runs, numbers, read_grid(grid) if grid else None)
    rows = tuned.chosen_rows(made, searches)
    chosen = [run for row in rows.values() for run in row.runs]
    return fill_table(made, chosen, numbers, problems, chosen=rows), searches


# ----------------------------------------------------------------------------------------------------------------- val
def test_results_hold_val_beside_the_test_splits(tmp_path: Path) -> None:
    """The frame has the numbers of preds/last/val.npz with the protocol `val`; of runs without it nothing is said."""
    tried(tmp_path, 7)
    (tried(tmp_path, 7, "optim.lr=.2") / "preds" / "last" / "val.npz").unlink()
    frame, problems = tidy(load_runs(tmp_path)[0])
    val = frame[(frame["protocol"] == "val") & (frame["metric"] == "accuracy")]
    wanted = evaluate(LABEL, np.where(np.arange(10) < 7, LABEL, (LABEL + 1) % 4), GROUP, ATTRIBUTE)
    own = wanted["accuracy"]
    found = dict(zip(val["subset"], val["value"], strict=True))
    assert {name: found[name] for name in own} == own and set(val["select"]) == {"last"}
    assert set(val["edition"]) == {"glt"} and not problems


# --------------------------------------------------------------------------------------------------------------- tuned
def test_val_alone_chooses_the_same_values_for_all_seeds(tmp_path: Path) -> None:
    """The value with the best mean over seeds on val is chosen, though its test numbers are the worst and another is
    better on val in one seed; the table has its test numbers, and says of how many values.
    """
    for seed, one, other in ((0, 9, 6), (1, 1, 6)):
        tried(tmp_path, one, seed=seed, cbl=MOST)
        tried(tmp_path, other, "optim.lr=0.05", seed=seed, cbl=NONE_RIGHT)
    table, searches = choose(tmp_path, layout(rows=[BASE]))
    search = searches[0, SOURCE]
    assert [(one.label, one.val, one.chosen) for one in search.candidates] == [
        ("optim.lr=0.05", 0.6, True),
        ("optim.lr=0.1", 0.5, False),
    ]
    assert table.cells[0][0].values == (0.0, 0.0) and not table.cells[0][0].marked
    assert table.notes == [
        "Plain: optim.lr=0.05, chosen of 2 values by val 60.00 over seed 0, 1 (data=digits_glt train=glt)"
    ]


@pytest.mark.parametrize(("given", "noted"), [("optim.lr:.2,.1", ""), (None, "optim.lr:.2,.1"), (None, "")])
def test_of_equal_values_the_first_of_the_grid_is_chosen(given: str | None, noted: str, tmp_path: Path) -> None:
    """In the order of grid=, else of the grid with which the runs were launched, else of the values."""
    for rate in ("0.1", "0.2"):
        launched(tried(tmp_path, 5, f"optim.lr={rate}"), noted) if noted else tried(tmp_path, 5, f"optim.lr={rate}")
    choice = choose(tmp_path, layout(rows=[BASE], seeds=[0]), given)[1][0, SOURCE].choice
    assert choice
    (run,) = choice.runs.values()
    assert run.values["optim.lr"] == (0.2 if given or noted else 0.1)


def test_a_grid_given_is_the_search_and_says_what_lacks(tmp_path: Path) -> None:
    """Runs outside of grid= are not looked at, and a point without a run is named."""
    tried(tmp_path, 9, "optim.lr=.4")
    tried(tmp_path, 5)
    table, searches = choose(tmp_path, layout(rows=[BASE], seeds=[0]), "optim.lr:.1,.3")
    assert [one.label for one in searches[0, SOURCE].candidates] == ["optim.lr=.1"]
    assert "Plain: no run with optim.lr=.3 (data=digits_glt train=glt)" in table.notes


@pytest.mark.parametrize("grid", [None, "optim.lr:.05,.1,.2"])
def test_what_trains_nothing_was_given_one_value(grid: str | None, tmp_path: Path) -> None:
    """Runs that judge one run and differ in a rate that trains nothing are one value, and the row's run counts."""
    for rate in ("0.1", "0.05", "0.2"):
        tried(tmp_path, 6, f"optim.lr={rate}", recipe="glt_logit_adjust")
    row = {**BASE, "recipe": "glt_logit_adjust", "label": "Judged"}
    table, searches = choose(tmp_path, layout(rows=[row], seeds=[0]), grid)
    assert [one.label for one in searches[0, SOURCE].candidates] == [tuned.AS_IT_IS]
    assert searches[0, SOURCE].budget == 1 and not searches[0, SOURCE].notes
    assert [run.values["optim.lr"] for run in table.runs[0, SOURCE]] == [0.1]


def test_the_first_stage_s_values_are_chosen_among(tmp_path: Path) -> None:
    """A grid with `first.KEY` finds the runs that build on a first stage with each value, and names them so."""
    for rate, right in (("0.05", 4), ("0.2", 8)):
        tried(tmp_path, right, f"first.optim.lr={rate}", recipe="glt_crt")
    row = {**BASE, "recipe": "glt_crt", "label": "cRT"}
    _, searches = choose(tmp_path, layout(rows=[row], seeds=[0]), "first.optim.lr:0.05,0.2")
    found = searches[0, SOURCE].candidates
    assert [(one.label, one.chosen) for one in found] == [("first.optim.lr=0.05", False), ("first.optim.lr=0.2", True)]


def test_a_grid_over_what_the_table_sets_chooses(tmp_path: Path) -> None:
    """A table's `set:` reaches first stages; a grid of another value of theirs finds its runs, and a chosen run with
    a value of its point is in a row."""
    for momentum, right in (("0.0", 4), ("0.5", 8)):
        words = ("first.optim.lr=0.05", "optim.lr=0.05", f"first.optim.momentum={momentum}")
        tried(tmp_path, right, *words, recipe="glt_crt")
    rows = [{**BASE, "recipe": "glt_crt", "label": "cRT"}]
    made = layout(rows=rows, seeds=[0], set={"optim.lr": 0.05})
    table, searches = choose(tmp_path, made, "first.optim.momentum:0,0.5")
    assert [(one.label, one.chosen) for one in searches[0, SOURCE].candidates] == [
        ("first.optim.momentum=0", False),
        ("first.optim.momentum=0.5", True),
    ]
    assert not any("is in no row" in note for note in table.notes)


def test_a_twin_that_is_no_row_has_the_tables_values(tmp_path: Path) -> None:
    """A row is tested against the twin's run with what the table sets, and not against the recipe as it stands."""
    tried(tmp_path, 5, cbl=MOST)
    tried(tmp_path, 5, "optim.lr=0.05", cbl=HALF)
    tried(tmp_path, 5, "optim.lr=0.05", recipe="glt_ifl", cbl=MOST)
    made = layout(rows=[{**IFL, "twin": "glt_baseline"}], seeds=[0], set={"optim.lr": 0.05})
    runs, _ = load_runs(tmp_path)
    test = fill_table(made, runs, *tidy(runs)).cells[0][0].baseline_test
    assert test and (test.gained, test.lost) == (3, 0)


def test_unequal_search_budgets_are_marked(tmp_path: Path) -> None:
    """Rows that were given other numbers of values are marked, and the note has the numbers."""
    tried(tmp_path, 5)
    tried(tmp_path, 5, recipe="glt_ifl")
    rows = [BASE, IFL]
    assert not any(line[0].marked for line in choose(tmp_path, layout(rows=rows, seeds=[0]))[0].cells)
    tried(tmp_path, 6, "optim.lr=0.05", recipe="glt_ifl")
    table, _ = choose(tmp_path, layout(rows=rows, seeds=[0]))
    assert [line[0].marked for line in table.cells] == [True, True]
    assert "unequal search budgets, so these rows do not compare: 1 value: Plain; 2 values: Plain + IFL" in table.notes


def test_a_twin_for_which_val_chose_nothing_is_told(tmp_path: Path) -> None:
    """A row whose twin is no row of the table is not tested, which a note says and no cell is marked for."""
    tried(tmp_path, 5)
    tried(tmp_path, 5, recipe="glt_ifl")
    note = "+ IFL: not tested: its twin glt_baseline is no row of the table, so val chose nothing for it"
    for rows, told in (([IFL], True), ([BASE, IFL], False)):
        table, _ = choose(tmp_path, layout(rows=rows, seeds=[0]))
        cell = table.cells[-1][0]
        assert (note in table.notes, cell.baseline_test is None, cell.marked) == (told, told, False)


def test_a_search_before_counts(tmp_path: Path) -> None:
    """A row whose runs have its own values was given as many as the layout says that val had chosen them among."""
    tried(tmp_path, 5)
    tried(tmp_path, 5, "optim.lr=0.05", recipe="glt_ifl")
    made = layout(rows=[{**BASE, "tried": {"digits_glt": 8}}, {**IFL, "tried": {"digits_glt": 3}}], seeds=[0])
    table, searches = choose(tmp_path, made)
    assert [searches[index, SOURCE].budget for index in (0, 1)] == [8, 1]  # the other's run has other values
    assert [line[0].marked for line in table.cells] == [True, True]
    assert "Plain: its own values, chosen of 8 values by val 50.00 over seed 0 (data=digits_glt train=glt)" in (
        table.notes
    )
    tried(tmp_path, 4, recipe="glt_ifl")
    assert choose(tmp_path, made)[1][1, SOURCE].budget == 3  # two of these are here


def test_seeds_that_not_all_values_have_choose_nothing(tmp_path: Path) -> None:
    """Val is averaged over the common seeds; the chosen value's test numbers are of all its seeds."""
    tried(tmp_path, 5, "optim.lr=0.05")
    tried(tmp_path, 6)
    tried(tmp_path, 1, seed=1)
    table, searches = choose(tmp_path, layout(rows=[BASE]))
    search = searches[0, SOURCE]
    assert search.seeds == [0] and search.choice and search.choice.label == "optim.lr=0.1"
    assert len(table.cells[0][0].values) == 2 and table.cells[0][0].marked


def test_one_value_a_row_is_the_ordinary_table() -> None:
    """Where each row of real runs has one value, the tuned table has the ordinary one's numbers, and its search."""
    recipes = ("glt_baseline", "glt_ifl", "glt_crt", "glt_tade")
    runs = [run for run in load_runs(PROJECT / "examples" / "fashion_glt")[0] if run.recipe in recipes]
    made = load_layout(available()["claims"], ["fashion_glt"])
    numbers, problems = tidy(runs)
    rows = tuned.chosen_rows(made, tuned.search_all(made, runs, numbers, None))
    mine, ordinary = (fill_table(made, runs, numbers, problems, chosen=chosen) for chosen in (rows, None))
    values = [[cell.values for cell in line] for line in mine.cells]
    assert values == [[cell.values for cell in line] for line in ordinary.cells]
    assert sum(bool(line[0]) for line in values) == 4
    assert any(note.startswith("TADE: its own values, chosen of 8 values by val") for note in mine.notes)
    assert any("unequal search budgets" in note and "1 value: cRT" in note for note in mine.notes)
    assert any("unequal search" in note and "TADE 8" in note for note in ordinary.notes)


def test_tuned_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a table each recipe is a row; terminal, CSV, LaTeX and the list of all values are written."""
    tried(tmp_path / "runs", 6, cbl=HALF)
    tried(tmp_path / "runs", 5, "optim.lr=0.05", cbl=MOST)
    main(["tuned", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"])
    assert "glt_baseline: optim.lr=0.1, chosen of 2 values by val 60.00" in capsys.readouterr().out
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["paper_tuned.csv", "paper_tuned.tex", "paper_tuned_values.csv"]
    lines = (tmp_path / "out" / "paper_tuned_values.csv").read_text().splitlines()
    assert [line.split(",")[5:10] for line in lines[1:]] == [
        ["optim.lr=0.05", "2", "50.0", "0", "0"],
        ["optim.lr=0.1", "2", "60.0", "0", "1"],
    ]
    with pytest.raises(ValueError, match=r"lr is no science key of a recipe; did you mean optim.lr\?"):
        main(["tuned", f"runs={tmp_path / 'runs'}", "grid=lr:1"])


def test_seeds_of_the_command_are_those_of_all_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows with seeds of their own among them."""
    for seed in (0, 1):
        tried(tmp_path / "runs", 6, seed=seed)
    columns = [{"train": "glt", "protocol": "clt", "subset": "overall", "metric": "accuracy"}]
    content = {"preset": "paper", "seeds": [0], "rows": [{**BASE, "seeds": [0, 1]}], "columns": columns}
    (file := tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    main(["tuned", f"runs={tmp_path / 'runs'}", f"table={file}", "data=digits_glt", "seeds=1"])
    assert "over seed 1 (" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- sweep
def test_a_sweep_shows_what_differs_alone(tmp_path: Path) -> None:
    """Columns are the axes and values that differ, in the order of values, and the numbers; the unfinished is named."""
    tried(tmp_path, 6, "optim.lr=0.2", cbl=MOST)
    tried(tmp_path, 5, "optim.lr=0.05", cbl=HALF)
    tried(tmp_path, 5, "optim.lr=0.05", seed=1, done=False)
    runs, _ = load_runs(tmp_path)
    made = sweep.sweep(runs, *tidy(runs))
    assert list(made) == ["seed", "optim.lr", "val", "clt", "glt", "state", "run"]
    assert made.drop(columns="run").to_numpy().tolist() == [
        ["0", "0.05", "50.00", "50.00", "50.00", ""],
        ["1", "0.05", "--", "--", "--", "unfinished"],
        ["0", "0.2", "60.00", "80.00", "50.00", ""],
    ]


def test_values_that_follow_from_the_recipe_are_no_column(tmp_path: Path) -> None:
    """Two recipes differ in many values, and the recipe's name says so."""
    tried(tmp_path, 5)
    tried(tmp_path, 5, recipe="glt_ifl")
    runs, _ = load_runs(tmp_path)
    assert list(sweep.sweep(runs, *tidy(runs))) == ["recipe", "val", "clt", "glt", "state", "run"]


def test_the_sweep_of_no_run_is_refused(tmp_path: Path) -> None:
    """A recipe that no run has is named, with the nearest."""
    tried(tmp_path, 5)
    with pytest.raises(ValueError, match="recipe=glt_basline: none of these runs has it; did you mean glt_baseline"):
        main(["sweep", f"runs={tmp_path}", "recipe=glt_basline"])


# ----------------------------------------------------------------------------------------------- tries beside the table
def test_an_unfinished_try_marks_nothing(tmp_path: Path) -> None:
    """A run with other values, finished or not, is a variant: it marks no cell and stands for no seed."""
    tried(tmp_path, 5)
    other = tried(tmp_path, 5, "optim.lr=0.05", done=False)
    runs, _ = load_runs(tmp_path)
    table = fill_table(layout(rows=[BASE], seeds=[0]), runs, *tidy(runs))
    assert table.cells[0][0].values == (0.5,) and not table.cells[0][0].marked
    assert [note for note in table.notes if other.name in note and "it is a variant, with optim.lr=0.05 (0.1)" in note]


def test_a_try_does_not_stand_for_an_unfinished_row(tmp_path: Path) -> None:
    """Where the recipe's own run is unfinished the row is, whatever else is there."""
    tried(tmp_path, 5, done=False)
    tried(tmp_path, 5, "optim.lr=0.05")
    runs, _ = load_runs(tmp_path)
    table = fill_table(layout(rows=[BASE], seeds=[0]), runs, *tidy(runs))
    assert table.cells[0][0].values == () and table.cells[0][0].state == "unfinished"


def test_where_no_run_is_the_recipe_the_values_are_listed(tmp_path: Path) -> None:
    """Those that differ from each other count not, one line each says their values; those that agree do count."""
    tried(tmp_path, 5, "optim.lr=0.05")
    runs, _ = load_runs(tmp_path)
    table = fill_table(layout(rows=[BASE], seeds=[0]), runs, *tidy(runs))
    assert table.cells[0][0].values == (0.5,) and table.cells[0][0].marked
    last = tried(tmp_path, 5, "optim.lr=0.2")
    runs, _ = load_runs(tmp_path)
    table = fill_table(layout(rows=[BASE], seeds=[0]), runs, *tidy(runs))
    assert table.cells[0][0].values == () and f"Plain: {last.name} has optim.lr=0.2 (0.1)" in table.notes


def test_a_layout_names_a_try_by_set(tmp_path: Path) -> None:
    """`set:` of a row takes the runs with these values, beside the row of the recipe itself, and tuning keeps them
    apart.
    """
    tried(tmp_path, 5)
    tried(tmp_path, 5, "schedule.epochs=5", cbl=MOST)
    file = tmp_path / "mine.yaml"
    rows = [BASE, {**BASE, "label": "short", "set": {"schedule.epochs": 5}}]
    file.write_text(yaml.safe_dump({"preset": "paper", "seeds": [0], "rows": rows, "columns": TABLE_COLUMNS}))
    made = load_layout(file)
    runs, _ = load_runs(tmp_path)
    for table in (fill_table(made, runs, *tidy(runs)), choose(tmp_path, made)[0]):
        assert [line[0].values for line in table.cells] == [(0.5,), (0.8,)]


def test_a_layout_tells_runs_apart_by_their_first_stage(tmp_path: Path) -> None:
    """`first.KEY` in `set:` of a row takes the runs on that first stage, of all seeds, in the table and in tuning."""
    for seed in (0, 3):
        tried(tmp_path, 5, recipe="glt_crt", seed=seed)
        tried(tmp_path, 5, "first.schedule.epochs=5", recipe="glt_crt", seed=seed, cbl=MOST)
    file = tmp_path / "mine.yaml"
    plain = {**BASE, "recipe": "glt_crt"}
    rows = [plain, {**plain, "label": "short", "set": {"first.schedule.epochs": 5}}]
    file.write_text(yaml.safe_dump({"preset": "paper", "seeds": [0, 3], "rows": rows, "columns": TABLE_COLUMNS}))
    made = load_layout(file)
    runs, _ = load_runs(tmp_path)
    for table in (fill_table(made, runs, *tidy(runs)), choose(tmp_path, made)[0]):
        assert [line[0].values for line in table.cells] == [(0.5, 0.5), (0.8, 0.8)]
