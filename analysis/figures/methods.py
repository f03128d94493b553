"""The methods that figures compare: the rows of a data set's largest table, with their runs on both editions.

A table holds one or two editions; a figure about class-wise against attribute-wise accuracy needs both. Which runs
count is decided only by the tables (`analysis.tables.cells`), so that no figure shows a run that its table leaves
out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from analysis.inputs.runs import Run
from analysis.tables.cells import Table
from recipes.table_layout import PROTOCOLS

Key = tuple[str, str, str]
"""`Row.key`."""


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


class Pair(NamedTuple):
    """A method without and with IFL."""

    plain: Method
    ifl: Method


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
        """Each row that has a baseline, beside it."""
        of_key = {method.key: method for method in self.methods}
        return [
            Pair(of_key[method.baseline], method)
            for method in self.methods
            if isinstance(method.baseline, tuple) and method.baseline in of_key
        ]

    def chosen(self, recipe: str | None) -> Pair | None:
        """Return the pair to show in depth, or None where there is none.

        Args:
            recipe: of the pair, with or without IFL; None means the first pair of which both have runs of one edition.

        Raises:
            ValueError: no pair has that recipe.
        """
        if recipe is not None:
            named = [pair for pair in self.pairs if recipe in (pair.plain.recipe, pair.ifl.recipe)]
            if not named:
                legal = ", ".join(dict.fromkeys(pair.ifl.recipe for pair in self.pairs)) or "none in these tables"
                raise ValueError(f"pair={recipe}: no row with a twin on {self.data} has this recipe; legal is {legal}")
            return named[0]
        return next(
            (
                pair
                for pair in self.pairs
                if any(pair.plain.runs.get(train) and pair.ifl.runs.get(train) for train in ("glt", "cbl"))
            ),
            None,
        )


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
            if source == data and counted:
                runs.setdefault((table.layout.rows[index].key, train), counted)
    # `max` takes the first of those of equal length.
    largest = max(tables, key=lambda table: sum(row.budget == "paper" for row in table.layout.rows)).layout
    methods = [
        Method(
            row.key,
            largest.full_label(row),
            row.group,
            twin.key if (twin := largest.twin_of(row)) else row.twin,
            {train: runs[row.key, train] for train in ("glt", "cbl") if (row.key, train) in runs},
        )
        for row in largest.rows
    ]
    matched = {}
    for method in methods:
        recipe, budget, values = method.key
        key = (recipe, "matched", values)
        found = {train: runs[key, train] for train in ("glt", "cbl") if (key, train) in runs}
        if method.baseline is not None and budget == "paper" and found:
            matched[method.key] = replace(method, key=key, runs=found)
    return Study(data, preset, select, methods, matched)
