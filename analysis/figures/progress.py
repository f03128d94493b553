"""How a run goes, finished or not: losses, alpha, learning rate, speed, and where it was restarted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.fonts import drawn_label
from analysis.figures.style import PAGE, STYLE, save_figure
from analysis.inputs.runs import Run, load_run

RESTART: dict[str, Any] = {"color": "#D55E00", "linewidth": 0.8, "linestyle": (0, (4, 2)), "zorder": 1}


def steps_of_epoch(lines: list[dict[str, Any]]) -> float:
    """Return the number of steps in an epoch, as the step of the first evaluation tells.

    Before there is an evaluation, it is so large that all that was trained is less than an epoch.
    """
    ends = [line["step"] / (line["epoch"] + 1) for line in lines if line["kind"] == "eval" and line["step"] > 0]
    return float(ends[0]) if ends else 1.0 + max((line["step"] for line in lines), default=0)


def curves_of(lines: list[dict[str, Any]], each: float) -> dict[str, list[tuple[float, float]]]:
    """Collect the curves of a run from its training lines and its evaluations on val.

    Args:
        lines: of `metrics.jsonl`, in the order of steps.
        each: steps of an epoch.

    Returns:
        {name: [(epochs trained, value)]}. Names are loss, method_loss, center_loss, accuracy (training, %), val
        (accuracy, %), lr, alpha, images_per_s, and restarts, whose value is the number of ranks; the first start is
        left out.
    """
    curves: dict[str, list[tuple[float, float]]] = {
        name: []
        for name in ("loss", "method_loss", "center_loss", "accuracy", "val", "lr", "alpha", "images_per_s", "restarts")
    }
    for line in lines:
        at = line["step"] / each
        if line["kind"] == "train":
            for name in ("loss", "method_loss", "center_loss", "accuracy", "lr", "alpha", "images_per_s"):
                if isinstance(line.get(name), int | float):
                    curves[name].append((at, 100 * line[name] if name == "accuracy" else line[name]))
        elif (
            line["kind"] == "eval"
            and line.get("split") == "val"
            and line.get("accuracy", {}).get("overall") is not None
        ):
            curves["val"].append((at, 100 * line["accuracy"]["overall"]))
        elif line["kind"] == "boot" and line["step"] > 0:
            curves["restarts"].append((at, line.get("world", 1)))
    return curves


def progress(run: Run) -> Figure:
    """Draw six panels over epochs: losses, accuracy, center term, alpha, learning rate, images/s.

    A vertical line marks each restart.
    """
    lines, bad = run.metrics()
    curves = curves_of(lines, steps_of_epoch(lines))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(PAGE, 4.1), layout="constrained")
        loss, accuracy, center, alpha, lr, speed = figure.subplots(2, 3, sharex=True).flat
        _line(loss, curves["loss"], "#000000", "-", "with center term")
        _line(loss, curves["method_loss"], "#0072B2", "--", "of the method")
        _line(accuracy, curves["accuracy"], "#000000", "-", "training batches")
        _line(accuracy, curves["val"], "#0072B2", "--", "val", marker="^")
        for axes, name in ((center, "center_loss"), (alpha, "alpha"), (lr, "lr"), (speed, "images_per_s")):
            _line(axes, curves[name], "#000000", "-", "")
        titles = (
            "(a) loss",
            "(b) accuracy (%)",
            "(c) center term, before alpha",
            "(d) alpha",
            "(e) learning rate",
            "(f) images/s",
        )
        for axes, title in zip((loss, accuracy, center, alpha, lr, speed), titles, strict=True):
            axes.set_title(title, fontsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            for at, _ in curves["restarts"]:
                axes.axvline(at, **RESTART)
        for axes in (alpha, lr, speed):
            axes.set_xlabel("epochs trained")
        for axes, name in ((center, "center_loss"), (alpha, "alpha"), (lr, "lr"), (speed, "images_per_s")):
            highest = max((value for _, value in curves[name]), default=0) or 1
            axes.set_ylim(-0.04 * highest, 1.08 * highest)  # a line along 0 is seen
        for axes in (loss, accuracy):
            if axes.lines:
                axes.legend(fontsize=7, loc="best")
        state = "finished" if run.finished else "not finished"
        figure.suptitle(
            f"{drawn_label(run.name, 80)} ({state}{f', {bad} unreadable lines left out' if bad else ''})", fontsize=8
        )
        if curves["restarts"]:
            figure.legend(
                handles=[Line2D([], [], label=f"restarts ({len(curves['restarts'])})", **RESTART)],
                loc="outside lower right",
                fontsize=7,
            )
    return figure


def write_progress(folder: Path, out: Path) -> list[Path]:
    """Draw the run in `folder` into `out`, and return the files.

    Raises:
        ValueError: `folder` is not a run folder.
    """
    try:
        run = load_run(folder)
    except ValueError as error:
        raise ValueError(f"run={folder} is no run folder: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    return save_figure(progress(run), out, f"progress-{run.name}")


def _line(
    axes: Axes, points: list[tuple[float, float]], colour: str, dashes: str, label: str, marker: str = ""
) -> None:
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linestyle=dashes,
            linewidth=1,
            marker=marker,
            markersize=3,
            markevery=1 + len(points) // 15,
            label=label or None,
        )
