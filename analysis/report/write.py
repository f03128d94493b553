"""Writes what is made of filled tables: figures, report and page."""

from __future__ import annotations

from pathlib import Path

from analysis.figures.catalogue import draw_all
from analysis.figures.style import save_figure
from analysis.inputs.runs import Run
from analysis.report.html import page
from analysis.report.pdf import document, typeset
from analysis.tables.agreement import agreement_sentence
from analysis.tables.cells import Table

TITLE = "Generalized long-tailed classification: results"


def publish(
    out: Path, tables: list[Table], runs: list[Run], inputs: list[str], left_out: list[str], pair: str | None = None
) -> tuple[list[Path], list[str]]:
    """Write NAME.pdf and NAME.png of every figure, report.tex, report.pdf and index.html to `out`.

    Args:
        out: an existing folder, which holds the tables' files already.
        tables: filled tables.
        runs: all that were read, counted in a table or not.
        inputs: names of the .tex files in `out` that the report takes in, in order.
        left_out: sentences about what was not read.
        pair: see `analysis.figures.catalogue.draw_all`.

    Returns:
        The files, and remarks on figures that lack something and on a report that could not be typeset.

    Raises:
        ValueError: `pair` is not in any table.
    """
    drawn, remarks = draw_all(tables, pair)
    files = [file for one in drawn for file in save_figure(one.figure, out, one.name)]
    about = (
        f"{len(runs)} run folders, {sum(run.finished for run in runs)} finished; "
        f"{len(tables)} table{'s' * (len(tables) != 1)}, "
        f"{len(drawn)} figures."
    )
    source, index = out / "report.tex", out / "index.html"
    said = [about, *filter(None, map(agreement_sentence, tables)), *left_out, *remarks]
    source.write_text(document(TITLE, said, inputs, drawn), encoding="utf-8", newline="\n")
    report, complaint = typeset(source)
    index.write_text(page(TITLE, tables, drawn, out, runs, [*left_out, *remarks]), encoding="utf-8", newline="\n")
    return [*files, source, *([report] if report else []), index], [*remarks, *([complaint] if complaint else [])]
