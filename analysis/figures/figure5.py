"""The paper's figure 5: what IFL does to the curves of a method, and to class-wise and attribute-wise accuracy of all.

Source of the design: Tang et al., ECCV 2022 (arXiv 2207.09504), figure 5.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
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
from analysis.figures.style import EQUAL_LOOK, IFL_LOOK, PAGE, PLAIN_LOOK, STYLE, legend_below
from analysis.inputs.frame import METRICS
from analysis.tables.cells import Cell, Table
from analysis.tables.matching import pairs
from recipes.table_layout import PROTOCOLS

BESIDE = 24
"""The most methods whose names have room in half the width of a page; the paper has 20."""


class Improvement(NamedTuple):
    """By how many points of percent a method is above the first one, class-wise (CLT) and attribute-wise (ALT)."""

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
    cells: dict[tuple[Key, str], dict[int, Cell]] = {}
    for place, table in enumerate(tables):
        if (table.layout.preset, table.layout.select) != (study.preset, study.select):
            continue
        for row, line in zip(table.layout.rows, table.cells, strict=True):
            for column, cell in zip(table.layout.columns, line, strict=True):
                if (column.data, column.subset, column.metric) == (study.data, "overall", metric) and cell.runs:
                    cells.setdefault((row.key, column.protocol), {})[place] = cell
    base, *others = study.methods
    found = []
    for method in others:
        clt, alt = (
            _above(*(cells.get((one.key, protocol), {}) for one in (method, base))) for protocol in ("clt", "alt")
        )
        if clt is not None and alt is not None:
            found.append(Improvement(method.label, clt, alt, method.has_ifl))
    return found


def _above(of: dict[int, Cell], base: dict[int, Cell]) -> float | None:
    """Return by how many points a row is above another, as the table says it that has the most runs of the row.

    Args:
        of: the row's cells by table.
        base: the other's. One of the same table comes first, then the one of the most runs.

    Returns:
        None where one of them has no cell.
    """
    sides = max(
        itertools.product(of.items(), base.items()),
        key=lambda both: (len(both[0][1].runs), both[0][0] == both[1][0], len(both[1][1].runs)),
        default=None,
    )
    if sides is None:
        return None
    # As tests and verdicts compare rows: all seeds of both, or pairs of runs of which one builds on the other.
    values = [dict(zip(cell.runs, cell.values, strict=True)) for _, cell in sides]
    compared = zip(*pairs(*values), strict=True) if pairs(*values) else values
    first, second = (statistics.fmean(value[run] for run in runs) for value, runs in zip(values, compared, strict=True))
    return 100 * (first - second)


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
    points = {metric: found for metric in METRICS if (found := improvements(study, tables, metric))}
    curves = _curves(study, pair, protocol) if pair and protocol else []
    remarks = []
    if pair and protocol and not curves:
        remarks.append(
            f"{study.data}: figure 5 has no curves, {pair.ifl.label} and its twin were never "
            f"evaluated on {PROTOCOLS[protocol][1]} while they trained"
        )
    if not curves and not points:
        lacking = f"{study.data}: no figure 5 yet: it needs finished runs of a method and its twin with IFL"
        return None, remarks or [lacking]
    if "alt" in study.protocols and not points:
        remarks.append(f"{study.data}: figure 5 has no (c, d), no method has a number under both CLT and ALT")
    with matplotlib.rc_context(STYLE):
        heights = [2.3] * bool(curves) + [0.4 + 3.1 * _lines(points)] * bool(points)
        figure = Figure(figsize=(PAGE, sum(heights)), layout="constrained")
        halves = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        letters = iter("abcd")
        if curves:
            _over_epochs(halves[0], curves, str(protocol), letters)
        if points:
            _class_against_attribute(figure, halves[-1], study, points, letters)
    return figure, remarks


class Curve(NamedTuple):
    """A method of the panels over epochs, with its name and its look there."""

    method: Method
    label: str
    look: dict[str, Any]


def _curves(study: Study, pair: Pair, protocol: str) -> list[Curve]:
    """Return a method without and with IFL, and with IFL at equal images, as far as they were evaluated."""
    ifl, equal = study.at_both_budgets(pair)
    # Rows of one table tell their budgets by their labels.
    budget = ", paper's budget" if ifl.budget == "paper" and equal not in study.methods else ""
    found = [Curve(pair.plain, drawn_label(pair.plain.label, 40), PLAIN_LOOK)]
    found.append(Curve(ifl, drawn_label(ifl.label, 40) + budget, IFL_LOOK))
    if equal is not None:
        found.append(Curve(equal, drawn_label(equal.label, 40), EQUAL_LOOK))
    return [curve for curve in found if any(_mean_of(curve.method, protocol, metric) for metric in METRICS)]


def _over_epochs(above: Any, curves: list[Curve], protocol: str, letters: Iterator[str]) -> None:
    """Draw curves over epochs, a panel for each metric."""
    any_onset = False
    for metric, axes, letter in zip(METRICS, above.subplots(1, 2), letters, strict=False):
        axes.set_title(f"({letter}) overall {metric}, {protocol.upper()} ({PROTOCOLS[protocol][1]})", fontsize=8)
        any_onset |= _draw_curves(axes, curves, protocol, metric)
        axes.set_xlabel("epochs trained")
        axes.set_ylabel(f"{metric} (%)")
    handles = [Line2D([], [], label=curve.label, **curve.look) for curve in curves]
    handles += [Line2D([], [], label="IFL sets in", **ONSET)] * any_onset
    legend_below(above, handles, 2 if len(handles) > 3 else 3)


def _class_against_attribute(
    figure: Figure, below: Any, study: Study, points: dict[str, list[Improvement]], letters: Iterator[str]
) -> None:
    """Draw every method's improvement on the first one, class-wise against attribute-wise, a panel for each metric."""
    lines = _lines(points)
    panels = below.subplots(lines, len(points) // lines, squeeze=False).flat
    for (metric, found), axes, letter in zip(points.items(), panels, letters, strict=False):
        axes.set_title(f"({letter}) points of {metric} above {drawn_label(study.methods[0].label)}", fontsize=8)
        axes.set_xlabel("class-wise: CLT, overall")
        axes.set_ylabel("attribute-wise: ALT, overall")
        _scatter(axes, found)
    # Below the panels: inside it would lie on points or names.
    below.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, handletextpad=0.2)
    for axes, found in zip(panels, points.values(), strict=True):
        places = [(point.class_wise, point.attribute_wise) for point in found]
        label_points(figure, axes, places, [drawn_label(point.label) for point in found])


def _lines(points: dict[str, list[Improvement]]) -> int:
    """Return how many lines of panels: one, or one for each metric where many names want the page's whole width."""
    return len(points) if max(map(len, points.values()), default=0) > BESIDE else 1


def all_pairs(study: Study, protocol: str) -> Figure | None:
    """Draw both metrics over epochs for each method without and with IFL, a panel for each pair.

    Pairs without runs, and those that have no curve because they train nothing, are left out.

    Returns:
        None where no pair remains.
    """
    drawn = [pair for pair in study.pairs if all(len(_mean_of(method, protocol, METRICS[0])) > 1 for method in pair)]
    if not drawn:
        return None
    with matplotlib.rc_context(STYLE):
        across = min(3, len(drawn))
        down = -(-len(drawn) // across)
        figure = Figure(figsize=(PAGE, 0.7 + 1.55 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False, sharey=True)
        any_onset = False
        for axes, pair in itertools.zip_longest(panels.flat, drawn):
            if pair is None:
                axes.set_axis_off()
                continue
            for metric, faint in zip(METRICS, (False, True), strict=True):
                looks = (_look(PLAIN_LOOK, faint), _look(IFL_LOOK, faint))
                lines = [Curve(method, "", look) for method, look in zip(pair, looks, strict=True)]
                any_onset |= _draw_curves(axes, lines, protocol, metric)
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
            handles=[*handles, *[Line2D([], [], label="IFL sets in", **ONSET)] * any_onset],
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


def _look(look: dict[str, Any], faint: bool) -> dict[str, Any]:
    """Return the look of a curve; a second metric in a panel is faint: thinner, with open markers."""
    return {**look, "linewidth": 0.7, "markerfacecolor": "white", "markeredgewidth": 0.7} if faint else look


def _draw_curves(axes: Axes, curves: list[Curve], protocol: str, metric: str) -> bool:
    """Draw the means over seeds of each method, their range, and where IFL sets in; say whether it does anywhere."""
    any_onset = False
    for method, _, look in curves:
        curve = _mean_of(method, protocol, metric)
        if not curve:
            continue
        epochs, mean, low, high = zip(*curve, strict=True)
        axes.plot(epochs, mean, **look, markevery=1 + len(curve) // MARKS)
        axes.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)  # of no height with one seed
        runs = method.runs[PROTOCOLS[protocol][0]]
        for first in sorted({first for run in runs for first in onset(run.metrics()[0])}):
            axes.axvline(first, **ONSET)
            any_onset = True
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return any_onset


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
