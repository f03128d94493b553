"""The methods that figures compare: the rows of a data set's largest table, with their runs on both editions, and
after them the methods that only other tables have.

A table holds one or two editions; a figure about class-wise against attribute-wise accuracy needs both. Which runs
count is decided only by the tables (`analysis.tables.cells`), so that no figure shows a run that its table leaves
out. Where tables have a row with different seeds, those of the table with the most count.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from analysis.inputs.runs import Run
from analysis.tables.cells import Table
from recipes.common.cli import nearest
from recipes.table_layout import PROTOCOLS, Layout

Key = tuple[str, str, str]
"""`Row.key`."""

EDITIONS = ("glt", "cbl")


@dataclass(frozen=True)
class Method:
    """A table row with its runs.

    Attributes:
        key: what makes it another row or not (`Row.key`).
        baseline: the key of the row that it is compared with, which the table file calls its twin; its recipe where
            the table has no such row, None where it has no twin.
        runs: by training edition, in the order of seeds.
    """

    key: Key
    label: str
    group: str
    baseline: Key | str | None
    runs: dict[str, list[Run]]

    @property
    def recipe(self) -> str:
        return self.key[0]

    @property
    def budget(self) -> str:
        return self.key[1]

    @property
    def baseline_recipe(self) -> str | None:
        return self.baseline[0] if isinstance(self.baseline, tuple) else self.baseline

    @property
    def has_ifl(self) -> bool:
        """Whether its runs, or those that they build on, train with IFL."""
        return any(run.has_ifl for runs in self.runs.values() for run in runs[:1])


class Pair(NamedTuple):
    """A method without and with IFL."""

    plain: Method
    ifl: Method

    @property
    def is_ready(self) -> bool:
        """Whether both have runs of one edition."""
        return any(self.plain.runs.get(train) and self.ifl.runs.get(train) for train in EDITIONS)


@dataclass(frozen=True)
class Study:
    """The methods of one data set under one preset and selection; improvements are measured from the first one."""

    data: str
    preset: str
    select: str
    methods: list[Method]
    matched: dict[Key, Method] = field(default_factory=dict)
    """By key, methods with IFL at the paper's budget as they are at equal images, where a table has such runs."""

    @property
    def protocols(self) -> list[str]:
        """The protocols under which any method has runs, on data that have the protocol's test split."""
        return [
            protocol
            for protocol, (train, split) in PROTOCOLS.items()
            if any(run.has(train, split) for method in self.methods for run in method.runs.get(train, []))
        ]

    @property
    def has_attributes(self) -> bool:
        """Whether the images of its runs have attributes."""
        counted = [run for method in self.methods for runs in method.runs.values() for run in runs]
        return not counted or any(run.has_attributes for run in counted)

    @property
    def pairs(self) -> list[Pair]:
        """Each row with IFL that has a baseline without, beside it; other rows may have a twin, too."""
        of_key = {method.key: method for method in self.methods}
        return [
            Pair(plain, method)
            for method in self.methods
            if isinstance(method.baseline, tuple) and (plain := of_key.get(method.baseline))
            if method.has_ifl and not plain.has_ifl
        ]

    def chosen(self, recipe: str | None) -> Pair | None:
        """Return the pair to show in depth: the first, at equal images (budget `matched`) where its twin has one there.

        Args:
            recipe: of the pair, without or with IFL; None, or one that no pair has, means any pair.

        Returns:
            None where no pair has runs of one edition.
        """
        ready = [pair for pair in self.pairs if pair.is_ready]
        named = [pair for pair in ready if recipe in (pair.plain.recipe, pair.ifl.recipe)] or ready
        of_first = [pair for pair in named if pair.plain.recipe == named[0].plain.recipe]
        return next((pair for pair in of_first if pair.ifl.budget == "matched"), named[0] if named else None)

    def at_both_budgets(self, pair: Pair) -> tuple[Method, Method | None]:
        """Return the method with IFL at the paper's budget, and at equal images where it is in the tables, too.

        Where the tables have it at equal images alone, that is the first.
        """
        for method in self.methods:
            equal = self.matched.get(method.key)
            if equal and pair.ifl.key in (method.key, equal.key):
                return method, equal
        return pair.ifl, None


def refuse_unknown_pair(recipe: str, layouts: Sequence[Layout], runs: Sequence[Run]) -> None:
    """Refuse a recipe for `Study.chosen` that no pair of these layouts can have.

    Raises:
        ValueError: neither a row with IFL, nor the twin of one, has it.
    """
    rows = [(row, layout.twin_of(row)) for layout in layouts for row in layout.rows]
    pairs = [(row.recipe, twin.recipe) for row, twin in rows if twin]
    with_ifl = {run.recipe for run in runs if run.recipe in dict(pairs) and run.has_ifl}
    legal = [name for pair in pairs if pair[0] in with_ifl for name in pair]
    if recipe not in legal:
        known = nearest(recipe, dict.fromkeys(legal)) if legal else "no run of theirs has IFL, and a twin in its table"
        raise ValueError(f"pair={recipe}: no method of these tables has this recipe, without or with IFL; {known}")


def studies(tables: list[Table]) -> list[Study]:
    """Return one study for each data set, preset and selection of the tables, in the order of names."""
    members: dict[tuple[str, str, str], list[Table]] = {}
    for table in tables:
        for data in dict.fromkeys(data for data, _ in table.layout.sources):
            members.setdefault((data, table.layout.preset, table.layout.select), []).append(table)
    return [_study(*key, of_study) for key, of_study in sorted(members.items())]


def _study(data: str, preset: str, select: str, tables: list[Table]) -> Study:
    runs: dict[tuple[Key, str], list[Run]] = {}
    for table in tables:
        for (index, (source, train)), counted in table.runs.items():
            key = table.layout.rows[index].key, train
            if source == data and len(counted) > len(runs.get(key, [])):  # of equally many the first table's
                runs[key] = counted
    laid_out = [_methods(table.layout, runs) for table in tables]
    methods = max(laid_out, key=_extent)  # the first of equal ones
    for method in itertools.chain(*laid_out):
        if _is_further(method, methods):
            methods = [*methods, method]
    matched = {}
    of_key = {method.key: method for method in methods}
    for method in methods:
        recipe, budget, values = method.key
        equal = (recipe, "matched", values)
        found = {train: runs[equal, train] for train in EDITIONS if (equal, train) in runs}
        if method.has_ifl and budget == "paper" and found:
            label = f"{method.label}, equal images"
            matched[method.key] = of_key.get(equal) or replace(method, key=equal, label=label, runs=found)
    return Study(data, preset, select, methods, matched)


def _methods(layout: Layout, runs: dict[tuple[Key, str], list[Run]]) -> list[Method]:
    """Return the rows of a table as methods, each with the runs of its key and edition."""
    return [
        Method(
            row.key,
            layout.full_label(row),
            row.group,
            twin.key if (twin := layout.twin_of(row)) else row.twin,
            {train: runs[row.key, train] for train in EDITIONS if (row.key, train) in runs},
        )
        for row in layout.rows
    ]


def _extent(methods: list[Method]) -> tuple[int, int]:
    """Count those at the paper's budget, which a table of both budgets has, too: with runs, and all."""
    of_paper = [method for method in methods if method.budget == "paper"]
    return sum(bool(method.runs) for method in of_paper), len(of_paper)


def _is_further(method: Method, methods: list[Method]) -> bool:
    """Whether a row of another table is a method besides these: it has runs, and none of its recipe is among theirs.

    One with IFL has a twin that they do not have with IFL; else it varies IFL, which is its own table's matter.
    """
    shown = [other for other in methods if other.runs]
    if not method.runs or method.recipe in {other.recipe for other in shown}:
        return False
    with_ifl = {None, *(other.baseline_recipe for other in shown if other.has_ifl)}
    return not method.has_ifl or method.baseline_recipe not in with_ifl
