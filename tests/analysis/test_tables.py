"""Tables as they are printed: they compile, hostile names are names, states of runs are said, and a cell can be
explained.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis.__main__ import main
from analysis.inputs import frame
from analysis.inputs.runs import load_runs
from analysis.report import explain
from analysis.stats.bootstrap import ALPHA, Resamples
from analysis.tables import agreement, cells, comparison, ledger, presentation, text
from analysis.tables.cells import Table
from recipes.table_layout import Column, available, load_layout
from tests.helpers.paths import GOLDEN
from tests.helpers.tables import HALF, LABEL, MOST, TABLE_COLUMNS, beside_paper, command, layout, table, write_run

LACKING = "pdflatex is not installed; the Debian package texlive-latex-recommended has it (`make system`)"
PDFLATEX = pytest.mark.skipif(shutil.which("pdflatex") is None, reason=LACKING)
UGLY = [
    r"50% & a_b #1 $x$ {y} \z ~ ^",
    '[1ex] * <a|b> "q" `t\'',
    r"\input{x}\end{table}",
    "Ünïcödé ł ß \u03b1 π 数据 🙂 e\u0301 \x1b[31m",
    "very long " * 40,
    "+",
    "`*_#>|",
]


def compiled(folder: Path, *parts: str, document: str = "article") -> str:
    """The log of pdflatex on a document of these floats, each on pages of its own; it must not fail."""
    for number, part in enumerate(parts):
        (folder / f"part{number}.tex").write_text(part, encoding="utf-8")
    body = r"\clearpage".join(rf"\input{{part{number}}}" for number in range(len(parts)))
    (folder / "document.tex").write_text(
        rf"\documentclass{{{document}}}\usepackage{{booktabs,graphicx}}\begin{{document}}{body}\end{{document}}"
    )
    command_ = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "document.tex"]
    done = subprocess.run(command_, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


@PDFLATEX
def test_every_kind_of_table_compiles_and_fits(tmp_path: Path) -> None:
    """All forms of real tables, and paper | ours | difference with later papers, compile as they are and are
    nowhere wider than the line.
    """
    runs, _ = load_runs(GOLDEN / "runs")
    numbers, resamples = frame.tidy(runs), Resamples(50)
    parts = []
    for name in ("digits_clt_glt", "digits_overall", "digits_ablation", "digits_alt", "controls"):
        filled = cells.fill_table(load_layout(available()[name]), runs, *numbers, resamples)
        parts += [
            text.latex(filled),
            text.latex(filled, stacked=True),
            comparison.gains(filled),
            comparison.shape_summary(filled),
        ]
    write_run(tmp_path / "runs", data="imagenet_glt", cbl=HALF)
    write_run(tmp_path / "runs", data="imagenet_glt", seed=1, cbl=MOST)
    write_run(tmp_path / "runs", "plain_ifl", data="imagenet_glt", cbl=LABEL)
    paper = comparison.paper_and_ours(beside_paper(tmp_path / "runs", seeds=[0, 1]), later=True)
    assert paper and r"{\tiny$\pm$21.21}" in text.latex(beside_paper(tmp_path / "runs", seeds=[0, 1]))
    log = compiled(tmp_path, *filter(None, parts), paper, text.latex(beside_paper(tmp_path / "runs", seeds=[0, 1])))
    assert "Overfull" not in log and "Undefined" not in log


def test_a_papers_labels_are_whole(tmp_path: Path) -> None:
    """However long, with maths or without, in table and ledger; a terminal shortens them."""
    write_run(tmp_path, "plain")
    labels = [f"A method with a name of far more than forty-eight characters{more}" for more in ("", r" $\pi$")]
    made = table(tmp_path, seeds=[0], rows=[{"recipe": "plain", "label": labels[0], "group": labels[1]}])
    written = text.latex(made)
    assert all(label in written for label in labels) and labels[0] not in text.terminal(made)
    assert labels[0] in ledger.latex(ledger.ledger([made], load_runs(tmp_path)[0]))


@PDFLATEX
def test_hostile_names_compile(tmp_path: Path) -> None:
    """Rows, groups, runs and commits named like LaTeX, in any alphabet, and as long as a page, are printed and stop
    nothing.
    """
    rows = [{"recipe": f"r{i}", "label": label, "group": label, "twin": "r0"} for i, label in enumerate(UGLY)]
    write_run(tmp_path / "runs", "r0")
    for number, name in enumerate((r"r_1 %&#$~^{}\x", "数据 🙂", "x" * 200)):
        write_run(tmp_path / "runs", f"r{number + 1}", cbl=MOST, done=number > 0, name=name)
    hostile = table(tmp_path / "runs", seeds=[0], rows=rows)
    for form in (text.latex(hostile), text.latex(hostile, stacked=True)):
        assert form.isascii()
        compiled(tmp_path, form)


def test_escape_prints_what_it_can() -> None:
    """Latin letters keep their accents, Greek ones are Greek, the rest is a code point; nothing is lost in silence."""
    assert text.escape("Ünïcödé ß \u03b1") == r"\"{U}n\"{\i}c\"{o}d\'{e} \ss{} \ensuremath{\alpha}"
    assert text.escape("e\u0301") == r"\'{e}", "composed first"
    assert text.escape("数\x1b") == r"\texttt{U+6570}\texttt{U+001B}"
    everything = "".join(map(chr, range(0x20, 0x2FFF)))
    assert text.escape(unicodedata.normalize("NFC", everything)).isascii()


def test_markdown_and_terminal_take_hostile_names(tmp_path: Path) -> None:
    """A bar in a name is no column, in each row; and no line of a terminal table is wider than 120 for a long name."""
    rows = [{"recipe": f"r{i}", "label": label, "group": label} for i, label in enumerate(UGLY)]
    write_run(tmp_path, "r0")
    hostile = table(tmp_path, seeds=[0], rows=rows)
    lines = [line for line in text.markdown(hostile).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}, "group, method and one subset"
    printed = text.terminal(hostile)
    assert max(map(len, printed.split("\n\n")[1].splitlines())) <= 120 and "\x1b" not in printed and r"\x1b" in printed


def test_a_long_note_is_whole_on_the_terminal() -> None:
    """One that names many rows, such as that on unequal search budgets, lacks none of them."""
    note = "; ".join(f"{number} values: row {number}" for number in range(200))
    lines = text.wrap_lines(note)
    assert " ".join(line.strip() for line in lines) == note and max(map(len, lines)) <= 120


# --- the paper's layout ----------------------------------------------------------------------------


def test_pairs_stand_as_in_the_paper() -> None:
    """Table 1 has two protocols of four subsets, each with accuracy | precision, side by side; groups stand upright
    at the left.
    """
    layout = load_layout(available()["imagenet_clt_glt"])
    clt, glt = presentation.blocks(layout)
    assert clt.title == "Class-wise long tail (CLT)" and clt.metrics == ("Accuracy", "Precision") == glt.metrics
    assert clt.subsets == ("Many_C", "Med_C", "Few_C", "Overall") and clt.units == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert glt.units == [(8, 12), (9, 13), (10, 14), (11, 15)]
    runs, _ = load_runs(GOLDEN / "runs")
    lines = text.latex(cells.fill_table(layout, runs, *frame.tidy(runs), Resamples(2))).splitlines()
    assert any(
        r"\multicolumn{8}{c}{Class-wise long tail (CLT)} & \multicolumn{8}{c}{Generalized long tail (GLT)}" in line
        for line in lines
    )
    assert any(r"Method & \multicolumn{2}{c}{Many$_C$} & \multicolumn{2}{c}{Med$_C$}" in line for line in lines)
    assert sum("rotatebox" in line for line in lines) == 3 and any(
        "rotatebox" in line and "BBN" in line for line in lines
    ), "in the middle of 13 rows"


def test_best_and_second_are_of_a_group(tmp_path: Path) -> None:
    """Best of each group and column is bold, the second underlined where four or more compete; equal as printed is
    equal.
    """
    rows = [{"recipe": f"r{i}", "label": f"R{i}", "group": "A" if i < 4 else "B"} for i in range(6)]
    for i, right in enumerate((5, 7, 7, 6, 3, 2)):
        prediction = np.where(np.arange(10) < right, LABEL, 9)
        write_run(tmp_path, f"r{i}", cbl=prediction)
    assert [line[0] for line in presentation.ranks(table(tmp_path, seeds=[0], rows=rows))] == [0, 1, 1, 2, 1, 0]
    made = text.latex(table(tmp_path, seeds=[0], rows=rows))
    assert (
        r"\textbf{70.00}" in made
        and r"\underline{60.00}" in made
        and r"\textbf{30.00}" in made
        and "underline{20.00}" not in made
    )


def test_lower_is_better_of_an_error(tmp_path: Path) -> None:
    """The best calibration error is the smallest."""
    columns = [{"data": "digits_glt", "train": "glt", "protocol": "clt", "subset": "overall", "metric": "ece"}]
    write_run(tmp_path, "plain", cbl=HALF)
    write_run(tmp_path, "plain_ifl", cbl=MOST)  # all confidences are 1, so the error is 1 - accuracy
    made = table(tmp_path, seeds=[0], columns=columns)
    assert [line[0].mean for line in made.cells] == [pytest.approx(0.5), pytest.approx(0.2)]
    assert presentation.ranks(made) == [[0], [1]] and "ECE" in text.latex(made)


@pytest.mark.parametrize(("subset", "metric"), [("few", "worst"), ("overall_a", "accuracy")])
def test_measures_over_groups_have_no_group(subset: str, metric: str) -> None:
    """`worst` of a group, or `overall_a` of a measure that is not over groups, is refused with what is legal."""
    with pytest.raises(ValueError, match=f"metric {metric} has no subset {subset}; legal: "):
        Column(data="d", train="glt", protocol="clt", subset=subset, metric=metric)  # type: ignore[arg-type]


def test_marks_of_the_baseline_and_their_legend(tmp_path: Path) -> None:
    """↑ and ↓ stand where the test against the twin is sure, with a legend; without one there is no legend."""

    def made(name: str, plain: np.ndarray, ifl: np.ndarray, seeds: int = 3) -> Table:
        for seed in range(seeds):
            write_run(tmp_path / name, "plain", seed, cbl=plain)
            write_run(tmp_path / name, "plain_ifl", seed, cbl=ifl)
        return table(tmp_path / name, seeds=list(range(seeds)))

    up = made("up", np.full(10, 9), LABEL)
    assert (
        "100.00±0.00↑" in text.terminal(up)
        and r"{\tiny$\pm$0.00}\ensuremath{\scriptstyle\uparrow}" in text.latex(up)
        and "**100.00±0.00**↑" in text.markdown(up)
    )
    assert "p < 0.05 (t test over seeds and test samples, not corrected for the number of cells)" in " ".join(
        text.terminal(up).split()
    )
    assert "0.00±0.00↓" in text.terminal(made("down", LABEL, np.full(10, 9)))
    same = made("same", HALF, MOST[[*range(7), 7, 7, 7]])
    assert not {"↑", "↓"} & set(text.terminal(same) + text.markdown(same)) and "arrow" not in text.latex(same)
    few = made("few", np.full(10, 9), LABEL, seeds=2)
    test = few.cells[1][0].baseline_test
    assert test is not None and test.p < ALPHA, "it would be marked"
    said = "o arrows over 2 seeds: differences are marked from 3 seeds on"
    for written in (text.terminal(few), text.markdown(few), text.latex(few)):
        assert not {"↑", "↓"} & set(written) and "uparrow" not in written and written.count(said) == 1


# --- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "events", "state", "said"),
    [
        ({"done": False}, [], "unfinished", "it is unfinished (it has no file named done)"),
        (
            {"done": False, "lines": [{"kind": "train", "epoch": 7, "step": 70}]},
            [{"event": "start"}],
            "unfinished",
            "no file named done; in epoch 7)",
        ),
        (
            {"done": False},
            [{"event": "failed", "rank": 3, "error": "ValueError: a\n b"}, {"event": "start"}],
            "failed",
            "failed, rank 3: ValueError: a b",
        ),
        (
            {"done": False},
            [{"event": "failed", "rank": 0, "error": "x"}, {"event": "verdict", "verdict": "give up"}],
            "failed",
            "give up",
        ),
        ({"done": False}, [{"event": "verdict", "verdict": "requeue"}], "unfinished", "requeue"),
        ({"seed": 5}, [], "foreign", "its seed 5 is not among the table's"),
        ({"preset": "corrected"}, [], "foreign", "its preset is corrected"),
    ],
)
def test_state_of_an_empty_cell(tmp_path: Path, change: dict, events: list[dict], state: str, said: str) -> None:
    """A cell without number says why in one word, and its notes say it in full."""
    path = write_run(tmp_path, "glt_ifl", **change)
    (path / "log").mkdir()
    lines = [json.dumps({"incarnation": "1", "step": 0, **event}) for event in events]
    (path / "log" / "events.jsonl").write_text("\n".join([*lines, '{"event": "to']))
    rows = [{"recipe": "glt_ifl", "label": "IFL", "group": "G"}]
    cell = table(tmp_path, seeds=[0], rows=rows).cells[0][0]
    assert cell.mean is None and cell.marked and cell.state == state
    assert any(said in note for note in cell.notes)


@pytest.mark.parametrize("words", [["only=tables"], ["tuned"]], ids=["tables", "tuned"])
def test_a_mistyped_name_in_a_layout_is_told(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe or data set that neither a file nor a run knows, with the nearest, and no command that cannot work; one
    that a run read knows may well not be here.
    """
    write_run(tmp_path / "runs", "theirs", data="birds")
    rows = [{"group": "G", "recipe": name, "label": name} for name in ("theirs", "glt_iffl")]
    column = {"train": "glt", "protocol": "clt", "subset": "overall", "metric": "accuracy"}
    columns = [{**column, "data": data} for data in ("birds", "digits_gl", "digits_glt")]
    (file := tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"preset": "paper", "seeds": [0], "rows": rows, "columns": columns})
    )
    main([*reversed(words), f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", f"table={file}"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("no run: data=digits_gl does not exist; did you mean digits_glt?") == 1
    assert said.count("glt_iffl: no run: recipe=glt_iffl does not exist; did you mean glt_ifl?") == 1
    assert "theirs: no run: python slurm/launch.py recipe=theirs data=digits_glt train=glt preset=paper" in said


def test_problems_are_listed_in_a_file(tmp_path: Path) -> None:
    """problems.txt has every note of every table and every folder that is no run; the table's CSV has the cell's
    state.
    """
    write_run(tmp_path / "runs", "glt_ifl", done=False)
    (tmp_path / "runs" / "other").mkdir()
    main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", "table=digits_overall"])
    said = (tmp_path / "out" / "problems.txt").read_text(encoding="utf-8").splitlines()
    assert any(
        line.startswith("digits_overall: Baseline + IFL: glt_ifl-") and "is left out: it is unfinished" in line
        for line in said
    )
    assert "other is left out: recipe.yaml is missing" in said and sum("no run: python " in line for line in said) == 41
    cells = (tmp_path / "out" / "digits_overall.csv").read_text(encoding="utf-8").splitlines()
    assert ",unfinished," in next(line for line in cells if ",glt_ifl,paper,digits_glt,glt,clt," in line)


def test_missing_unlike_and_damaged_have_their_state(tmp_path: Path) -> None:
    """No run, unlike runs and unreadable predictions are told apart."""
    write_run(tmp_path, "plain")
    write_run(tmp_path, "plain", seed=1, hash_="ffffffff")
    path = write_run(tmp_path, "plain_ifl")
    (path / "preds" / "last" / "test_cbl.npz").write_bytes(b"x")
    rows = [{"recipe": recipe, "label": recipe, "group": "G"} for recipe in ("plain", "plain_ifl", "none")]
    made = table(tmp_path, rows=rows)
    assert [line[0].state for line in made.cells] == ["unlike", "damaged", "missing"] and made.cells[1][2].state == ""


def test_runs_of_other_code_are_marked_and_old_ones_not_read(tmp_path: Path) -> None:
    """Seeds whose method was edited in between count and are marked, with a note that says which had which; a run
    without digests, and one that was set aside, change nothing.
    """
    folders = [write_run(tmp_path, "plain", seed=seed) for seed in (0, 1, 2)]

    def note(digests: dict[int, str]) -> list[str]:
        for seed, folder in enumerate(folders):
            meta = json.loads((folder / "meta.json").read_text())
            meta.pop("code", None)
            code = {"code": {"method": digests[seed], "model": "0"}} if seed in digests else {}
            (folder / "meta.json").write_text(json.dumps({**meta, **code}))
        cell = table(tmp_path, seeds=[0, 1, 2], rows=[{"recipe": "plain", "label": "P", "group": "G"}]).cells[0][0]
        assert len(cell.values) == 3 and cell.marked == bool(cell.notes)
        return list(cell.notes)

    assert note({}) == note({0: "a", 1: "a"}) == []
    (said,) = note({0: "a", 2: "b"})
    first, last = folders[0].name, folders[2].name
    assert said == f"P: these runs differ in the code of their method: a: {first}; b: {last}"
    shutil.copytree(folders[0], tmp_path / f"{first}.old-1")
    assert len(load_runs(tmp_path)[0]) == 3


def test_brief_notes_lose_no_reason(tmp_path: Path) -> None:
    """What is alike is said once: rows without a run, runs left out for one reason; everything else is there as it
    is.
    """
    rows = [{"recipe": f"r{i}", "label": f"R{i}", "group": "G"} for i in range(5)]
    for seed in range(3, 10):
        write_run(tmp_path, "r0", seed=seed, preset="corrected")
    write_run(tmp_path, "r1")
    made = table(tmp_path, seeds=[0], rows=rows)
    assert "no run on data=digits_glt train=glt of 3 of 5 rows: R2, R3, R4" in made.brief
    (left,) = [
        note for note in made.brief if note.startswith("left out, its preset is corrected, the table's is paper: ")
    ]
    assert (
        left.endswith("the table's is paper: 7 runs of R0")
        and "R0: no run of seed 0 (data=digits_glt train=glt)" in made.brief
        and len(made.brief) == 3
    )


def test_a_seed_that_another_preset_alone_has_is_lacking(tmp_path: Path) -> None:
    """The run is left out for its preset, and the row lacks the seed; an unfinished run is there, and says itself why
    it does not count."""
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, preset="corrected", hash_="ffffffff")
    write_run(tmp_path, seed=2, done=False)
    notes = table(tmp_path, seeds=[0, 1, 2]).cells[0][0].notes
    assert "Plain: no run of seed 1 (data=digits_glt train=glt)" in notes
    assert sum("is left out" in note for note in notes) == 2


def test_runs_of_further_seeds_are_one_line(tmp_path: Path) -> None:
    """In every form of the table, without names; of other runs that do not count a paper's float says no name either,
    and problems.txt names all.
    """
    for recipe in ("glt_baseline", "glt_ifl"):
        for seed in range(4):
            write_run(tmp_path / "runs", recipe, seed)
    write_run(tmp_path / "runs", "glt_ifl", seed=0, preset="corrected", hash_="ffffffff")
    rows = [{"recipe": recipe, "label": recipe, "group": "G"} for recipe in ("glt_baseline", "glt_ifl")]
    (file := tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"preset": "paper", "seeds": [0, 1], "rows": rows, "columns": TABLE_COLUMNS[:1]})
    )
    main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", f"table={file}", "only=tables"])
    made = table(tmp_path / "runs", seeds=[0, 1], rows=rows)
    line, names = "runs of other seeds (2, 3) are left out of 2 of 2 rows", [f"-s{seed}-" for seed in (2, 3)]
    for form in (text.terminal(made), text.markdown(made), text.latex(made)):
        assert line in re.sub(r"\\(?=[()])", "", form) and not any(name in form for name in names)
    assert "digits_glt-glt-s" not in text.latex(made) and "digits_glt-glt-s0-ffffffff" in text.terminal(made)
    said = (tmp_path / "out" / "problems.txt").read_text()
    assert all(said.count(name) == 2 for name in names) and line not in said


def test_runs_of_a_budget_without_a_row_are_one_brief_note(tmp_path: Path) -> None:
    """Under a table to be printed they are counted, by budget; the full notes name each."""
    write_run(tmp_path)
    for seed in range(5):
        write_run(tmp_path, seed=seed, budget="matched", hash_="99999999")
    made = table(tmp_path, seeds=[0])
    assert sum("is in no row" in note for note in made.notes) == 5 and not any(
        "is in no row" in note for note in made.brief
    )
    assert "5 runs of these recipes have budget matched, for which this table has no row of theirs" in made.brief


def test_other_test_samples_are_marked(tmp_path: Path) -> None:
    """Predictions of a test split with other samples than the other rows' do not compare, whatever the fingerprint
    says: both are marked, and the note names the rows.
    """
    write_run(tmp_path)
    path = write_run(tmp_path, "plain_ifl") / "preds" / "last" / "test_gbl.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name][:9] for name in stored.files}
    np.savez(path, **arrays)
    made = table(tmp_path, seeds=[0])
    for line in made.cells:
        for column, cell in zip(made.layout.columns, line, strict=True):
            assert (
                cell.marked
                == any("differ in their test samples" in note for note in cell.notes)
                == (column.split == "test_gbl")
            )
    assert (
        "rows do not compare, they differ in their test samples on digits_glt test_gbl (10 samples: Plain; 9 "
        "samples: Plain + IFL)" in made.notes
    )


# --- explain ---------------------------------------------------------------------------------------


def test_explain_says_what_stands_behind_a_cell() -> None:
    """Runs, seeds, commits, counts, interval, test and the paper's number, checked against the stored predictions."""
    runs, _ = load_runs(GOLDEN / "runs")
    filled = cells.fill_table(load_layout(available()["digits_clt_glt"]), runs, *frame.tidy(runs))
    place = explain.find_cell(filled.layout, "glt_ifl", "glt.few.accuracy")
    assert (
        place
        == explain.find_cell(filled.layout, "Baseline + IFL", "11")
        == explain.find_cell(filled.layout, "9", "glt.few.accuracy")
    )
    fact = explain.explain_cell(filled, *place)
    (run,) = [run for run in runs if (run.recipe, run.train) == ("glt_ifl", "glt")]
    arrays = run.predictions("last", "test_gbl")
    few = arrays["group"] == 2
    (behind,) = fact["runs"]
    assert (behind["name"], behind["seed"], behind["commit"]) == (run.name, 0, run.commit)
    assert (behind["samples"], behind["right"]) == (few.sum(), (arrays["label"] == arrays["prediction"])[few].sum())
    assert (
        fact["mean"] == behind["right"] / behind["samples"] and fact["interval"][0] < fact["mean"] < fact["interval"][1]
    )
    assert (
        fact["paper"]["data"] == "imagenet_glt"
        and fact["paper"]["difference"] is None
        and fact["twin"]["label"] == "Baseline"
        and fact["twin"]["gained"] > fact["twin"]["lost"]
    )
    assert json.loads(json.dumps(fact)) == fact, "plain data"


def test_explain_on_the_command_line(tmp_path: Path) -> None:
    """The command prints the cell; a cell without number says why."""
    write_run(tmp_path, "glt_ifl", cbl=MOST)
    write_run(tmp_path, "glt_baseline", cbl=HALF)
    shown_ = command(
        "explain", f"runs={tmp_path}", "table=digits_clt_glt", "row=Baseline + IFL", "column=clt.overall.accuracy"
    )
    assert shown_.returncode == 0, shown_.stderr
    assert (
        "value   80.00, 95 % interval" in shown_.stdout
        and "8 of 10 samples right" in shown_.stdout
        and "commit c0ffee" in shown_.stdout
    )
    assert (
        "twin    +30.00 against Baseline" in shown_.stdout
        and "right here alone 3, right there alone 0" in shown_.stdout
    )


def test_explain_an_empty_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no number, the state and the notes are printed."""
    write_run(tmp_path, "glt_ifl", done=False)
    main(["explain", f"runs={tmp_path}", "table=digits_clt_glt", "row=glt_ifl", "column=1"])
    said = capsys.readouterr().out
    assert "value   none: unfinished" in said and "note    Baseline + IFL: glt_ifl" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["row=Baselin", "column=1"], "row=Baselin: the table has none so called; did you mean Baseline"),
        (["row=1", "column=glt.few.acuracy"], "column=glt.few.acuracy: .*did you mean glt.few.accuracy"),
        (["row=1", "column=17"], "column=17: the table has none"),
        (["row=1"], "column= is missing"),
        (["row=1", "column=1", "out=x"], "out=x: not a key=value of this command"),
    ],
)
def test_explain_refuses_by_name(tmp_path: Path, arguments: list[str], said: str) -> None:
    """An unknown row, column or key is refused with the nearest legal one."""
    write_run(tmp_path, "glt_ifl")
    with pytest.raises(ValueError, match=said):
        main(["explain", f"runs={tmp_path}", "table=digits_clt_glt", *arguments])


def test_explain_knows_the_columns_that_the_data_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column that is left out of the table is refused, with why; names and numbers mean those that are shown."""
    write_run(tmp_path, "glt_baseline", data="birds", cbl=MOST)
    (run,) = tmp_path.iterdir()
    facts = json.loads((run / "meta.json").read_text())
    (run / "meta.json").write_text(json.dumps({**facts, "editions": {"glt": ["train", "val", "test_cbl"]}}))
    columns = [
        {"train": "glt", "protocol": protocol, "subset": "overall", "metric": "accuracy"} for protocol in ("glt", "clt")
    ]
    rows = [{"group": "G", "recipe": "glt_baseline", "label": "A"}]
    (file := tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"preset": "paper", "seeds": [0], "rows": rows, "columns": columns})
    )
    words = ["explain", f"runs={tmp_path}", f"table={file}", "data=birds", "row=1"]
    for column in ("clt.overall.accuracy", "1"):
        main([*words, f"column={column}"])
        said = capsys.readouterr().out
        assert "column  clt.overall.accuracy" in said and "value   80.00" in said
    with pytest.raises(ValueError, match=r"column=glt.overall.accuracy: birds has no attributes, so it has CLT alone"):
        main([*words, "column=glt.overall.accuracy"])
    with pytest.raises(ValueError, match=r"column=2: the table has none so called; legal: clt.overall.accuracy"):
        main([*words, "column=2"])


def test_rows_of_one_label_need_a_number() -> None:
    """Where rows of two groups bear one label, the sentence gives their numbers; with its group a row has a name."""
    rows = [{"recipe": f"r{i}", "label": "CE" if i else "L", "group": f"G{i}"} for i in range(3)]
    with pytest.raises(ValueError, match=r"2 of the table's are so called; legal is also a number, here 2 or 3"):
        explain.find_cell(layout(rows=rows), "CE", "1")
    assert explain.find_cell(layout(rows=rows), "G2: CE", "1") == (2, 0)


# --- counts by class -------------------------------------------------------------------------------


def test_counts_by_class_have_names_and_groups(tmp_path: Path) -> None:
    """classes.csv: true, predicted and right samples by class and attribute group, with the class's name, group and
    training images.
    """
    path = write_run(tmp_path, cbl=HALF)
    meta = json.loads((path / "meta.json").read_text())
    names = ["a,b", "數", "$c$", "d"]
    (path / "meta.json").write_text(
        json.dumps({**meta, "class_names": names, "class_groups": [0, 0, 1, 2], "class_counts": [9, 5, 3, 1]})
    )
    counts = frame.by_class(load_runs(tmp_path)[0])
    clt = counts[(counts.protocol == "clt") & (counts.attribute == "many_a")]
    assert (
        list(clt["name"]) == names and list(clt["group"]) == [0, 0, 1, 2] and list(clt["train_images"]) == [9, 5, 3, 1]
    )
    assert (list(clt["true"]), list(clt["predicted"]), list(clt["right"])) == ([2, 1, 1, 1], [3, 1, 1, 0], [2, 1, 1, 0])
    assert len(counts) == 2 * 2 * 4 and tuple(counts.columns) == frame.CLASS_COLUMNS


def test_class_lists_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    """Names that are not one for each class cost the names, not the run."""
    path = write_run(tmp_path)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(
        json.dumps({**meta, "class_names": ["a"], "class_groups": "x", "class_counts": [1]})
    )
    (run,) = load_runs(tmp_path)[0]
    assert run.classes == () and set(frame.by_class([run])["name"]) == {"0", "1", "2", "3"}


def test_columns_may_be_of_any_measure(tmp_path: Path) -> None:
    """A layout may ask for F1, harmonic mean, worst group and calibration error beside the paper's two: no new run
    is needed.
    """
    write_run(tmp_path, cbl=HALF)
    metrics = [
        ("overall", "f1"),
        ("overall", "harmonic"),
        ("overall_a", "worst"),
        ("few_a", "accuracy"),
        ("many", "ece"),
    ]
    columns = [{**TABLE_COLUMNS[0], "subset": subset, "metric": metric} for subset, metric in metrics]
    cells = table(tmp_path, seeds=[0], columns=columns).cells[0]
    # Accuracies: overall 1/2; groups 4/6, 1/2, 0; attributes 4/5, 1/5. Precision: (3/6 + 1/3 + 1 + 0) / 4 = 11/24.
    assert (
        cells[0].mean == pytest.approx(2 * 0.5 * 11 / 24 / (0.5 + 11 / 24))
        and cells[1].mean == 0.0
        and cells[2].mean == pytest.approx(0.2)
    )
    assert cells[3].state == "empty" and cells[4].mean == pytest.approx(1 - 4 / 6)
    assert agreement.gains_of(table(tmp_path, seeds=[0], columns=columns)) == []
