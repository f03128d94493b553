"""Accuracy along the long tail of classes and by attribute group, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from analysis.figures.fonts import drawn_label
from analysis.figures.methods import Method, Pair, Study
from analysis.figures.style import IFL_LOOK, PAGE, PLAIN_LOOK, STYLE, heat_map, legend_below
from analysis.inputs.artifacts import Classes, classes_of
from analysis.inputs.runs import Run
from analysis.stats.per_class import accuracy_table, confusion, most_confused, tail_bins
from ifl.metrics import GROUPS
from recipes.table_layout import PROTOCOLS

BINS, CONFUSED = 12, 8
"""The most class bins, and the most classes of a confusion matrix, that fit a page's width with their numbers."""

INITIALS = {"many": "Many", "medium": "Med", "few": "Few"}


def table_of(runs: list[Run], select: str, split: str, bins: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Average `accuracy_table` over seeds, in percent: float64 [G + 1, A + 1].

    Raises:
        ValueError: predictions cannot be read.
    """
    tables = [accuracy_table(run.predictions(select, split), bins, len(GROUPS)) for run in runs]
    mean: NDArray[np.float64] = 100 * np.mean(tables, axis=0)
    return mean


def bin_names(classes: Classes, bins: list[NDArray[np.int64]]) -> list[str]:
    """Name each bin: by its class where it has only one, else by its places along the tail."""
    if all(len(part) == 1 for part in bins):
        return [drawn_label(classes.names[part[0]], 12) for part in bins]
    ends = np.cumsum([len(part) for part in bins])
    return [f"{end - len(part) + 1}\N{EN DASH}{end}" for end, part in zip(ends, bins, strict=True)]


def all_methods(study: Study, protocol: str) -> tuple[Figure | None, list[str]]:
    """Draw a heat map of accuracy, one line a method: by class (or bin of classes), overall, and by attribute group.

    Returns:
        None where no run can be shown, and remarks on what is left out.
    """
    train, split = PROTOCOLS[protocol]
    rows: list[tuple[Method, NDArray[np.float64]]] = []
    remarks: list[str] = []
    classes: Classes | None = None
    bins: list[NDArray[np.int64]] = []
    for method in study.methods:
        runs = method.runs.get(train)
        if not runs:
            continue
        try:
            if classes is None:
                classes = classes_of(runs[0])
                bins = tail_bins(_tail(study, classes), BINS)
            rows.append((method, table_of(runs, study.select, split, bins)))
        except ValueError as error:
            remarks.append(f"accuracy by class, {protocol.upper()}: {method.label} is left out: {error}")
    if classes is None or not rows:
        return None, remarks
    values = np.stack([np.concatenate([table[:, -1], table[-1, :-1]]) for _, table in rows])
    names = [*bin_names(classes, bins), "overall", *(f"{INITIALS[name]}_A" for name in GROUPS)]
    with_attributes = not np.isnan(values[:, len(bins) + 1 :]).all()
    if not with_attributes:
        values, names = values[:, : len(bins) + 1], names[: len(bins) + 1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 1.5 + 0.19 * len(rows)), layout="constrained")
        axes = figure.subplots()
        image = heat_map(
            axes, values, [drawn_label(method.label) for method, _ in rows], names, low=0, high=100, colours="cividis"
        )
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
        for edge in (len(bins) - 0.5, len(bins) + 0.5)[: 1 + with_attributes]:
            axes.axvline(edge, color="white", linewidth=3)
        groups = [method.group for method, _ in rows]
        for index in (i for i in range(1, len(groups)) if groups[i] != groups[i - 1]):
            axes.axhline(index - 0.5, color="white", linewidth=2)
        axes.set_title(
            f"accuracy (%) on {split}, {protocol.upper()}: classes from the most to the least frequent, overall"
            + ", attribute groups" * with_attributes,
            fontsize=8,
        )
        figure.colorbar(image, ax=axes, label="accuracy (%)", pad=0.01, aspect=40)
    return figure, remarks


def one_pair(study: Study, pair: Pair, protocol: str) -> tuple[Figure | None, list[str]]:
    """Draw accuracy with and without IFL: along the tail above training counts, by attribute group, and by both.

    Data without attributes have the first alone.

    Returns:
        None where one of them has no runs or lacks what this needs, and remarks on what is left out.
    """
    train, split = PROTOCOLS[protocol]
    what = f"{pair.plain.label} and {pair.ifl.label} by class, {protocol.upper()}"
    if not all(method.runs.get(train) for method in pair):
        return None, [f"{what}: left out, one of them has no run on Train-{train.upper()}"]
    try:
        classes = classes_of(pair.plain.runs[train][0])
        bins = tail_bins(_tail(study, classes), BINS)
        plain, ifl = (table_of(method.runs[train], study.select, split, bins) for method in pair)
    except ValueError as error:
        return None, [f"{what}: left out: {error}"]
    names = bin_names(classes, bins)
    with_attributes = not np.isnan([plain[-1, :-1], ifl[-1, :-1]]).all()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 5.4 if with_attributes else 2.3), layout="constrained")
        heights = (2.3, 3.1)[: 1 + with_attributes]
        top, *bottom = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        by_class, *others = top.subplots(1, len(heights), width_ratios=(3, 1.4)[: len(heights)], squeeze=False)[0]
        _draw_counts(by_class, classes, bins)
        for method, table, look in zip(pair, (plain, ifl), (PLAIN_LOOK, IFL_LOOK), strict=True):
            by_class.plot(range(len(bins)), table[:-1, -1], label=drawn_label(method.label), **look)
            for by_attribute in others:
                by_attribute.plot(range(len(GROUPS)), table[-1, :-1], **look)
        by_class.set_xticks(range(len(bins)), names, rotation=30, ha="right", rotation_mode="anchor", fontsize=7)
        by_class.set_title(f"(a) along the tail, {protocol.upper()} ({split})", fontsize=8)
        by_class.set_ylabel("accuracy (%)")
        by_class.set_ylim(-3, 103)
        for by_attribute in others:
            by_attribute.set_xticks(range(len(GROUPS)), [f"{INITIALS[name]}_A" for name in GROUPS])
            by_attribute.set_title("(b) by attribute group", fontsize=8)
            by_attribute.set_ylim(-3, 103)
            by_attribute.margins(x=0.15)
        legend_below(top, by_class.get_lines(), 2)
        for block in bottom:
            _draw_heat_maps(block.subplots(1, 3, sharey=True), pair, plain, ifl, names)
    return figure, []


def _draw_counts(by_class: Axes, classes: Classes, bins: list[NDArray[np.int64]]) -> None:
    """Draw each bin's mean number of training images as bars behind the curves, on a log axis at the right."""
    counts = by_class.twinx()
    counts.bar(
        range(len(bins)),
        [classes.counts[part].mean() for part in bins],
        color="#dddddd",
        edgecolor="#bbbbbb",
        linewidth=0.5,
        width=0.8,
    )
    counts.set_yscale("log")
    counts.yaxis.set_major_formatter("{x:g}")
    counts.yaxis.set_minor_formatter(NullFormatter())
    counts.set_ylabel("training images (bars)")
    counts.spines["right"].set_visible(True)
    counts.grid(False)
    by_class.set_zorder(counts.get_zorder() + 1)
    by_class.patch.set_visible(False)


def _draw_heat_maps(
    panels: Sequence[Axes], pair: Pair, plain: NDArray[np.float64], ifl: NDArray[np.float64], names: list[str]
) -> None:
    """Draw accuracy by class and attribute group without IFL, with it, and the difference."""
    attributes = [f"{INITIALS[name]}_A" for name in GROUPS]
    titles = (drawn_label(pair.plain.label), drawn_label(pair.ifl.label), "difference, in points")
    for axes, letter, title, table in zip(panels, "cde", titles, (plain, ifl, ifl - plain), strict=True):
        inner = table[:-1, :-1]
        if letter == "e":
            bound = max(1.0, float(np.nanmax(np.abs(inner), initial=0)))
            heat_map(axes, inner, names, attributes, low=-bound, high=bound, colours="PuOr", signed=True)
        else:
            heat_map(axes, inner, names, attributes, low=0, high=100, colours="cividis")
        axes.set_title(f"({letter}) {title}", fontsize=8)
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)


def confusions(study: Study, pair: Pair, protocol: str) -> tuple[Figure | None, list[str]]:
    """Draw what share of each true class (rows) is taken for each other, for the classes that are confused most.

    The classes are those that the method without IFL confuses most.

    Returns:
        None where one of the methods has no runs or nothing is confused, and remarks on what is left out.
    """
    train, split = PROTOCOLS[protocol]
    what = f"confusions of {pair.plain.label}, {protocol.upper()}"
    if not all(method.runs.get(train) for method in pair):
        return None, [f"{what}: left out, it or its twin has no run on Train-{train.upper()}"]
    try:
        classes = classes_of(pair.plain.runs[train][0])
        plain, ifl = (
            100
            * np.mean(
                [confusion(run.predictions(study.select, split), len(classes)) for run in method.runs[train]], axis=0
            )
            for method in pair
        )
    except ValueError as error:
        return None, [f"{what}: left out: {error}"]
    order = np.concatenate(tail_bins(_tail(study, classes), len(classes)))
    chosen = [k for k in order if k in set(most_confused(plain, CONFUSED).tolist())]
    if not chosen:
        return None, [f"{what}: left out, it confuses no classes"]
    names = [drawn_label(classes.names[k], 12) for k in chosen]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 0.9 + 0.3 * len(chosen)), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, letter, method, shares in zip(panels, "ab", pair, (plain, ifl), strict=True):
            image = heat_map(axes, shares[np.ix_(chosen, chosen)], names, names, low=0, high=100, colours="cividis")
            axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=7)
            axes.set_title(f"({letter}) {drawn_label(method.label)}, {protocol.upper()}", fontsize=8)
            axes.set_xlabel("predicted class")
        panels[0].set_ylabel("true class")
        panels[1].tick_params(labelleft=False)
        figure.colorbar(image, ax=panels, label="share of the true class (%)", pad=0.01, aspect=30)
    return figure, []


def _tail(study: Study, classes: Classes) -> NDArray[np.int64]:
    """Return the counts to order classes by: Train-GLT's where it has a run, since Train-CBL's are all alike."""
    for method in study.methods:
        for run in method.runs.get("glt", [])[:1]:
            found = classes_of(run)
            if found.names == classes.names:
                return found.counts
    return classes.counts
