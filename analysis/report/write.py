"""Writes what is made of filled tables: figures, report and page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.claims.text import summary
from analysis.claims.verdicts import Judged
from analysis.figures.catalogue import draw_all
from analysis.figures.style import save_figure
from analysis.inputs.runs import Run
from analysis.report.html import page
from analysis.report.pdf import document, typeset
from analysis.tables.agreement import agreement_sentence
from analysis.tables.cells import Table
from analysis.tables.ledger import Line

TITLE = "Generalized long-tailed classification: results"


def publish(
    out: Path,
    tables: list[Table],
    judged: list[Judged],
    runs: list[Run],
    inputs: list[str],
    left_out: list[str],
    pair: str | None = None,
    ledger: Sequence[Line] = (),
) -> tuple[list[Path], list[str]]:
    """Write NAME.pdf and NAME.png of every figure, report.tex, report.pdf and index.html to `out`.

    Args:
        out: an existing folder, which holds the tables' files already.
        tables: filled tables.
        judged: the verdicts on their claims.
        runs: all that were read, counted in a table or not.
        inputs: names of the .tex files in `out` that the report takes in, in order.
        left_out: sentences about what was not read.
        pair: see `analysis.figures.catalogue.draw_all`.
        ledger: what the tables cost.

    Returns:
        The files, and remarks on figures that lack something and on a report that could not be typeset.
    """
    drawn, remarks = draw_all(tables, pair)
    files = [file for one in drawn for file in save_figure(one.figure, out, one.name)]
    about = (
        f"{len(runs)} run folders, {sum(run.finished for run in runs)} finished; "
        f"{len(tables)} table{'s' * (len(tables) != 1)}, "
        f"{len(drawn)} figures."
    )
    source, index = out / "report.tex", out / "index.html"
    said = [about, *map(summary, judged), *filter(None, map(agreement_sentence, tables)), *left_out, *remarks]
    source.write_text(document(TITLE, said, inputs, drawn), encoding="utf-8", newline="\n")
    report, complaint = typeset(source)
    content = page(TITLE, tables, judged, drawn, out, runs, [*left_out, *remarks], ledger)
    index.write_text(content, encoding="utf-8", newline="\n")
    return [*files, source, *([report] if report else []), index], [*remarks, *([complaint] if complaint else [])]
