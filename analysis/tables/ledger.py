"""What tables cost: for each row, each whole table and all runs together, images, hours of all starts and energy.

A first stage is shown in each row that starts from it, and counted once in a whole. The seeds of a row are added up.
"""

from __future__ import annotations

import csv as csv_format
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis.inputs.compute import Spent, spent
from analysis.inputs.runs import Run
from analysis.tables.cells import Table
from analysis.tables.latex import escape, latex_float, tabular

HEADS = ("Row", "Runs", "Starts", "Images", "Wall h", "Rank h", "First stages, rank h", "Energy, kWh")
"""Column titles of the ledger as it is read; `FIELDS` are those of the CSV."""
FIELDS = (
    "table",
    "row",
    "recipe",
    "budget",
    "runs",
    "starts",
    "starts_without_end",
    "runs_without_events",
    "runs_with_evaluator",
    "images",
    "wall_hours",
    "rank_hours",
    "first_stages",
    "first_stage_images",
    "first_stage_rank_hours",
    "first_stages_not_here",
    "energy_kwh",
    "runs_with_energy",
    "energy_by",
    "hardware",
)
WHOLE, EVERY = "whole table", "all runs"
HOUR_S, KWH_J = 3600.0, 3.6e6
NONE = "--"
LEGEND = (
    "Hours are those of all starts, failed ones included: wall h from the start of training to its end, rank h times "
    "the processes (GPUs where there are any, else processes on CPUs). Images are those of steps that were kept. A "
    "first stage is shown in each row that needs it and counted once in a whole."
)
AT_LEAST = (
    "An asterisk marks a lower bound: the log of starts, the end of one, a first stage, or the hours of an evaluator "
    "beside a run (log.eval=job) are not on record. Of a run without that log the time of the steps that were kept "
    "counts."
)


@dataclass(frozen=True)
class Sum:
    """What some runs cost together; the fields as in `Spent`."""

    runs: int = 0
    starts: int = 0
    unended: int = 0
    unlogged: int = 0
    evaluated_apart: int = 0
    images: int = 0
    seconds: float = 0.0
    rank_seconds: float = 0.0
    joules: float = 0.0
    with_energy: int = 0
    measured_by: tuple[str, ...] = ()
    hardware: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of the ledger: what its own runs cost, and the first stages that they need.

    Attributes:
        table: the table's name; empty for the line of all runs.
        row: the row's label, `WHOLE` or `EVERY`.
        recipe: the row's; empty for a whole.
        budget: the row's; empty for a whole.
        own: a whole's holds its first stages.
        first: of a row.
        not_here: first stages that are not among the runs that were read.
    """

    table: str
    row: str
    recipe: str
    budget: str
    own: Sum
    first: Sum
    not_here: tuple[str, ...] = ()

    @property
    def is_bound(self) -> bool:
        """Whether more was spent than the folders tell."""
        sums = (self.own, self.first)
        return any(one.unended or one.unlogged or one.evaluated_apart for one in sums) or bool(self.not_here)


def ledger(tables: Sequence[Table], runs: Sequence[Run]) -> list[Line]:
    """Return a line for each row of each table, one for each whole table, and one for all runs that were read."""
    known = {run.name: run for run in runs}
    costs: dict[str, Spent] = {}

    def total(names: Iterable[str]) -> Sum:
        chosen = sorted(set(names))
        costs.update({name: spent(known[name]) for name in chosen if name not in costs})
        return _sum([costs[name] for name in chosen])

    lines: list[Line] = []
    for table in tables:
        counted: set[str] = set()
        lacking: set[str] = set()
        for number, row in enumerate(table.layout.rows):
            own = {run.name for (index, _), chosen in table.runs.items() if index == number for run in chosen}
            first, gone = first_stages(own, known)
            label = table.layout.full_label(row)
            line = Line(table.layout.name, label, row.recipe, row.budget, total(own), total(first), gone)
            lines.append(line)
            counted |= own | first
            lacking.update(gone)
        lines.append(Line(table.layout.name, WHOLE, "", "", total(counted), Sum(), tuple(sorted(lacking))))
    _, gone = first_stages(set(known), known)
    return [*lines, Line("", EVERY, "", "", total(known), Sum(), gone)]


def first_stages(names: Iterable[str], known: Mapping[str, Run]) -> tuple[set[str], tuple[str, ...]]:
    """Return the runs that some runs start from, directly or not, but for these themselves; and those not here.

    Args:
        names: the runs'.
        known: all runs that were read, by name.
    """
    own = set(names)
    found: set[str] = set()
    waiting = list(own)
    while waiting:
        name = waiting.pop()
        source = known[name].builds_on if name in known else ""
        if source and source not in found:
            found.add(source)
            waiting.append(source)
    return (found - own) & known.keys(), tuple(sorted(found - known.keys()))


def _sum(costs: Sequence[Spent]) -> Sum:
    return Sum(
        runs=len(costs),
        starts=sum(cost.starts for cost in costs),
        unended=sum(cost.unended for cost in costs),
        unlogged=sum(not cost.logged for cost in costs),
        evaluated_apart=sum(cost.evaluated_apart for cost in costs),
        images=sum(cost.images for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        rank_seconds=sum(cost.rank_seconds for cost in costs),
        joules=sum(cost.joules or 0.0 for cost in costs),
        with_energy=sum(cost.joules is not None for cost in costs),
        measured_by=tuple(sorted({cost.measured_by for cost in costs if cost.measured_by})),
        hardware=tuple(sorted({cost.hardware for cost in costs if cost.hardware})),
    )


def csv(lines: Iterable[Line]) -> str:
    """Write the ledger as CSV with the columns `FIELDS`; hours with six decimals."""
    buffer = io.StringIO()
    writer = csv_format.writer(buffer, lineterminator="\n")
    writer.writerow(FIELDS)
    for line in lines:
        own, first = line.own, line.first
        writer.writerow(
            [
                *(line.table, line.row, line.recipe, line.budget),
                *(own.runs, own.starts, own.unended + first.unended, own.unlogged + first.unlogged),
                own.evaluated_apart + first.evaluated_apart,
                own.images,
                *(f"{seconds / HOUR_S:.6f}" for seconds in (own.seconds, own.rank_seconds)),
                *(first.runs, first.images, f"{first.rank_seconds / HOUR_S:.6f}", len(line.not_here)),
                f"{own.joules / KWH_J:.6f}" if own.with_energy else "",
                own.with_energy,
                " ".join(own.measured_by),
                " | ".join(own.hardware),
            ]
        )
    return buffer.getvalue()


def shown(line: Line) -> list[str]:
    """Return a line as it is read, in the columns `HEADS`."""
    own, first, mark = line.own, line.first, "*" if line.is_bound else ""
    energy = f"{own.joules / KWH_J:.3g}" if own.with_energy else NONE
    return [
        line.row,
        str(own.runs),
        str(own.starts),
        f"{own.images:,}",
        _hours(own.seconds) + mark,
        _hours(own.rank_seconds) + mark,
        _hours(first.rank_seconds) if first.runs else NONE,
        energy + (f" (of {own.with_energy} runs)" if 0 < own.with_energy < own.runs else ""),
    ]


def notes(lines: Sequence[Line]) -> list[str]:
    """Return what must be said below the ledger, in sentences."""
    every = lines[-1].own
    by = " and ".join({"sacct": "SLURM's accounting (sacct)", "nvml": "NVML"}[who] for who in every.measured_by)
    return [
        LEGEND,
        *([AT_LEAST] if any(line.is_bound for line in lines) else []),
        f"Energy was recorded by {by}." if by else "No run has energy on record: neither sacct nor NVML gave any.",
        f"Hardware: {' | '.join(every.hardware) or 'not on record'}.",
    ]


def sentence(lines: Sequence[Line]) -> str:
    """Say in a sentence what all runs cost together."""
    own, mark = lines[-1].own, "at least " if lines[-1].is_bound else ""
    energy = f", {own.joules / KWH_J:.3g} kWh on record for {own.with_energy} of them" if own.with_energy else ""
    return (
        f"compute: {own.runs} runs, {own.starts} starts, {own.images:,} images, {mark}{_hours(own.rank_seconds)} hours "
        f"of ranks{energy}"
    )


def markdown(lines: Sequence[Line]) -> str:
    """Write the ledger as Markdown, a table for each table."""
    text = ["# Compute", ""]
    for name, part in by_table(lines):
        text += [f"**{name or EVERY}**", "", f"| {' | '.join(HEADS)} |", f"|---|{'---:|' * (len(HEADS) - 1)}"]
        text += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in shown(line))} |" for line in part]
        text.append("")
    return "\n".join([*text, *(f"- {note}" for note in notes(lines))]) + "\n"


def latex(lines: Sequence[Line]) -> str:
    r"""Write the ledger as floats to \input, one for each table; packages booktabs and graphicx."""
    heads = [[(escape(head), 1) for head in HEADS[1:]]]
    floats = []
    for name, part in by_table(lines):
        rows = [(line.row, list(map(escape, shown(line)[1:]))) for line in part]
        of_rows = sum(line.row != WHOLE for line in part)
        body = [("", rows[:of_rows]), ("", rows[of_rows:])]
        floats.append(
            latex_float(
                "table",
                f"Compute behind {name}." if name else "Compute of all runs.",
                f"tab:{name}:ledger" if name else "tab:ledger",
                [tabular("r" * len(heads[0]), heads, [group for group in body if group[1]], first=HEADS[0])],
                [] if name else [note.rstrip(".") for note in notes(lines)],
            )
        )
    return "\n".join(floats)


def by_table(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Return the lines of each table, in the order of the ledger; the last, without a name, is of all runs."""
    names = dict.fromkeys(line.table for line in lines)
    return [(name, [line for line in lines if line.table == name]) for name in names]


def _hours(seconds: float) -> str:
    """Print hours with three digits that count."""
    hours = seconds / HOUR_S
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
