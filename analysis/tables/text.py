"""A filled table as text: lines for a terminal, CSV, Markdown; `latex` and `escape` come from
`analysis.tables.latex`.
"""

from __future__ import annotations

import itertools
import textwrap
import unicodedata
from typing import Any

import pandas as pd

from analysis.inputs import frame
from analysis.tables.cells import Cell, Table
from analysis.tables.latex import bare_tabular, escape, latex
from analysis.tables.presentation import (
    MISSING,
    baseline_mark,
    blocks,
    header_levels,
    heading,
    legend_and_notes,
    merged_headers,
    percent,
    printed_label,
    ranks,
    row_groups,
)
from recipes.common.errors import printable
from recipes.typed_latex import plain_text

__all__ = ["bare_tabular", "csv", "escape", "heading", "latex", "markdown", "percent", "terminal"]

WIDTH = 120
"""Columns of a terminal that a table and its notes keep to."""

# --- terminal --------------------------------------------------------------------------------------


def terminal(table: Table) -> str:
    """Write a block of lines for each protocol (for each metric of it where that is too wide), then the notes."""
    lines = wrap_lines(heading(table))
    for narrow in _spans(table, 0):
        block = _block(table, narrow)
        if max(map(len, block)) > WIDTH:
            inside = [part for part in _spans(table, 1) if narrow.start <= part.start < narrow.stop]
            block = [line for part in inside for line in [*_block(table, part), ""]][:-1]
        lines += ["", *block]
    if legend_and_notes(table):
        lines.append("")
        for note in legend_and_notes(table):
            lines += wrap_lines(note)
    return "\n".join([*lines, ""])


def wrap_lines(note: str) -> list[str]:
    """Wrap a sentence at `WIDTH`, what is not printable written out; names of runs stay whole, to be copied."""
    return textwrap.wrap(printable(note), WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _spans(table: Table, depth: int) -> list[slice]:
    """Return the columns under each entry of header level `depth`."""
    ends = list(itertools.accumulate((n for _, n in merged_headers(table.layout.columns, depth)), initial=0))
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def _block(table: Table, part: slice) -> list[str]:
    columns, rows = table.layout.columns[part], table.layout.rows
    shown = _aligned([[_terminal_cell(cell) for cell in cells[part]] for cells in table.cells])
    titles = {word: plain_text(title) for word, title in table.layout.titles.items()}
    names = [header_levels(column, titles)[2] + " " for column in columns]
    left = max(terminal_width(text) for text in ("Method", *(f"  {printed_label(row.label)}" for row in rows)))
    widths = [max(len(text) for text in texts) for texts in zip(names, *shown, strict=True)]

    def joined(label: str, cells: list[str]) -> str:
        texts = (" " + text.rjust(width) for text, width in zip(cells, widths, strict=True))
        return (label + " " * (left - terminal_width(label)) + "".join(texts)).rstrip()

    above, start = "", 0
    for metric, count in merged_headers(columns, 1, titles):
        span = sum(widths[start : start + count]) + count
        above += "  " + f" {metric} ".center(span - 3, "-") + " "
        start += count
    lines = [header_levels(columns[0], titles)[0], " " * left + above.rstrip(), joined("Method", names)]
    for group, members in itertools.groupby(range(len(rows)), key=lambda index: rows[index].group):
        lines.append(printed_label(group))
        lines += [joined(f"  {printed_label(rows[index].label)}", shown[index]) for index in members]
    return lines


def terminal_width(text: str) -> int:
    """Count the columns that a terminal gives a text: two for a wide character, none for an accent on another."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _aligned(cells: list[list[tuple[str, str]]]) -> list[list[str]]:
    """Join numbers and marks, with blanks where others of the column have a mark, so that decimals line up."""
    columns = range(len(cells[0]) if cells else 0)
    marks = [max(1, *(len(line[column][1]) for line in cells)) for column in columns]
    return [[number + mark.ljust(marks[i]) for i, (number, mark) in enumerate(line)] for line in cells]


def _terminal_cell(cell: Cell) -> tuple[str, str]:
    """Return the number with its spread, and the marks behind it."""
    spread = "" if cell.std is None else f"±{100 * cell.std:.2f}"
    return (percent(cell) or MISSING) + spread, baseline_mark(cell) + "†" * cell.marked


# --- CSV -------------------------------------------------------------------------------------------


def csv(table: Table) -> str:
    """Write one line for each cell, with the runs behind it; numbers in percent, four decimals."""
    records = [
        {
            "group": plain_text(row.group),
            "label": plain_text(row.label),
            "recipe": row.recipe,
            "budget": row.budget,
            **({"set": " ".join(row.set_words)} if any(other.set for other in table.layout.rows) else {}),
            "data": column.data,
            "train": column.train,
            "protocol": column.protocol,
            "subset": column.subset,
            "metric": column.metric,
            "mean": None if cell.mean is None else round(100 * cell.mean, 4),
            "std": None if cell.std is None else round(100 * cell.std, 4),
            "n": len(cell.values),
            "marked": int(cell.marked),
            "runs": " ".join(run.name for run in cell.runs),
            "state": cell.state,
            **_interval_and_test(cell),
            **_paper(cell),
        }
        for row, cells in zip(table.layout.rows, table.cells, strict=True)
        for column, cell in zip(table.layout.columns, cells, strict=True)
    ]
    return frame.csv(pd.DataFrame(records))


def _interval_and_test(cell: Cell) -> dict[str, Any]:
    """Return the 95 % interval, and the difference to the baseline with its interval and p."""
    low, high = (round(100 * bound, 4) for bound in cell.interval) if cell.interval else (None, None)
    test = cell.baseline_test
    return {
        "low": low,
        "high": high,
        "twin": test and test.baseline,
        "twin_difference": test and round(100 * test.difference, 4),
        "twin_low": test and round(100 * test.low, 4),
        "twin_high": test and round(100 * test.high, 4),
        "twin_p": test and float(f"{test.p:.4g}"),
        "twin_test": test and test.method,
    }


def _paper(cell: Cell) -> dict[str, Any]:
    paper = cell.paper
    return {
        "paper": paper and round(100 * paper.value, 4),
        "paper_data": paper and paper.data,
        "paper_source": paper and paper.source,
    }


# --- Markdown --------------------------------------------------------------------------------------


_PAIR = " \\| "
"""Between the numbers of a pair: a bar that does not end the cell."""


def markdown(table: Table) -> str:
    """Write a table for each protocol, with `accuracy \\| precision` in a cell as in the paper; best bold."""
    layout, places = table.layout, ranks(table)
    lines = [f"# {plain(heading(table))}", ""]
    for block in blocks(layout):
        lines += [f"**{plain(block.title)}**, {_PAIR.join(map(plain, block.metrics))}", ""]
        lines.append(f"| | Method | {' | '.join(plain(subset) for subset in block.subsets)} |")
        lines.append(f"|---|---|{'---:|' * len(block.subsets)}")
        for group, rows in row_groups(layout):
            for place, row in enumerate(rows):
                cells = (
                    _PAIR.join(_markdown_cell(table.cells[row][index], places[row][index]) for index in unit)
                    for unit in block.units
                )
                lines.append(
                    f"| {plain(group) if place == 0 else ''} | {plain(layout.rows[row].label)} | {' | '.join(cells)} |"
                )
        lines.append("")
    lines += [f"- {plain(note)}" for note in legend_and_notes(table, brief=True)]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(cell: Cell, place: int) -> str:
    number, marks = _terminal_cell(cell)
    return (f"**{number}**" if place == 1 else number) + marks


def plain(text: str) -> str:
    """Escape text so that Markdown prints it as it is, on one line."""
    return "".join(
        "\\" + character if character in "\\`*_{}[]<>#|~$&" else character
        for character in " ".join(plain_text(text).split())
    )
