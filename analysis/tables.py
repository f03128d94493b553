"""Which runs stand behind each cell of a table: like is averaged with like, the rest is named.

A run is left out, never silently, when it is unfinished, has another preset, a seed the table does
not ask for, or when the runs of its row disagree about the recipe's hash or the data's fingerprint
(then no one can say which is meant, and none counts). A cell from which something was left out, or
for which a seed is lacking, is marked, and so is one whose runs were changed on the command line; the
notes say why.
"""

import statistics
from dataclasses import dataclass, field

import pandas as pd

from analysis.frame import Problems
from recipes.layout import Column, Layout, Row
from analysis.runs import Run


@dataclass(frozen=True)
class Cell:
    """The values behind one number: fractions in [0, 1] with their runs, in the order of seeds."""

    values: tuple[float, ...] = ()
    runs: tuple[Run, ...] = ()
    marked: bool = False

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds (n - 1); None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Table:
    """A filled layout: `cells[row][column]`, the notes, and the counted runs of each row and source."""

    layout: Layout
    cells: list[list[Cell]]
    notes: list[str]
    runs: dict[tuple[int, tuple[str, str]], list[Run]]


@dataclass
class _Choice:
    """The runs that count for one row and source, with what there is to say about the others."""

    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    marked: bool = False


def build(layout: Layout, runs: list[Run], frame: pd.DataFrame, problems: Problems) -> Table:
    """Fills a layout from the runs and their tidy frame (`analysis.frame.tidy`)."""
    keys = ["run", "select", "protocol", "subset", "metric"]
    values: dict[tuple[str, ...], float] = frame.set_index(keys)["value"].to_dict()
    choices = {
        (index, source): _choose(layout, row, source, runs)
        for index, row in enumerate(layout.rows)
        for source in layout.sources
    }
    notes = _other_data(layout, choices)
    cells: list[list[Cell]] = []
    for index, row in enumerate(layout.rows):
        for source in layout.sources:
            notes += choices[index, source].notes
        line = []
        for column in layout.columns:
            cell, said = _fill(layout, row, column, choices[index, column.source], values, problems)
            line.append(cell)
            notes += said
        cells.append(line)
    notes += _unused(layout, runs)
    counted = {key: choice.runs for key, choice in choices.items()}
    return Table(layout, cells, list(dict.fromkeys(notes)), counted)


def _choose(layout: Layout, row: Row, source: tuple[str, str], runs: list[Run]) -> _Choice:
    data, train = source
    choice, label = _Choice(), layout.full_label(row)
    candidates = [
        run for run in runs if (run.recipe, run.data, run.train, run.budget) == (row.recipe, data, train, row.budget)
    ]
    if not candidates:
        choice.notes.append(
            f"{label}: no run (recipe={row.recipe} data={data} train={train} batch.budget={row.budget})"
        )
        return choice
    for run in candidates:
        reason = _reason(layout, run)
        if reason is None:
            choice.runs.append(run)
        else:
            choice.notes.append(f"{label}: {run.name} is left out: {reason}")
    unlike = _unlike(choice.runs)
    if unlike:
        names = ", ".join(run.name for run in choice.runs)
        choice.notes.append(f"{label}: none of these runs counts, they {unlike}: {names}")
        choice.runs = []
    for run in choice.runs:
        if differs := run.departures():
            choice.notes.append(f"{label}: {run.name} is not the recipe as it stands: {', '.join(differs)}")
    choice.runs.sort(key=lambda run: run.seed)
    lacking = [str(seed) for seed in layout.seeds if seed not in {run.seed for run in candidates}]
    if lacking:
        choice.notes.append(f"{label}: no run of seed {', '.join(lacking)} (data={data} train={train})")
    choice.marked = bool(choice.notes)
    return choice


def _reason(layout: Layout, run: Run) -> str | None:
    """Why a run of the right recipe does not count, or None."""
    if not run.finished:
        return "it is unfinished (it has no file named done)"
    if run.preset != layout.preset:
        return f"its preset is {run.preset}, the table's is {layout.preset}"
    if run.seed not in layout.seeds:
        return f"its seed {run.seed} is not among the table's ({', '.join(map(str, layout.seeds))})"
    return None


def _unlike(runs: list[Run]) -> str | None:
    """In what these runs, meant to differ by the seed alone, differ else; None where they do not."""
    if len({run.hash for run in runs}) > 1:
        return "differ in the recipe's hash"
    if len({run.fingerprint for run in runs}) > 1:
        return "differ in the data's fingerprint"
    if len({run.seed for run in runs}) < len(runs):
        return "repeat a seed"
    return None


def _other_data(layout: Layout, choices: dict[tuple[int, tuple[str, str]], _Choice]) -> list[str]:
    """Marks the cells of rows that were made from different data: they stand, but do not compare."""
    notes = []
    for source in layout.sources:
        made_from: dict[str, list[str]] = {}
        members = [(layout.rows[i], choice) for (i, s), choice in choices.items() if s == source and choice.runs]
        for row, choice in members:
            made_from.setdefault(choice.runs[0].fingerprint, []).append(layout.full_label(row))
        if len(made_from) > 1:
            listed = "; ".join(f"{print_}: {', '.join(labels)}" for print_, labels in sorted(made_from.items()))
            notes.append(f"rows do not compare, their data={source[0]} differs in fingerprint ({listed})")
            for _, choice in members:
                choice.marked = True
    return notes


def _fill(
    layout: Layout, row: Row, column: Column, choice: _Choice, values: dict[tuple[str, ...], float], problems: Problems
) -> tuple[Cell, list[str]]:
    """One cell, and why a counted run gives no number for it."""
    found: list[tuple[float, Run]] = []
    notes: list[str] = []
    for run in choice.runs:
        value = values.get((run.name, layout.select, column.protocol, column.subset, column.metric))
        if value is not None:
            found.append((value, run))
            continue
        empty = f"{column.split} has no samples in subset {column.subset}"
        reason = problems.get((run.name, layout.select, column.protocol), empty)
        notes.append(f"{layout.full_label(row)}: {run.name} gives no number: {reason}")
    marked = choice.marked or bool(notes)
    return Cell(tuple(value for value, _ in found), tuple(run for _, run in found), marked), notes


def _unused(layout: Layout, runs: list[Run]) -> list[str]:
    """Runs of the table's recipes and data whose budget no row asks for."""
    wanted = {(row.recipe, row.budget) for row in layout.rows}
    recipes = {row.recipe for row in layout.rows}
    return [
        f"{run.name} is in no row: no row of {run.recipe} has budget {run.budget}"
        for run in runs
        if run.recipe in recipes and (run.data, run.train) in layout.sources and (run.recipe, run.budget) not in wanted
    ]
