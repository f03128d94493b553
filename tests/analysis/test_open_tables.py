"""Tables of any data: laid out on the data of the command, with rows of other values, without what the data have not,
by either grouping of classes, and without the data or the folders that a run's values came from.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from analysis.__main__ import main
from analysis.claims.verdicts import judge
from analysis.figures.catalogue import draw_all
from analysis.inputs.frame import tidy
from analysis.inputs.runs import Run, load_run, load_runs
from analysis.sweeps.tuned import _runs_of
from analysis.tables import latex
from analysis.tables.cells import Table, fill_table
from analysis.tables.matching import fillable, launch_command
from analysis.tables.presentation import heading
from analysis.tables.text import terminal
from ifl.metrics import evaluate
from recipes.common.errors import RecipeError
from recipes.noted import Noted
from recipes.resolve import dump, resolve
from recipes.table_layout import Layout, available, find_layout, load_layout
from slurm.planning.requested_runs import requested_runs
from slurm.site_file import Site
from tests.helpers.paths import GOLDEN
from tests.helpers.tables import TABLE_COLUMNS, layout, write_run

LIGHT = GOLDEN / "light"
SHOWN = ("glt_baseline-digits_glt-glt-s0-7b03b2e6", "glt_ifl-digits_glt-glt-s0-ba82ba7c")


def filled(made: Layout, runs: list[Run]) -> Table:
    return fill_table(made, runs, *tidy(runs))


def changed(path: Path, **facts: Any) -> None:
    """Change what the meta.json of a run says."""
    file = path / "meta.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


# ------------------------------------------------------------------------------------------------------------ open ones
def test_an_open_table_is_the_fixed_one_on_the_same_runs(tmp_path: Path) -> None:
    """With the preset, budgets, seeds, rows and name of digits_clt_glt an open table on digits_glt has its LaTeX."""
    fixed = yaml.safe_load(available()["digits_clt_glt"].read_text())
    columns = [{key: value for key, value in column.items() if key != "data"} for column in fixed["columns"]]
    file = tmp_path / "digits_clt_glt.yaml"
    file.write_text(yaml.safe_dump({**fixed, "columns": columns}))
    runs = [run for run in load_runs(GOLDEN / "runs")[0] if run.recipe in ("glt_baseline", "glt_ifl", "glt_crt")]
    ours, theirs = find_layout(str(file), ["digits_glt"]), load_layout(available()["digits_clt_glt"])
    assert latex.latex(filled(ours, runs)) == latex.latex(filled(theirs, runs))


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["table=clt_glt"], "table=clt_glt is open, so data=NAME .* known here: digits_glt$"),
        (["table=clt_glt", "data=birdz"], "data=birdz: none of these runs is on it; legal: digits_glt"),
        (["table=digits_alt", "data=digits_glt"], "the table digits_alt names its data itself"),
        (["groups=shot"], "groups=shot: did you mean shots"),
        (["table=digits_alt,{}/digits_alt.yaml"], "two tables are called digits_alt"),
        (["table={}/twin.yaml"], r"table twin: twin of \+ IFL: glt_basline is no row .* did you mean glt_baseline"),
    ],
)
def test_what_is_refused_is_named(words: list[str], sentence: str, tmp_path: Path) -> None:
    """In one sentence, before anything is read or written; a twin by the launcher, too."""
    write_run(tmp_path / "runs")
    shutil.copy(available()["digits_alt"], tmp_path)
    rows = [{"recipe": "glt_ifl", "label": "+ IFL", "group": "G", "twin": "glt_basline"}]
    twin = {"preset": "paper", "seeds": [0], "rows": rows, "columns": [TABLE_COLUMNS[0]]}
    (tmp_path / "twin.yaml").write_text(yaml.safe_dump(twin))
    if "twin" in words[0]:
        with pytest.raises(RecipeError, match=sentence):
            requested_runs([f"table={tmp_path}/twin.yaml", f"runs={tmp_path}"], Site())
    with pytest.raises(ValueError, match=sentence):
        main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", *(word.format(tmp_path) for word in words)])
    assert not (tmp_path / "out").exists()


def test_unequal_search_is_a_note(tmp_path: Path) -> None:
    """Where val chose among more values for one row than for another, a table says so for each data set, in every form,
    and marks nothing; where all had as many it says nothing.
    """
    write_run(tmp_path, "glt_baseline", seed=0)
    write_run(tmp_path, "glt_tade", seed=0)
    tried = {"digits_glt": 4, "fashion_glt": 8}
    made = layout(seeds=[0], rows=[ROWS[0], {"recipe": "glt_tade", "label": "TADE", "group": "G", "tried": tried}])
    table = filled(made, load_runs(tmp_path)[0])
    (note,) = (note for note in table.notes if note.startswith("unequal search"))
    assert note.endswith("on digits_glt val chose among so many values: TADE 4, each other 1")
    assert note in table.brief and not any(cell.marked for line in table.cells for cell in line)
    alike = layout(rows=[{**ROWS[0], "tried": tried}, {**ROWS[0], "recipe": "glt_tade", "tried": {"digits_glt": 4}}])
    assert not [note for note in filled(alike, load_runs(tmp_path)[0]).notes if "search" in note]


# ----------------------------------------------------------------------------------------------------- rows with values
ROWS = [
    {"recipe": "glt_baseline", "label": "Plain", "group": "G"},
    {"recipe": "glt_baseline", "label": "lr .05", "group": "G", "set": {"optim.lr": 0.05}},
    {"recipe": "glt_crt", "label": "cRT", "group": "G", "set": {"schedule.epochs": 3}},
    {"recipe": "glt_ifl", "label": "+ IFL", "group": "G", "twin": "lr .05", "set": {"optim.lr": 0.05}},
]


def test_the_runs_planned_for_rows_with_values_are_those_counted(tmp_path: Path) -> None:
    """What `table=PATH` plans has the names that analysis looks for, row by row: each row counts its own run alone, and
    none is left over.
    """
    file = tmp_path / "mine.yaml"
    columns = [{key: value for key, value in TABLE_COLUMNS[0].items() if key != "data"}]
    file.write_text(yaml.safe_dump({"preset": "corrected", "seeds": [0], "rows": ROWS, "columns": columns}))
    planned = requested_runs([f"table={file}", "data=digits_glt", f"runs={tmp_path}"], Site()).runs
    for run in planned:
        path = write_run(tmp_path / "runs", run.recipe.recipe, preset="corrected", hash_=run.recipe.hash8)
        (path / "recipe.yaml").write_text(dump(run.recipe))
    runs, _ = load_runs(tmp_path / "runs")
    table = filled(find_layout(str(file), ["digits_glt"]), runs)
    counted = [[run.name for run in table.runs[index, ("digits_glt", "glt")]] for index in range(len(ROWS))]
    assert counted == [[planned[index].folder.name] for index in range(len(ROWS))]
    assert table.notes == [] and table.cells[3][0].baseline_test is not None
    assert table.cells[3][0].baseline_test.baseline == "lr .05"


def test_the_runs_planned_for_a_table_with_values_are_those_counted(tmp_path: Path) -> None:
    """Its `set` holds for each row and for first stages, so nothing is made that stands in no row. Each row counts its
    own runs, also where the file of weights that they began with is gone.
    """
    (weights := tmp_path / "w.safetensors").write_bytes(b"w")
    (others := tmp_path / "others.safetensors").write_bytes(b"others")
    rows = [ROWS[0], {**ROWS[1], "set": {"model.weights": str(others)}}, *ROWS[2:]]
    columns = [{key: value for key, value in TABLE_COLUMNS[0].items() if key != "data"}]
    content = {"preset": "corrected", "seeds": [0], "rows": rows, "columns": columns}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**content, "set": {"model.weights": str(weights), "optim.lr": 0.3}}))
    planned = requested_runs([f"table={file}", "data=digits_glt", f"runs={tmp_path}"], Site()).runs
    for run in planned:
        path = write_run(tmp_path / "runs", run.recipe.recipe, preset="corrected", hash_=run.recipe.hash8)
        (path / "recipe.yaml").write_text(dump(run.recipe))
    weights.unlink()
    others.unlink()
    runs, _ = load_runs(tmp_path / "runs")
    layout_there = find_layout(str(file), ["digits_glt"])
    table = filled(layout_there, runs)
    counted = [[run.name for run in table.runs[index, ("digits_glt", "glt")]] for index in range(len(rows))]
    assert counted == [[run.folder.name] for run in planned] and planned[2].needs == (planned[0].folder,)
    assert all(run.recipe.model.weights_sha256 for run in planned)
    assert [note for note in table.notes if "no run" in note or "left out" in note] == []
    tried = [_runs_of(layout_there, row, ("digits_glt", "glt"), runs) for row in layout_there.rows]  # as `tuned` does
    assert [[run.name for run in of_row] for of_row in tried] == counted


def test_the_command_told_of_a_row_without_runs_makes_them() -> None:
    """As a shell reads it, it has the table's preset, the row's values and seeds; notes and verdicts tell the same."""
    made = load_layout(available()["parts"], ["digits_glt"])
    values = {"schedule.milestones": [0.5, 0.8], "model.weights": "/my models/net.pt"}
    rows = [row.model_copy(update={"set": values, "seeds": [3, 4]}) for row in made.rows]
    made = made.model_copy(update={"rows": rows})
    source = made.sources[0]
    for row in rows:
        words = shlex.split(launch_command(made, row, source))
        assert words == ["python", "slurm/launch.py", *made.words(row, source), "seeds=3,4"]
    table = filled(made, [])
    judged = judge(table)
    assert judged is not None
    command = launch_command(made, rows[judged.verdicts[0].of.row], source)
    assert command in judged.verdicts[0].why and f"{judged.verdicts[0].row}: no run: {command}" in table.notes


def test_a_row_with_a_value_that_nothing_reads_counts_its_own_runs_alone(tmp_path: Path) -> None:
    """The value is in their names like any other; a run with it and another value beside it is not the row's."""
    made = layout(rows=[{**ROWS[0], "set": {"batch.bn_by": "env"}}], preset="corrected")
    words = made.words(made.rows[0], ("digits_glt", "glt"))
    own, other = resolve(words), resolve([*words, "optim.lr=0.7"])
    for recipe in (own, other):
        path = write_run(tmp_path, "glt_baseline", preset="corrected", hash_=recipe.hash8)
        (path / "recipe.yaml").write_text(dump(recipe))
    table = filled(made, load_runs(tmp_path)[0])
    assert [run.hash for run in table.runs[0, ("digits_glt", "glt")]] == [own.hash8]


def test_a_row_counts_the_runs_that_are_its_recipe(tmp_path: Path) -> None:
    """A try with other values in the same folder empties no row: it is listed as a variant, with what differs, and
    marks nothing.
    """
    words = ["recipe=glt_baseline", "data=digits_glt"]
    for own in ([], ["optim.lr=0.05"]):
        recipe = resolve([*words, *own])
        path = write_run(tmp_path, "glt_baseline", hash_=recipe.hash8)
        (path / "recipe.yaml").write_text(dump(recipe))
    table = filled(layout(rows=[ROWS[0]], seeds=[0]), load_runs(tmp_path)[0])
    assert [run.name for run in table.cells[0][0].runs] == [resolve(words).run_name]
    assert not table.cells[0][0].marked
    assert [note.partition(": ")[2] for note in table.notes] == [
        f"{path.name} is left out: it is a variant, with optim.lr=0.05 (0.1) (a row with `set:` would show it)"
    ]


# ---------------------------------------------------------------------------------------------- data without attributes
def without_attributes(folder: Path) -> list[Run]:
    """Real runs as they would be on a data set of a class tail alone."""
    for name in SHOWN:
        shutil.copytree(LIGHT / name, folder / name)
        changed(folder / name, editions={"glt": ["test_cbl", "train", "val"]})
        for file in [*(folder / name / "preds").glob("*/*.npz"), *(folder / name / "env").glob("*.npz")]:
            with np.load(file) as stored:
                none = {key: np.full_like(stored[key], -1) for key in stored if key.startswith("attribute")}
                arrays = {**stored, **none}
            file.unlink()
            if file.stem != "test_gbl":
                np.savez(file, **arrays)
    return load_runs(folder)[0]


def test_data_without_attributes_have_clt_alone(tmp_path: Path) -> None:
    """Columns of GLT, ALT and attribute groups are left out of table, figures and their captions, with one line on why;
    a table of nothing else is not made.
    """
    runs = without_attributes(tmp_path)
    names = ("digits_clt_glt", "digits_overall", "digits_alt")
    layouts, said = fillable([load_layout(available()[name]) for name in names], runs)
    why = "digits_glt has no attributes, so it has CLT alone; left out of this table: "
    gone = f"{why}ALT, numbers by attribute group"
    assert [made.name for made in layouts] == list(names[:2]) and said == [f"digits_alt is not made: {gone}"]
    tables = [filled(made, runs) for made in layouts]
    for table, lacking in zip(tables, ("GLT", "GLT, ALT"), strict=True):
        assert {column.protocol for column in table.layout.columns} == {"clt"}
        assert table.notes[0] == why + lacking
        assert "GLT: " not in terminal(table) and "ALT: " not in terminal(table)
        assert table.cells[0][0].mean is not None
    drawn, remarks = draw_all(tables)
    assert f"environments of Train-GLT are left out: {SHOWN[1]} has no attributes" in remarks
    assert {one.name for one in drawn} == {
        "figure5",
        "pairs_clt",
        "classes_clt",
        "tail_clt",
        "confusion_clt",
        "images_glt",
        "curves_digits_clt_glt",
        "curves_digits_overall",
    }
    panels = {one.name: [axes.get_title() for axes in one.figure.axes if axes.get_title()] for one in drawn}
    assert [title[:3] for title in panels["figure5"]] == ["(a)", "(b)"] and "CLT" in panels["figure5"][0]
    assert panels["tail_clt"] == ["(a) along the tail, CLT (test_cbl)"]
    assert not any("attribute" in words for one in drawn for words in (one.caption, *panels[one.name]))


# -------------------------------------------------------------------------------------------------------------- groups
SHOTS = [0, 1, 1, 1]


def test_classes_are_grouped_as_asked(tmp_path: Path) -> None:
    """`groups=shots` computes many, medium and few by the shots that meta.json has, and the first line says so; the
    data set's own grouping is not said. A group without classes is an empty cell that says so.
    """
    path = write_run(tmp_path)
    facts = {"class_names": list("abcd"), "class_groups": [0, 0, 1, 2], "class_counts": [200, 90, 40, 30]}
    changed(path, **facts, groups={"thirds": [0, 0, 1, 2], "shots": SHOTS})
    columns = [{**TABLE_COLUMNS[0], "subset": subset} for subset in ("many", "medium", "few")]
    own, thirds, shots = (load_run(path, groups) for groups in (None, "thirds", "shots"))
    assert own == thirds and own.grouping == ""
    table = filled(layout(columns=columns, seeds=[0]), [shots])
    arrays = own.predictions("last", "test_cbl")
    groups = np.array(SHOTS)[arrays["label"]]
    wanted = evaluate(arrays["label"], arrays["prediction"], groups, arrays["attribute"])["accuracy"]
    line = table.cells[0]
    assert [cell.mean for cell in line] == [wanted["many"], wanted["medium"], None]
    assert line[2].state == "empty" and line[2].notes == (
        "no class of digits_glt is few by shots, so these cells are empty",
    )
    assert "classes grouped by shots (Many: more than 100" in terminal(table).splitlines()[0]
    assert "classes grouped" not in heading(filled(layout(columns=columns, seeds=[0]), [own]))
    assert "nan" not in terminal(table) + latex.latex(table)


def test_a_run_that_knows_one_grouping_is_left_out(tmp_path: Path) -> None:
    """Where another one is asked for; many for one reason are one sentence."""
    for name in "abcdef":
        write_run(tmp_path, name=name)
    runs, unreadable = load_runs(tmp_path, "shots")
    reason = "meta.json has no class groups by shots, but those of its data alone"
    assert runs == [] and unreadable == dict.fromkeys("abcdef", reason)
    with pytest.raises(ValueError, match=f"no readable run folder in it; a and 5 more are left out: {reason}$"):
        main([f"runs={tmp_path}", f"out={tmp_path / 'out'}", "groups=shots"])


# ------------------------------------------------------------------------------------- without the data and the folders
SAID = Noted(
    values={"schedule": {"epochs": 7}, "model": {"name": "small_resnet"}, "batch": {"size": 128, "bn": 32}},
    recipes={"theirs": {"method": {"name": "ce"}, "optim": {"lr": 0.3}}},
)
"""What a run notes of data and of a recipe that are not here."""


def run_of_theirs(folder: Path, *words: str) -> Path:
    recipe = resolve(["recipe=theirs", "data=birds", *words], said=SAID)
    path = write_run(folder, "theirs", data="birds", hash_=recipe.hash8)
    (path / "recipe.yaml").write_text(dump(recipe))
    return path


def test_a_run_is_judged_by_what_it_noted(tmp_path: Path) -> None:
    """A run on data and of a recipe that are not here is compared with the values in its own meta.json: what was
    changed on the command line is named, and nothing else. Without these nobody can say.
    """
    path = run_of_theirs(tmp_path, "optim.lr=0.5")
    assert load_run(path).departures() == []
    changed(path, data_values=SAID.values, recipe_values=SAID.recipes)
    assert load_run(path).departures() == ["optim.lr=0.5 (0.3)"]
    assert not load_run(path).is_current(["recipe=theirs", "data=birds"])
    assert load_run(path).is_current(["recipe=theirs", "data=birds", "optim.lr=0.5"])


@pytest.mark.parametrize("recipe", ["glt_crt", "glt_logit_adjust"])
def test_a_run_of_any_seed_is_its_recipe(recipe: str, tmp_path: Path) -> None:
    """What a second stage starts from and what is judged bear the run's seed, and nothing departs by that; another
    first stage does.
    """
    words = [f"recipe={recipe}", "data=digits_glt", "seed=3"]
    for more in ([], ["first.schedule.epochs=5"]):
        path = write_run(tmp_path, recipe, 3, hash_=(ran := resolve([*words, *more])).hash8)
        (path / "recipe.yaml").write_text(dump(ran))
        found = load_run(path)
        assert [value.split("=")[0].removeprefix("method.") for value in found.departures()] == (
            [key for key in ("eval_of", "init_from") if getattr(ran.method, key)] if more else []
        )
        assert (found.is_current(words[:2]), found.builds_on_that_of([*words[:2], *more])) == (not more, True)


@pytest.mark.parametrize("noted", [True, False])
def test_rows_with_values_find_runs_of_recipes_that_are_not_here(noted: bool, tmp_path: Path) -> None:
    """By the hash where the runs noted their recipe's values, else by the values of the row in their recipe.yaml."""
    paths = [run_of_theirs(tmp_path, *words) for words in ([], ["optim.lr=0.05"])]
    for path in paths if noted else ():
        changed(path, data_values=SAID.values, recipe_values=SAID.recipes)
    rows = [{"recipe": "theirs", "label": "Plain", "group": "G"}, {**ROWS[1], "recipe": "theirs"}]
    columns = [{**TABLE_COLUMNS[0], "data": "birds"}]
    table = filled(layout(rows=rows, columns=columns, seeds=[0]), load_runs(tmp_path)[0])
    assert [[run.path for run in line[0].runs] for line in table.cells] == [[paths[0]], [paths[1]]]
