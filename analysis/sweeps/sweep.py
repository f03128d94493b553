"""`python -m analysis sweep`: runs beside each other, with what differs between them and their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.inputs.frame import VAL, Problems
from analysis.inputs.runs import Run
from analysis.sweeps.values import differing_keys, order_of, texts
from analysis.tables.presentation import MISSING
from recipes.common.errors import one_line
from recipes.table_layout import PROTOCOLS

AXES = ("recipe", "data", "train", "preset", "seed")
"""What stands in a run's own fields; a column of the sweep where it differs between any two runs."""
NUMBERS = (VAL, *PROTOCOLS)


def sweep(runs: Sequence[Run], frame: pd.DataFrame, problems: Problems, select: str = "last") -> pd.DataFrame:
    """Lay runs out: one line each, only the columns that differ, and overall accuracies.

    Values in which runs differ because their recipes or data sets do are no columns: the names say so. Those are, in
    which any two runs of one recipe, data set, edition and preset differ.

    Args:
        runs: finished or not.
        frame: their numbers, as `analysis.inputs.frame.tidy` returns them.
        problems: what could not be computed, as `tidy` returns it.
        select: whose predictions, of the last epoch or of the best on val.

    Returns:
        Texts: the columns of `AXES` and of science keys, then of `NUMBERS` in percent where any run has one, then what
        is to say of a run, and its name.
    """
    alike: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        alike.setdefault((run.recipe, run.data, run.train, run.preset), []).append(run)
    differ = {key for group in alike.values() for key in differing_keys(group)}
    keys = [key for key in dict.fromkeys(key for run in runs for key in run.values) if key in differ]
    axes = [axis for axis in AXES if len({getattr(run, axis) for run in runs}) > 1]
    ordered = sorted(runs, key=lambda run: (run.data, run.train, run.preset, run.recipe, order_of(run, keys), run.seed))
    right = frame[(frame["select"] == select) & (frame["subset"] == "overall") & (frame["metric"] == "accuracy")]
    values = right.set_index(["run", "protocol"])["value"].to_dict()
    columns: dict[str, list[str]] = {axis: [str(getattr(run, axis)) for run in ordered] for axis in axes}
    columns |= dict(zip(keys, map(list, zip(*(texts(run, keys) for run in ordered), strict=True)), strict=True))
    for protocol in NUMBERS:
        if any((run.name, protocol) in values for run in runs):
            found = [values.get((run.name, protocol)) for run in ordered]
            columns[protocol] = [MISSING if value is None else f"{100 * value:.2f}" for value in found]
    columns["state"] = [_state(run, problems, select) for run in ordered]
    columns["run"] = [run.name for run in ordered]
    return pd.DataFrame(columns)


def _state(run: Run, problems: Problems, select: str) -> str:
    """Say why a run lacks numbers; empty where it lacks none but those that it never kept."""
    if not run.finished:
        return one_line("unfinished" + (f" ({ended})" if (ended := run.ended()) else ""))
    said = [reason for (name, selected, _), reason in problems.items() if (name, selected) == (run.name, select)]
    return one_line("; ".join(said)) or ("" if run.has_predictions(select, "val") else f"no preds/{select}/val.npz")


def terminal(table: pd.DataFrame, select: str) -> str:
    """Write a sweep as lines; the states stand below it, with the runs' names."""
    shown = table.drop(columns=["state"])
    titles = {name: name.upper() if name in PROTOCOLS else name for name in shown}
    texts_ = [[titles[name], *shown[name]] for name in shown]
    widths = [max(map(len, column)) for column in texts_]
    numbers = {*NUMBERS}
    lines = []
    for line in zip(*texts_, strict=True):
        cells = (
            text.rjust(width) if name in numbers else text.ljust(width)
            for name, text, width in zip(shown, line, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    count = len(table)
    head = f"{count} run{'s' * (count != 1)}, select={select}: what differs, and overall accuracy on val and test"
    said = [f"{name}: {state}" for name, state in zip(table["run"], table["state"], strict=True) if state]
    return "\n".join([head, "", *lines, *([""] if said else []), *said, ""])
