"""The paper's figure 5: what IFL does to the curves of a method, and to class-wise and attribute-wise accuracy of all.

Source of the design: Tang et al., ECCV 2022 (arXiv 2207.09504), figure 5.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.fonts import drawn_label
from analysis.figures.learning_curves import MARKS, ONSET, onset, series
from analysis.figures.methods import Key, Method, Pair, Study
from analysis.figures.point_labels import label_points
from analysis.figures.style import IFL_LOOK, PAGE, PLAIN_LOOK, STYLE
from analysis.inputs.frame import METRICS
from analysis.tables.cells import Table
from recipes.table_layout import PROTOCOLS


class Improvement(NamedTuple):
    """By how many points of percent a method is above the baseline of its table, class-wise (CLT) and attribute-wise
    (ALT).
    """

    label: str
    class_wise: float
    attribute_wise: float
    with_ifl: bool


class MeanPoint(NamedTuple):
    """A curve's value over seeds after some epochs of training."""

    epochs: int
    mean: float
    lowest: float
    highest: float


def mean_series(curves: list[list[tuple[int, float]]]) -> list[MeanPoint]:
    """Average curves over seeds, at the epochs at which every curve has a value.

    Args:
        curves: for each seed (epochs trained, value).
    """
    values = [dict(curve) for curve in curves]
    common = set.intersection(*(set(curve) for curve in values)) if values else set()
    return [
        MeanPoint(epochs, statistics.fmean(seeds), min(seeds), max(seeds))
        for epochs in sorted(common)
        if (seeds := [curve[epochs] for curve in values])
    ]


def improvements(study: Study, tables: list[Table], metric: str) -> list[Improvement]:
    """Compare every method of the study with the first one, where both have an overall number under CLT and ALT.

    Args:
        study: the methods.
        tables: filled tables; those of another preset or selection than the study's are passed over.
        metric: accuracy or precision.
    """
    means: dict[tuple[Key, str], float] = {}
    for table in tables:
        if (table.layout.preset, table.layout.select) != (study.preset, study.select):
            continue
        for row, cells in zip(table.layout.rows, table.cells, strict=True):
            for column, cell in zip(table.layout.columns, cells, strict=True):
                if (column.data, column.subset, column.metric) == (
                    study.data,
                    "overall",
                    metric,
                ) and cell.mean is not None:
                    means.setdefault((row.key, column.protocol), 100 * cell.mean)
    base, *others = study.methods
    zero = [means.get((base.key, protocol)) for protocol in ("clt", "alt")]
    found = []
    for method in others:
        clt, alt = (means.get((method.key, protocol)) for protocol in ("clt", "alt"))
        if clt is not None and alt is not None and zero[0] is not None and zero[1] is not None:
            found.append(Improvement(method.label, clt - zero[0], alt - zero[1], method.baseline is not None))
    return found


def figure5(study: Study, pair: Pair | None, tables: list[Table]) -> tuple[Figure | None, list[str]]:
    """Draw a method without and with IFL over epochs (a, b), and every method's improvement on the first one (c, d).

    Returns:
        None where neither half has anything to show, and remarks on what is left out.
    """
    protocol = next(
        (
            p
            for p in ("glt", "clt", "alt")
            if p in study.protocols
            and pair
            and pair.plain.runs.get(PROTOCOLS[p][0])
            and pair.ifl.runs.get(PROTOCOLS[p][0])
        ),
        None,
    )
    points = {metric: improvements(study, tables, metric) for metric in METRICS}
    if protocol is None and not any(points.values()):
        return None, [f"{study.data}: no figure 5 yet: it needs finished runs of a method and its twin with IFL"]
    remarks = []
    alt = "alt" in study.protocols
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 5.9 if alt else 2.3), layout="constrained")
        heights = (2.1, 3.2) if alt else (2.1,)
        above, *halves = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for letter, axes, metric in zip("ab", above.subplots(1, 2), METRICS, strict=True):
            axes.set_title(
                f"({letter}) overall {metric}"
                + (f", {protocol.upper()} ({PROTOCOLS[protocol][1]})" if protocol else ""),
                fontsize=8,
            )
            if pair is None or protocol is None:
                axes.text(0.5, 0.5, "no finished runs of a method and its twin", transform=axes.transAxes, ha="center")
                continue
            drawn = _before_and_after(axes, pair, protocol, metric)
            axes.set_xlabel("epochs trained")
            axes.set_ylabel(f"{metric} (%)")
            if not drawn:
                remarks.append(
                    f"{study.data}: figure 5 has no curves, {pair.ifl.label} and its twin were never "
                    f"evaluated on {PROTOCOLS[protocol][1]} while they trained"
                )
        if pair is not None and protocol is not None:
            above.legend(handles=_legend(pair), loc="outside lower center", ncols=3, handlelength=3)
        for below in halves:
            _class_against_attribute(figure, below, study, points)
    return figure, remarks


def _class_against_attribute(figure: Figure, below: Any, study: Study, points: dict[str, list[Improvement]]) -> None:
    """Draw every method's improvement on the first one, class-wise against attribute-wise, a panel for each metric."""
    for letter, axes, metric in zip("cd", below.subplots(1, 2), METRICS, strict=True):
        axes.set_title(f"({letter}) points of {metric} above {drawn_label(study.methods[0].label)}", fontsize=8)
        axes.set_xlabel("class-wise: CLT, overall")
        axes.set_ylabel("attribute-wise: ALT, overall")
        _scatter(axes, points[metric])
    for axes, metric in zip(below.axes, METRICS, strict=True):
        label_points(
            figure,
            axes,
            [(p.class_wise, p.attribute_wise) for p in points[metric]],
            [drawn_label(p.label) for p in points[metric]],
        )


def all_pairs(study: Study, protocol: str) -> Figure | None:
    """Draw both metrics over epochs for each method without and with IFL, a panel for each pair.

    Pairs without runs, and those that have no curve because they train nothing, are left out.

    Returns:
        None where no pair remains.
    """
    pairs = [pair for pair in study.pairs if all(len(_mean_of(method, protocol, METRICS[0])) > 1 for method in pair)]
    if not pairs:
        return None
    with matplotlib.rc_context(STYLE):
        across = min(3, len(pairs))
        down = -(-len(pairs) // across)
        figure = Figure(figsize=(PAGE, 0.7 + 1.55 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False, sharey=True)
        for axes, pair in itertools.zip_longest(panels.flat, pairs):
            if pair is None:
                axes.set_axis_off()
                continue
            for metric, faint in zip(METRICS, (False, True), strict=True):
                _before_and_after(axes, pair, protocol, metric, faint)
            axes.set_title(drawn_label(pair.ifl.label, 34), fontsize=7.5)
        for axes in panels[:, 0]:
            axes.set_ylabel("percent")
        for column in panels.T:
            [axes for axes in column if axes.axison][-1].set_xlabel("epochs trained")
        handles = [
            Line2D([], [], label=f"{metric}, {name}", **_look(look, faint))
            for look, name in ((PLAIN_LOOK, "the method"), (IFL_LOOK, "with IFL"))
            for metric, faint in zip(METRICS, (False, True), strict=True)
        ]
        figure.legend(
            handles=[*handles, Line2D([], [], label="IFL sets in", **ONSET)],
            loc="outside lower center",
            ncols=5,
            handlelength=3,
            columnspacing=1,
            fontsize=7,
        )
    return figure


def _mean_of(method: Method, protocol: str, metric: str) -> list[MeanPoint]:
    train, split = PROTOCOLS[protocol]
    return mean_series([series(run.metrics()[0], split, metric) for run in method.runs.get(train, [])])


def _legend(pair: Pair) -> list[Line2D]:
    lines = [
        Line2D([], [], label=drawn_label(method.label, 40), **look)
        for method, look in zip(pair, (PLAIN_LOOK, IFL_LOOK), strict=True)
    ]
    return [*lines, Line2D([], [], label="IFL sets in", **ONSET)]


def _look(look: dict[str, Any], faint: bool) -> dict[str, Any]:
    """Return the look of a curve; a second metric in a panel is faint: thinner, with open markers."""
    return {**look, "linewidth": 0.7, "markerfacecolor": "white", "markeredgewidth": 0.7} if faint else look


def _before_and_after(axes: Axes, pair: Pair, protocol: str, metric: str, faint: bool = False) -> bool:
    """Draw the means over seeds of both methods, and their range; False where there is no evaluation."""
    drawn = False
    for method, look in zip(pair, (PLAIN_LOOK, IFL_LOOK), strict=True):
        curve = _mean_of(method, protocol, metric)
        if not curve:
            continue
        epochs, mean, low, high = zip(*curve, strict=True)
        drawn = True
        axes.plot(epochs, mean, **_look(look, faint), markevery=1 + len(curve) // MARKS)
        axes.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)  # of no height with one seed
        for first in sorted(
            {first for run in method.runs[PROTOCOLS[protocol][0]] for first in onset(run.metrics()[0])}
        ):
            axes.axvline(first, **ONSET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


def _scatter(axes: Axes, points: list[Improvement]) -> None:
    axes.axhline(0, color="#777777", linewidth=0.8, zorder=1)
    axes.axvline(0, color="#777777", linewidth=0.8, zorder=1)
    for with_ifl, look, label in ((False, PLAIN_LOOK, "method"), (True, IFL_LOOK, "with IFL")):
        places = [(point.class_wise, point.attribute_wise) for point in points if point.with_ifl == with_ifl]
        if places:
            axes.plot(
                *zip(*places, strict=True),
                linestyle="",
                marker=look["marker"],
                markersize=5,
                color=look["color"],
                label=label,
                zorder=3,
            )
    axes.margins(0.18, 0.12)
    if points:
        axes.legend(loc="lower right", handletextpad=0.2)
    else:
        axes.text(0.5, 0.5, "no method has both numbers yet", transform=axes.transAxes, ha="center")
