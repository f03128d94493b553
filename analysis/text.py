"""A filled table as text: LaTeX (booktabs), CSV, and lines for a terminal."""

import itertools
import textwrap
from typing import Callable

import pandas as pd

from recipes.layout import Column
from analysis.tables import Cell, Table

WIDTH = 120
"""Columns of a terminal that a table and its notes keep to."""

MISSING = "--"
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    # In math mode: the text symbols need fonts that a small TeX installation lacks.
    "±": r"\ensuremath{\pm}", "†": r"\ensuremath{^\dagger}", "$": r"\ensuremath{\$}",
    # Braced: after a row's end `\\` a bare [ or * would be read as its argument.
    "[": "{[}", "]": "{]}", "*": "{*}",
    **{character: "\\" + character for character in "&%#_{}"},
}  # fmt: skip


def escape(text: str) -> str:
    """Any text as LaTeX that prints it; runs of white space become one blank."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def percent(cell: Cell) -> str | None:
    """The mean as it is printed, in percent with two decimals; None for an empty cell."""
    return None if cell.mean is None else f"{100 * cell.mean:.2f}"


def heading(table: Table) -> str:
    """One line that says what the numbers are."""
    layout = table.layout
    spread = "; mean ± standard deviation over seeds" if len(layout.seeds) > 1 else ""
    seeds = f"seed{'s' * (len(layout.seeds) > 1)} {', '.join(map(str, layout.seeds))}"
    return f"{layout.name}: percent; preset {layout.preset}, {layout.select} epoch, {seeds}{spread}"


def _levels(column: Column) -> tuple[str, str, str]:
    """The three header levels of a column as plain text; equal neighbours are merged."""
    name, _, attribute = column.subset.partition("_")
    subset = ("Med" if name == "medium" else name.capitalize()) + ("" if name == "overall" else "_A" if attribute else "_C")
    return column.title, column.metric.capitalize(), subset


def _merged(columns: list[Column], depth: int) -> list[tuple[str, int]]:
    """[(text, number of columns)] of header level `depth`; a span never crosses one above it."""
    spans = itertools.groupby(columns, key=lambda column: _levels(column)[: depth + 1])
    return [(key[-1], len(list(members))) for key, members in spans]


def _best(table: Table) -> list[str | None]:
    """For each column the largest number *as printed* (so ties share it), None where none competes."""
    best: list[str | None] = []
    for column in zip(*table.cells):
        shown = [text for text in map(percent, column) if text is not None]
        best.append(max(shown, key=float) if len(shown) > 1 else None)
    return best


# --- LaTeX -----------------------------------------------------------------------------------------


def latex(table: Table) -> str:
    r"""A `table*` for `\input`; it needs the packages booktabs and graphicx (for `\resizebox`)."""
    layout, columns = table.layout, table.layout.columns
    width = len(columns) + 1
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape(heading(table))}.}}",
        rf"\label{{tab:{layout.name}}}",
        r"\setlength{\tabcolsep}{3pt}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
    ]
    for depth in (0, 1):
        cells = (rf"\multicolumn{{{n}}}{{c}}{{{escape(text)}}}" for text, n in _merged(columns, depth))
        lines.append(f" & {' & '.join(cells)} \\\\")
        lines.append(" ".join(rf"\cmidrule(lr){{{s.start + 2}-{s.stop + 1}}}" for s in _spans(table, depth)))
    subsets = (_levels(column)[2].partition("_") for column in columns)
    lines.append("Method & " + " & ".join(f"{name}$_{index}$" if index else name for name, _, index in subsets) + r" \\")
    best = _best(table)
    for group, rows in itertools.groupby(range(len(layout.rows)), key=lambda index: layout.rows[index].group):
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escape(group)}}}}} \\"]
        for index in rows:
            cells = (_latex_cell(cell, top) for cell, top in zip(table.cells[index], best))
            lines.append(f"{escape(layout.rows[index].label)} & {' & '.join(cells)} \\\\")
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.notes:
        lines += [r"\par\medskip\begin{minipage}{\linewidth}\footnotesize\raggedright"]
        lines += [rf"{escape(note)}.\par" for note in _explained(table)]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table*}", ""])


def _latex_cell(cell: Cell, best: str | None) -> str:
    text = percent(cell)
    mark = _LATEX["†"] if cell.marked else ""
    if text is None:
        return MISSING + mark
    bold = text == best
    if cell.std is None:
        return (rf"\textbf{{{text}}}" if bold else text) + mark
    mean = rf"\mathbf{{{text}}}" if bold else text
    return rf"${mean}{{\scriptstyle \pm {100 * cell.std:.2f}}}$" + mark


# --- terminal --------------------------------------------------------------------------------------


def terminal(table: Table) -> str:
    """One block of lines for each protocol (for each metric of it where that is too wide), then the notes."""
    lines = [heading(table)]
    for narrow in _spans(table, 0):
        block = _block(table, narrow)
        if max(map(len, block)) > WIDTH:
            inside = [part for part in _spans(table, 1) if narrow.start <= part.start < narrow.stop]
            block = [line for part in inside for line in [*_block(table, part), ""]][:-1]
        lines += ["", *block]
    if table.notes:
        lines.append("")
        for note in _explained(table):
            # Names of runs stay whole, so that they can be copied.
            lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, ""])


def _spans(table: Table, depth: int) -> list[slice]:
    """The columns under each entry of header level `depth`."""
    ends = list(itertools.accumulate((n for _, n in _merged(table.layout.columns, depth)), initial=0))
    return [slice(start, end) for start, end in zip(ends, ends[1:])]


def _block(table: Table, part: slice) -> list[str]:
    columns, rows = table.layout.columns[part], table.layout.rows
    shown = [[_terminal_cell(cell) for cell in cells[part]] for cells in table.cells]
    names = [_levels(column)[2] + " " for column in columns]
    left = max(len(text) for text in ("Method", *(f"  {row.label}" for row in rows)))
    widths = [max(len(text) for text in texts) for texts in zip(names, *shown)]
    join: Callable[[str, list[str]], str] = lambda label, cells: label.ljust(left) + "".join(
        " " + text.rjust(width) for text, width in zip(cells, widths)
    )
    above, start = "", 0
    for metric, count in _merged(columns, 1):
        span = sum(widths[start : start + count]) + count
        above += "  " + f" {metric} ".center(span - 3, "-") + " "
        start += count
    lines = [columns[0].title, " " * left + above.rstrip(), join("Method", names).rstrip()]
    for group, members in itertools.groupby(range(len(rows)), key=lambda index: rows[index].group):
        lines.append(group)
        lines += [join(f"  {rows[index].label}", shown[index]).rstrip() for index in members]
    return lines


def _terminal_cell(cell: Cell) -> str:
    text = percent(cell) or MISSING
    spread = "" if cell.std is None else f"±{100 * cell.std:.2f}"
    # A blank where others have a mark keeps the decimals below each other.
    return text + spread + ("†" if cell.marked else " ")


def _explained(table: Table) -> list[str]:
    """The notes, after a line that says what the marks mean where there is one."""
    cells = [cell for line in table.cells for cell in line]
    legend = [
        text
        for text, used in (
            (f"{MISSING} no number", any(cell.mean is None for cell in cells)),
            ("† something is left out or lacking here", any(cell.marked for cell in cells)),
        )
        if used
    ]
    return (["; ".join(legend)] if legend else []) + table.notes


# --- CSV -------------------------------------------------------------------------------------------


def csv(table: Table) -> str:
    """One line for each cell, with the runs behind it; numbers in percent, four decimals."""
    records = [
        {
            "group": row.group, "label": row.label, "recipe": row.recipe, "budget": row.budget,
            "data": column.data, "train": column.train, "protocol": column.protocol,
            "subset": column.subset, "metric": column.metric,
            "mean": None if cell.mean is None else round(100 * cell.mean, 4),
            "std": None if cell.std is None else round(100 * cell.std, 4),
            "n": len(cell.values), "marked": int(cell.marked), "runs": " ".join(run.name for run in cell.runs),
        }
        for row, cells in zip(table.layout.rows, table.cells)
        for column, cell in zip(table.layout.columns, cells)
    ]  # fmt: skip
    return pd.DataFrame(records).to_csv(index=False, lineterminator="\n")
