"""The methods that figures compare: the rows of a data set's largest table, with their runs on both editions.

A table holds one or two editions; a figure about class-wise against attribute-wise accuracy needs both. Which runs
count is decided only by the tables (`analysis.tables.cells`), so that no figure shows a run that its table leaves
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from analysis.inputs.runs import Run
from analysis.tables.cells import Table
from recipes.table_layout import PROTOCOLS


@dataclass(frozen=True)
class Method:
    """A table row with its runs.

    Attributes:
        baseline: the recipe of the row that it is compared with, which the table file calls its twin.
        runs: by training edition, in the order of seeds.
    """

    recipe: str
    budget: str
    label: str
    group: str
    baseline: str | None
    runs: dict[str, list[Run]]


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

    @property
    def protocols(self) -> list[str]:
        """The protocols under which any method has runs."""
        return [
            protocol
            for protocol, (train, _) in PROTOCOLS.items()
            if any(method.runs.get(train) for method in self.methods)
        ]

    @property
    def pairs(self) -> list[Pair]:
        """Each row that has a baseline, beside the baseline of its own budget where there is one."""
        pairs = []
        for method in self.methods:
            baselines = [other for other in self.methods if other.recipe == method.baseline]
            baselines.sort(key=lambda other: other.budget != method.budget)
            pairs += [Pair(baselines[0], method)] if baselines else []
        return pairs

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
    runs: dict[tuple[str, str, str], list[Run]] = {}
    for table in tables:
        for (index, (source, train)), counted in table.runs.items():
            row = table.layout.rows[index]
            if source == data and counted:
                runs.setdefault((row.recipe, row.budget, train), counted)
    # `max` takes the first of those of equal length.
    largest = max(tables, key=lambda table: sum(row.budget == "paper" for row in table.layout.rows)).layout
    methods = [
        Method(
            row.recipe,
            row.budget,
            largest.full_label(row),
            row.group,
            row.twin,
            {
                train: runs[row.recipe, row.budget, train]
                for train in ("glt", "cbl")
                if (row.recipe, row.budget, train) in runs
            },
        )
        for row in largest.rows
    ]
    return Study(data, preset, select, methods)
