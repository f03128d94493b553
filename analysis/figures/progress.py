"""How a run goes, finished or not: losses, alpha, learning rate, speed, and where it was restarted."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.fonts import drawn_label
from analysis.figures.style import PAGE, STYLE, save_figure
from analysis.inputs.runs import Run, load_run

RESTART: dict[str, Any] = {"color": "#D55E00", "linewidth": 0.8, "linestyle": (0, (4, 2)), "zorder": 1}


class _Look(NamedTuple):
    """A curve of `curves_of` with its name in the legend and its look."""

    name: str
    label: str = ""
    colour: str = "#000000"
    dashes: str = "-"
    marker: str = ""


class _Panel(NamedTuple):
    title: str
    curves: tuple[_Look, ...]
    from_zero: bool = True


BLUE = "#0072B2"
PANELS = (
    _Panel("loss", (_Look("loss", "with center term"), _Look("method_loss", "of the method", BLUE, "--")), False),
    _Panel("accuracy (%)", (_Look("accuracy", "training batches"), _Look("val", "val", BLUE, "--", marker="^")), False),
    _Panel("center term, before alpha", (_Look("center_loss"),)),
    _Panel("alpha", (_Look("alpha"),)),
    _Panel("learning rate", (_Look("lr"),)),
    _Panel("images/s", (_Look("images_per_s"),)),
    _Panel("s waited, a line", (_Look("data_wait_s", "for data"), _Look("rank_wait_s", "for ranks", BLUE, "--"))),
)
TRAINED = (
    "loss",
    "method_loss",
    "center_loss",
    "accuracy",
    "lr",
    "alpha",
    "images_per_s",
    "data_wait_s",
    "rank_wait_s",
)
"""What is drawn of a training line; lines of older code have no waits."""
WAITS = {"data_wait_s": "for data", "rank_wait_s": "for the slowest rank, as a mean over the ranks"}
NOTABLE_WAIT = 0.1
"""A smaller share of the time is not told."""


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
        (accuracy, %), lr, alpha, images_per_s, data_wait_s, rank_wait_s, and restarts, whose value is the number of
        ranks; the first start is left out.
    """
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in (*TRAINED, "val", "restarts")}
    for line in lines:
        at = line["step"] / each
        if line["kind"] == "train":
            for name in TRAINED:
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
    """Draw panels over epochs: losses, accuracy, center term, alpha, learning rate, images/s.

    What the run has not is left out, as center term and alpha without IFL. A vertical line marks each restart.
    """
    lines, bad = run.metrics()
    curves = curves_of(lines, steps_of_epoch(lines))
    shown = [panel for panel in PANELS if any(_worth_drawing(curve.name, curves[curve.name]) for curve in panel.curves)]
    with matplotlib.rc_context(STYLE):
        down = -(-len(shown) // 3)
        figure = Figure(figsize=(PAGE, 0.4 + 1.85 * max(1, down)), layout="constrained")
        if not shown:
            figure.text(0.5, 0.4, "nothing is trained yet", ha="center")
        across = min(3, len(shown)) or 1
        places: Iterable[Axes] = figure.subplots(down, across, squeeze=False).flat if shown else ()
        for axes, panel, letter in itertools.zip_longest(places, shown, "abcdefg"[: len(shown)]):
            if panel is None:
                axes.remove()
                continue
            for curve in panel.curves:
                _line(axes, curves[curve.name], curve)
            axes.set_title(f"({letter}) {panel.title}", fontsize=8)
            axes.set_xlabel("epochs trained")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            for at, _ in curves["restarts"]:
                axes.axvline(at, **RESTART)
            if panel.from_zero:
                highest = max(value for _, value in curves[panel.curves[0].name]) or 1
                axes.set_ylim(-0.04 * highest, 1.08 * highest)  # a line along 0 is seen
            if len(panel.curves) > 1:
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


def phase_tables(lines: Iterable[dict[str, Any]]) -> str:
    """Return what `log.profile` measured of each rank, as text; empty where nothing was profiled."""
    tables = []
    for line in lines:
        if line["kind"] != "profile":
            continue
        phases = list(line["ranks"][0])
        rows = [[f"ms a step, steps {line['first']} to {line['first'] + line['steps']}", *phases]]
        for rank, seconds in enumerate(line["ranks"]):
            slowest = " (slowest)" if rank == line["slowest"] and len(line["ranks"]) > 1 else ""
            rows.append([f"rank {rank}{slowest}", *(f"{1e3 * seconds[phase]:.2f}" for phase in phases)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        tables += [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
    return "\n".join(tables)


def waits(lines: Iterable[dict[str, Any]]) -> str:
    """Return which share of its time a run waited, as text; empty where it is not notable, or older code trained it."""
    keys = ("seconds", *WAITS)
    trained = [line for line in lines if line["kind"] == "train"]
    told = [line for line in trained if all(isinstance(line.get(key), int | float) for key in keys)]
    seconds = sum(line["seconds"] for line in told)
    shares = [(sum(line[key] for line in told) / seconds, what) for key, what in WAITS.items() if seconds]
    return "\n".join(f"waited {share:.0%} of the time {what}" for share, what in shares if share >= NOTABLE_WAIT)


def write_progress(folder: Path, out: Path) -> tuple[list[Path], str]:
    """Draw the run in `folder` into `out`, and return the files, and as text what was waited for and profiled.

    Raises:
        ValueError: `folder` is not a run folder.
    """
    try:
        run = load_run(folder)
    except ValueError as error:
        raise ValueError(f"run={folder} is no run folder: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    lines, _ = run.metrics()
    said = filter(None, (waits(lines), phase_tables(lines)))
    return save_figure(progress(run), out, f"progress-{run.name}"), "\n".join(said)


def _worth_drawing(name: str, points: list[tuple[float, float]]) -> bool:
    """Say whether a curve shows anything: what IFL alone has is 0 without it."""
    return any(value for _, value in points) if name in ("center_loss", "alpha") else bool(points)


def _line(axes: Axes, points: list[tuple[float, float]], look: _Look) -> None:
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=look.colour,
            linestyle=look.dashes,
            linewidth=1,
            marker=look.marker,
            markersize=3,
            markevery=1 + len(points) // 15,
            label=look.label or None,
        )
