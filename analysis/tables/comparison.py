"""Our numbers beside the paper's: differences where the data are the same, IFL's gains, whether their signs agree."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from analysis.inputs import frame
from analysis.stats.bootstrap import ALPHA, FEWEST_SEEDS, RESAMPLES
from analysis.tables import agreement, published
from analysis.tables.cells import Table
from analysis.tables.latex import escape, head_text, latex_float, latex_mark, latex_text, tabular
from analysis.tables.presentation import (
    MISSING,
    PROTOCOLS,
    baseline_mark,
    blocks,
    few_seeds_remark,
    header_levels,
    minus,
    more_images_remark,
    percent,
    row_groups,
    single_subset,
)
from recipes.table_layout import Layout


@dataclass(frozen=True)
class _Section:
    """The columns of one tabular: one metric, of a protocol's subsets or of all protocols."""

    title: str
    heads: tuple[str, ...]
    columns: tuple[int, ...]


def _sections(layout: Layout) -> list[list[_Section]]:
    """Divide the columns into floats, and these into tabulars.

    A float has a protocol's metrics above each other; where protocols have one subset each, all of them side by side.
    """
    found = blocks(layout)
    if single_subset(found):
        names = tuple(block.short_title for block in found)
        of = "" if found[0].is_plain else f"{found[0].subsets[0]}, "
        return [
            [
                _Section(of + metric, names, tuple(block.columns[i] for block in found))
                for i, metric in enumerate(found[0].metrics)
            ]
        ]
    return [
        [
            _Section(f"{block.title}, {metric}", block.subsets, tuple(unit[i] for unit in block.units))
            for i, metric in enumerate(block.metrics)
        ]
        for block in found
    ]


def paper_and_ours(table: Table, later: bool = False) -> str:
    """Write `paper | ours | difference` as LaTeX floats, for the columns that the paper measured on the same data.

    Args:
        table: a filled table.
        later: whether later papers' numbers are rows below.

    Returns:
        Empty where there are no such columns.
    """
    floats = []
    for number, sections in enumerate(_sections(table.layout)):
        tabulars = []
        for section in sections:
            same = [
                i
                for i, column in enumerate(section.columns)
                if agreement.measured_on_same_data(table, table.layout.columns[column])
            ]
            if same:
                tabulars.append(_beside(table, section, same, later))
        if tabulars:
            said = (
                f"{table.layout.name}: paper, ours and ours minus the paper's, in percent (points). The paper's "
                f"are single runs."
            )
            notes = [f"[{index}] {source}" for source, index in _sources(table).items()] if later else []
            floats.append(latex_float("table", said, f"tab:{table.layout.name}:paper:{number}", tabulars, notes))
    return "\n".join(floats)


def _beside(table: Table, section: _Section, which: list[int], later: bool) -> list[str]:
    columns = [section.columns[i] for i in which]
    heads = [
        [(latex_text(section.title), 3 * len(which))],
        [(head_text(section.heads[i]), 3) for i in which],
        [(word, 1) for _ in which for word in ("paper", "ours", "diff")],
    ]
    body = [
        (
            group,
            [
                (
                    table.layout.rows[row].label,
                    list(itertools.chain(*(_triple(table, row, column) for column in columns))),
                )
                for row in rows
            ],
        )
        for group, rows in row_groups(table.layout)
    ]
    if later:
        rows = _later(table, columns)
        body += [("Later papers", rows)] if rows else []
    return tabular("r@{\\hspace{4pt}}r@{\\hspace{4pt}}r" * len(which), heads, body)


def _triple(table: Table, row: int, column: int) -> tuple[str, str, str]:
    cell = table.cells[row][column]
    ours = percent(cell)
    paper = None if cell.paper is None else f"{100 * cell.paper.value:.2f}"
    difference = "" if cell.mean is None or cell.paper is None else f"${100 * (cell.mean - cell.paper.value):+.2f}$"
    return paper or MISSING, (ours or MISSING) + latex_mark("†" * cell.marked), difference


def _sources(table: Table) -> dict[str, int]:
    """Give the later papers numbers from 1, in the order of the file."""
    return {
        source: index
        for index, source in enumerate(
            dict.fromkeys(number.source for number in published.later_papers(table.layout)), start=1
        )
    }


def _later(table: Table, columns: list[int]) -> list[tuple[str, list[str]]]:
    """Make the rows of later papers' methods, each with its source's number: several print the same method."""
    numbers, sources, rows = published.later_papers(table.layout), _sources(table), []
    for method, source in dict.fromkeys((number.method, number.source) for number in numbers):
        values = {
            number.measure: number.value for number in numbers if (number.method, number.source) == (method, source)
        }
        shown = [values.get(published.measure_of(table.layout.columns[index])) for index in columns]
        if any(value is not None for value in shown):
            cells = [(MISSING if value is None else f"{100 * value:.2f}", "", "") for value in shown]
            rows.append((f"{method} [{sources[source]}]", list(itertools.chain(*cells))))
    return rows


def gains(table: Table) -> str:
    """Write what IFL adds to each method, `paper | ours` in points, as LaTeX floats.

    Returns:
        Empty where the paper has no gains of these rows, or nothing was run.
    """
    found = {(gain.row, gain.column): gain for gain in agreement.gains_of(table)}
    rows = {row for row, _ in found}
    if not any(gain.ours is not None for gain in found.values()):
        return ""
    more = more_images_remark(table)
    said = f"{table.layout.name}: what IFL adds to each method, in points{agreement.other_data_remark(table)}." + (
        f" {more}." if more else ""
    )
    tests = [table.cells[row][column].baseline_test for row, column in found]
    marks = f"↑ ↓ ours with p < {ALPHA}, against the method without IFL on the same test samples"
    arrows = [
        *([marks] if any(test and test.has_seeds for test in tests) else []),
        *filter(None, [few_seeds_remark(table)]),
        "the paper's are differences of single runs, untested",
    ]
    floats = []
    for number, sections in enumerate(_sections(table.layout)):
        tabulars = []
        for section in sections:
            heads = [
                [(latex_text(section.title + ": paper | ours"), 2 * len(section.columns))],
                [(head_text(head), 2) for head in section.heads],
            ]
            body = [
                (
                    group,
                    [
                        (
                            table.layout.full_label(table.layout.rows[row], latex=True),
                            [part for column in section.columns for part in _gain(table, found.get((row, column)))],
                        )
                        for row in members
                        if row in rows
                    ],
                )
                for group, members in row_groups(table.layout)
                if rows & set(members)
            ]
            tabulars.append(tabular(r"r@{\hspace{3pt}$|$\hspace{3pt}}r" * len(section.columns), heads, body))
        below = _noise_remark(table, {column for section in sections for column in section.columns}, found.values())
        notes = [*arrows, *([below] if below else [])]
        floats.append(latex_float("table", said, f"tab:{table.layout.name}:gains:{number}", tabulars, notes))
    return "\n".join(floats)


def _noise_remark(table: Table, columns: Collection[int], found: Collection[agreement.Gain]) -> str:
    """Explain the mark of differences below published noise; empty where none of these columns has it."""
    marked = {
        header: known
        for gain in found
        for column in [table.layout.columns[gain.column]]
        if gain.column in columns and published.below_noise(gain.paper, gain.data, column)
        for header in [f"{column.protocol.upper()} {column.metric}"]
        if (known := published.noise(gain.data, column.protocol, column.metric))
    }
    return published.noise_sentence(marked)


def _gain(table: Table, gain: agreement.Gain | None) -> tuple[str, str]:
    if gain is None:
        return MISSING, MISSING
    sign = baseline_mark(table.cells[gain.row][gain.column])
    below = published.below_noise(gain.paper, gain.data, table.layout.columns[gain.column])
    ours = MISSING if gain.ours is None else f"${100 * gain.ours:+.2f}$" + latex_mark(sign)
    return f"${100 * gain.paper:+.2f}$" + latex_mark("°" * below), ours


HEADS = ("agree", f"p < {ALPHA}", "against", f"p < {ALPHA}", "of", "tau", "95 %")


def shape_summary(table: Table) -> str:
    """Write for each column how many gains agree in sign and how surely, and Kendall's tau, as one LaTeX float.

    Returns:
        Empty where nothing compares.
    """
    lines = _shape_lines(table)
    if not lines:
        return ""
    metrics = list(dict.fromkeys(line.metric for line in lines))
    heads = [
        [(escape(metric), len(HEADS)) for metric in metrics],
        [(escape(head).replace("tau", r"$\tau$"), 1) for head in HEADS * len(metrics)],
    ]
    body = []
    for protocol, of_protocol in itertools.groupby(lines, key=lambda line: line.protocol):
        at = {(line.subset, line.metric): line.cells for line in of_protocol}
        subsets = dict.fromkeys(subset for subset, _ in at)
        body.append(
            (
                protocol,
                [
                    (
                        subset,
                        list(
                            itertools.chain(
                                *(
                                    (escape(minus(cell)) for cell in at.get((subset, metric), ("",) * len(HEADS)))
                                    for metric in metrics
                                )
                            )
                        ),
                    )
                    for subset in subsets
                ],
            )
        )
    said = (
        f"{table.layout.name}: does ours have the paper's shape{agreement.other_data_remark(table)}? "
        "Agree: X + IFL is above (or below) X, as the paper's numbers have it; p counts from "
        f"{FEWEST_SEEDS} seeds on. "
        f"tau: Kendall's tau-b of the order of methods, with its 95 % interval over {RESAMPLES} resamples of "
        f"test samples and seeds."
    )
    return latex_float(
        "table*",
        said,
        f"tab:{table.layout.name}:shape",
        [tabular("rrrrrrr" * len(metrics), heads, body, first="Subset")],
        [],
    )


def _tau(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


class _ShapeLine(NamedTuple):
    """How a column compares with the paper's: its header levels, and the cells that `HEADS` name."""

    protocol: str
    subset: str
    metric: str
    cells: tuple[str, ...]


def _shape_lines(table: Table) -> list[_ShapeLine]:
    """Compare the columns that have published numbers and any of ours."""
    found = agreement.gains_of(table)
    lines: list[_ShapeLine] = []
    for ranking in agreement.rankings(table):
        column = table.layout.columns[ranking.column]
        count = agreement.count_agreements(found, ranking.column)
        if not ranking.rows:
            continue
        _, metric, subset = header_levels(column)
        subset = subset.replace("_C", ", classes").replace("_A", ", attributes")
        between = MISSING if ranking.low is None else f"{_tau(ranking.low)} to {_tau(ranking.high)}"
        lines.append(
            _ShapeLine(
                PROTOCOLS[column.protocol],
                subset,
                metric,
                (
                    str(count["agrees"] + count["agrees surely"]),
                    str(count["agrees surely"]),
                    str(count["disagrees"] + count["disagrees surely"]),
                    str(count["disagrees surely"]),
                    str(sum(count.values()) - count["no number"]),
                    _tau(ranking.tau),
                    between,
                ),
            )
        )
    return lines


def gains_csv(tables: list[Table]) -> str:
    """Write every gain of all tables as CSV, one a line, differences in points."""
    records = []
    for table in tables:
        for gain in agreement.gains_of(table):
            column, test = table.layout.columns[gain.column], table.cells[gain.row][gain.column].baseline_test
            records.append(
                {
                    "table": table.layout.name,
                    "row": gain.label,
                    "twin": gain.baseline,
                    "protocol": column.protocol,
                    "subset": column.subset,
                    "metric": column.metric,
                    "paper_data": gain.data,
                    "our_data": column.data,
                    "paper": round(100 * gain.paper, 4),
                    "ours": None if gain.ours is None else round(100 * gain.ours, 4),
                    "low": test and round(100 * test.low, 4),
                    "high": test and round(100 * test.high, 4),
                    "p": test and float(f"{test.p:.4g}"),
                    "test": test and test.method,
                    "verdict": gain.agreement,
                }
            )
    columns = (
        "table",
        "row",
        "twin",
        "protocol",
        "subset",
        "metric",
        "paper_data",
        "our_data",
        "paper",
        "ours",
        "low",
        "high",
        "p",
        "test",
        "verdict",
    )
    return frame.csv(pd.DataFrame(records, columns=list(columns)))


def rankings_csv(tables: list[Table]) -> str:
    """Write Kendall's tau of every column of all tables as CSV."""
    records = [
        {
            "table": table.layout.name,
            "protocol": column.protocol,
            "subset": column.subset,
            "metric": column.metric,
            "rows": ranking.rows,
            "tau": None if ranking.tau is None else round(ranking.tau, 4),
            "low": None if ranking.low is None else round(ranking.low, 4),
            "high": None if ranking.high is None else round(ranking.high, 4),
        }
        for table in tables
        for ranking in agreement.rankings(table)
        for column in [table.layout.columns[ranking.column]]
    ]
    return frame.csv(
        pd.DataFrame(records, columns=["table", "protocol", "subset", "metric", "rows", "tau", "low", "high"])
    )
