"""The pages of results are what `python -m analysis results` writes; nobody edits them by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.inputs.runs import load_runs
from analysis.report.results import page
from tests.helpers.paths import GOLDEN, PROJECT

PAGES = {
    "examples/fashion_glt": "docs/results-fashion.md",
    "examples/digits_glt": "docs/results-digits.md",
}


@pytest.mark.parametrize("runs", PAGES)
def test_the_committed_page_is_what_the_command_writes(
    runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command, as the page itself quotes it, writes the committed page to the byte."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "examples").symlink_to(PROJECT / "examples")
    monkeypatch.chdir(tmp_path)
    main(["results", f"runs={runs}", f"out={PAGES[runs]}"])
    assert f"`python -m analysis results runs={runs} out={PAGES[runs]}`" in (tmp_path / PAGES[runs]).read_text("utf-8")
    assert (tmp_path / PAGES[runs]).read_bytes() == (PROJECT / PAGES[runs]).read_bytes()


def test_what_is_missing_stands_with_its_command() -> None:
    """Of a single row's runs the page names every other row, with the seeds that it lacks, and the tables without any
    run."""
    runs, _ = load_runs(PROJECT / "examples" / "fashion_glt")
    text = page([run for run in runs if run.recipe == "glt_baseline" and run.seed == 0], "runs", "page.md")
    lines = text[text.index("## What is missing") : text.index("## What it cost")].splitlines()
    assert lines[2].endswith("`python slurm/launch.py table=claims data=fashion_glt`")
    assert lines[3].startswith("  - trained on glt: Baseline (1, 2, 3, 4), cRT (0, 1, 2), LWS (0, 1, 2), ")
    of_glt = " ".join(" ".join(lines[3:]).partition("trained on cbl")[0].split())
    assert of_glt.count("(0, 1, 2)") == 15 and of_glt.count("(0, 1, 2, 3, 4)") == 5


def test_of_other_data_it_says_what_their_runs_say(tmp_path: Path) -> None:
    """Of your data the page says nothing of how the small sets' values were chosen, nor of a test; the command is the
    one in the runs' meta.json, and links start from the page or are none.
    """
    (example,) = (PROJECT / "examples" / "fashion_glt").glob("glt_baseline-fashion_glt-glt-s0-*")
    meta = json.loads((shutil.copytree(example, tmp_path / example.name) / "meta.json").read_text("utf-8"))
    meta["argv"] = ["/home/me/launch.py", "table=claims", "data=mine", "cluster=slurm", "nodes=4"]
    (tmp_path / example.name / "meta.json").write_text(json.dumps(meta))
    mine = [replace(run, data="mine") for run in load_runs(tmp_path)[0]]
    said = page(mine, "runs", "page.md")
    for wrong in ("small-sets.md", "val chose", "test compares", "cluster=local", "max_jobs", "../", "light part"):
        assert wrong not in said, wrong
    assert "1 of these 1 were launched by `python slurm/launch.py table=claims data=mine cluster=slurm nodes=4`" in (
        " ".join(said.split())
    )
    assert "[README.md](README.md#words)" in said and "[runs](runs) holds of each run" in " ".join(said.split())
    said = page(mine, str(tmp_path), "page.md")
    assert f"`{tmp_path}` holds" in " ".join(said.split()) and f"({tmp_path}" not in said


def test_runs_of_other_tables_make_no_page() -> None:
    """Where none of the runs is a row of the page's tables, one sentence says which tables those are."""
    runs, _ = load_runs(GOLDEN / "runs")
    with pytest.raises(ValueError, match="none of them is one of the tables claims, parts, budgets on digits_glt"):
        page(runs, "runs", "page.md")
