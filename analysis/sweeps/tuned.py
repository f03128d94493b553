"""`python -m analysis tuned`: for each row of a table the values that val chooses, and the table of the chosen runs.

The test splits choose nothing. All seeds of a row have the same values: those with the best mean val accuracy over the
seeds that all of its values have. Of equal ones the first in the grid's order wins; without a grid, that of the values.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.inputs.frame import VAL
from analysis.inputs.runs import Run
from analysis.sweeps.values import differing_keys, order_of, shown, texts
from analysis.tables.cells import RowRuns, what_differs
from analysis.tables.matching import Source, no_run_note
from recipes.common.errors import RecipeError
from recipes.declarations import declaration
from recipes.folders import DIGESTS
from recipes.resolve import FIRST
from recipes.sweeps.grid import Grid, of_training, read_grid
from recipes.table_layout import PROTOCOLS, Layout, Row

AS_IT_IS = "its own values"
"""What a row's only value is called."""


@dataclass
class Candidate:
    """One value, or combination of values, that a row was given.

    Attributes:
        label: its values as words.
        runs: the finished ones with a number on val, by seed.
        val: the mean val accuracy over the seeds that count, a fraction; None where it could not be chosen.
        chosen: whether it was.
    """

    label: str
    runs: dict[int, Run]
    val: float | None = None
    chosen: bool = False


@dataclass
class Search:
    """What a row was given on one source, and what val chose of it.

    Attributes:
        candidates: in the order of the grid.
        seeds: those over which val is averaged.
        notes: on what could not be chosen.
        without: says so where the row has no run at all.
        before: among how many values val had chosen the row's own, where these are a candidate (`Row.tried_on`).
    """

    candidates: list[Candidate] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without: str = ""
    before: int = 0

    @property
    def budget(self) -> int:
        """How many values there were to choose from, here or before; 0 where nothing can be chosen."""
        here = sum(candidate.val is not None for candidate in self.candidates)
        return max(here, self.before) if here else 0

    @property
    def choice(self) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.chosen), None)


Searches = dict[tuple[int, Source], Search]


def search_all(layout: Layout, runs: Sequence[Run], frame: pd.DataFrame, grid: Grid | None) -> Searches:
    """Choose for each row and source of a layout.

    Args:
        layout: the table's; its `select` says whose predictions on val count.
        runs: all that were read.
        frame: their numbers, as `analysis.inputs.frame.tidy` returns them.
        grid: the values among which is chosen, in this order; None takes all runs of a row.
    """
    here = frame[(frame["select"] == layout.select) & (frame["protocol"] == VAL)]
    here = here[(here["subset"] == "overall") & (here["metric"] == "accuracy")]
    val: dict[str, float] = here.set_index("run")["value"].to_dict()
    return {
        (index, source): _search(layout, row, source, runs, val, grid)
        for index, row in enumerate(layout.rows)
        for source in layout.sources
    }


def _search(
    layout: Layout, row: Row, source: Source, runs: Sequence[Run], val: Mapping[str, float], grid: Grid | None
) -> Search:
    search = Search()
    of_row = [run for run in _runs_of(layout, row, source, runs, grid) if run.seed in layout.seeds_of(row)]
    search.without = "" if of_row else no_run_note(layout, row, source, runs)
    of_row = _without_repeats(of_row, layout.words(row, source))
    for label, members in _grouped(layout, row, source, of_row, grid).items():
        counted = [run for run in members if run.finished and run.name in val]
        search.notes += [
            f"{run.name} ({label}) is left out: it is unfinished or has no predictions of {layout.select} on val"
            for run in members
            if run not in counted
        ]
        if counted and (unlike := what_differs(counted)):
            search.notes.append(f"{label} is left out: its runs {unlike}")
        elif counted:
            search.candidates.append(Candidate(label, {run.seed: run for run in counted}))
        elif not members:
            search.notes.append(f"no run with {label}")
    _choose(search, val)
    words = layout.words(row, source)
    if any(run.is_of(words, row.set) for one in search.candidates for run in one.runs.values()):
        search.before = row.tried_on(source[0])
    return search


def _choose(search: Search, val: Mapping[str, float]) -> None:
    """Choose the candidate with the best mean over the seeds that all have; of equal ones the first."""
    candidates = search.candidates
    if not candidates:
        return
    if len({run.fingerprint for candidate in candidates for run in candidate.runs.values()}) > 1:
        search.notes.append("none is chosen: its runs differ in the data's fingerprint")
        return
    search.seeds = sorted(set.intersection(*(set(candidate.runs) for candidate in candidates)))
    if not search.seeds:
        search.notes.append("none is chosen: its values have no seed in common")
        return
    for candidate in candidates:
        candidate.val = statistics.fmean(val[candidate.runs[seed].name] for seed in search.seeds)
    max(candidates, key=lambda candidate: candidate.val or 0.0).chosen = True
    apart = {seed for candidate in candidates for seed in candidate.runs} - {*search.seeds}
    if apart:
        listed = ", ".join(map(str, sorted(apart)))
        search.notes.append(f"val of seed {listed} does not count, for not all of its values have it")


def _runs_of(layout: Layout, row: Row, source: Source, runs: Sequence[Run], grid: Grid | None = None) -> list[Run]:
    """Return the runs of a row with whatever other values; of rows that differ in `set`, each run is of the one that
    sets most of what it has. What a row sets of a first stage or of files, the grid's points may have replaced.
    """
    data, train = source
    axes = (row.recipe, data, train, row.budget, layout.preset)
    alike = [run for run in runs if (run.recipe, run.data, run.train, run.budget, run.preset) == axes]
    siblings = [other for other in layout.rows if (other.recipe, other.budget) == (row.recipe, row.budget)]

    known = grid or _noted_grid(alike)
    points = [point.words for point in known.points] if known else [()]

    def has(run: Run, values: dict[str, Any], other: Row) -> bool:
        commands = [[*layout.words(other, source), *words] for words in points]
        if any(key.startswith(FIRST) for key in other.set) and not any(map(run.builds_on_that_of, commands)):
            return False
        if DIGESTS.keys() & other.set.keys() and not any(map(run.has_files_of, commands)):
            return False
        return all(
            values.get(key) == value
            for key, value in other.set.items()
            if not key.startswith(FIRST) and key not in DIGESTS
        )

    def owner(run: Run) -> Row | None:
        own = run.values
        fitting = [other for other in siblings if has(run, own, other)]
        return max(fitting, key=lambda other: len(other.set), default=None)

    return [run for run in alike if owner(run) == row]


def _grouped(layout: Layout, row: Row, source: Source, runs: Sequence[Run], grid: Grid | None) -> dict[str, list[Run]]:
    """Group runs by their values, in the grid's order: {label: runs}; a point of the grid may have none."""
    if grid is not None and grid.is_of_training and runs and not any(map(_trains, runs)):
        return {AS_IT_IS: list(runs)}
    if grid is not None:
        place = {run.name: _place(layout, row, source, run, grid) for run in runs}
        return {
            str(point): [run for run in runs if place[run.name] == number] for number, point in enumerate(grid.points)
        }
    keys = differing_keys(runs)
    known = _noted_grid(runs)
    ordered = sorted(
        runs,
        key=lambda run: (_place(layout, row, source, run, known) if known else 0, order_of(run, keys), run.seed),
    )
    found: dict[str, list[Run]] = {}
    for run in ordered:
        words = (f"{key}={text}" for key, text in zip(keys, texts(run, keys), strict=True))
        found.setdefault(" ".join(words) or AS_IT_IS, []).append(run)
    return found


def _without_repeats(runs: Sequence[Run], words: Sequence[str]) -> list[Run]:
    """Leave out runs that train nothing and differ from another in values of training alone: their numbers are its.

    Args:
        runs: of a row.
        words: the row's command; the run of these stays, else the one with the first name.
    """
    kept: dict[object, Run] = {}
    for run in sorted(runs, key=lambda run: (not run.is_current(words), run.name)):
        judged = {key: shown(value) for key, value in run.values.items() if not of_training(key)}
        kept.setdefault(run.name if _trains(run) else (run.seed, tuple(judged.items())), run)
    return [run for run in runs if run in kept.values()]


def _trains(run: Run) -> bool:
    """Say whether a run trains; another judges a run's weights, or the network's start."""
    values = run.values
    return not values.get("method.eval_of") and declaration(str(values.get("method.name"))).TRAINS != "nothing"


def _noted_grid(runs: Sequence[Run]) -> Grid | None:
    """Return the grid with which runs were launched; None where they had none, several, or one of other code."""
    noted = {run.grid for run in runs if run.grid}
    with contextlib.suppress(RecipeError):
        return read_grid(noted.pop()) if len(noted) == 1 else None
    return None


def _place(layout: Layout, row: Row, source: Source, run: Run, grid: Grid) -> int:
    """Return the number of the point of a grid that a run of a row is; behind the last where it is none."""
    for number, point in enumerate(grid.points):
        if run.is_of([*layout.words(row, source), *point.words], {**row.set, **point.values}):
            return number
    return len(grid.points)


def chosen_rows(layout: Layout, searches: Searches) -> dict[tuple[int, Source], RowRuns]:
    """Return the chosen runs as a table takes them, with notes on values and budgets; unequal budgets are marked."""
    budgets: dict[int, list[str]] = {}
    several = len(layout.sources) > 1
    for (index, source), search in searches.items():
        label = layout.full_label(layout.rows[index]) + (f" ({', '.join(source)})" if several else "")
        if search.budget:
            budgets.setdefault(search.budget, []).append(label)
    unequal = "; ".join(f"{_values(budget)}: {', '.join(labels)}" for budget, labels in sorted(budgets.items()))
    made = {}
    for (index, source), search in searches.items():
        row = layout.rows[index]
        label, where = layout.full_label(row), f"data={source[0]} train={source[1]}"
        choice = search.choice
        notes = [f"{label}: {note} ({where})" for note in search.notes]
        if choice is None:
            notes.append(search.without or f"{label}: no run to choose ({where})")
            made[index, source] = RowRuns(notes=notes, marked=True, state="unlike" if search.notes else "missing")
            continue
        seeds = ", ".join(map(str, search.seeds))
        notes.insert(
            0,
            f"{label}: {choice.label}, chosen of {_values(search.budget)} by val {100 * (choice.val or 0):.2f} over "
            f"seed {seeds} ({where})",
        )
        runs = [run for _, run in sorted(choice.runs.items())]
        lacking = [str(seed) for seed in layout.seeds_of(row) if seed not in choice.runs]
        if lacking:
            notes.append(f"{label}: no run of seed {', '.join(lacking)} with {choice.label} ({where})")
        if len(budgets) > 1:
            notes.append(f"unequal search budgets, so these rows do not compare: {unequal}")
        marked = len(notes) > 1
        if row.twin is not None and layout.twin_of(row) is None:
            notes.append(
                f"{label}: not tested: its twin {row.twin} is no row of the table, so val chose nothing for it"
            )
        made[index, source] = RowRuns(runs, notes, marked)
    return made


def _values(count: int) -> str:
    return f"{count} value{'s' * (count != 1)}"


def values_csv(layout: Layout, searches: Searches) -> pd.DataFrame:
    """Make one line for each value that a row was given: `val` in percent, `n` seeds, whether it was chosen."""
    return pd.DataFrame(
        [
            {
                "label": layout.full_label(layout.rows[index]),
                "recipe": layout.rows[index].recipe,
                "budget": layout.rows[index].budget,
                "data": data,
                "train": train,
                "values": candidate.label,
                "of": search.budget,
                "val": None if candidate.val is None else round(100 * candidate.val, 4),
                "seeds": " ".join(map(str, search.seeds)),
                "chosen": int(candidate.chosen),
                "runs": " ".join(run.name for _, run in sorted(candidate.runs.items())),
            }
            for (index, (data, train)), search in searches.items()
            for candidate in search.candidates
        ],
        columns=["label", "recipe", "budget", "data", "train", "values", "of", "val", "seeds", "chosen", "runs"],
    )


def layouts_of(runs: Sequence[Run], select: str, seeds: Sequence[int] | None) -> list[Layout]:
    """Lay runs out without a table: a layout for each preset, a row for each recipe and budget, overall accuracy under
    each protocol that the runs' data and editions have.
    """
    made = []
    for preset in sorted({run.preset for run in runs}):
        own = [run for run in runs if run.preset == preset]
        rows = sorted({(run.recipe, run.budget) for run in own})
        twice = {recipe for recipe, _ in rows if [other for other, _ in rows].count(recipe) > 1}
        columns = [
            {"data": data, "train": train, "protocol": protocol, "subset": "overall", "metric": "accuracy"}
            for data in sorted({run.data for run in own})
            for protocol, (train, split) in PROTOCOLS.items()
            if any((run.data, run.train) == (data, train) and run.has(train, split) for run in own)
        ]
        labels = [recipe + (f", {budget} budget" if recipe in twice else "") for recipe, budget in rows]
        made.append(
            Layout.model_validate(
                {
                    "name": preset,
                    "preset": preset,
                    "select": select,
                    "seeds": list(seeds or sorted({run.seed for run in own})),
                    "rows": [
                        {"recipe": recipe, "label": label, "group": "Tuned", "budget": budget}
                        for (recipe, budget), label in zip(rows, labels, strict=True)
                    ],
                    "columns": columns,
                }
            )
        )
    return made
