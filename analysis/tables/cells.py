"""Which runs are behind each cell of a table: like is averaged with like, the rest is named.

A run is left out, and a note says so, when it is unfinished, has another preset, or has a seed that the table does not
ask for. When the runs of a row disagree about the recipe's hash, those count that are the recipe as it stands, and the
others are variants, which are listed and mark nothing; where none is, or where they disagree about the data's
fingerprint, nobody can say which is meant, and none of them counts. Where none is and all agree, they count. A cell is
marked where something else than a further seed was left out, where a seed is lacking, and where a run was changed on
the command line; the notes say why.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.inputs.frame import Problems
from analysis.inputs.runs import Run
from analysis.stats.baseline import BaselineTest, compare_with_baseline, mean_interval
from analysis.stats.bootstrap import Resamples
from analysis.tables import published
from analysis.tables.matching import columns_there, no_run_note, pairs, runs_of_row, variants_of
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
    interval: tuple[float, float] | None = field(default=None, compare=False)
    """95 % interval as fractions, over test samples and where there are several over seeds."""
    baseline_test: BaselineTest | None = field(default=None, compare=False)
    """Against the row's baseline; None where there is none, or nothing of it to compare with."""
    paper: published.Number | None = field(default=None, compare=False)
    """The paper's number at this place, perhaps on other data."""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds (n - 1); None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Table:
    """A filled layout.

    Attributes:
        cells: by row and column.
        notes: on what is left out, lacking or marked.
        runs: those that count, by row and source.
        told: the notes, with one on all runs of further seeds, with which nothing is amiss.
        brief: these, with those that are alike in one, and without names of runs that do not count.
        grouping: by what classes are grouped, where that is not their data set's own way.
        resamples: which the cells' statistics rest on; what else is said of the same runs rests on the same.
    """

    layout: Layout
    cells: list[list[Cell]]
    notes: list[str]
    runs: dict[tuple[int, tuple[str, str]], list[Run]]
    told: list[str] = field(default_factory=list)
    brief: list[str] = field(default_factory=list)
    grouping: str = ""
    resamples: Resamples = field(default_factory=Resamples, compare=False, repr=False)


FEW = 4
"""The most rows that a brief note names."""


@dataclass
class RowRuns:
    """The runs that count for one row and source, with what there is to say about the others."""

    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    marked: bool = False
    state: str = ""
    left_out: list[str] = field(default_factory=list)
    """Why, of each run but those of further seeds."""
    further: dict[str, int] = field(default_factory=dict)
    """The seeds that the row does not ask for, by the note on each run of one."""


def fill_table(
    layout: Layout,
    runs: list[Run],
    frame: pd.DataFrame,
    problems: Problems,
    resamples: Resamples | None = None,
    chosen: Mapping[tuple[int, tuple[str, str]], RowRuns] | None = None,
) -> Table:
    """Fill a layout, but for columns that its data sets have not.

    Args:
        layout: the table's.
        runs: all that were read.
        frame: their numbers, as `analysis.inputs.frame.tidy` returns them.
        problems: what could not be computed, as `tidy` returns it.
        resamples: given to several calls, each run is resampled once for all of them.
        chosen: the runs of each row and source, where something else chose them.
    """
    resamples = resamples or Resamples()
    columns, lacking = columns_there(layout, runs)
    layout = layout.model_copy(update={"columns": columns})
    keys = ["run", "select", "protocol", "subset", "metric"]
    values: dict[tuple[str, ...], float] = frame.set_index(keys)["value"].to_dict()
    choices = {
        (index, source): chosen[index, source] if chosen else _choose(layout, row, source, runs)
        for index, row in enumerate(layout.rows)
        for source in layout.sources
    }
    notes = _mark_other_data(layout, choices)
    _learn_sources(layout, runs, resamples)
    baselines = {(index, source): _baseline_of(layout, index, source, choices, runs) for index, source in choices}
    numbers = published.by_place(layout)
    cells: list[list[Cell]] = []
    for index, row in enumerate(layout.rows):
        for source in layout.sources:
            notes += choices[index, source].notes
        line = []
        for column in layout.columns:
            choice = choices[index, column.source]
            cell = _fill_cell(layout, row, column, choice, values, problems)
            notes += [note for note in cell.notes if note not in choice.notes]
            cell = _add_statistics(layout, column, cell, baselines[index, column.source], resamples)
            line.append(replace(cell, paper=published.number_at(numbers, row, column)))
        cells.append(line)
    # Where val chose, other values than the rows' own count, and who chose says among how many.
    unused = _runs_without_row(layout, runs) if chosen is None else []
    search = _unequal_search(layout) if chosen is None else []
    compared = [*search, *_mark_other_samples(layout, cells, resamples)]
    notes = [*lacking, *compared, *notes, *(note for note, _ in unused)]
    notes = list(dict.fromkeys(notes))
    counted = {key: choice.runs for key, choice in choices.items()}
    groupings = {run.grouping for chosen in counted.values() for run in chosen}
    told = _without_further(layout, choices, notes)
    brief = _brief_notes(layout, choices, told, unused)
    return Table(layout, cells, notes, counted, told, brief, max(groupings, default=""), resamples)


def _learn_sources(layout: Layout, runs: list[Run], resamples: Resamples) -> None:
    """Read who says the sources of test samples, before anything is scored: they count for all runs on the same."""
    for run in runs:
        for split in dict.fromkeys(column.split for column in layout.columns if column.data == run.data):
            with contextlib.suppress(ValueError):  # its own cell says so
                resamples.of_run(run, layout.select, split)


def _without_further(
    layout: Layout, choices: dict[tuple[int, tuple[str, str]], RowRuns], notes: list[str]
) -> list[str]:
    """Put one note in place of those on runs of further seeds."""
    of = {note: (seed, index) for (index, _), choice in choices.items() for note, seed in choice.further.items()}
    if not of:
        return notes
    seeds = ", ".join(map(str, sorted({seed for seed, _ in of.values()})))
    rows = len({index for _, index in of.values()})
    line = f"runs of other seeds ({seeds}) are left out of {rows} of {len(layout.rows)} rows"
    return [*(note for note in notes if note not in of), line]


def _brief_notes(
    layout: Layout,
    choices: dict[tuple[int, tuple[str, str]], RowRuns],
    notes: list[str],
    unused: list[tuple[str, str]],
) -> list[str]:
    """Shorten the notes: one for all rows of a source without a run, one for all runs left out for the same reason."""
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
    for (index, _), choice in choices.items():
        for reason in choice.left_out:
            reasons.setdefault(reason, []).append(layout.full_label(layout.rows[index]))
            merged.update(note for note in choice.notes if note.endswith(f" is left out: {reason}"))
    for reason, labels in reasons.items():
        rows = list(dict.fromkeys(labels))
        rest = f" and {len(rows) - FEW} more" if len(rows) > FEW else ""
        runs = f"{len(labels)} run{'s' * (len(labels) > 1)}"
        said.append(f"left out, {reason}: {runs} of {', '.join(rows[:FEW])}{rest}")
    without = [what for _, what in unused]
    for what in dict.fromkeys(without):
        n = without.count(what)
        about = f"{n} runs of these recipes have" if n > 1 else "1 run of these recipes has"
        said.append(f"{about} {what}, for which this table has no row of theirs")
    return [*said, *(note for note in notes if note not in merged)]


def _choose(layout: Layout, row: Row, source: tuple[str, str], runs: list[Run]) -> RowRuns:
    data, train = source
    choice, label = RowRuns(), layout.full_label(row)
    candidates = runs_of_row(layout, row, source, runs)
    if not candidates:
        choice.notes.append(no_run_note(layout, row, source, runs))
        choice.state = "missing"
        return choice
    variants = variants_of(layout, row, source, candidates)
    for run in (run for run in candidates if run not in variants):
        state, reason = _why_left_out(layout, row, run)
        note = f"{label}: {run.name} is left out: {reason}"
        if not state:
            choice.runs.append(run)
            continue
        choice.state = state if choice.state in ("", "foreign") else choice.state  # the more telling one stays
        if run.preset == layout.preset and run.seed not in layout.seeds_of(row):
            choice.further[note] = run.seed
        else:
            choice.left_out.append(reason)
            choice.notes.append(note)
    if unlike := what_differs(choice.runs):
        choice.state = "unlike"
        names = ", ".join(run.name for run in choice.runs)
        choice.notes.append(f"{label}: none of these runs counts, they {unlike}: {names}")
        differing = [(run.name, run.departures()) for run in choice.runs]
        choice.notes += [f"{label}: {name} has {', '.join(values)}" for name, values in differing if values]
        choice.runs = []
    for word, made_by in _by_code(choice.runs):
        choice.notes.append(f"{label}: these runs differ in the code of their {word}: {'; '.join(made_by)}")
    for run in choice.runs:
        if differs := [] if row.set else run.departures():
            choice.notes.append(f"{label}: {run.name} is not the recipe as it stands: {', '.join(differs)}")
    choice.runs.sort(key=lambda run: run.seed)
    there = {run.seed for run in candidates if run not in variants and run.preset == layout.preset}
    if lacking := [str(seed) for seed in layout.seeds_of(row) if seed not in there]:
        choice.notes.append(f"{label}: no run of seed {', '.join(lacking)} (data={data} train={train})")
    choice.marked = bool(choice.notes)
    choice.notes += choice.further
    for run in variants:
        values = ", ".join(run.departures()) or f"the hash {run.hash}"
        reason = f"it is a variant, with {values} (a row with `set:` would show it)"
        choice.left_out.append(reason)
        choice.notes.append(f"{label}: {run.name} is left out: {reason}")
    return choice


def _why_left_out(layout: Layout, row: Row, run: Run) -> tuple[str, str]:
    """Return (state, reason) for which a run of the right recipe does not count; both empty where it does."""
    if run.preset != layout.preset:
        return "foreign", f"its preset is {run.preset}, the table's is {layout.preset}"
    if run.seed not in (seeds := layout.seeds_of(row)):
        whose = "the row's" if row.seeds else "the table's"
        return "foreign", f"its seed {run.seed} is not among {whose} ({', '.join(map(str, seeds))})"
    if not run.finished:
        ended = run.ended()
        state = "failed" if any(word in ended for word in ("failed", "give up", "cancelled")) else "unfinished"
        return state, f"it is unfinished (it has no file named done{'; ' * bool(ended)}{ended})"
    return "", ""


def what_differs(runs: list[Run]) -> str | None:
    """Say in what else these runs differ, which should differ only in the seed; None where they do not."""
    if len({run.hash for run in runs}) > 1:
        return "differ in the recipe's hash"
    if len({run.fingerprint for run in runs}) > 1:
        return "differ in the data's fingerprint"
    if len({run.seed for run in runs}) < len(runs):
        return "repeat a seed"
    return None


def _by_code(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Say in which code runs differ, `method` or `model`, and which had which.

    Runs that know no digests do not count.
    """
    found = []
    for word in ("method", "model"):
        by_digest: dict[str, list[str]] = {}
        for run in runs:
            if digest := dict(run.code).get(word):
                by_digest.setdefault(digest, []).append(run.name)
        if len(by_digest) > 1:
            found.append((word, [f"{digest[:8]}: {', '.join(names)}" for digest, names in by_digest.items()]))
    return found


def _mark_other_data(layout: Layout, choices: dict[tuple[int, tuple[str, str]], RowRuns]) -> list[str]:
    """Mark the cells of rows that were made from different data: they are shown, but do not compare."""
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


def _mark_other_samples(layout: Layout, cells: list[list[Cell]], resamples: Resamples) -> list[str]:
    """Mark the cells of a split whose rows were not tested on the same samples; the fingerprint may be the same."""
    notes = []
    for title in dict.fromkeys(column.title for column in layout.columns):
        columns = [index for index, column in enumerate(layout.columns) if column.title == title]
        first = layout.columns[columns[0]]
        tested: dict[tuple[str, int], list[str]] = {}
        for row, line in zip(layout.rows, cells, strict=True):
            for run in next((line[index].runs for index in columns if line[index].runs), ()):
                samples = resamples.of_run(run, layout.select, first.split).samples
                labels = tested.setdefault((samples.digest, len(samples.source)), [])
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


def tried_text(tried: Mapping[str, int]) -> str:
    """Write among how many values val chose for each row, such as `TADE 8, RIDE 4, each other 1`.

    Args:
        tried: as `Layout.tried_on` returns it.
    """
    several = [f"{label} {count}" for label, count in tried.items() if count > 1]
    return ", ".join([*several, *(["each other 1"] if 1 in tried.values() else [])])


def _unequal_search(layout: Layout) -> list[str]:
    """Say of each data set where val chose among more values for some rows than for others."""
    searches = {data: layout.tried_on(data) for data in dict.fromkeys(column.data for column in layout.columns)}
    return [
        f"unequal search, which favours rows that were given more: on {data} val chose among so many values: "
        f"{tried_text(tried)}"
        for data, tried in searches.items()
        if len(set(tried.values())) > 1
    ]


def _fill_cell(
    layout: Layout, row: Row, column: Column, choice: RowRuns, values: dict[tuple[str, ...], float], problems: Problems
) -> Cell:
    """Make one cell; its notes say why a counted run gives no number for it."""
    found: list[tuple[float, Run]] = []
    notes: list[str] = []
    state = choice.state
    for run in choice.runs:
        value = values.get((run.name, layout.select, column.protocol, column.subset, column.metric))
        if value is not None:
            found.append((value, run))
            continue
        if run.lacks_classes(column.subset):
            state = "empty"
            notes.append(f"no class of {column.data} is {column.subset}{_by(run.grouping)}, so these cells are empty")
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


def _by(grouping: str) -> str:
    return f" by {grouping}" if grouping else ""


class Baseline(NamedTuple):
    """The row that another is tested against: its label, and the runs that count for it."""

    label: str
    runs: list[Run]


def _baseline_of(
    layout: Layout,
    index: int,
    source: tuple[str, str],
    choices: dict[tuple[int, tuple[str, str]], RowRuns],
    runs: list[Run],
) -> Baseline | None:
    """Find a row's baseline: the table's row that the layout calls its twin (`Layout.twin_of`).

    Where the table has none, it is the recipe's runs at the paper's budget, chosen as for a row.
    """
    row = layout.rows[index]
    if row.twin is None:
        return None
    if twin := layout.twin_of(row):
        return Baseline(layout.full_label(twin), choices[layout.rows.index(twin), source].runs)
    outside = layout.outside(row.twin, row.group)
    wider = layout.model_copy(update={"rows": [*layout.rows, outside]})
    return Baseline(row.twin, _choose(wider, outside, source, runs).runs)


def _add_statistics(
    layout: Layout, column: Column, cell: Cell, baseline: Baseline | None, resamples: Resamples
) -> Cell:
    """Add a cell's replicates, its interval, and its test against the baseline on the same data."""
    if not cell.runs:
        return cell
    key, place = (column.subset, column.metric), (layout.select, column.split)
    wanted = tuple((other.subset, other.metric) for other in layout.columns if other.title == column.title)
    own = {run: resamples.of_run(run, *place, wanted) for run in cell.runs}
    replicates = resamples.averaged(list(cell.runs), *place, key)
    cell = replace(cell, replicates=replicates, interval=mean_interval([*own.values()], key))
    others = [run for run in baseline.runs if run.fingerprint == cell.runs[0].fingerprint] if baseline else []
    if baseline is None or not others:
        return cell
    paired = pairs(cell.runs, others)
    first, second = zip(*paired, strict=True) if paired else (cell.runs, others)
    try:
        against = [resamples.of_run(run, *place, wanted) for run in second]
    except ValueError:  # the baseline's predictions cannot be read: its own cell says so
        return cell
    test = compare_with_baseline(baseline.label, [own[run] for run in first], against, bool(paired), key)
    return replace(cell, baseline_test=test)


def _runs_without_row(layout: Layout, runs: list[Run]) -> list[tuple[str, str]]:
    """Return [(note, what no row asks for)] on the runs of the table's recipes and data that are in no row."""
    recipes = {row.recipe for row in layout.rows}
    found = []
    for run in (run for run in runs if run.recipe in recipes and (run.data, run.train) in layout.sources):
        rows = [row for row in layout.rows if (row.recipe, row.budget) == (run.recipe, run.budget)]
        if not rows:
            found.append(
                (f"{run.name} is in no row: no row of {run.recipe} has budget {run.budget}", f"budget {run.budget}")
            )
        elif not any(runs_of_row(layout, row, (run.data, run.train), [run]) for row in rows):
            values = ", ".join(run.departures()) or "those of its recipe"
            found.append(
                (f"{run.name} is in no row: no row of {run.recipe} sets its values ({values})", "other values")
            )
    return found
