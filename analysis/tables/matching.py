"""What of a layout the runs can fill: which runs are a row's, which columns their data sets have at all, and
which rows' runs are made from one another's, so that comparing them as independent would be wrong.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from analysis.inputs.runs import Run
from recipes.common import search_path
from recipes.table_layout import Column, Layout, Row

Source = tuple[str, str]
"""(data, train)."""


def runs_of_row(layout: Layout, row: Row, source: Source, runs: Sequence[Run]) -> list[Run]:
    """Return the runs of a row's recipe, budget, data and edition.

    Those that have the values that a row sets over its recipe's are that row's and no other's.
    """
    data, train = source
    alike = [
        run for run in runs if (run.recipe, run.data, run.train, run.budget) == (row.recipe, data, train, row.budget)
    ]
    wanted = row if row.set else None
    return [run for run in alike if _row_with_values(layout, source, run) == wanted]


def no_run_note(layout: Layout, row: Row, source: Source, runs: Sequence[Run]) -> str:
    """Say which command would make the runs of a row that has none, or which name in the layout nobody knows.

    Args:
        layout: the table's.
        row: one of its rows.
        source: what the runs would be on.
        runs: all that were read, which may be of recipes and data sets that are not here.
    """
    data, label = source[0], layout.full_label(row)
    if data not in {run.data for run in runs} and (fault := search_path.fault(search_path.DATA, data, "data")):
        return f"no run: {fault}"
    unknown = row.recipe not in {run.recipe for run in runs}
    if unknown and (fault := search_path.fault(search_path.RECIPES, row.recipe, "recipe")):
        return f"{label}: no run: {fault}"
    return f"{label}: no run: {launch_command(layout, row, source)}"


def launch_command(layout: Layout, row: Row, source: Source) -> str:
    """Return the command that makes a row's runs of all its seeds, as a shell takes it."""
    seeds = ",".join(map(str, layout.seeds_of(row)))
    return shlex.join(["python", "slurm/launch.py", *layout.words(row, source), f"seeds={seeds}"])


def _row_with_values(layout: Layout, source: Source, run: Run) -> Row | None:
    """Return the row whose `set` a run has; where several fit, for nothing tells them apart, the one that sets most."""
    rows = (row for row in layout.rows if row.set and (row.recipe, row.budget) == (run.recipe, run.budget))
    fitting = [row for row in rows if run.is_of(layout.words(row, source), row.set)]
    return max(fitting, key=lambda row: len(row.set), default=None)


def variants_of(layout: Layout, row: Row, source: Source, runs: Sequence[Run]) -> list[Run]:
    """Return those of a row's runs that are tries beside it: they have other values than its recipe as it stands.

    There are none where no run is the recipe, finished or not. Runs of another preset are not looked at.
    """
    alike = [run for run in runs if run.preset == layout.preset]
    if len({run.hash for run in alike}) < 2:
        return []
    own = {run.name for run in alike if run.is_current(layout.words(row, source))}
    return [run for run in alike if own and run.name not in own]


def fillable(layouts: Sequence[Layout], runs: Sequence[Run]) -> tuple[list[Layout], list[str]]:
    """Return the layouts of which the data sets have any column, whole, and a line on each other one.

    Raises:
        ValueError: none of the layouts is left.
    """
    found, said = [], []
    for layout in layouts:
        columns, why = columns_there(layout, runs)
        if columns:
            found.append(layout)
        else:
            said.append(f"{layout.name} is not made: {'; '.join(why)}")
    if not found:
        raise ValueError("; ".join(said))
    return found, said


def columns_there(layout: Layout, runs: Sequence[Run]) -> tuple[list[Column], list[str]]:
    """Return the columns that the data sets have, as far as the runs know them, and a line on each that lacks some."""
    kept = {column: _is_there(column, runs) for column in layout.columns}
    said = []
    for data in dict.fromkeys(column.data for column, there in kept.items() if not there):
        gone = [column for column, there in kept.items() if column.data == data and not there]
        protocols = list(dict.fromkeys(column.protocol.upper() for column in gone if not _by_attribute(column)))
        if any(run.has_attributes for run in runs if run.data == data):
            said.append(f"{data} has no such splits; left out of this table: {', '.join(protocols)}")
            continue
        parts = [*protocols, *(["numbers by attribute group"] if any(map(_by_attribute, gone)) else [])]
        said.append(f"{data} has no attributes, so it has CLT alone; left out of this table: {', '.join(parts)}")
    return [column for column, there in kept.items() if there], said


def _is_there(column: Column, runs: Sequence[Run]) -> bool:
    """Say whether a column's data set has its split, and attributes where it needs them; yes where no run knows."""
    known = [run for run in runs if run.data == column.data]
    split = any(run.has(column.train, column.split) for run in known)
    return not known or (split and (not _by_attribute(column) or any(run.has_attributes for run in known)))


def _by_attribute(column: Column) -> bool:
    return column.subset.endswith("_a")


def pairs(first: Iterable[Run], second: Iterable[Run]) -> list[tuple[Run, Run]]:
    """Pair the runs of two rows of which one builds on the other, or both build on one run; each run once."""
    found: list[tuple[Run, Run]] = []
    left = list(second)
    for run in first:
        other = next((other for other in left if _origins(run) & _origins(other)), None)
        if other is not None:
            found.append((run, other))
            left.remove(other)
    return found


def _origins(run: Run) -> set[str]:
    return {run.name, run.builds_on} - {""}
