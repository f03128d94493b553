"""The ledger counts what was spent: every start once, first stages in each row and once in a whole, energy as noted."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.inputs.compute import Start, energy, sacct_joules, spent, starts_of
from analysis.inputs.light_copy import copy_run
from analysis.inputs.runs import load_run, load_runs
from analysis.tables import ledger
from analysis.tables.latex import PACKAGES
from tests.helpers.tables import table, write_run

HOUR = 3600.0


def event(kind: str, name: str, hour: float, **more: Any) -> dict[str, Any]:
    return {"event": kind, "incarnation": name, "time": HOUR * hour, "step": 0, **more}


def say(run: Path, events: Sequence[Mapping[str, Any]], size: int = 10, source: str = "", **meta: Any) -> Path:
    """Give a run folder events, a batch size and a first stage."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["batch"]["size"], recipe["method"] = size, {"init_from": source or None, "eval_of": None}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "meta.json").write_text(json.dumps(json.loads((run / "meta.json").read_text()) | meta))
    (run / "log").mkdir()
    (run / "log" / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in events))
    return run


TWO_STARTS = [event("submitted", "local.", 0), event("start", "7.0", 1), event("failed", "7.0", 1.5, rank=1, error="x")]
TWO_STARTS += [event("verdict", "7.0", 2, verdict="requeue"), event("start", "7.1", 9, world=4)]
TWO_STARTS += [event("finished", "7.1", 9.5)]


def test_all_starts_count_failed_ones_too() -> None:
    """Each from its start to the last word of it, by the ranks that it had; not the hours between; nor what the
    launcher notes.
    """
    assert starts_of(TWO_STARTS, 2) == ([Start(HOUR, 2 * HOUR, 2), Start(9 * HOUR, 9.5 * HOUR, 4)], 0)


def test_a_start_without_an_end_is_told() -> None:
    """One killed without a word has no hours, and one that failed before it began is counted, too."""
    silent = [event("start", "local.1", 1), event("start", "local.1", 5), event("stopped", "local.1", 6)]
    assert starts_of([*silent, event("failed", "local.2", 7)], 1) == (
        [Start(HOUR, None, 1), Start(5 * HOUR, 6 * HOUR, 1)],
        1,
    )
    damaged = [{"event": "start"}, {**event("start", "1", 1), "time": "noon"}, {**event("start", "1", 1), "time": True}]
    assert starts_of(damaged, 1) == ([], 0)


@pytest.mark.parametrize(
    "text, joules",
    [
        ("12|\n12.batch|900\n12.0|1000\n12.0|500", 1500.0),
        ("12|700\n12.batch|650", 700.0),
        ("12|0\n12.0|4294967294\n12.batch|18446744073709551614", None),
        ("", None),
        ("Slurm accounting storage is disabled", None),
    ],
    ids=["requeued", "no numbered step", "no value", "nothing", "no accounting"],
)
def test_sacct_s_text_is_read(text: str, joules: float | None) -> None:
    """Numbered steps are added up, the batch step holds them once more; SLURM's marks for no value are none."""
    assert sacct_joules(text) == joules


def test_energy_is_that_of_the_accounting_where_it_says_any() -> None:
    """A job that was asked twice counts once; NVML's joules of each rank and start count where SLURM says nothing."""
    asked = [{"by": "sacct", "job": "1", "text": "1.0|100"}, {"by": "sacct", "job": "1", "text": "1.0|100\n1.0|50"}]
    ranks = [{"by": "nvml", "incarnation": "1.0", "rank": rank, "joules": 20.0} for rank in (0, 1, 1)]
    assert energy([*asked, *ranks]) == (150.0, "sacct")
    assert energy([{"by": "sacct", "job": "1", "text": "1.0|"}, *ranks]) == (40.0, "nvml")
    assert energy([]) == (None, "")


@pytest.fixture()
def runs(tmp_path: Path) -> Path:
    """Two rows of one seed that start from one run: 1 and 3 hours of a first stage of 2 hours, on two ranks each."""
    one_start = [event("start", "3.0", 0), event("finished", "3.0", 2)]
    first = say(write_run(tmp_path, "first"), one_start, world=2)
    steps = [{"kind": "train", "epoch": 0, "step": step} for step in (4, 7)]
    plain = write_run(tmp_path, "plain", lines=[*steps, {"kind": "boot", "epoch": 0, "step": 0, "device": "cpu"}])
    say(plain, TWO_STARTS, source=first.name, machine={"processor": "x86_64", "processor_model": "A B", "cores": 2})
    (plain / "log" / "energy.jsonl").write_text(json.dumps({"by": "sacct", "job": "7", "text": "7.0|7200000"}) + "\n")
    say(
        write_run(tmp_path, "plain_ifl"),
        [event("start", "local.9", 0), event("finished", "local.9", 3)],
        source=first.name,
    )
    return tmp_path


def test_an_evaluator_s_hours_are_not_on_record(runs: Path) -> None:
    """Of a run with `log.eval=job` the hours are a lower bound, in its row and in the wholes; not so where it trains
    nothing, for it then has no evaluator.
    """
    for recipe, of in (("plain", None), ("plain_ifl", "first")):
        (run,) = runs.glob(f"{recipe}-*")
        stored = yaml.safe_load((run / "recipe.yaml").read_text())
        stored["log"], stored["method"]["eval_of"] = {"eval": "job"}, of
        (run / "recipe.yaml").write_text(yaml.safe_dump(stored))
    lines = ledger.ledger([table(runs, seeds=[0])], load_runs(runs)[0])
    assert [line.is_bound for line in lines] == [True, False, True, True]
    records = list(csv.DictReader(io.StringIO(ledger.csv(lines))))
    assert [record["runs_with_evaluator"] for record in records] == ["1", "0", "1", "1"]
    assert "*" in ledger.shown(lines[0])[5] and any("log.eval=job" in note for note in ledger.notes(lines))


def test_rows_show_their_first_stage_and_a_whole_counts_it_once(runs: Path) -> None:
    """By hand: Plain 1 h on two ranks and .5 h on four, + IFL 3 h on two, the first stage 2 h on two."""
    lines = ledger.ledger([table(runs, seeds=[0])], load_runs(runs)[0])
    found = {line.row: line for line in lines}
    assert list(found) == ["Plain", "Plain + IFL", ledger.WHOLE, ledger.EVERY]
    hours = {row: (line.own.seconds / HOUR, line.own.rank_seconds / HOUR) for row, line in found.items()}
    assert hours == {
        "Plain": (1.5, 4.0),
        "Plain + IFL": (3.0, 6.0),
        ledger.WHOLE: (6.5, 14.0),
        ledger.EVERY: (6.5, 14.0),
    }
    assert [line.first.rank_seconds / HOUR for line in lines] == [4.0, 4.0, 0.0, 0.0]
    assert [(line.own.runs, line.own.starts, line.own.images) for line in lines] == [
        (1, 2, 70),
        (1, 1, 0),
        (3, 4, 70),
        (3, 4, 70),
    ]
    assert not any(line.is_bound for line in lines)
    read = list(csv.DictReader(io.StringIO(ledger.csv(lines))))
    assert [line["energy_kwh"] for line in read] == ["2.000000", "", "2.000000", "2.000000"]
    assert read[0]["hardware"] == "cpu; A B, 2 cores" and read[0]["energy_by"] == "sacct"
    assert ledger.sentence(lines) == (
        "compute: 3 runs, 4 starts, 70 images, 14 hours of ranks, 2 kWh on record for 1 of them"
    )


def test_what_is_not_on_record_makes_a_lower_bound(runs: Path) -> None:
    """A first stage that is not here, and a start without an end, are counted and marked."""
    first = next(runs.glob("first-*"))
    first.rename(runs.parent / "elsewhere")
    other = next(runs.glob("plain_ifl-*")) / "log" / "events.jsonl"
    other.write_text(json.dumps(event("start", "local.9", 0)) + "\n")
    (other.parent.parent / "done").write_text(json.dumps({"wall_s": 1800.0}))
    plain, ifl, whole, every = ledger.ledger([table(runs, seeds=[0])], load_runs(runs)[0])
    assert plain.not_here == whole.not_here == every.not_here == (first.name,)
    assert (ifl.own.unended, ifl.own.seconds) == (1, 1800.0)  # of the steps that were kept
    assert all(line.is_bound for line in (plain, ifl, whole, every))
    assert ledger.sentence([every]).count("at least") == 1 and ledger.AT_LEAST in ledger.notes([every])


def test_light_copies_cost_as_much(runs: Path, tmp_path: Path) -> None:
    """What hours and energy are counted from is in them, and no message of a failure."""
    for run in sorted(runs.glob("*-s0-*")):
        copy_run(run, tmp_path / "light", thumbnails=False)
        assert spent(load_run(tmp_path / "light" / run.name)) == spent(load_run(run))
    assert '"error"' not in "".join(path.read_text() for path in (tmp_path / "light").rglob("events.jsonl"))


def test_the_ledger_is_set_like_the_other_tables(runs: Path, tmp_path: Path) -> None:
    """Each float names its packages, has a label and its natural size where that fits; whole tables stand apart, and
    what is to be said stands once, below.
    """
    lines = ledger.ledger([table(runs, seeds=[0])], load_runs(runs)[0])
    written = ledger.latex(lines)
    floats = written.split(r"\end{table}")[:-1]
    assert [re.findall(r"\\(?:label|caption)\{(.*)\}", each) for each in floats] == [
        ["Compute behind small.", "tab:small:ledger"],
        ["Compute of all runs.", "tab:ledger"],
    ]
    for each in floats:
        assert each.lstrip().startswith(PACKAGES) and r"\ifdim\wd0>\linewidth\resizebox" in each
        assert r"\begin{tabular}{lrrrrrrr}" in each and "Row & Runs & Starts" in each
    assert [each.count(r"\midrule") for each in floats] == [2, 1] and f"\\midrule\n{ledger.WHOLE} & 3" in floats[0]
    assert [ledger.LEGEND.rstrip(".") in each for each in floats] == [False, True] and "..\\par" not in written
    if shutil.which("pdflatex"):
        packages = r"\usepackage{booktabs,graphicx}"
        (tmp_path / "d.tex").write_text(
            rf"\documentclass{{article}}{packages}\begin{{document}}{written}\end{{document}}"
        )
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "d.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]


def test_rows_of_one_label_are_told_apart(runs: Path) -> None:
    """By their groups, in the ledger as in notes and figures."""
    rows = [{"recipe": recipe, "label": "CE", "group": group} for recipe, group in (("plain", "A"), ("plain_ifl", "B"))]
    found = ledger.ledger([table(runs, seeds=[0], rows=rows)], load_runs(runs)[0])
    assert [line.row for line in found[:2]] == ["A: CE", "B: CE"]


def test_names_cannot_break_the_ledger(runs: Path) -> None:
    """A label is text in Markdown and LaTeX."""
    rows = [{"recipe": "plain", "label": "a|b & 50%", "group": "First"}]
    lines = ledger.ledger([table(runs, seeds=[0], rows=rows)], load_runs(runs)[0])
    assert r"| a\|b & 50% |" in ledger.markdown(lines) and r"a|b \& 50\%" in ledger.latex(lines).replace(
        r"\textbar{}", "|"
    )
