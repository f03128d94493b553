"""From run folders to tables: what is averaged, what is refused and said, and that files repeat."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.figures.learning_curves import learning_curves
from analysis.inputs.frame import COLUMNS, tidy
from analysis.inputs.runs import load_runs
from analysis.tables import text
from analysis.tables.cells import Cell, Table, fill_table
from recipes.common.search_path import RECIPES, files
from recipes.table_layout import available, load_layout
from tests.helpers.paths import PROJECT
from tests.helpers.shipped import layout_of
from tests.helpers.tables import HALF, MOST, NONE_RIGHT, ROWS, TABLE_COLUMNS, command, table, write_run


def evaluation(epoch: int, step: int, value: float, split: str = "test_cbl") -> dict[str, Any]:
    scores = {"overall": value}
    return {"kind": "eval", "epoch": epoch, "step": step, "split": split, "accuracy": scores, "precision": scores}


def cell(made: Table, row: int, column: int) -> Cell:
    return made.cells[row][column]


def notes(made: Table) -> str:
    return "\n".join(made.notes)


# --- cells -----------------------------------------------------------------------------------------


def test_cells_worked_by_hand(tmp_path: Path) -> None:
    """A cell is the mean over seeds, its spread the sample standard deviation (n - 1)."""
    write_run(tmp_path, seed=0, cbl=HALF, gbl=MOST)
    write_run(tmp_path, seed=1, cbl=MOST, gbl=HALF)
    made = table(tmp_path)
    # CLT overall accuracy: .5 and .8. Mean .65, deviations .15: std = sqrt(2 * .15^2 / 1) = .2121.
    assert cell(made, 0, 0).values == (0.5, 0.8)
    assert text.percent(cell(made, 0, 0)) == "65.00"
    assert cell(made, 0, 0).std == pytest.approx(0.045**0.5)
    # CLT precision of many. HALF: class 0 3 of 6, class 1 1 of 3: 5/12. MOST: class 0 4 of 6, class 1 2 of 2: 5/6.
    assert cell(made, 0, 1).values == pytest.approx((5 / 12, 5 / 6))
    # GLT accuracy of few. MOST: 1 of 2; HALF: 0 of 2.
    assert cell(made, 0, 2).values == (0.5, 0.0)
    assert not cell(made, 0, 0).marked
    assert r"65.00{\tiny$\pm$21.21}" in text.latex(made)
    assert "65.00±21.21" in text.terminal(made)


def test_tidy_frame_holds_every_number_with_its_run(tmp_path: Path) -> None:
    """One line for each run, select, protocol, subset and metric; protocols follow edition and split."""
    write_run(tmp_path, cbl=HALF, gbl=MOST)
    write_run(tmp_path, train="cbl", gbl=MOST)
    write_run(tmp_path, seed=1, done=False)
    runs, _ = load_runs(tmp_path)
    frame, problems = tidy(runs)
    assert tuple(frame.columns) == COLUMNS and not problems
    assert set(zip(frame["edition"], frame["protocol"], strict=True)) == {
        ("glt", "clt"),
        ("glt", "glt"),
        ("cbl", "alt"),
    }
    assert set(frame["seed"]) == {0}, "an unfinished run is not counted"
    last = frame[(frame["select"] == "last") & (frame["metric"] == "accuracy")]
    of = {(line.protocol, line.subset): line.value for line in last.itertuples()}
    assert of["clt", "overall"] == 0.5 and of["glt", "overall"] == 0.8 and of["alt", "overall"] == 0.8
    # Medium_A are samples 2 3 5 7 9: HALF has 1 right, MOST 3. Few_A is empty, so it has no line.
    assert of["clt", "medium_a"] == 1 / 5 and of["alt", "medium_a"] == 3 / 5 and ("alt", "few_a") not in of


def test_select_last_and_best_are_apart(tmp_path: Path) -> None:
    """`select` decides which predictions fill the table."""
    write_run(tmp_path, cbl=HALF, best=NONE_RIGHT)
    assert cell(table(tmp_path, seeds=[0], select="last"), 0, 0).values == (0.5,)
    assert cell(table(tmp_path, seeds=[0], select="best"), 0, 0).values == (0.0,)


def test_budget_separates_rows_of_one_recipe(tmp_path: Path) -> None:
    """The matched-budget run of a recipe fills its own row only; a budget no row wants is named."""
    write_run(tmp_path, cbl=HALF)
    write_run(tmp_path, cbl=MOST, budget="matched", hash_="99999999")
    rows = [ROWS[0], {**ROWS[0], "label": "Matched", "budget": "matched"}]
    made = table(tmp_path, seeds=[0], rows=rows)
    assert cell(made, 0, 0).values == (0.5,) and cell(made, 1, 0).values == (0.8,)
    assert not made.notes
    made = table(tmp_path, seeds=[0], rows=[ROWS[0]])
    assert cell(made, 0, 0).values == (0.5,)
    assert "99999999 is in no row: no row of plain has budget matched" in notes(made)


def test_best_is_bold_as_printed_and_ties_share_it(tmp_path: Path) -> None:
    """The best of a column is bold, ties both; a column with one number has none."""
    write_run(tmp_path, cbl=MOST, gbl=HALF)
    write_run(tmp_path, "plain_ifl", cbl=HALF, gbl=HALF)
    lines = text.latex(table(tmp_path, seeds=[0])).splitlines()
    plain, ifl = (next(line for line in lines if start in line) for start in ("Plain &", "+ IFL &"))
    assert plain.endswith(r"Plain & \textbf{80.00} & \textbf{83.33} & \textbf{0.00} \\")
    assert ifl.endswith(r"+ IFL & 50.00 & 41.67 & \textbf{0.00} \\")
    shutil.rmtree(next(tmp_path.glob("plain_ifl*")))
    assert "textbf" not in text.latex(table(tmp_path, seeds=[0]))


# --- what does not count ---------------------------------------------------------------------------


def test_row_without_runs_is_shown_and_noted(tmp_path: Path) -> None:
    """A row with no run stays in the table as `--` and is listed."""
    write_run(tmp_path)
    made = table(tmp_path, seeds=[0], rows=[ROWS[0], {**ROWS[1], "recipe": "glt_ifl"}])
    assert any(note.startswith("Plain + IFL: no run: python slurm/launch.py recipe=glt_ifl ") for note in made.notes)
    assert "+ IFL & -- & -- & -- \\\\" in text.latex(made)
    assert "  + IFL" in text.terminal(made) and "--" in text.terminal(made)


def test_unfinished_run_is_marked_not_counted(tmp_path: Path) -> None:
    """Without `done` a run does not count, even where its predictions exist; cell and notes say so."""
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, cbl=MOST, done=False)
    made = table(tmp_path)
    assert cell(made, 0, 0).values == (0.5,) and cell(made, 0, 0).marked
    assert "Plain: plain-digits_glt-glt-s1-0123abcd is left out: it is unfinished" in notes(made)
    assert r"50.00\ensuremath{^\dagger}" in text.latex(made) and "50.00†" in text.terminal(made)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hash_": "ffffffff"}, "differ in the recipe's hash"),
        ({"hash_": "ffffffff", "seed": 1}, "differ in the recipe's hash"),
        ({"fingerprint": "beef", "seed": 1}, "differ in the data's fingerprint"),
        ({"fingerprint": "beef", "name": "copy"}, "differ in the data's fingerprint"),
        ({"name": "copy"}, "repeat a seed"),
    ],
)
def test_unlike_runs_are_never_averaged(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """Runs of a row that differ in more than the seed: none counts, the cell is marked, all are named."""
    first = write_run(tmp_path, cbl=HALF)
    second = write_run(tmp_path, **{"cbl": MOST, **change})
    made = table(tmp_path)
    assert cell(made, 0, 0) == Cell((), (), marked=True)
    (note,) = [note for note in made.notes if reason in note]
    assert first.name in note and second.name in note
    assert f"--{text.escape('†')}" in text.latex(made)


@pytest.mark.parametrize(
    ("change", "reason", "marked"),
    [
        ({"preset": "corrected", "hash_": "ffffffff"}, "its preset is corrected, the table's is paper", True),
        ({"seed": 7}, "its seed 7 is not among the table's", False),
    ],
)
def test_foreign_run_is_left_out_by_name(tmp_path: Path, change: dict[str, Any], reason: str, marked: bool) -> None:
    """A run of another preset or seed leaves the others' mean alone, and is named; more seeds than the table asks for
    are no reason for a mark.
    """
    write_run(tmp_path, cbl=HALF)
    write_run(tmp_path, seed=1, cbl=HALF)
    other = write_run(tmp_path, **{"cbl": MOST, **change})
    made = table(tmp_path)
    assert cell(made, 0, 0).values == (0.5, 0.5) and cell(made, 0, 0).marked == marked
    assert f"Plain: {other.name} is left out: {reason}" in notes(made)


def test_lacking_seed_is_marked(tmp_path: Path) -> None:
    """A mean over fewer seeds than the table asks for is marked and the seed named."""
    write_run(tmp_path, seed=1)
    made = table(tmp_path)
    assert cell(made, 0, 0).marked and cell(made, 0, 0).std is None
    assert "Plain: no run of seed 0 (data=digits_glt train=glt)" in made.notes


def test_rows_on_different_data_are_marked(tmp_path: Path) -> None:
    """Rows made from different data stand, marked, under a note that they do not compare."""
    write_run(tmp_path, "plain", fingerprint="f00d")
    write_run(tmp_path, "plain_ifl", fingerprint="beef")
    made = table(tmp_path, seeds=[0])
    assert cell(made, 0, 0).marked and cell(made, 1, 0).marked and cell(made, 1, 0).values == (0.5,)
    assert "differs in fingerprint (beef: Plain + IFL; f00d: Plain)" in notes(made)


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated", "no array", "wrong values"])
def test_damaged_predictions_are_named(tmp_path: Path, damage: str) -> None:
    """Predictions that cannot be used cost their cells, with the file named, and nothing else."""
    path = write_run(tmp_path)
    file = path / "preds" / "last" / "test_cbl.npz"
    content = dict(np.load(file))
    whole = file.read_bytes()
    file.unlink()
    if damage == "garbage":
        file.write_bytes(b"not an archive")
    elif damage == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "no array":
        np.savez(file, **{key: value for key, value in content.items() if key != "group"})
    elif damage == "wrong values":
        np.savez(file, **{**content, "prediction": content["prediction"] - 5})
    made = table(tmp_path, seeds=[0])
    assert cell(made, 0, 0).values == () and cell(made, 0, 0).marked
    assert cell(made, 0, 2).values == (0.0,) and not cell(made, 0, 2).marked
    said = {
        "missing": "test_cbl.npz is missing",
        "no array": "test_cbl.npz lacks group",
        "wrong values": "prediction: values",
    }
    assert said.get(damage, "test_cbl.npz cannot be read") in notes(made)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("recipe.yaml", None, "recipe.yaml is missing"),
        ("recipe.yaml", "a: [", "recipe.yaml cannot be read"),
        ("meta.json", "{", "meta.json cannot be read"),
        ("meta.json", "[]", "meta.json holds no mapping"),
        ("meta.json", "{}", "meta.json: hash is None"),
    ],
)
def test_unreadable_folder_is_reported(tmp_path: Path, file: str, content: str | None, said: str) -> None:
    """A folder that is no readable run is named with the file at fault; the others are read."""
    write_run(tmp_path)
    bad = write_run(tmp_path, name="bad")
    (bad / file).unlink()
    if content is not None:
        (bad / file).write_text(content)
    runs, unreadable = load_runs(tmp_path)
    assert [run.seed for run in runs] == [0] and unreadable.keys() == {"bad"} and said in unreadable["bad"]


def test_runs_come_in_the_order_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which a file system lists folders does not matter; hidden folders are no runs."""
    for seed in (2, 0, 1):
        write_run(tmp_path, seed=seed)
    (tmp_path / ".partial").mkdir()
    listed = sorted(tmp_path.iterdir(), reverse=True)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(listed))
    runs, unreadable = load_runs(tmp_path)
    assert [run.seed for run in runs] == [0, 1, 2] and not unreadable


# --- metrics.jsonl ---------------------------------------------------------------------------------


def test_last_line_of_a_step_wins(tmp_path: Path) -> None:
    """A resumed run writes steps again: per (kind, step, split) the last line counts, in order of steps."""
    again = [evaluation(1, 20, 0.2), evaluation(0, 10, 0.1), evaluation(0, 10, 0.3, "test_gbl"), evaluation(1, 20, 0.9)]
    train = {"kind": "train", "epoch": 1, "step": 20, "alpha": 0.0}
    write_run(tmp_path, lines=[*again, train])
    (run,) = load_runs(tmp_path)[0]
    lines, bad = run.metrics()
    assert bad == 0
    assert [(line["step"], line["kind"], line.get("split")) for line in lines] == [
        (10, "eval", "test_cbl"),
        (10, "eval", "test_gbl"),
        (20, "eval", "test_cbl"),
        (20, "train", None),
    ]
    assert lines[2]["accuracy"]["overall"] == 0.9


@pytest.mark.parametrize("torn", ['{"kind": "eval", "epo', "{", '{"kind": "eval"}', "\x00\x00", "7"])
def test_torn_last_line_is_dropped(tmp_path: Path, torn: str) -> None:
    """What a kill leaves in the last line is dropped in silence; a bad line elsewhere is counted."""
    path = write_run(tmp_path)
    good = json.dumps(evaluation(0, 10, 0.1)) + "\n"
    (path / "metrics.jsonl").write_text(good + torn)
    (run,) = load_runs(tmp_path)[0]
    assert [line["step"] for line in run.metrics()[0]] == [10] and run.metrics()[1] == 0
    (path / "metrics.jsonl").write_text(torn + good)  # resumed right behind the torn line
    assert run.metrics() == ([], 0), "the only line is torn"
    (path / "metrics.jsonl").write_text(torn + good + json.dumps(evaluation(1, 20, 0.2)) + "\n")
    assert [line["step"] for line in run.metrics()[0]] == [20] and run.metrics()[1] == 1


def test_curves_draw_the_runs_of_the_table(tmp_path: Path) -> None:
    """Each counted run is a line in percent over epochs trained; the onset of alpha is a vertical line."""
    trained = [{"kind": "train", "epoch": e, "step": 10 * e + 5, "alpha": 0.001 * (e >= 2)} for e in range(4)]
    evals = [evaluation(e, 10 * e + 10, 0.1 * (e + 1), s) for e in range(4) for s in ("test_cbl", "test_gbl")]
    write_run(tmp_path, "plain", lines=evals)
    write_run(tmp_path, "plain_ifl", lines=[*evals, *trained])
    write_run(tmp_path, "plain", seed=1, lines=evals, done=False)
    figure, remarks = learning_curves(table(tmp_path))
    assert not remarks
    axes = figure.axes
    assert len(axes) == 4
    for axis in axes:
        plain, ifl, onset = axis.lines
        for line in (plain, ifl):
            np.testing.assert_allclose(line.get_xdata(), [1, 2, 3, 4])
            np.testing.assert_allclose(line.get_ydata(), [10, 20, 30, 40])
        assert list(onset.get_xdata()) == [2, 2]
        assert plain.get_linestyle() != ifl.get_linestyle() and plain.get_color() != ifl.get_color()
    labels = [entry.get_text() for entry in figure.legends[0].get_texts()]
    assert labels == ["Plain", "Plain + IFL", "IFL sets in"]


# --- layouts ---------------------------------------------------------------------------------------


def test_every_layout_in_the_project_loads() -> None:
    """All files in recipes/tables are legal, and their rows name recipes that exist."""
    assert "digits_clt_glt" in available()
    for name in available():
        for row in layout_of(name).rows:
            assert row.recipe in files(RECIPES), f"{name}: {row.recipe}"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("preset: paper", "preset: papr", "preset: Input should be 'paper' or 'corrected'"),
        ("seeds:", "seds:", "seds is no key of a table; did you mean seeds"),
        ("label: Plain", "lable: Plain", "rows.0.lable is no key of a table; did you mean label"),
        ("protocol: clt", "protocol: alt", "protocol alt is measured on train: cbl, not glt"),
        ("seeds: [0]", "seeds: [0, 0]", "seeds names 0 twice"),
        ("subset: overall", "subset: all", "columns.0.subset: Input should be 'many'"),
    ],
)
def test_layout_mistakes_are_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    """An unknown key or value in a table file is refused with its place and what is legal."""
    content = (
        "preset: paper\nseeds: [0]\nrows:\n- {recipe: plain, label: Plain, group: First}\n"
        "columns:\n- {data: d, train: glt, protocol: clt, subset: overall, metric: accuracy}\n"
    )
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    assert load_layout(file).name == "mine"
    file.write_text(content.replace(old, new))
    with pytest.raises(ValueError, match=f"mine.yaml: .*{said}"):
        load_layout(file)


# --- LaTeX -----------------------------------------------------------------------------------------

HOSTILE = [r"50% & a_b #1 $x$ {y} \z ~ ^", '[1ex] * <a|b> "q" `t\'', "*", r"_x $ \frac $", "é ±"]


def hostile(folder: Path) -> Table:
    rows = [{"recipe": f"r{i}", "label": label, "group": label} for i, label in enumerate(HOSTILE)]
    write_run(folder, "r0", lines=[evaluation(0, 10, 0.5)])
    write_run(folder, "r1", name=r"r_1 %&#$~^{}\x")
    write_run(folder, "r1", hash_="ffffffff")  # unlike the other, so that the note of a paper's table names both
    write_run(folder, "r3", cbl=MOST, lines=[evaluation(0, 10, 0.5)])
    return table(folder, rows=rows)


def test_latex_escapes_hostile_names(tmp_path: Path) -> None:
    """Nothing in a label or run name is read as LaTeX, and no row break takes an argument from a label."""
    assert text.escape(HOSTILE[0]) == (
        r"50\% \& a\_b \#1 \ensuremath{\$}x\ensuremath{\$} \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{}"
    )
    assert text.escape("[1ex]\n  *") == "{[}1ex{]} {*}"
    made = text.latex(hostile(tmp_path))
    assert text.escape(r"r_1 %&#$~^{}\x") in made
    assert made.count("{") - made.count(r"\{") == made.count("}") - made.count(r"\}")
    body = [
        line
        for line in made.split(r"\midrule", 1)[1].splitlines()
        if line.endswith(r"\\") and "multicolumn" not in line
    ]
    assert len(body) == len(HOSTILE)
    assert all(line.replace(r"\&", "").count("&") == len(TABLE_COLUMNS) for line in body)


def test_figure_takes_hostile_names(tmp_path: Path) -> None:
    """Labels with $ or a leading underscore appear in the legend as they are, maths as plain text, and drawing does not
    fail.
    """
    from analysis.figures.style import save_figure

    figure, _ = learning_curves(hostile(tmp_path))
    save_figure(figure, tmp_path, "hostile")
    assert [entry.get_text() for entry in figure.legends[0].get_texts()] == [
        HOSTILE[0].replace("$x$", "x"),
        HOSTILE[3],
    ]


def test_latex_compiles(tmp_path: Path) -> None:
    """The table compiles as it is, hostile names included, in a document with booktabs and graphicx."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed; the Debian package texlive-latex-recommended has it (`make system`)")
    runs = tmp_path / "runs"
    runs.mkdir()
    (tmp_path / "table.tex").write_text(text.latex(hostile(runs)), encoding="utf-8")
    document = (
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\n\\begin{document}\\input{table}\\end{document}\n"
    )
    (tmp_path / "document.tex").write_text(document)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:]


# --- the command -----------------------------------------------------------------------------------


def digits(folder: Path, order: int = 1) -> Path:
    """Run folders for the digits table, written in one order or the other."""
    folder.mkdir()
    jobs = [(recipe, seed) for recipe in ("glt_baseline", "glt_ifl", "glt_randaug_ifl") for seed in (0, 1)]
    for recipe, seed in jobs[::order]:
        lines = [evaluation(e, 10 * e + 10, 0.1 * e, split) for e in range(3) for split in ("test_cbl", "test_gbl")]
        write_run(folder, recipe, seed, cbl=MOST if seed else HALF, lines=lines)
    return folder


@pytest.mark.full
def test_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    """Every file repeats byte for byte: at another time, hash seed, place and order of folders."""
    first = command(
        f"runs={digits(tmp_path / 'a')}",
        f"out={tmp_path / 'one'}",
        "table=digits_clt_glt",
        "seeds=0,1",
        PYTHONHASHSEED="1",
    )
    assert first.returncode == 0, first.stderr
    time.sleep(1.1)  # a time stamp of whole seconds would differ
    second = command(
        f"runs={digits(tmp_path / 'b', -1)}",
        f"out={tmp_path / 'two'}",
        "table=digits_clt_glt",
        "seeds=0,1",
        PYTHONHASHSEED="2",
    )
    assert second.returncode == 0, second.stderr
    names = {
        "results.csv",
        "classes.csv",
        "shape.csv",
        "rankings.csv",
        "problems.txt",
        "report.tex",
        "report.pdf",
        "index.html",
    }
    names |= {
        f"{figure}.{kind}"
        for figure in ("figure5", "pairs_clt", "pairs_glt", "curves_digits_clt_glt")
        for kind in ("pdf", "png")
    }
    names |= {f"digits_clt_glt{end}" for end in (".tex", ".tabular.tex", ".csv", ".md")}
    names |= {f"digits_clt_glt_{what}.tex" for what in ("stacked", "gains", "shape")}
    assert {file.name for file in (tmp_path / "one").iterdir()} == names
    for name in sorted(names):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_command_prints_the_table_and_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints each table within 120 columns, what is lacking, and the files it wrote."""
    main([f"runs={digits(tmp_path / 'runs')}", f"out={tmp_path / 'out'}", "seeds=0,1", "only=tables"])
    shown = capsys.readouterr().out
    tables = shown.split("6 runs read")[0]
    assert max(map(len, tables.splitlines())) <= 120
    assert "  Baseline" in tables and "65.00±21.21" in tables
    assert "RandAug: no run: python slurm/launch.py recipe=glt_randaug" in tables
    for file in (tmp_path / "out").iterdir():
        assert str(file) in shown
    cells = pd.read_csv(tmp_path / "out" / "digits_clt_glt.csv")
    line = cells[(cells.label == "Baseline") & (cells.protocol == "clt") & (cells.subset == "overall")].iloc[0]
    assert (line["metric"], line["mean"], line["n"]) == ("accuracy", 65.0, 2)
    assert line["runs"] == "glt_baseline-digits_glt-glt-s0-0123abcd glt_baseline-digits_glt-glt-s1-0123abcd"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rns=x"], "rns=x: .*did you mean runs"),
        (["runs={}"], "out= is missing"),
        (["runs={}", "out={}", "later=no"], "later=no: legal is later=yes"),
        (["runs={}", "out={}", "select=bst"], "select=bst: did you mean best"),
        (
            ["runs={}", "out={}", "table=digits_clt_gl"],
            "table=digits_clt_gl does not exist; did you mean digits_clt_glt",
        ),
        (["runs={}", "out={}", "seeds=0,x"], "seeds=0,x: legal is distinct whole numbers"),
        (["runs={}", "out={}", "out={}"], "given twice"),
        (["runs={}/none", "out={}"], "no such directory"),
        (["runs={}/runs/empty", "out={}"], "no readable run folder"),
    ],
)
def test_command_refuses_by_name(tmp_path: Path, arguments: list[str], said: str) -> None:
    """A wrong key or value is refused in one sentence that names the nearest legal one."""
    write_run(tmp_path / "runs", data="digits_glt")
    (tmp_path / "runs" / "empty").mkdir()
    filled = [argument.format(tmp_path / "runs" if argument == "runs={}" else tmp_path) for argument in arguments]
    with pytest.raises(ValueError, match=said):
        main(filled)


def test_data_without_a_table_is_said(tmp_path: Path) -> None:
    """Where no layout is about the runs' data set, the command says so and names the data set."""
    write_run(tmp_path / "runs", data="elsewhere")
    with pytest.raises(ValueError, match=r"no table with a row of these runs, which are on elsewhere: "):
        main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"])


def test_analysis_never_imports_torch(tmp_path: Path) -> None:
    """A whole command runs without torch, deepspeed or webdataset: a table is made on any laptop."""
    code = (
        "import sys; from analysis.__main__ import main; main(sys.argv[1:]);"
        "print('IMPORTED', sorted({'torch', 'deepspeed', 'webdataset', 'torchvision'} & set(sys.modules)))"
    )
    arguments = [f"runs={digits(tmp_path / 'runs')}", f"out={tmp_path / 'out'}", "table=digits_overall"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "IMPORTED []" in done.stdout


def test_a_run_changed_on_the_command_line_is_marked(tmp_path: Path) -> None:
    """A run that is not its recipe as the project has it is counted, but its cells are marked and the notes say in
    what.
    """
    from recipes.resolve import dump, resolve

    write_run(tmp_path / "runs", data="digits_glt", recipe="glt_ifl")
    (folder,) = (tmp_path / "runs").iterdir()
    for words, marked in ((["schedule.epochs=5"], True), (["nodes=2"], False)):
        (folder / "recipe.yaml").write_text(dump(resolve(["recipe=glt_ifl", "data=digits_glt", *words])))
        runs, _ = load_runs(tmp_path / "runs")
        frame, problems = tidy(runs)
        layout = load_layout(available()["digits_clt_glt"])
        table = fill_table(layout, runs, frame, problems)
        row = [row.recipe for row in layout.rows].index("glt_ifl")
        assert any(cell.marked and cell.values for cell in table.cells[row]) == marked
        assert any("schedule.epochs=5 (60)" in note for note in table.notes) == marked
