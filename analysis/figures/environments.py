"""What IFL's environments hold over a run, how far the class centers move, and which images weigh most and least."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.figures.fonts import drawn_label
from analysis.figures.learning_curves import ONSET, onset
from analysis.figures.style import ATTRIBUTE_LOOKS, COLUMN, PAGE, STYLE
from analysis.inputs.artifacts import Classes, Environments, classes_of, environments_of
from analysis.inputs.runs import Run
from analysis.stats.per_class import attribute_shares, effective_size, flat_in_class
from ifl.metrics import GROUPS

STRIP_CLASSES = 6
"""How many of the classes with thumbnails are shown, from the head to the tail."""


class Composition(NamedTuple):
    """What a stream holds that is drawn from the epoch `start` (from 0) on.

    Attributes:
        shares: float64 [A], draws of the last environment by attribute group; `level` the same with equal weights
            inside each class.
        size: effective sample size of the last environment as a share of N; `level_size` with equal weights inside each
            class.
    """

    start: int
    shares: NDArray[np.float64]
    level: NDArray[np.float64]
    size: float
    level_size: float


def last_environment(run: Run) -> str:
    """Name the last environment of a run by its number, which its recipe tells: `environment 2`."""
    ifl = run.stored("recipe.yaml").get("ifl")
    number = ifl.get("environments") if isinstance(ifl, dict) else None
    return f"environment {number}" if number else "the last environment"


def compositions(rebuilds: list[Environments]) -> tuple[Composition, list[Composition]]:
    """Return environment 1, which stays what it is, and the last environment after each rebuild."""
    first = rebuilds[0]
    later = [_composition(rebuild.epoch + 1, rebuild, rebuild.weights[-1]) for rebuild in rebuilds]
    return _composition(0, first, first.weights[0]), later


def _composition(start: int, rebuild: Environments, weights: NDArray[np.float64]) -> Composition:
    level = flat_in_class(weights, rebuild.labels)
    return Composition(
        start,
        attribute_shares(weights, rebuild.attributes, len(GROUPS)),
        attribute_shares(level, rebuild.attributes, len(GROUPS)),
        effective_size(weights),
        effective_size(level),
    )


def drift(lines: list[dict[str, Any]], classes: Classes) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Average how far the class centers are from zero and from their start over the classes of each group.

    Returns:
        For `norm` and `from_start`: epochs trained int64 [T], and means float64 [T, 3]; NaN is for a group without
        classes.

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


@dataclass(frozen=True)
class PanelData:
    """What one line of panels shows of a run: data only.

    Attributes:
        title: of the run.
        last: the name of the last environment.
        steps: environment 1 from epoch 0 on, then the last environment after each rebuild.
        end: epochs trained.
        epochs: int64 [T], epochs trained at each line about centers.
        means: float64 [T, 3], distance of the centers from their start, mean of each class group.
        onsets: the first epoch (from 0) that trained with alpha > 0, where there is one.
    """

    title: str
    last: str
    steps: list[Composition]
    end: int
    epochs: NDArray[np.int64]
    means: NDArray[np.float64]
    onsets: list[int]

    @property
    def at(self) -> list[int]:
        """Where each step begins, and where the last one ends."""
        return [step.start for step in self.steps] + [self.end]


def read_panel_data(title: str, run: Run) -> tuple[PanelData | None, list[str]]:
    """Read what the panels of a run show.

    Returns:
        None where it has no environments, and remarks on what is left out.
    """
    try:
        rebuilds, classes = environments_of(run), classes_of(run)
        lines = run.metrics()[0]
        moved = drift(lines, classes)
    except ValueError as error:
        return None, [f"environments of {title} are left out: {error}"]
    if not rebuilds or not (rebuilds[0].attributes >= 0).any():
        why = "no attributes" if rebuilds else "rebuilt none"
        return None, [f"environments of {title} are left out: {run.name} has {why}"]
    remarks = []
    if not len(moved["norm"][0]):
        remarks.append(
            f"drift of the centers of {title} is left out: {run.name} has no lines about centers in metrics.jsonl"
        )
    one, later = compositions(rebuilds)
    steps = [one._replace(level=later[0].level, level_size=later[0].level_size), *later]
    end = 1 + max((line["epoch"] for line in lines), default=rebuilds[-1].epoch)
    epochs, means = moved["from_start"]
    return PanelData(title, last_environment(run), steps, end, epochs, means, sorted(onset(lines))), remarks


def environment_panels(runs: list[tuple[str, Run]]) -> tuple[Figure | None, list[str]]:
    """Draw a line of panels for each (title, run): what the last environment holds against environment 1, and the drift
    where it was recorded.

    Returns:
        None where no run has environments, and remarks on what is left out.
    """
    ready: list[PanelData] = []
    remarks: list[str] = []
    for title, run in runs:
        found, said = read_panel_data(title, run)
        ready += [found] if found else []
        remarks += said
    if not ready:
        return None, remarks
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 2.55 * len(ready)), layout="constrained")
        letters = iter("abcdefghijkl")
        for block, data in zip(figure.subfigures(len(ready), 1, squeeze=False)[:, 0], ready, strict=True):
            drawn = (draw_shares, draw_sizes, draw_centers)[: 3 if len(data.epochs) else 2]
            panels = block.subplots(1, len(drawn), width_ratios=(1.25, 1, 1)[: len(drawn)])
            draws = zip(panels, drawn, strict=True)
            for axes, draw in draws:
                draw(axes, data, next(letters))
            _finish(panels, data)
        _legend(figure, any(data.onsets for data in ready))
    return figure, remarks


PALE: dict[str, Any] = {"linewidth": 2.5, "alpha": 0.25, "solid_capstyle": "butt"}
"""The look of what equal weights inside each class would give."""


def draw_shares(axes: Axes, data: PanelData, letter: str) -> None:
    """Draw the attribute groups' shares of the draws from the last environment, in percent."""
    level = data.steps[1]
    for g, (name, look) in enumerate(zip(GROUPS, ATTRIBUTE_LOOKS, strict=True)):
        held = [100 * step.shares[g] for step in data.steps]
        axes.step(
            data.at,
            [*held, held[-1]],
            where="post",
            label=f"{name}_A",
            marker=look["marker"],
            markersize=3,
            markevery=slice(0, -1),
            linewidth=1.2,
            color=look["color"],
            linestyle=look["linestyle"],
        )
        axes.plot([level.start, data.end], [100 * level.level[g]] * 2, color=look["color"], **PALE)
    axes.set_ylabel("share of the draws (%)")
    axes.set_title(f"({letter}) {data.title}: {data.last}", fontsize=8)
    axes.set_ylim(bottom=0)


def draw_sizes(axes: Axes, data: PanelData, letter: str) -> None:
    """Draw the effective sample size of the last environment, in percent of the training images."""
    level, held = data.steps[1], [100 * step.size for step in data.steps]
    axes.step(
        data.at,
        [*held, held[-1]],
        where="post",
        color="#000000",
        linewidth=1.2,
        marker="o",
        markersize=3,
        markevery=slice(0, -1),
    )
    axes.plot([level.start, data.end], [100 * level.level_size] * 2, color="#000000", **PALE)
    axes.set_ylabel("% of the training images")
    axes.set_ylim(0, 105)
    axes.set_title(f"({letter}) effective sample size", fontsize=8)


def draw_centers(axes: Axes, data: PanelData, letter: str) -> None:
    """Draw how far the class centers are from where they started (L2), the mean of each class group."""
    for g, (name, look) in enumerate(zip(GROUPS, ATTRIBUTE_LOOKS, strict=True)):
        axes.plot(
            data.epochs,
            data.means[:, g],
            label=f"{name}_C",
            color=look["color"],
            linestyle=look["linestyle"],
            marker=look["marker"],
            markersize=3,
            linewidth=1.2,
        )
    axes.set_title(f"({letter}) way of the centers", fontsize=8)
    axes.set_ylabel("distance from the start (L2)")
    axes.set_ylim(bottom=0)


def _finish(panels: Sequence[Axes], data: PanelData) -> None:
    """Add what the three panels of a run share, and their legends."""
    for axes, first in itertools.product(panels, data.onsets):
        axes.axvline(first, **ONSET)
    for axes in panels:
        axes.set_xlabel("epochs trained")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    shares, _, *centers = panels
    shares.legend(fontsize=7, handlelength=2.5, loc="best")
    shares.set_xlim(right=data.end)
    for axes in centers:
        axes.legend(fontsize=7, handlelength=2.5, loc="lower right")


def _legend(figure: Figure, any_onset: bool) -> None:
    handles = [Line2D([], [], label="equal weights inside each class", color="#777777", linewidth=2.5, alpha=0.5)]
    handles += [Line2D([], [], label="IFL sets in", **ONSET)] * any_onset
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7)


def extreme_images(title: str, run: Run) -> tuple[Figure | None, list[str]]:
    """Draw the images that the last environment weighs most and least after the last rebuild, of some classes.

    Returns:
        None where there are no pictures, and remarks on what is left out.
    """
    try:
        rebuilds, classes = environments_of(run), classes_of(run)
    except ValueError as error:
        return None, [f"images of the last environment of {title} are left out: {error}"]
    if not rebuilds:
        return None, [f"images of the last environment of {title} are left out: {run.name} rebuilt none"]
    last = rebuilds[-1]
    if not len(last.classes):
        return None, [
            f"images of the last environment of {title} are left out: {run.name} has stored no pictures (its light "
            f"part has none; see thumbnails= of light)"
        ]
    rows = np.unique(np.linspace(0, len(last.classes) - 1, min(STRIP_CLASSES, len(last.classes))).round().astype(int))
    images = last.thumbnails[rows]  # [rows, 2, E, H, W, 3]; the least weighed come first
    side, each = images.shape[3], images.shape[2]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE if each > 4 else COLUMN, 0.55 + 0.5 * len(rows)), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, which, what in zip(panels, (1, 0), ("most", "least"), strict=True):
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
                [drawn_label(classes.names[k], 16) if k < len(classes) else str(k) for k in last.classes[rows]],
            )
            axes.tick_params(length=0)
            axes.set_title(f"{title}: weigh {what}", fontsize=8)
        panels[1].tick_params(labelleft=False)
    return figure, []
