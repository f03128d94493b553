"""The page of results on a data set: tables, verdicts, what is missing and what it cost.

Everything in the page is computed from the run folders, so that no number is kept by hand. `docs/results-NAME.md` are
those of `examples`; a test compares them with what `python -m analysis results` writes.
"""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from analysis.claims import text as claims
from analysis.claims.verdicts import judge
from analysis.inputs import frame
from analysis.inputs.compute import spent
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

SMALL_SETS = ("digits_glt", "fashion_glt")
"""Those of docs/small-sets.md, which says how epochs and batch were chosen."""

PAGE = """\
# What came out on {data}

Written by `python -m analysis results runs={runs} out={out}`.
Change the runs and never the page. Words such as CLT, twin and budget are explained in {readme}.

{behind}
- Numbers are percent after the last epoch, overall accuracy \\| precision: the mean over seeds ± the standard
  deviation. In brackets: the number of seeds, where it is not the one that the table asks for.
- ↑ and ↓: above and below the twin, which is the same method without IFL, with p < {alpha} (Student's t over seeds and
  test samples) from {fewest} seeds on, not corrected for the number of cells. The verdicts are.
- Nothing here ranks methods on other data.

{tables}
## What is missing

{missing}

## What it cost

{cost}

## How the runs were made

{made}
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
    hardware = " | ".join(lines[-1].own.hardware) or MISSING
    return PAGE.format(
        data=sets[0],
        runs=where,
        out=out,
        readme=_link("README.md", out, "#words"),
        behind=_behind(made, runs, out),
        alpha=ALPHA,
        fewest=FEWEST_SEEDS,
        tables="\n".join(_section(table, runs) for table in made),
        missing=_missing(made, sets[0]),
        cost=_wrapped(f"{ledger.sentence(lines).capitalize()}. Hardware: {hardware}."),
        made=_wrapped(_launched(made, runs, where, out)),
    )


def _wrapped(paragraph: str) -> str:
    return "\n".join(textwrap.wrap(paragraph, 120, break_on_hyphens=False))


def _link(file: str, out: str, place: str = "") -> str:
    """Link to a file of the project from the page; its name alone where the page or the file lies anywhere.

    Args:
        file: relative to the project.
        out: the page's own file, as the page names it.
        place: in the file, such as `#words`.
    """
    if Path(file).is_absolute() or Path(out).is_absolute():
        return f"`{file}`"
    return f"[{file}]({Path(os.path.relpath(file, Path(out).parent)).as_posix()}{place})"


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


def _behind(made: Sequence[Table], runs: Sequence[Run], out: str) -> str:
    """Say which runs are behind the page, and what chose the values with which they trained, among how many."""
    data = runs[0].data
    said = [f"**{len(runs)} runs** are behind the page: {_regime(runs)}."]
    if data in SMALL_SETS:
        small_sets = _link("docs/small-sets.md", out)
        said.append(f"Epochs and batch of the recipes were chosen by the baseline alone ({small_sets}).")
    tried: dict[str, int] = {}
    shown: set[str] = set()
    for layout in (table.layout for table in made):  # a recipe is named as the first table calls it
        counts = {layout.full_label(row): row.tried_on(data) for row in layout.rows if row.recipe not in shown}
        tried = {**counts, **tried}
        shown |= {row.recipe for row in layout.rows}
    tried = dict(sorted(tried.items(), key=lambda item: -item[1]))
    if max(tried.values()) > 1:
        said.append(
            f"For each method without IFL val chose among so many values: {tried_text(tried)}. With IFL the method "
            "keeps them."
        )
    return textwrap.fill(" ".join(said), 118, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _launched(made: Sequence[Table], runs: Sequence[Run], where: str, out: str) -> str:
    """Say with which commands such runs are made and most of these were, and what the run folders hold."""
    commands = [_command(run) for run in runs]
    most = max(filter(None, dict.fromkeys(commands)), key=commands.count, default="")
    tables = " and ".join(f"`python slurm/launch.py table={table.layout.name} data={runs[0].data}`" for table in made)
    make = "makes" if len(made) == 1 else "make"
    usual = f" {commands.count(most)} of these {len(runs)} were launched by `{most}`." if most else ""
    return (
        f"{tables} {make} such runs.{usual} {_link(where, out)} holds of each run its recipe, provenance, training log "
        f"and predictions. From it `python -m analysis runs={where} out=out` makes every table, with intervals, tests "
        "and figures."
    )


def _command(run: Run) -> str:
    """Return the command that launched a run; empty where its meta.json does not say."""
    words = run.stored("meta.json").get("argv")
    return shlex.join(["python", "slurm/launch.py", *map(str, words[1:])]) if isinstance(words, list) and words else ""


def _section(table: Table, runs: Sequence[Run]) -> str:
    """Write a table, and below it which rows drew other numbers of images, and the verdicts on its claims."""
    lines = [f"## {TITLES[table.layout.name]}", "", *_rows(table)]
    if said := _other_images(table, runs):
        lines += ["", *textwrap.wrap(said, 120)]
    if judged := judge(table):
        lines += ["", f"### Verdicts of `{judged.name}`", "", f"{claims.summary(judged)}."]
        for line in claims.markdown(judged).splitlines()[1:]:
            lines += textwrap.wrap(line, 120, subsequent_indent="  ") if line.startswith("- ") else [line]
    return "\n".join([*lines, ""])


def _other_images(table: Table, runs: Sequence[Run]) -> str:
    """Say which rows' runs drew not as many training images as most rows' do; empty where all drew as many.

    A run's first stage counts. A method that trains nothing has its first stage's.
    """
    known = {run.name: run for run in runs}
    drawn: dict[str, dict[str, int]] = {}
    for (number, (_, edition)), chosen in sorted(table.runs.items(), key=lambda item: item[0][0]):
        first, _ = ledger.first_stages([run.name for run in chosen], known)
        images = sum(spent(run).images for run in [*chosen, *map(known.__getitem__, first)])
        if chosen:
            row = plain(table.layout.full_label(table.layout.rows[number]))
            drawn.setdefault(row, {})[edition] = round(images / len(chosen))
    found = [images for row in drawn.values() for images in row.values()]
    usual = max(dict.fromkeys(found), key=found.count, default=0)
    others = [f"{row} {_by_edition(images)}" for row, images in drawn.items() if {*images.values()} != {usual}]
    if not others:
        return ""
    return f"A run draws {usual:,} training images, its first stage's among them; other rows: {', '.join(others)}."


def _by_edition(images: Mapping[str, int]) -> str:
    """Write a row's number of images, or one for each edition trained on where they differ."""
    if len({*images.values()}) == 1:
        return f"{next(iter(images.values())):,}"
    return " and ".join(f"{number:,} (trained on {edition})" for edition, number in images.items())


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
