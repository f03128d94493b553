"""The verdict on each claim: reproduced, not reproduced or undecided.

The family of tests is the overall accuracy of each claim, protocol and data set of a table; every p is corrected over
it by Holm's method, and a comparison that has no runs yet counts in it with p = 1.

Rows of which one is made from the other's runs are compared pair by pair of runs. A comparison that is another one once
more, since a row's runs have the same samples right as those that they are made from, is none.

* Reproduced: the difference has the claimed sign, and Holm's p < 0.05. Of a row that is claimed not to be above
  another: Holm's one-sided p < 0.05 for a gain as large as the margin.
* Not reproduced: the opposite sign with Holm's p < 0.05, or a 95 % interval wholly below half the paper's difference.
  Of a row that is claimed not to be above another: a 95 % interval wholly above 0, and above the paper's own gain.
* Undecided: all else, and whatever rests on fewer than three seeds a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.claims.dependence import repeated_row
from analysis.claims.statements import Comparison, comparisons
from analysis.stats.bootstrap import ALPHA, FEWEST_SEEDS, LEVEL
from analysis.stats.crossed import Difference, accuracies, difference
from analysis.stats.multiple import holm
from analysis.stats.power import seeds_needed, smallest_effect
from analysis.tables.cells import Table
from analysis.tables.matching import launch_command, pairs
from analysis.tables.presentation import printed_label
from analysis.tables.published import below_noise
from recipes.table_layout import Column, Layout, Row

REPRODUCED, NOT_REPRODUCED, UNDECIDED, MISSING = WORDS = ("reproduced", "not reproduced", "undecided", "missing")
_FEW = {1: "one seed", 2: "two seeds"}


@dataclass(frozen=True)
class Verdict:
    """What came out for one comparison; differences are fractions."""

    of: Comparison
    row: str
    other: str
    """The labels of the two rows."""
    column: Column
    word: str = MISSING
    why: str = ""
    found: Difference | None = None
    p: float | None = None
    """Not corrected; None with fewer than three seeds."""
    holm: float | None = None
    smallest: float | None = None
    """The smallest true difference that these seeds and samples find with a chance of .8, at the level that Holm's
    method leaves to this test; of a row claimed not to be above another, how far it must be below the margin."""
    seeds: int | None = None
    """How many seeds a row would decide, were the difference and its spread those seen; None where it is decided, or
    no number of them would."""

    @property
    def relation(self) -> str:
        """What the row is claimed to be: `above Baseline`, `not above Baseline`."""
        return f"{'above' if self.of.above else 'not above'} {self.other}"

    @property
    def label(self) -> str:
        """The comparison in words: `Baseline + IFL above Baseline`."""
        return f"{self.row} {self.relation}"

    @property
    def paper_below_noise(self) -> bool:
        """Whether single runs differ as much as the paper's two numbers, by published runs."""
        of = self.of
        return of.paper is not None and below_noise(of.paper, of.paper_data or "", self.column)


@dataclass(frozen=True)
class Judged:
    """The verdicts on a table's claims, in the order of the claims' file, and notes on what they rest on."""

    name: str
    verdicts: list[Verdict]
    notes: list[str]

    def count(self, word: str) -> int:
        """Count the verdicts of one of `WORDS`."""
        return sum(each.word.startswith(word) for each in self.verdicts)


def judge(table: Table) -> Judged | None:
    """Judge a table's claims; None where its layout names none, or none of its rows is claimed anything of.

    Raises:
        ValueError: the layout names a claim that does not exist.
    """
    claimed = comparisons(table.layout)
    if not claimed:
        return None
    claimed, left_out = _without_repeated(table, claimed)
    compared = [_compare(table, each) for each in claimed]
    corrected = holm([each.p for each in compared])
    order = sorted(corrected)
    verdicts = []
    for each, p in zip(compared, corrected, strict=True):
        before = sum(other < ALPHA and other < p for other in order)
        verdicts.append(_decided(each, p, ALPHA / (len(claimed) - before)))
    return Judged(table.layout.name, verdicts, [*left_out, *_notes(table, compared)])


def _without_repeated(table: Table, claimed: list[Comparison]) -> tuple[list[Comparison], list[str]]:
    """Leave out comparisons of a row with itself, and those that are another one once more; with a note on each."""
    places = {(each.row, each.other, each.column, each.above) for each in claimed}
    kept, said = [], []
    for each in claimed:
        column = table.layout.columns[each.column]
        pair = [repeated_row(table, row, column) for row in (each.row, each.other)]
        if pair == [each.row, each.other] or (pair[0] != pair[1] and (*pair, each.column, each.above) not in places):
            kept.append(each)
            continue
        first, second = (_label(table.layout, row) for row in pair)
        what = "a row with itself" if first == second else f"{first} with {second} once more"
        said.append(
            f"{_empty(table.layout, each).label}, {column.protocol.upper()} on {column.data}, is left out: it compares "
            f"{what}, for the runs have the same samples right as those that they judge"
        )
    return kept, said


def _compare(table: Table, of: Comparison) -> Verdict:
    """Compare two rows; without a word yet where there is anything to compare."""
    layout, made = table.layout, _empty(table.layout, of)
    column = made.column
    sides = [table.runs.get((index, column.source), []) for index in (of.row, of.other)]
    if paired := pairs(*sides):
        sides = [list(side) for side in zip(*paired, strict=True)]
    if not all(sides):
        lacking = [layout.rows[index] for index, runs in zip((of.row, of.other), sides, strict=True) if not runs]
        return replace(made, why="; ".join(_no_run(layout, row, column) for row in lacking))
    try:
        known = [[table.resamples.of_run(run, layout.select, column.split) for run in runs] for runs in sides]
    except ValueError as error:
        return replace(made, why=f"predictions are damaged: {error}")
    digests = {run.samples.digest for side in known for run in side}
    if len(digests) > 1 or len({run.fingerprint for runs in sides for run in runs}) > 1:
        return replace(made, word=UNDECIDED, why="the two rows differ in their data or test samples")
    source_M = known[0][0].samples.source
    first, second = (accuracies(np.stack([run.right for run in side]), source_M) for side in known)
    found = difference(first, second, bool(paired))
    if (fewest := min(found.runs)) < FEWEST_SEEDS:
        return replace(made, word=f"{UNDECIDED} ({_FEW[fewest]})", found=found)
    p = found.p_equal() if of.above else found.p_reaches(of.margin)
    return replace(made, word=UNDECIDED, found=found, p=p)


def _empty(layout: Layout, of: Comparison) -> Verdict:
    return Verdict(of, _label(layout, of.row), _label(layout, of.other), layout.columns[of.column])


def _label(layout: Layout, index: int) -> str:
    return printed_label(layout.full_label(layout.rows[index]))


def _no_run(layout: Layout, row: Row, column: Column) -> str:
    """Say which runs are missing, with the command that makes them."""
    return f"no run of {layout.full_label(row)} counts: {launch_command(layout, row, column.source)}"


def _decided(made: Verdict, p: float, level: float) -> Verdict:
    """Add the word, and what the comparison could have found.

    Args:
        made: the comparison.
        p: corrected.
        level: that the correction leaves to this test, two-sided of a row claimed to be above another.
    """
    of, found = made.of, made.found
    if found is None or made.p is None:
        return made
    one_sided = level / 2 if of.above else level
    smallest = smallest_effect(found.error, found.freedom, one_sided)
    made = replace(made, word=_word(of, found, p), holm=p, smallest=smallest)
    if made.word != UNDECIDED:
        return made
    return replace(made, seeds=_seeds(of, found, one_sided))


def _word(of: Comparison, found: Difference, p: float) -> str:
    low, high = found.interval
    if not of.above:
        return NOT_REPRODUCED if low > of.papers_gain else REPRODUCED if p < ALPHA else UNDECIDED
    if p < ALPHA and found.value != 0:
        return REPRODUCED if found.value > 0 else NOT_REPRODUCED
    # Without the paper's numbers there is no half of them.
    return NOT_REPRODUCED if of.paper is not None and high < of.paper / 2 else UNDECIDED


def _seeds(of: Comparison, found: Difference, level: float) -> int | None:
    """Return the fewest seeds a row that decide it one way or the other."""
    by_interval = (1 - LEVEL) / 2
    if of.above:
        ways = [(abs(found.value), level)]
        if of.paper is not None and found.value < of.paper / 2:
            ways.append((of.paper / 2 - found.value, by_interval))
    else:
        ways = [(of.margin - found.value, level), (found.value - of.papers_gain, by_interval)]
    needed = [seeds_needed(found, effect, at) for effect, at in ways if effect > 0]
    return min((each for each in needed if each is not None), default=None)


def _notes(table: Table, compared: list[Verdict]) -> list[str]:
    """Say what the verdicts take for granted."""
    without = sorted(
        {
            f"{each.column.data} {each.column.split}"
            for each in compared
            if each.found is not None
            for run in table.runs.get((each.of.row, each.column.source), [])[:1]
            if not table.resamples.of_run(run, table.layout.select, each.column.split).samples.sources_known
        }
    )
    said = []
    if without:
        said.append(
            f"the predictions on {', '.join(without)} do not say from which source a sample was made, so each counts "
            "as one of its own: where sources have several samples, intervals are too narrow"
        )
    rows = {row for each in compared if each.of.paper is not None for row in (each.of.row, each.of.other)}
    if any(table.layout.rows[row].budget == "matched" for row in rows):
        said.append(
            "rows of several environments drew twice the others' images or more in the paper, and as many here: its "
            "differences, and the bounds made of them, hold the larger budget, too"
        )
    if any(each.word == MISSING for each in compared):
        said.append(f"{table.layout.name}_verdicts.csv has the commands of what is missing")
    return said
