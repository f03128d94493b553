"""Whether our numbers have the shape of the paper's: who is above whom, whatever the data.

A gain is the difference of a row and its baseline, `X + IFL` minus `X`, in one column of the paper's numbers. Ours
agree where their difference has the same sign, and surely where the baseline's mark would stand: the test
against it is over enough seeds and has p < 0.05. A ranking compares the order of a column's methods by Kendall's tau-b:
1 for the same order, -1 for the reverse, 0 for none in common; ties count for neither. Its interval is that of the
resamples of test samples and seeds, which over few seeds is too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.stats.bootstrap import ALPHA, FEWEST_SEEDS, interval
from analysis.tables.cells import Table
from analysis.tables.presentation import more_images_remark
from recipes.table_layout import Column

AGREEMENTS = ("agrees surely", "agrees", "disagrees", "disagrees surely", "equal", "no number")


@dataclass(frozen=True)
class Gain:
    """One pair of rows in one column: the paper's difference and ours, fractions."""

    row: int
    column: int
    label: str
    baseline: str
    data: str
    """The data set of the paper's numbers; ours is the column's."""
    paper: float
    ours: float | None
    sure: bool
    """Whether ours is surely above or below the baseline."""

    @property
    def agreement(self) -> str:
        """One of `AGREEMENTS`; `equal` where one of the differences is 0."""
        if self.ours is None:
            return "no number"
        if self.ours * self.paper == 0:
            return "equal"
        return ("agrees" if self.ours * self.paper > 0 else "disagrees") + " surely" * self.sure


@dataclass(frozen=True)
class Ranking:
    """Kendall's tau-b between the paper's order of methods and ours in one column."""

    column: int
    rows: int
    tau: float | None
    low: float | None
    high: float | None


def gains_of(table: Table) -> list[Gain]:
    """Return the paper's gains of the layout's rows, in the order of rows and columns."""
    layout, found = table.layout, []
    for index, row in enumerate(layout.rows):
        twin = layout.twin_of(row)
        if twin is None:
            continue
        for column in range(len(layout.columns)):
            cell, baseline = table.cells[index][column], table.cells[layout.rows.index(twin)][column]
            if cell.paper is None or baseline.paper is None:
                continue
            test = cell.baseline_test
            difference = None if cell.mean is None or baseline.mean is None else cell.mean - baseline.mean
            found.append(
                Gain(
                    row=index,
                    column=column,
                    label=layout.full_label(row),
                    baseline=layout.full_label(twin),
                    data=cell.paper.data,
                    paper=round(cell.paper.value - baseline.paper.value, 6),
                    ours=difference if test is None else test.difference,
                    sure=test is not None and test.sure,
                )
            )
    return found


def rankings(table: Table) -> list[Ranking]:
    """Compare the two orders of methods in each column with published numbers, over the rows that have both numbers."""
    found = []
    for index in range(len(table.layout.columns)):
        column = [line[index] for line in table.cells]
        if not any(cell.paper for cell in column):
            continue
        both = [cell for cell in column if cell.paper and cell.mean is not None and cell.replicates is not None]
        paper = np.array([cell.paper.value for cell in both if cell.paper])
        tau = (
            kendall_tau(paper, np.array([[cell.mean] for cell in both], float).reshape(-1, 1))[0]
            if len(both) > 1
            else np.nan
        )
        bounds = (
            interval(kendall_tau(paper, np.stack([cell.replicates for cell in both if cell.replicates is not None])))
            if len(both) > 1
            else None
        )
        low, high = bounds or (None, None)
        found.append(Ranking(index, len(both), None if np.isnan(tau) else float(tau), low, high))
    return found


def kendall_tau(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute Kendall's tau-b of [n] numbers with each of R columns [n, R].

    tau-b = sum over pairs of sign * sign / sqrt(untied pairs of the first * untied pairs of the second).
    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945).

    Returns:
        float64 [R], NaN where one side is all ties.
    """
    i, j = np.triu_indices(len(first), 1)
    one, other = np.sign(first[i] - first[j])[:, None], np.sign(second[i] - second[j])
    untied = np.sqrt(np.abs(one).sum(axis=0) * np.abs(other).sum(axis=0))
    return np.where(untied > 0, (one * other).sum(axis=0) / np.where(untied > 0, untied, 1), np.nan)


def count_agreements(found: list[Gain], column: int | None = None) -> dict[str, int]:
    """Count the gains of each of `AGREEMENTS`, in all columns or in one."""
    said = [gain.agreement for gain in found if column in (None, gain.column)]
    return {agreement: said.count(agreement) for agreement in AGREEMENTS}


def agreement_sentence(table: Table) -> str:
    """Summarise gains and rankings in one line; empty where nothing of the table is published or nothing was run."""
    found, taus = gains_of(table), [ranking.tau for ranking in rankings(table) if ranking.tau is not None]
    count = count_agreements(found)
    with_numbers = len(found) - count["no number"]
    if not with_numbers and not taus:
        return ""
    agree, against = (count[word] + count[f"{word} surely"] for word in ("agrees", "disagrees"))
    said = (
        f"{table.layout.name}: of the paper's {len(found)} gains, `X + IFL` minus `X`, {with_numbers} have numbers "
        f"here: {agree} agree in sign ({count['agrees surely']} surely), {against} do not "
        f"({count['disagrees surely']} surely: p < {ALPHA} over {FEWEST_SEEDS} seeds or more)"
    )
    order = ""
    if taus:
        order = (
            f"; Kendall's tau of the order of methods, median of {len(taus)} columns: {np.median(taus):.2f} "
            f"({min(taus):.2f} to {max(taus):.2f})"
        )
    more = more_images_remark(table)
    return said + order + other_data_remark(table) + (f". {more}" if more else "")


def other_data_remark(table: Table) -> str:
    """Say so where the paper's numbers are of other data than ours; empty where they are not."""
    pairs = {
        (cell.paper.data, column.data)
        for line in table.cells
        for cell, column in zip(line, table.layout.columns, strict=True)
        if cell.paper
    }
    other = sorted({theirs for theirs, ours in pairs if theirs != ours})
    return f" (the paper's numbers are of {', '.join(other)}: only the shape compares)" if other else ""


def measured_on_same_data(table: Table, column: Column) -> bool:
    """Say whether the paper's numbers of a column were measured on the data set that ours were."""
    index = table.layout.columns.index(column)
    return any((paper := line[index].paper) is not None and paper.data == column.data for line in table.cells)
