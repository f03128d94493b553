"""The page of results on the bundled data set, `docs/results-digits.md`: tables, counts and what they do not show.

Everything in the page is computed from the run folders, so that no number is kept by hand; a test compares the
committed page with what `python -m analysis results` writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.inputs import frame
from analysis.inputs.runs import Run
from analysis.stats.bootstrap import ALPHA, FEWEST_SEEDS, Resamples
from analysis.tables import agreement, cells
from analysis.tables.cells import Cell, Table
from analysis.tables.presentation import MISSING, baseline_mark
from recipes.table_layout import Column, available, load_layout, plain_text

OVERALL, CONTROLS, ABLATION = TABLES = ("digits_overall", "controls", "digits_ablation")
"""The tables of the page, files of recipes/tables: overall accuracy and precision under the three protocols."""

PAGE = """\
# What came out on digits_glt

Written by `python -m analysis results runs={runs} out={out}`.
A test compares this page with what the command writes, so change the runs or the command and never the page.
Words such as CLT, twin and budget are explained in [README.md](../README.md#words).

## What this shows, and what it does not

- **One seed (n = 1).** {count} runs of seed 0 are behind the page. A row's twin is the same method without IFL, and
  p < {alpha} below is of the same test samples: McNemar's exact test, not corrected for the number of cells. It says
  nothing about other seeds. Arrows, above (↑) and below (↓) the twin, stand in a table from {fewest} seeds on.
- **The networks are undertrained.** They are small, train for 24 epochs without momentum (preset `paper`), and are far
  from converged when they stop. More steps alone help a lot.
- **Shown:** every row of the tables trains, is evaluated and finds its way into a table. The long tails cost accuracy:
  the baseline has {clt} % under CLT, where only the classes are rebalanced for the test, and {glt} % under GLT.
- **Not shown:** how methods rank on ImageNet-GLT or MSCOCO-GLT. No number here may be cited for that.
- **More images explain part of the gain.** At the paper's budget a row with two or three environments sees two or three
  times the images of its twin. Compare it with the rows of [equal images](#at-equal-images-and-ifl-in-parts).

All numbers are percent, after the last epoch: overall accuracy \\| precision.

## The methods of the paper's tables 1 and 2

{overall}

{overall_counts}

{overall_claims}

## At equal images, and IFL in parts

"Matched" means that IFL's environments together draw as many images as the baseline. "Baseline, twice the draws" sees
as many images, and takes as many steps, as "Baseline + IFL, paper budget".

{controls}

{controls_counts}

## The rows of the paper's table 4

{ablation}

{ablation_claims}

## How the runs were made

`python slurm/launch.py table=NAME seeds=0 cluster=local` made them: one process and one thread a run, on CPUs. The
tables were `digits_clt_glt`, `digits_alt`, `digits_overall`, `digits_ablation` and `controls`.

[{runs}](../{runs}) holds the light part of each run folder: recipe, provenance, training log
and predictions. From it `python -m analysis runs={runs} out=out` makes every table, with intervals, tests
and figures, and accuracy by class group and by attribute group too.
"""


def page(runs: list[Run], where: str, out: str) -> str:
    """Return the page as Markdown.

    Args:
        runs: the runs on digits_glt.
        where: their folder, relative to the project, as the page names it.
        out: the page's own file, as the page names it.

    Raises:
        ValueError: a table of `TABLES` lacks a number.
    """
    numbers, problems = frame.tidy(runs)
    resamples = Resamples()
    made = {}
    for name in TABLES:
        made[name] = cells.fill_table(load_layout(available()[name]), runs, numbers, problems, resamples)
        if any(cell.mean is None for line in made[name].cells for cell in line):
            raise ValueError(f"runs={where}: they lack a number of table={name}; `python -m analysis` names it")
    baseline = dict(zip(_protocols(made[OVERALL]), made[OVERALL].cells[0][::2], strict=True))
    return PAGE.format(
        runs=where,
        out=out,
        count=len(runs),
        alpha=ALPHA,
        fewest=FEWEST_SEEDS,
        clt=_rounded(baseline["CLT"]),
        glt=_rounded(baseline["GLT"]),
        overall=_table(made[OVERALL]),
        overall_counts=_counts(made[OVERALL], "paper", "At the paper's budget"),
        overall_claims=_claims(made[OVERALL]),
        controls=_table(made[CONTROLS]),
        controls_counts=_counts(made[CONTROLS], "matched", "At equal images"),
        ablation=_table(made[ABLATION]),
        ablation_claims=_claims(made[ABLATION]),
    )


def _protocols(table: Table) -> list[str]:
    """Return the protocols of the columns, in their order: `CLT`, `GLT`, `ALT`."""
    return list(dict.fromkeys(column.protocol.upper() for column in table.layout.columns))


def _table(table: Table) -> str:
    """Write a Markdown table: a row for each method, a pair `accuracy \\| precision` for each protocol."""
    protocols = _protocols(table)
    lines = [f"| | method | {' | '.join(protocols)} |", "|---|---|" + "---:|" * len(protocols)]
    group = ""
    for row, line in zip(table.layout.rows, table.cells, strict=True):
        pairs = [_pair(accuracy, precision) for accuracy, precision in zip(line[::2], line[1::2], strict=True)]
        lines.append(
            f"| {plain_text(row.group) if row.group != group else ''} | {plain_text(row.label)} | {' | '.join(pairs)} |"
        )
        group = row.group
    return "\n".join(lines)


def _pair(accuracy: Cell, precision: Cell) -> str:
    return f"{_rounded(accuracy)}{baseline_mark(accuracy)} \\| {_rounded(precision)}{baseline_mark(precision)}"


def _rounded(cell: Cell) -> str:
    """Print the mean in percent with one decimal; other tables print two."""
    return MISSING if cell.mean is None else f"{100 * cell.mean:.1f}"


def _counts(table: Table, budget: str, beginning: str) -> str:
    """Say how many rows of a budget have a better overall accuracy than their baselines, under each protocol."""
    tested = [
        (column, cell)
        for row, line in zip(table.layout.rows, table.cells, strict=True)
        for column, cell in zip(table.layout.columns, line, strict=True)
        if row.twin and row.budget == budget and column.metric == "accuracy"
    ]
    said = [_count_under(protocol, tested) for protocol in _protocols(table)]
    return f"{beginning}, by overall accuracy against the twin:\n\n" + "\n".join(said)


def _count_under(protocol: str, tested: Sequence[tuple[Column, Cell]]) -> str:
    """Count one protocol's rows above and below their baselines."""
    of_protocol = [cell for column, cell in tested if column.protocol.upper() == protocol]
    tests = [cell.baseline_test for cell in of_protocol if cell.baseline_test]
    above, below = ([test for test in tests if test.sign == sign] for sign in (1, -1))
    sure = [sum(test.significant for test in those) for those in (above, below)]
    return (
        f"- {protocol}: {len(above)} of {len(tests)} rows are above ({sure[0]} with p < {ALPHA}), "
        f"{len(below)} below ({sure[1]} with p < {ALPHA})."
    )


def _claims(table: Table) -> str:
    """Say how many of the paper's differences between a row and its baseline have the same sign here."""
    found = agreement.count_verdicts(agreement.claims(table))
    agree, against = (found[word] + found[f"{word} surely"] for word in ("agrees", "disagrees"))
    return (
        f"The paper's numbers are of other data, so only signs compare. "
        f"Of its {sum(found.values())} differences between a row and its twin,\n"
        f"{agree} have the same sign here ({found['agrees surely']} with p < {ALPHA}), "
        f"and {against} the opposite one ({found['disagrees surely']} with p < {ALPHA})."
    )
