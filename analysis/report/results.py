"""The page of results on a data set, `docs/results-NAME.md`: tables, verdicts, what is missing and what it cost.

Everything in the page is computed from the run folders, so that no number is kept by hand; a test compares the
committed pages with what `python -m analysis results` writes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from analysis.claims import text as claims
from analysis.claims.verdicts import judge
from analysis.inputs import frame
from analysis.inputs.runs import Run
from analysis.stats.bootstrap import ALPHA, FEWEST_SEEDS, Resamples
from analysis.tables import cells, ledger
from analysis.tables.cells import Cell, Table, tried_text
from analysis.tables.presentation import MISSING, baseline_mark, row_groups
from analysis.tables.text import plain
from recipes.table_layout import available, load_layout

CLAIMS, PARTS, BUDGETS = TABLES = ("claims", "parts", "budgets")
"""The tables of the page, open files of recipes/tables: overall accuracy and precision under the three protocols."""

TITLES = {
    CLAIMS: "The paper's methods at equal images, and its claims",
    PARTS: "The parts of IFL",
    BUDGETS: "At the paper's budget",
}

PAGE = """\
# What came out on {data}

Written by `python -m analysis results runs={runs} out={out}`.
A test compares this page with what the command writes, so change the runs or the command and never the page.
Words such as CLT, twin and budget are explained in [README.md](../README.md#words).

- **{count} runs** are behind the page: {regime}.
{search}
- Numbers are percent after the last epoch, overall accuracy \\| precision: the mean over seeds ± the standard
  deviation. In brackets: the number of seeds, where it is not the one that the table asks for.
- ↑ and ↓: above and below the twin, which is the same method without IFL, with p < {alpha} from {fewest} seeds on,
  not corrected for the number of cells. The verdicts are.
- Nothing here ranks methods on other data, such as ImageNet-GLT.

{tables}
## What is missing

{missing}

## What it cost

{cost}

## How the runs were made

`python slurm/launch.py table=NAME data={data} cluster=local nodes=1 max_jobs=2`, with the tables {names}.
[{runs}](../{runs}) holds the light part of each run folder: recipe, provenance, training
log and predictions. From it `python -m analysis runs={runs} out=out` makes every table, with intervals,
tests and figures.
"""


def page(runs: list[Run], where: str, out: str) -> str:
    """Return the page as Markdown.

    Args:
        runs: the runs, on one data set.
        where: their folder, relative to the project, as the page names it.
        out: the page's own file, as the page names it.

    Raises:
        ValueError: the runs are on several data sets, or none is one of the page's tables.
    """
    sets = sorted({run.data for run in runs})
    if len(sets) > 1:
        raise ValueError(f"runs={where}: a page is of one data set, and these runs are on {' and '.join(sets)}")
    made = _filled(runs, sets)
    if not made:
        raise ValueError(f"runs={where}: none of them is one of the tables {', '.join(TABLES)} on {sets[0]}")
    lines = ledger.ledger(made, runs)
    return PAGE.format(
        data=sets[0],
        runs=where,
        out=out,
        count=len(runs),
        regime=_regime(runs),
        search=_search(made, sets[0]),
        alpha=ALPHA,
        fewest=FEWEST_SEEDS,
        tables="\n".join(_section(table) for table in made),
        missing=_missing(made, sets[0]),
        cost=f"{ledger.sentence(lines).capitalize()}. Hardware: {', '.join(lines[-1].own.hardware) or MISSING}.",
        names=" and ".join(f"`{table.layout.name}`" for table in made),
    )


def _filled(runs: list[Run], data: Sequence[str]) -> list[Table]:
    """Return those of `TABLES` that have a number in a row that none before them has."""
    numbers, problems = frame.tidy(runs)
    resamples = Resamples()
    made: list[Table] = []
    shown: set[tuple[str, str]] = set()
    for name in TABLES:
        table = cells.fill_table(load_layout(available()[name], data), runs, numbers, problems, resamples)
        rows = {
            (row.recipe, row.budget)
            for row, line in zip(table.layout.rows, table.cells, strict=True)
            if any(cell.values for cell in line)
        }
        if rows - shown:
            made.append(table)
            shown |= rows
    return made


def _regime(runs: Sequence[Run]) -> str:
    """Say how long and how most of the runs trained."""

    def usual(key: str) -> str:
        found = [str(run.values.get(key, MISSING)) for run in runs]
        return max(dict.fromkeys(found), key=found.count)

    return (
        f"most trained for {usual('schedule.epochs')} epochs in batches of {usual('batch.size')} with momentum "
        f"{usual('optim.momentum')}, seeds {', '.join(map(str, sorted({run.seed for run in runs})))}"
    )


def _search(made: Sequence[Table], data: str) -> str:
    """Say what chose the values with which the runs trained, and among how many."""
    tried: dict[str, int] = {}
    for table in made:
        tried = {**table.layout.tried_on(data), **tried}
    said = "Epochs and batch were chosen by the baseline alone ([small-sets.md](small-sets.md))."
    if max(tried.values()) > 1:
        said += (
            f" Then val chose for each method without IFL, among so many values: {tried_text(tried)}. With IFL the "
            "method keeps them."
        )
    return textwrap.fill(said, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _section(table: Table) -> str:
    """Write a table, and below it the verdicts on its claims."""
    lines = [f"## {TITLES[table.layout.name]}", "", *_rows(table)]
    if judged := judge(table):
        lines += ["", f"### Verdicts of `{judged.name}`", "", f"{claims.summary(judged)}."]
        for line in claims.markdown(judged).splitlines()[1:]:
            lines += textwrap.wrap(line, 120, subsequent_indent="  ") if line.startswith("- ") else [line]
    return "\n".join([*lines, ""])


def _rows(table: Table) -> Iterator[str]:
    """Write a Markdown table: a row for each method, a pair `accuracy \\| precision` for each protocol."""
    protocols = list(dict.fromkeys(column.protocol.upper() for column in table.layout.columns))
    yield f"| | method | {' | '.join(protocols)} |"
    yield "|---|---|" + "---:|" * len(protocols)
    for group, indices in row_groups(table.layout):
        for place, index in enumerate(indices):
            row, line = table.layout.rows[index], table.cells[index]
            asked = len(table.layout.seeds_of(row))
            pairs = [_pair(both[0], both[1], asked) for both in zip(line[::2], line[1::2], strict=True)]
            yield f"| {plain(group) * (place == 0)} | {plain(row.label)} | {' | '.join(pairs)} |"


def _pair(accuracy: Cell, precision: Cell, asked: int) -> str:
    number = len(accuracy.values)
    if not number:
        return MISSING
    return f"{_rounded(accuracy)} \\| {_rounded(precision)}" + f" ({number})" * (number != asked)


def _rounded(cell: Cell) -> str:
    """Print mean and spread in percent with one decimal; other tables print two."""
    if cell.mean is None:
        return MISSING
    spread = "" if cell.std is None else f" ± {100 * cell.std:.1f}"
    return f"{100 * cell.mean:.1f}{spread}{baseline_mark(cell)}"


def _missing(made: Sequence[Table], data: str) -> str:
    """Say which runs the tables still lack, with the command that makes them."""
    filled = {table.layout.name: table for table in made}
    said = []
    for name in TABLES:
        command = f"`python slurm/launch.py table={name} data={data}`"
        if name not in filled:
            said.append(f"- All of `{name}`: {command}")
        elif lacking := [*_lacking(filled[name])]:
            said += [f"- Rows of `{name}`, with the seeds that they lack: {command}", *lacking]
    return "\n".join(said) or "Nothing: every row has the seeds that its table asks for."


def _lacking(table: Table) -> Iterator[str]:
    """Name the rows without all of their seeds, a line for each edition that they train on."""
    for source in table.layout.sources:
        named = []
        for index, row in enumerate(table.layout.rows):
            there = {run.seed for run in table.runs.get((index, source), [])}
            if seeds := [str(seed) for seed in table.layout.seeds_of(row) if seed not in there]:
                named.append(f"{plain(row.label)} ({', '.join(seeds)})")
        if named:
            line = f"  - trained on {source[1]}: {', '.join(named)}"
            yield "\n".join(textwrap.wrap(line, 120, subsequent_indent="    "))
