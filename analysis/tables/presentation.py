"""What every form of a table shares: numbers, marks and their legend, headers, and which numbers are best."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.labels import shortened
from analysis.stats.bootstrap import ALPHA, FEWEST_SEEDS
from analysis.tables.cells import Cell, Table
from recipes.common.errors import RecipeError, one_line
from recipes.noted import NOTHING, Noted
from recipes.resolve import first_words, resolve, source_of, source_words
from recipes.table_layout import Column, Layout, Row
from recipes.typed_latex import plain_text

MISSING = "--"
LONGEST = 48
"""Characters of a printed label."""

PROTOCOLS = {
    "clt": "Class-wise long tail (CLT)",
    "glt": "Generalized long tail (GLT)",
    "alt": "Attribute-wise long tail (ALT)",
}
METRICS = {"ece": "ECE", "f1": "F1", "harmonic": "Harmonic mean", "worst": "Worst group"}
"""Metrics whose name is not the capitalised word."""


def percent(cell: Cell) -> str | None:
    """Print the mean in percent with two decimals; None for an empty cell."""
    return None if cell.mean is None else f"{100 * cell.mean:.2f}"


def p_text(p: float) -> str:
    """Print a p in two digits, and near the level in as many as tell on which side of it p is."""
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if np.sign(float(text) - ALPHA) == np.sign(p - ALPHA))


def minus(text: str) -> str:
    """Write a minus sign before the negative numbers of a cell, instead of the hyphen that programs read."""
    return re.sub(r"(^|(?<= ))-(?=\d)", "\N{MINUS SIGN}", text)


BASELINE_LEGEND = (
    "above, below its twin (the same method without IFL, or what the row was built from) on the same test samples"
)


GROUPINGS = {
    "thirds": "classes grouped by thirds",
    "shots": "classes grouped by shots (Many: more than 100 training images, Few: fewer than 20)",
}


def more_images_remark(table: Table) -> str:
    """Name the rows that draw more images than the twin that they are compared with; empty where none does."""
    layout, source = table.layout, table.layout.sources[0]
    noted = next((runs[0].noted for (_, of), runs in table.runs.items() if of == source and runs), NOTHING).text

    def images(row: Row) -> float:
        return _images(tuple(layout.words(row, source)), noted)

    said: dict[str, list[str]] = {}
    unequal = False
    for row in layout.rows:
        if row.twin is None:
            continue
        own, twins = images(row), images(layout.twin_of(row) or layout.outside(row.twin, row.group))
        if own >= 1.05 * twins > 0:
            said.setdefault(f"{own / twins:.2g}", []).append(layout.full_label(row))
            unequal |= images(row.model_copy(update={"budget": "matched"})) < own
    if not said:
        return ""
    named = "; ".join(f"{factor} times: {'; '.join(labels)}" for factor, labels in said.items())
    equal = f". The table {'controls' if layout.preset == 'paper' else 'budgets'} compares at equal images"
    return f"These rows see more images than their twins, {named}" + equal * unequal


@functools.cache
def _images(words: tuple[str, ...], noted: str) -> float:
    """Count the images that a run draws, in units of the training set, those of the runs that it builds on among them.

    Args:
        words: the command of the run.
        noted: what a run on the same data notes (`Noted.text`).

    Returns:
        NaN where the recipe is not here.
    """
    try:
        recipe = resolve(words, said=Noted.read(noted))
    except RecipeError:
        return math.nan
    streams = 1 if recipe.batch.budget == "matched" else recipe.streams
    own = recipe.trains * recipe.schedule.epochs * recipe.batch.draws_per_epoch * streams
    first = source_of(recipe)
    if first is None:
        return own
    return own + _images((*source_words(recipe, first.partition("-")[0]), *first_words(words)), noted)


def printed_label(label: str) -> str:
    """Return a label or group as tables print it: what is not printable is written out, and the middle of a long one is
    left out.
    """
    return shortened(one_line(" ".join(plain_text(label).split())), LONGEST, end=11)


def baseline_mark(cell: Cell) -> str:
    """Return `↑` or `↓` where the cell is surely above or below its baseline over enough seeds, else nothing."""
    test = cell.baseline_test
    if test is None or not test.sure:
        return ""
    return "↑" if test.sign > 0 else "↓"


def few_seeds_remark(table: Table) -> str:
    """Say so where differences to the twin are not marked for want of seeds; empty where none is."""
    tests = [cell.baseline_test for line in table.cells for cell in line if cell.baseline_test]
    few = {test.fewest_seeds for test in tests if not test.has_seeds}
    if not few:
        return ""
    had = " or ".join(str(number) for number in sorted(few))
    return f"no arrows over {had} seed{'s' * (few != {1})}: differences are marked from {FEWEST_SEEDS} seeds on"


def heading(table: Table) -> str:
    """Say in one line what the numbers are."""
    layout = table.layout
    several = any(len(layout.seeds_of(row)) > 1 for row in layout.rows)
    spread = "; mean ± standard deviation over seeds" if several else ""
    groups = f"; {GROUPINGS[table.grouping]}" if table.grouping else ""
    return (
        f"{layout.name}: percent; preset {layout.preset}, {layout.select} epoch, {seeds_text(layout)}{spread}{groups}"
    )


def seeds_text(layout: Layout) -> str:
    """Say which seeds a table averages, its rows' own among them."""
    text = f"seed{'s' * (len(layout.seeds) > 1)} {', '.join(map(str, layout.seeds))}"
    for own, rows in sorted(Counter(tuple(row.seeds) for row in layout.rows if row.seeds).items()):
        text += f" ({', '.join(map(str, own))} in {rows} row{'s' * (rows > 1)})"
    return text


def header_levels(column: Column, titles: Mapping[str, str] = {}) -> tuple[str, str, str]:
    """Return the three header levels of a column: protocol, metric, subset.

    Args:
        column: the column.
        titles: the layout's own words, which may hold LaTeX (`Layout.titles`).
    """
    name, _, attribute = column.subset.partition("_")
    subset = ("Med" if name == "medium" else name.capitalize()) + (
        "_A" if attribute else "" if name == "overall" else "_C"
    )
    protocol = f"{titles.get(column.protocol, column.protocol.upper())}: {titles.get(column.data, column.data)}"
    metric = METRICS.get(column.metric, column.metric.capitalize())
    return (
        f"{protocol}, {column.train} to {column.split}",
        titles.get(column.metric, metric),
        titles.get(column.subset, subset),
    )


def merged_headers(columns: list[Column], depth: int, titles: Mapping[str, str] = {}) -> list[tuple[str, int]]:
    """Merge equal neighbours of header level `depth` into [(text, number of columns)]; no span crosses one above it."""
    spans = itertools.groupby(columns, key=lambda column: header_levels(column)[: depth + 1])
    merged = [list(members) for _, members in spans]
    return [(header_levels(members[0], titles)[depth], len(members)) for members in merged]


@dataclass(frozen=True)
class Block:
    """The columns of one protocol as the paper prints them: for each subset its metrics side by side, `accuracy |
    precision`.
    """

    title: str
    """The protocol in words; like the other names as the layout may have typed them, with LaTeX."""
    short_title: str
    """Its abbreviation."""
    metrics: tuple[str, ...]
    subsets: tuple[str, ...]
    columns: tuple[int, ...]
    """Indices into the layout's columns, subset by subset, metric by metric."""

    @property
    def units(self) -> list[tuple[int, ...]]:
        """The columns of each subset."""
        n = len(self.metrics)
        return [self.columns[i : i + n] for i in range(0, len(self.columns), n)]

    @property
    def is_plain(self) -> bool:
        """Whether its one subset is that of all samples, under its usual name, which goes without saying."""
        return self.subsets == ("Overall",)


def blocks(layout: Layout) -> list[Block]:
    """Divide the layout's columns into blocks, one for each protocol and data set.

    Subsets that lack a metric of the others get a separate block.
    """
    several, titles = len({column.data for column in layout.columns}) > 1, layout.titles
    found: dict[tuple[str, tuple[str, ...]], dict[str, list[int]]] = {}
    for title in dict.fromkeys(column.title for column in layout.columns):
        units: dict[str, list[int]] = {}
        for index, column in enumerate(layout.columns):
            if column.title == title:
                units.setdefault(header_levels(column)[2], []).append(index)
        for subset, indices in units.items():
            metrics = tuple(header_levels(layout.columns[index])[1] for index in indices)
            found.setdefault((title, metrics), {})[subset] = indices
    made = []
    for units in found.values():
        shown = [[layout.columns[index] for index in indices] for indices in units.values()]
        first = shown[0][0]
        where = f", {titles.get(first.data, first.data)}" if several or first.data in titles else ""
        made.append(
            Block(
                titles.get(first.protocol, PROTOCOLS[first.protocol]) + where,
                titles.get(first.protocol, first.protocol.upper()) + where,
                tuple(header_levels(column, titles)[1] for column in shown[0]),
                tuple(header_levels(columns[0], titles)[2] for columns in shown),
                tuple(itertools.chain(*units.values())),
            )
        )
    return made


def single_subset(part: Sequence[Block]) -> bool:
    """Say whether each block has one subset, all the same, with the same metrics, as in the paper's tables 3 and 4."""
    return all(len(block.units) == 1 for block in part) and len({(block.metrics, block.subsets) for block in part}) == 1


def row_groups(layout: Layout) -> list[tuple[str, list[int]]]:
    """Return [(group, its rows)], where neighbours share a group."""
    return [
        (group, list(rows))
        for group, rows in itertools.groupby(range(len(layout.rows)), key=lambda index: layout.rows[index].group)
    ]


def ranks(table: Table) -> list[list[int]]:
    """Rank each cell in its column and group: 1 for the best *as printed* (so ties share it), 2 for the second, else 0.

    There is a best where a group has two numbers or more, and a second where it has four or more.
    """
    found = [[0] * len(table.layout.columns) for _ in table.layout.rows]
    for _, rows in row_groups(table.layout):
        for index, column in enumerate(table.layout.columns):
            shown = {row: float(text) for row in rows if (text := percent(table.cells[row][index])) is not None}
            order = sorted(set(shown.values()), reverse=not column.lower_is_better)
            for row, value in shown.items():
                place = order.index(value) + 1
                if (place == 1 and len(shown) > 1) or (place == 2 and len(shown) > 3):
                    found[row][index] = place
    return found


def legend(table: Table, captioned: bool = False) -> list[str]:
    """Explain those marks that occur in cells, and why some do not, unless it is in the caption."""
    cells = [cell for line in table.cells for cell in line]
    few = few_seeds_remark(table)
    return [
        text
        for text, used in (
            (f"{MISSING} no number", any(cell.mean is None for cell in cells)),
            ("† something is left out or lacking here", any(cell.marked for cell in cells)),
            (
                f"↑ ↓ {BASELINE_LEGEND}, p < {ALPHA} (t test over seeds and test samples, not corrected for the number "
                "of cells)",
                any(map(baseline_mark, cells)),
            ),
            (few, bool(few) and not captioned),
        )
        if used
    ]


def legend_and_notes(table: Table, brief: bool = False, captioned: bool = False) -> list[str]:
    """Return the legend in one line, where there is one, and the notes.

    Args:
        table: a filled table.
        brief: of notes that are alike one stands for all.
        captioned: a caption stands above, which says why there are no arrows.
    """
    said = legend(table, captioned)
    return (["; ".join(said)] if said else []) + (table.brief if brief else table.told)
