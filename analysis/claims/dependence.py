"""Which row of a table repeats another, since it is made from the other's runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from analysis.inputs.runs import Run
from analysis.tables.cells import Table
from recipes.table_layout import Column

Right = Callable[[Run, str, str], tuple[str, NDArray[np.bool_]]]
"""From a run, `select` and split to the digest of the test samples, and which the run has right; or ValueError."""


def repeated_row(table: Table, row: int, column: Column, right: Right) -> int:
    """Return the row whose runs a row builds on and has the same samples right as, run for run; itself without one.

    So it is with adjusted logits on classes of equal size.
    """
    runs = table.runs.get((row, column.source), [])
    for other in range(len(table.layout.rows)):
        by_name = {run.name: run for run in table.runs.get((other, column.source), [])}
        if runs and all(
            run.builds_on in by_name and _alike(run, by_name[run.builds_on], table.layout.select, column.split, right)
            for run in runs
        ):
            return other
    return row


def _alike(run: Run, other: Run, select: str, split: str, right: Right) -> bool:
    try:
        (digest, own), (other_digest, others) = right(run, select, split), right(other, select, split)
    except ValueError:  # what is damaged is said where it is compared
        return False
    return digest == other_digest and bool((own == others).all())
