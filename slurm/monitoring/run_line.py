"""A run's line in the status view: what it does, how far it is, how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slurm.monitoring.events import LAUNCHER, append_event, last_launch, read
from slurm.monitoring.run_state import (
    FORGOTTEN,
    LIVE,
    Job,
    is_over,
    job_of,
    meta_of,
    metric_lines,
    recipe_of,
    state_of,
)
from slurm.monitoring.waits import waits

COLOURS = {
    "finished": 32,
    "running": 36,
    "queued": 33,
    **dict.fromkeys(("failed", "gave up", "lost", "stuck", "blocked", "waiting", "unreadable"), 31),
    **dict.fromkeys(("timed out", "preempted"), 31),
}
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError)
"""What reading a file meets in which something is missing or is of another kind."""
ALIKE = 3
"""From so many elements of a job array on that only wait in the queue, they are one line."""
WAITING = ("queued", "held", "blocked")
"""States in which they only wait."""


@dataclass(frozen=True)
class Status:
    """One run's line."""

    name: str
    state: str
    epoch: str
    step: str
    restarts: int
    device: str
    images_per_s: float | None
    left_s: float | None
    val: float | None
    log: str
    job: str | None = None
    """Its job in SLURM's queue, such as 17 or, of a job array, 17_3."""
    epochs: int = 0
    whole_s: float | None = None
    """What all its epochs take at its rate, in seconds."""
    waits: tuple[str, ...] = ()
    """What it waits for while it runs, where that is notable."""

    @property
    def array(self) -> str | None:
        """The job array that it waits or runs in."""
        return self.job.partition("_")[0] if self.job and "_" in self.job else None


def line_of(folder: Path, jobs: Mapping[str, Job] | None) -> Status:
    """Return the run's line. One damaged run must not hide the others, whatever is wrong with it."""
    try:
        return status_of(folder, jobs)
    except DAMAGE:
        return Status(folder.name, "unreadable", "-", "-", 0, "-", None, None, None, "-")


def status_of(folder: Path, jobs: Mapping[str, Job] | None) -> Status:
    """Return the run's line, from its files and the queue; notes an end that SLURM soon forgets."""
    events = read(folder)
    lines = metric_lines(folder)
    trained = [line for line in lines if line["kind"] == "train"]
    step, rate = (trained[-1]["step"], trained[-1]["images_per_s"]) if trained else (0, None)
    epoch, steps, epochs, left, whole = "-", "-", 0, None, None
    recipe, meta = recipe_of(folder), meta_of(folder)
    if recipe and meta and meta["steps_per_epoch"]:  # a later evaluation has none
        epochs, of_epoch = recipe["schedule"]["epochs"], meta["steps_per_epoch"]
        epoch, steps = f"{step / of_epoch:.1f}/{epochs}", f"{step}/{of_epoch * epochs}"
        whole = of_epoch * epochs * recipe["batch"]["size"] / rate if rate else None
        left = whole * (1 - step / (of_epoch * epochs)) if whole is not None else None
    vals = [line["accuracy"]["overall"] for line in lines if line["kind"] == "eval" and line["split"] == "val"]
    state = state_of(folder, events, jobs)
    if state in FORGOTTEN and not is_over(events):
        append_event(folder, "verdict", incarnation=LAUNCHER, verdict=state)  # SLURM forgets it in some minutes
    starts = sum(event["event"] == "start" for event in events)
    logs = [*(folder / "log").glob("rank-0.log"), *(folder / "log").glob("*_0_log.out")]
    log = str(max(logs, key=lambda path: path.stat().st_mtime)) if logs else "-"
    return Status(
        folder.name,
        state,
        epoch,
        steps,
        max(0, starts - 1),
        _device(lines),
        rate,
        left if state == "running" else None,
        vals[-1] if vals else None,
        log,
        job_of(folder, events, jobs or {}) or (_submitted(events) if state in LIVE else None),
        epochs or recipe.get("schedule", {}).get("epochs", 0),
        whole,
        waits(lines) if state == "running" else (),
    )


def _submitted(events: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the job of the last launch; squeue may show elements of an array that wait as one line."""
    return last_launch(events).get("job")


def _device(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return what the newest start trains on, `cpu` or `cuda`."""
    boots = [str(line["device"]) for line in lines if line["kind"] == "boot" and "device" in line]
    return boots[-1].split()[0] if boots else "-"


def columns_of(s: Status) -> tuple[str, ...]:
    """Return what a line shows of a run, in the order of the table's columns."""
    rate = "-" if s.images_per_s is None else f"{s.images_per_s:.0f}"
    val = "-" if s.val is None else f"{100 * s.val:.1f}"
    return s.name, s.state, s.epoch, s.step, str(s.restarts), s.device, rate, _left(s.left_s), val, s.log


def table(statuses: Sequence[Status], colour: bool) -> str:
    """Set the runs' lines as a table; `colour` marks the states for a terminal."""
    rows: list[tuple[str, ...]] = [
        ("run", "state", "epoch", "step", "restarts", "device", "img/s", "left", "val %", "log")
    ]
    for s in without_alike(statuses):
        rows.append(columns_of(s))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    out = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if colour and row[1] in COLOURS:
            cells[1] = f"\033[{COLOURS[row[1]]}m{cells[1]}\033[0m"
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def without_alike(statuses: Sequence[Status]) -> list[Status]:
    """Return the lines, with the elements of a job array that wait in the same state as one where they are many."""
    alike: dict[tuple[str, str], list[str]] = {}
    for status in statuses:
        if status.array and status.state in WAITING and status.step in ("-", "0"):
            alike.setdefault((status.array, status.state), []).append(status.name)
    many = {name: key for key, names in alike.items() if len(names) >= ALIKE for name in names}
    shown, seen = [], set()
    for status in statuses:
        key = many.get(status.name)
        if key is None:
            shown.append(status)
        elif key not in seen:
            seen.add(key)
            shown.append(replace(status, name=f"{len(alike[key])} runs of array {key[0]}", log="-"))
    return shown


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else f"{seconds / 86400:.1f} d"
