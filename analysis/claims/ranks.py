"""Average ranks of a table's rows over many data sets, and which rows do not differ surely.

In each data set the best row has rank 1; rows of equal numbers share the mean of their ranks. Two rows with average
ranks R and Q over N data sets are compared by z = (R - Q) / sqrt(k (k + 1) / (6 N)), k rows in all, and the p of all
pairs are corrected by Holm's method. Source: Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets",
JMLR 7 (2006). With fewer than five data sets ranks say next to nothing, and there are none.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.stats.bootstrap import ALPHA
from analysis.stats.multiple import holm
from analysis.tables.cells import Table

FEWEST_DATA = 5


@dataclass(frozen=True)
class AverageRanks:
    """The rows that have a number on every data set, from the best average rank to the worst."""

    protocol: str
    data: tuple[str, ...]
    labels: tuple[str, ...]
    ranks: NDArray[np.float64]
    """[k]."""
    cliques: tuple[tuple[int, int], ...]
    """(first, last) of the largest groups of neighbours among which no two differ with p < 0.05."""
    left_out: tuple[str, ...] = ()
    """Rows that lack a number on some data set."""


def average_ranks(table: Table) -> list[AverageRanks]:
    """Rank the rows by overall accuracy under each protocol that has at least `FEWEST_DATA` data sets."""
    layout, found = table.layout, []
    of_protocol: dict[str, list[int]] = {}
    for index, column in enumerate(layout.columns):
        if (column.subset, column.metric) == ("overall", "accuracy"):
            of_protocol.setdefault(column.protocol, []).append(index)
    for protocol, columns in of_protocol.items():
        if len(columns) < FEWEST_DATA:
            continue
        numbers = [[table.cells[row][column].mean for column in columns] for row in range(len(layout.rows))]
        whole = [row for row, line in enumerate(numbers) if None not in line]
        if len(whole) < 2:
            continue
        ranks = rank(np.array([numbers[row] for row in whole], np.float64)).mean(axis=1)
        order = np.argsort(ranks, kind="stable")
        labels = [layout.full_label(row) for row in layout.rows]
        found.append(
            AverageRanks(
                protocol,
                tuple(layout.columns[column].data for column in columns),
                tuple(labels[whole[place]] for place in order),
                ranks[order],
                tuple(cliques(ranks[order], len(columns))),
                tuple(label for row, label in enumerate(labels) if row not in whole),
            )
        )
    return found


def rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank each column of [k, N] numbers, 1 for the largest, ties by the mean of their ranks."""
    above = (values[None] > values[:, None]).sum(axis=1)
    level = (values[None] == values[:, None]).sum(axis=1)
    ranks: NDArray[np.float64] = above + (level + 1) / 2
    return ranks


def cliques(ranks: NDArray[np.float64], data: int) -> list[tuple[int, int]]:
    """Group neighbours.

    Args:
        ranks: average ranks [k], ascending.
        data: N.

    Returns:
        (first, last) of each of `AverageRanks.cliques`, two rows or more.
    """
    from scipy.special import ndtr

    rows = len(ranks)
    pairs = list(itertools.combinations(range(rows), 2))
    error = np.sqrt(rows * (rows + 1) / (6 * data))
    corrected = holm([2 * float(ndtr((ranks[i] - ranks[j]) / error)) for i, j in pairs])
    alike = {pair for pair, p in zip(pairs, corrected, strict=True) if p >= ALPHA}
    # Corrected p fall with the difference of ranks: if the ends do not differ, nothing between them does.
    groups = [(i, max([j for j in range(i + 1, rows) if (i, j) in alike], default=i)) for i in range(rows)]
    return [(i, j) for place, (i, j) in enumerate(groups) if j > i and (place == 0 or groups[place - 1][1] < j)]
