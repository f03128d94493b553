"""Learning curves: overall accuracy and precision over epochs, for the runs behind the tables."""

from __future__ import annotations

import itertools
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.fonts import drawn_label
from analysis.figures.style import LINES, MARKERS, PAGE, PALETTE, STYLE, legend_below
from analysis.inputs.frame import METRICS
from analysis.tables.cells import Table
from recipes.table_layout import Column

ONSET: dict[str, Any] = {"color": "#777777", "linewidth": 1, "linestyle": (0, (1, 1)), "zorder": 1}
LEGEND_COLUMNS = 3
"""At most: fewer where labels are long."""
PANELS = 3.6
"""Height of the panels, in inches."""
MARKS = 15
"""About how many markers a line carries; one at each evaluation would run into the next."""


def learning_curves(table: Table) -> tuple[Figure | None, list[str]]:
    """Draw a table's panels (metrics down, protocols across), one line for each run.

    A row is a colour; methods are drawn solid, and rows whose twin they are dashed or dotted. The horizontal axis
    counts epochs completed, so that a vertical line at e says: epochs from the e-th on (counted from 0) were trained
    with alpha > 0.

    Protocols without a curve are left out.

    Returns:
        None where no run was evaluated, and remarks on metric files that had unreadable lines.
    """
    panels = _panels(table)
    if not panels:
        return None, []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, PANELS), layout="constrained")
        handles, remarks = _draw_panels(figure, table, panels)
        legend = legend_below(figure, handles, LEGEND_COLUMNS, handlelength=3.5)
        figure.set_figheight(PANELS + legend.get_window_extent().height / figure.dpi)
    return figure, list(dict.fromkeys(remarks))


def _panels(table: Table) -> list[Column]:
    """Return a column of each protocol under which a run of the table was evaluated."""
    columns = {column.title: column for column in table.layout.columns}.values()
    return [
        column
        for column in columns
        if any(
            series(run.metrics()[0], column.split, metric)
            for index in range(len(table.layout.rows))
            for run in table.runs[index, column.source]
            for metric in METRICS
        )
    ]


def _draw_panels(figure: Figure, table: Table, panels: list[Column]) -> tuple[list[Line2D], list[str]]:
    """Draw a column of panels for each protocol; return what a legend says of them, and remarks."""
    axes = figure.subplots(len(METRICS), len(panels), sharex="col", sharey="row", squeeze=False)
    looks = _looks(table)
    remarks: list[str] = []
    drawn: set[int] = set()
    any_onset = False
    for across, column in enumerate(panels):
        onsets: set[int] = set()
        for index, look in enumerate(looks):
            for run in table.runs[index, column.source]:
                lines, bad = run.metrics()
                if bad:
                    remarks.append(f"{run.name}: metrics.jsonl has unreadable lines ({bad}), left out of the curves")
                onsets |= onset(lines)
                if _draw(list(axes[:, across]), lines, column.split, look):
                    drawn.add(index)
        axes[0, across].set_title(column.title, fontsize=8)
        axes[-1, across].set_xlabel("epochs trained")
        axes[-1, across].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis, first in itertools.product(axes[:, across], sorted(onsets)):
            axis.axvline(first, **ONSET)
        any_onset |= bool(onsets)
    for down, metric in enumerate(METRICS):
        axes[down, 0].set_ylabel(f"overall {metric} (%)")
    labels = [drawn_label(table.layout.full_label(row), 40) for row in table.layout.rows]
    handles = [Line2D([], [], label=labels[index], **looks[index]) for index in sorted(drawn)]
    handles += [Line2D([], [], label="IFL sets in", **ONSET)] if any_onset else []
    return handles, remarks


def _draw(panels: list[Axes], lines: list[dict[str, Any]], split: str, look: dict[str, Any]) -> bool:
    """Draw one run's curves, one panel for each metric; False where it has no evaluation on the split."""
    for axis, metric in zip(panels, METRICS, strict=True):
        points = series(lines, split, metric)
        axis.plot(*zip(*points, strict=True) if points else ([], []), **look, markevery=1 + len(points) // MARKS)
    return any(line["kind"] == "eval" and line.get("split") == split for line in lines)


def series(lines: list[dict[str, Any]], split: str, metric: str) -> list[tuple[int, float]]:
    """Return (epochs trained, overall value in percent) at each evaluation of the split that has a value."""
    values = [
        (line["epoch"] + 1, line.get(metric, {}).get("overall"))
        for line in lines
        if line["kind"] == "eval" and line.get("split") == split
    ]
    return [(epochs, 100 * value) for epochs, value in values if value is not None]


def onset(lines: list[dict[str, Any]]) -> set[int]:
    """Return the first epoch (from 0) that trained with alpha > 0; empty where none did."""
    return set(sorted(line["epoch"] for line in lines if line["kind"] == "train" and (line.get("alpha") or 0) > 0)[:1])


def _looks(table: Table) -> list[dict[str, Any]]:
    """Return the look of each row's lines: a colour for each row, a line for each place among a method's variants."""
    looks: list[dict[str, Any]] = []
    family: dict[str, int] = {}
    for index, row in enumerate(table.layout.rows):
        key = table.layout.twin_recipe(row) or row.recipe
        place = family[key] = family.get(key, -1) + 1
        looks.append(
            {
                "color": PALETTE[index % len(PALETTE)],
                "linestyle": LINES[place % len(LINES)],
                "marker": MARKERS[(index + index // len(PALETTE)) % len(MARKERS)],  # a colour's second turn has another
                "markersize": 3,
                "linewidth": 1.2,
            }
        )
    return looks
