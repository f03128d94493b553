"""What IFL's environments hold over a run, how far the class centers move, and which images weigh most and least."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.figures.learning_curves import ONSET, onset
from analysis.figures.style import ATTRIBUTE_LOOKS, COLUMN, PAGE, STYLE, bands, short
from analysis.inputs.artifacts import Classes, Environments, classes_of, environments_of
from analysis.inputs.runs import Run
from analysis.stats.per_class import attribute_shares, effective_size, flat_in_class
from ifl.metrics import GROUPS

STRIP_CLASSES = 6
"""Of the classes with thumbnails those shown, from the head to the tail."""


class Composition(NamedTuple):
    """What the streams hold that are drawn from the epoch `start` (from 0) on.

    Attributes:
        shares: float64 [A], draws of environment 2 (the last one) by attribute group; `level` the same with equal
            weights inside each class.
        size: effective sample size of environment 2 as a share of N; `level_size` with equal weights inside each class.
    """

    start: int
    shares: NDArray[np.float64]
    level: NDArray[np.float64]
    size: float
    level_size: float


def compositions(rebuilds: list[Environments]) -> tuple[Composition, list[Composition]]:
    """Environment 1, which stays what it is, and environment 2 after each rebuild."""
    first = rebuilds[0]

    def of(start: int, rebuild: Environments, weights: NDArray[np.float64]) -> Composition:
        level = flat_in_class(weights, rebuild.labels)
        return Composition(
            start,
            attribute_shares(weights, rebuild.attributes, len(GROUPS)),
            attribute_shares(level, rebuild.attributes, len(GROUPS)),
            effective_size(weights),
            effective_size(level),
        )

    return of(0, first, first.weights[0]), [of(rebuild.epoch + 1, rebuild, rebuild.weights[-1]) for rebuild in rebuilds]


def drift(lines: list[dict[str, Any]], classes: Classes) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For `norm` and `from_start`: epochs trained [T] and means over the classes of each group, float64 [T, 3] (NaN for
    a group without classes).

    Raises:
        ValueError: a line about centers has another number of classes.
    """
    found = [line for line in lines if line["kind"] == "centers"]
    epochs = np.array([line["epoch"] + 1 for line in found], dtype=np.int64)
    result = {}
    for key in ("norm", "from_start"):
        values = [line.get(key) for line in found]
        if any(not isinstance(value, list) or len(value) != len(classes) for value in values):
            raise ValueError(
                f"metrics.jsonl: a line about centers has not the {len(classes)} values of {key}, one for each class"
            )
        table = np.array(values, dtype=np.float64).reshape(len(found), len(classes))
        means = [
            table[:, classes.groups == g].mean(1) if (classes.groups == g).any() else np.full(len(found), np.nan)
            for g in range(len(GROUPS))
        ]
        result[key] = epochs, np.stack(means, axis=1)
    return result


def contents(runs: list[tuple[str, Run]]) -> tuple[Figure | None, list[str]]:
    """One line of panels for each (title, run): attribute shares and effective size of environment 2 against
    environment 1, and the centers' drift.

    Returns None where no run has environments, and what was left out.
    """
    ready, remarks = [], []
    for title, run in runs:
        try:
            rebuilds, classes = environments_of(run), classes_of(run)
            moved = drift(run.metrics()[0], classes)
        except ValueError as error:
            remarks.append(f"environments of {title} are left out: {error}")
            continue
        if not rebuilds or not (rebuilds[0].attributes >= 0).any():
            remarks.append(
                f"environments of {title} are left out: {run.name} has "
                f"{'no attributes' if rebuilds else 'rebuilt none'}"
            )
            continue
        if not len(moved["norm"][0]):
            remarks.append(
                f"drift of the centers of {title} is left out: {run.name} has no lines about centers in metrics.jsonl"
            )
        ready.append((title, run, rebuilds, moved))
    if not ready:
        return None, remarks
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 2.55 * len(ready)), layout="constrained")
        letters = iter("abcdefghijkl")
        for block, (title, run, rebuilds, moved) in zip(bands(figure, [1] * len(ready)), ready, strict=True):
            lines = run.metrics()[0]
            end = 1 + max((line["epoch"] for line in lines), default=rebuilds[-1].epoch)
            shares, sizes, centers = block.subplots(1, 3, width_ratios=(1.25, 1, 1))
            one, later = compositions(rebuilds)
            steps = [one._replace(level=later[0].level, level_size=later[0].level_size), *later]
            at = [step.start for step in steps] + [end]
            for g, (name, look) in enumerate(zip(GROUPS, ATTRIBUTE_LOOKS, strict=False)):
                line = {"color": look["color"], "linestyle": look["linestyle"]}
                held = [100 * step.shares[g] for step in steps]
                shares.step(
                    at,
                    [*held, held[-1]],
                    where="post",
                    label=f"{name}_A",
                    marker=look["marker"],
                    markersize=3,
                    markevery=slice(0, -1),
                    linewidth=1.2,
                    **line,
                )
                shares.plot(
                    [steps[1].start, end],
                    [100 * steps[1].level[g]] * 2,
                    color=look["color"],
                    linewidth=2.5,
                    alpha=0.25,
                    solid_capstyle="butt",
                )
            shares.set_ylabel("share of the draws (%)")
            shares.set_title(f"({next(letters)}) {title}: environment 2", fontsize=8)
            shares.set_ylim(bottom=0)
            held = [100 * step.size for step in steps]
            sizes.step(
                at,
                [*held, held[-1]],
                where="post",
                color="#000000",
                linewidth=1.2,
                marker="o",
                markersize=3,
                markevery=slice(0, -1),
            )
            sizes.plot(
                [steps[1].start, end],
                [100 * steps[1].level_size] * 2,
                color="#000000",
                linewidth=2.5,
                alpha=0.25,
                solid_capstyle="butt",
            )
            sizes.set_ylabel("% of the training images")
            sizes.set_ylim(0, 105)
            sizes.set_title(f"({next(letters)}) effective sample size", fontsize=8)
            epochs, means = moved["from_start"]
            for g, (name, look) in enumerate(zip(GROUPS, ATTRIBUTE_LOOKS, strict=False)):
                centers.plot(
                    epochs,
                    means[:, g],
                    label=f"{name}_C",
                    color=look["color"],
                    linestyle=look["linestyle"],
                    marker=look["marker"],
                    markersize=3,
                    linewidth=1.2,
                )
            centers.set_title(f"({next(letters)}) way of the centers", fontsize=8)
            centers.set_ylabel("distance from the start (L2)")
            centers.set_ylim(bottom=0)
            if not len(epochs):
                centers.text(0.5, 0.5, "not recorded", transform=centers.transAxes, ha="center")
            for axes, first in itertools.product((shares, sizes, centers), sorted(onset(lines))):
                axes.axvline(first, **ONSET)
            for axes in (shares, sizes, centers):
                axes.set_xlabel("epochs trained")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            shares.legend(fontsize=7, handlelength=2.5, loc="best")
            shares.set_xlim(right=end)
            centers.legend(fontsize=7, handlelength=2.5, loc="lower right")
        said = (
            ("equal weights inside each class", {"color": "#777777", "linewidth": 2.5, "alpha": 0.5}),
            ("IFL sets in; until the first rebuild, environment 2 is environment 1", ONSET),
        )
        figure.legend(
            handles=[Line2D([], [], label=label, **look) for label, look in said],
            loc="outside lower center",
            ncols=2,
            fontsize=7,
        )
    return figure, remarks


def strip(title: str, run: Run) -> tuple[Figure | None, list[str]]:
    """Of some classes from head to tail the images that the last environment weighs most and least after the last
    rebuild.
    """
    try:
        rebuilds, classes = environments_of(run), classes_of(run)
    except ValueError as error:
        return None, [f"images of environment 2 of {title} are left out: {error}"]
    if not rebuilds:
        return None, [f"images of environment 2 of {title} are left out: {run.name} rebuilt none"]
    last = rebuilds[-1]
    if not len(last.classes):
        return None, [
            f"images of environment 2 of {title} are left out: {run.name} has stored no pictures (its light part has "
            "none; see thumbnails= of light)"
        ]
    rows = np.unique(np.linspace(0, len(last.classes) - 1, min(STRIP_CLASSES, len(last.classes))).round().astype(int))
    images = last.thumbnails[rows]  # [rows, least and most, E, H, W, 3]
    side, each = images.shape[3], images.shape[2]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE if each > 4 else COLUMN, 0.55 + 0.5 * len(rows)), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, which, what in zip(panels, (1, 0), ("most", "least"), strict=False):
            axes.imshow(
                images[:, which].transpose(0, 2, 1, 3, 4).reshape(len(rows) * side, each * side, 3),
                interpolation="nearest",
            )
            axes.grid(False)
            axes.spines[:].set_visible(False)
            for line in range(1, len(rows)):
                axes.axhline(line * side - 0.5, color="white", linewidth=2)
            axes.set_xticks([])
            axes.set_yticks(
                [(row + 0.5) * side for row in range(len(rows))],
                [short(classes.names[k], 16) if k < len(classes) else str(k) for k in last.classes[rows]],
            )
            axes.tick_params(length=0)
            axes.set_title(f"{title}: weigh {what}", fontsize=8)
        panels[1].tick_params(labelleft=False)
    return figure, []
