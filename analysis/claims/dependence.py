"""Which row of a table repeats another, since it is made from the other's runs."""

from __future__ import annotations

from analysis.inputs.runs import Run
from analysis.tables.cells import Table
from recipes.table_layout import Column


def repeated_row(table: Table, row: int, column: Column) -> int:
    """Return the row whose runs a row builds on and has the same samples right as, run for run; itself without one.

    So it is with adjusted logits on classes of equal size.
    """
    runs = table.runs.get((row, column.source), [])
    for other in range(len(table.layout.rows)):
        by_name = {run.name: run for run in table.runs.get((other, column.source), [])}
        if runs and all(
            run.builds_on in by_name and _alike(table, run, by_name[run.builds_on], column.split) for run in runs
        ):
            return other
    return row


def _alike(table: Table, run: Run, other: Run, split: str) -> bool:
    try:
        own, others = (table.resamples.of_run(each, table.layout.select, split) for each in (run, other))
    except ValueError:  # what is damaged is said where it is compared
        return False
    return own.samples.digest == others.samples.digest and bool((own.right == others.right).all())
