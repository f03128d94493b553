"""Which runs stand behind each cell of a table: like is averaged with like, the rest is named.

A run is left out, never silently, when it is unfinished, has another preset, a seed the table does
not ask for, or when the runs of its row disagree about the recipe's hash or the data's fingerprint
(then no one can say which is meant, and none counts). A cell from which something was left out, or
for which a seed is lacking, is marked, and so is one whose runs were changed on the command line; the
notes say why.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.inputs.frame import Problems
from analysis.inputs.runs import Run
from analysis.stats.bootstrap import Resamples, TwinTest, interval
from analysis.tables import published
from recipes.table_layout import Column, Layout, Row


@dataclass(frozen=True)
class Cell:
    """The values behind one number: fractions in [0, 1] with their runs, in the order of seeds."""

    values: tuple[float, ...] = ()
    runs: tuple[Run, ...] = ()
    marked: bool = False
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Why it is marked."""
    state: str = field(default="", compare=False)
    """Why there is no number: `missing`, `unfinished`, `failed`, `foreign`, `unlike`, `damaged` or `empty`; "" where
    there is one.
    """
    replicates: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    """What the resamples give, fractions [R] (see `analysis.stats.bootstrap`)."""
    twin_test: TwinTest | None = field(default=None, compare=False)
    """Against the row's twin; None where there is none, or nothing of it to compare with."""
    paper: published.Number | None = field(default=None, compare=False)
    """What the paper has at this place, perhaps on other data."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval as fractions, over test samples and where there are several over seeds."""
        return None if self.replicates is None else interval(self.replicates)

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
    brief: list[str] = field(default_factory=list)
    """The notes, with what is alike in one."""


FEW = 4
"""Runs that a brief note names."""


@dataclass
class _Choice:
    """The runs that count for one row and source, with what there is to say about the others."""

    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    marked: bool = False
    state: str = ""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """(run, why)."""


def build(
    layout: Layout, runs: list[Run], frame: pd.DataFrame, problems: Problems, resamples: Resamples | None = None
) -> Table:
    """Fills a layout from the runs and their tidy frame (`analysis.inputs.frame.tidy`).

    `resamples`: given to several calls, each run is resampled once for all of them.
    """
    resamples = resamples or Resamples()
    keys = ["run", "select", "protocol", "subset", "metric"]
    values: dict[tuple[str, ...], float] = frame.set_index(keys)["value"].to_dict()
    choices = {
        (index, source): _choose(layout, row, source, runs)
        for index, row in enumerate(layout.rows)
        for source in layout.sources
    }
    notes = _other_data(layout, choices)
    twins = {(index, source): _twins(layout, index, source, choices, runs) for index, source in choices}
    numbers = published.beside(layout)
    cells: list[list[Cell]] = []
    for index, row in enumerate(layout.rows):
        for source in layout.sources:
            notes += choices[index, source].notes
        line = []
        for column in layout.columns:
            choice = choices[index, column.source]
            cell = _fill(layout, row, column, choice, values, problems)
            notes += [note for note in cell.notes if note not in choice.notes]
            cell = _resampled(layout, column, cell, twins[index, column.source], resamples)
            line.append(replace(cell, paper=published.of_cell(numbers, row, column)))
        cells.append(line)
    notes = [*_other_samples(layout, cells, resamples), *notes, *(note for note, _ in _unused(layout, runs))]
    notes = list(dict.fromkeys(notes))
    counted = {key: choice.runs for key, choice in choices.items()}
    return Table(layout, cells, notes, counted, _brief(layout, choices, notes, _unused(layout, runs)))


def _brief(
    layout: Layout, choices: dict[tuple[int, tuple[str, str]], _Choice], notes: list[str], unused: list[tuple[str, str]]
) -> list[str]:
    """The notes, those on rows without any run as one for each source, those on runs left out for one reason or in no
    row as one.
    """
    merged = {note for note, _ in unused}
    said = []
    for data, train in layout.sources:
        of_source = [
            (layout.full_label(layout.rows[i]), choice)
            for (i, source), choice in choices.items()
            if source == (data, train)
        ]
        missing = [(label, choice) for label, choice in of_source if choice.state == "missing"]
        if missing:
            said.append(
                f"no run on data={data} train={train} of {len(missing)} of {len(layout.rows)} rows: "
                f"{', '.join(label for label, _ in missing)}"
            )
            merged.update(note for _, choice in missing for note in choice.notes)
    reasons: dict[str, list[str]] = {}
    for choice in choices.values():
        for run, reason in choice.left_out:
            reasons.setdefault(reason, []).append(run)
            merged.update(note for note in choice.notes if f": {run} is left out: {reason}" in note)
    for reason, runs in reasons.items():
        rest = f" and {len(runs) - FEW} more" if len(runs) > FEW else ""
        said.append(f"left out, {reason}: {', '.join(runs[:FEW])}{rest}")
    budgets = [budget for _, budget in unused]
    for budget in dict.fromkeys(budgets):
        n = budgets.count(budget)
        about = f"{n} runs of these recipes have" if n > 1 else "1 run of these recipes has"
        said.append(f"{about} budget {budget}, for which this table has no row of theirs")
    return [*said, *(note for note in notes if note not in merged)]


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
        choice.state = "missing"
        return choice
    for run in candidates:
        state, reason = _reason(layout, run)
        if not state:
            choice.runs.append(run)
        else:
            choice.state = (
                state if choice.state in ("", "foreign") else choice.state
            )  # one of the recipe's own says more
            choice.left_out.append((run.name, reason))
            choice.notes.append(f"{label}: {run.name} is left out: {reason}")
    unlike = _unlike(choice.runs)
    if unlike:
        choice.state = "unlike"
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


def _reason(layout: Layout, run: Run) -> tuple[str, str]:
    """(state, reason) for which a run of the right recipe does not count; both empty where it does."""
    if run.preset != layout.preset:
        return "foreign", f"its preset is {run.preset}, the table's is {layout.preset}"
    if run.seed not in layout.seeds:
        return "foreign", f"its seed {run.seed} is not among the table's ({', '.join(map(str, layout.seeds))})"
    if not run.finished:
        ended = run.ended()
        state = "failed" if any(word in ended for word in ("failed", "give up", "cancelled")) else "unfinished"
        return state, f"it is unfinished (it has no file named done{'; ' * bool(ended)}{ended})"
    return "", ""


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


def _other_samples(layout: Layout, cells: list[list[Cell]], resamples: Resamples) -> list[str]:
    """Marks the cells of a split whose rows were not tested on the same samples, although the data's fingerprint may
    be the same.
    """
    notes = []
    for title in dict.fromkeys(column.title for column in layout.columns):
        columns = [index for index, column in enumerate(layout.columns) if column.title == title]
        first = layout.columns[columns[0]]
        tested: dict[tuple[str, int], list[str]] = {}
        for row, line in zip(layout.rows, cells, strict=True):
            for run in next((line[index].runs for index in columns if line[index].runs), ()):
                labels = tested.setdefault(resamples.samples(run, layout.select, first.split), [])
                labels += [label] if (label := layout.full_label(row)) not in labels else []
        if len(tested) < 2:
            continue
        listed = "; ".join(f"{samples} samples: {', '.join(labels)}" for (_, samples), labels in tested.items())
        note = f"rows do not compare, they differ in their test samples on {first.data} {first.split} ({listed})"
        notes.append(note)
        for line in cells:
            for index in columns:
                if line[index].runs:
                    line[index] = replace(line[index], marked=True, notes=(*line[index].notes, note))
    return notes


def _fill(
    layout: Layout, row: Row, column: Column, choice: _Choice, values: dict[tuple[str, ...], float], problems: Problems
) -> Cell:
    """One cell, with why a counted run gives no number for it."""
    found: list[tuple[float, Run]] = []
    notes: list[str] = []
    state = choice.state
    for run in choice.runs:
        value = values.get((run.name, layout.select, column.protocol, column.subset, column.metric))
        if value is not None:
            found.append((value, run))
            continue
        empty = f"{column.split} has no samples in subset {column.subset}"
        if column.metric == "ece":
            empty += ", or no confidences are stored"
        reason = problems.get((run.name, layout.select, column.protocol), empty)
        state = "empty" if reason == empty else "damaged"
        notes.append(f"{layout.full_label(row)}: {run.name} gives no number: {reason}")
    return Cell(
        tuple(value for value, _ in found),
        tuple(run for _, run in found),
        choice.marked or bool(notes),
        notes=(*choice.notes, *notes),
        state="" if found else state,
    )


Twins = tuple[str, list[Run]]
"""The label of a row's twin and the runs that count for it."""


def _twins(
    layout: Layout,
    index: int,
    source: tuple[str, str],
    choices: dict[tuple[int, tuple[str, str]], _Choice],
    runs: list[Run],
) -> Twins | None:
    """The twin of a row: the table's row of that recipe, of the same budget before the paper's; where the table has
    none, the recipe's runs at the paper's budget, chosen as for a row.
    """
    row = layout.rows[index]
    if row.twin is None:
        return None
    rows = {other.budget: i for i, other in reversed(list(enumerate(layout.rows))) if other.recipe == row.twin}
    if rows:
        place = rows.get(row.budget, rows.get("paper", min(rows.values())))
        return layout.full_label(layout.rows[place]), choices[place, source].runs
    return row.twin, _choose(layout, Row(recipe=row.twin, label=row.twin, group=row.group), source, runs).runs


def _resampled(layout: Layout, column: Column, cell: Cell, twins: Twins | None, resamples: Resamples) -> Cell:
    """The cell with its replicates and its test against the twin: on the seeds that both have, of data of one
    fingerprint.
    """
    if not cell.runs:
        return cell
    key, place = (column.subset, column.metric), (layout.select, column.split)
    wanted = tuple((other.subset, other.metric) for other in layout.columns if other.title == column.title)
    for run in cell.runs:
        resamples.values(run, *place, wanted)
    cell = replace(cell, replicates=resamples.averaged(list(cell.runs), *place, key))
    if twins is None:
        return cell
    label, others = twins
    of_seed = {run.seed: run for run in others if run.fingerprint == cell.runs[0].fingerprint}
    pairs = [(run, of_seed[run.seed]) for run in cell.runs if run.seed in of_seed]
    try:
        for _, other in pairs:
            resamples.values(other, *place, wanted)
        return replace(cell, twin_test=resamples.against(label, pairs, *place, key)) if pairs else cell
    except ValueError:  # the twin's predictions cannot be read: its own cell says so
        return cell


def _unused(layout: Layout, runs: list[Run]) -> list[tuple[str, str]]:
    """[(note, budget)] on the runs of the table's recipes and data whose budget no row asks for."""
    wanted = {(row.recipe, row.budget) for row in layout.rows}
    recipes = {row.recipe for row in layout.rows}
    return [
        (f"{run.name} is in no row: no row of {run.recipe} has budget {run.budget}", run.budget)
        for run in runs
        if run.recipe in recipes and (run.data, run.train) in layout.sources and (run.recipe, run.budget) not in wanted
    ]
