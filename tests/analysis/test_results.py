"""The page of results on the bundled data set is what `python -m analysis results` writes; nobody edits it by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.__main__ import main
from analysis.inputs.runs import load_runs
from analysis.report.results import page

PROJECT = Path(__file__).resolve().parents[2]
RUNS, PAGE = "examples/digits_glt", "docs/results-digits.md"


def test_the_committed_page_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, as the page itself quotes it, writes the committed page to the byte."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "examples").symlink_to(PROJECT / "examples")
    monkeypatch.chdir(tmp_path)
    main(["results", f"runs={RUNS}", f"out={PAGE}"])
    assert f"`python -m analysis results runs={RUNS} out={PAGE}`" in (tmp_path / PAGE).read_text(encoding="utf-8")
    assert (tmp_path / PAGE).read_bytes() == (PROJECT / PAGE).read_bytes()


def test_a_page_with_holes_is_refused() -> None:
    """Where runs of the page's tables are missing, one sentence names the table: no page has empty cells."""
    runs, _ = load_runs(PROJECT / RUNS)
    with pytest.raises(ValueError, match="lack a number of table=digits_overall"):
        page([run for run in runs if run.recipe == "glt_baseline"], RUNS, PAGE)
