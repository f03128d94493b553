"""What a run cost: training images, hours of all its starts, and energy where that was recorded.

A start begins with the event `start` of log/events.jsonl and ends with the last event of the same start (finished,
stopped, failed, or the batch script's verdict). A start that was killed without a word has no end, so its hours are not
known: the run's sum is then at least what `done` says was spent on steps that were kept. Where a copy of a run has no
events, `done` and the `boot` lines of metrics.jsonl are all there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.inputs.runs import Run

ENDS = ("finished", "stopped", "failed", "verdict")
"""Events that say that a start is over; of several the last counts, for its processors were held until then."""
NOT_MEASURED = 2**32 - 2
"""What SLURM writes from here on means "no value", in 32 and in 64 bits."""
_STEP = re.compile(r"^\S+\.\d+$")


@dataclass(frozen=True)
class Start:
    """One start of a run's job; times in seconds since 1970."""

    began: float
    ended: float | None
    ranks: int

    @property
    def seconds(self) -> float:
        """Return how long it lasted, 0 where its end is not known."""
        return 0.0 if self.ended is None else max(0.0, self.ended - self.began)


@dataclass(frozen=True)
class Spent:
    """What one run cost.

    Attributes:
        images: training images of the steps that were kept; 0 where another run's weights are judged.
        starts: how many there were.
        unended: those whose end nobody noted, so that `seconds` is a lower bound.
        evaluated_apart: whether a further process evaluated its epochs (`log.eval=job`), whose hours nobody notes.
        logged: whether there are events; else `seconds` is of the steps that were kept.
        seconds: of all starts.
        rank_seconds: the same times the ranks (processes; GPUs where there are any).
        hardware: such as `cpu; AMD EPYC 7763 64-Core Processor, 2 cores`; of older runs `cpu; x86_64, 2 cores`.
        joules: what was recorded; None where nothing was.
        measured_by: `sacct` or `nvml`; empty where there is no energy.
    """

    images: int
    starts: int
    unended: int
    evaluated_apart: bool
    logged: bool
    seconds: float
    rank_seconds: float
    hardware: str
    joules: float | None = None
    measured_by: str = ""


def spent(run: Run) -> Spent:
    """Return what a run cost, as far as its folder says."""
    meta, done = run.stored("meta.json"), run.stored("done")
    ranks = _whole(meta.get("world"), 1)
    lines, _ = run.metrics()
    starts, unended = starts_of(run.events(), ranks)
    known = sum(start.ended is not None for start in starts)
    kept_s = _number(done.get("wall_s"))
    joules, by = energy(run.energy_lines())
    return Spent(
        images=_images(run, lines, meta, done),
        starts=len(starts) + unended if starts or unended else sum(line["kind"] == "boot" for line in lines),
        unended=len(starts) - known + unended,
        evaluated_apart=_evaluated_apart(run),
        logged=bool(starts or unended),
        seconds=max(sum(start.seconds for start in starts), kept_s),
        rank_seconds=max(sum(start.seconds * start.ranks for start in starts), kept_s * ranks),
        hardware=_hardware(meta, lines),
        joules=joules,
        measured_by=by,
    )


def starts_of(events: Iterable[Mapping[str, Any]], ranks: int) -> tuple[list[Start], int]:
    """Return the starts that events tell of, and how many failed before they could say that they began.

    Args:
        events: in their order; those without a time or a name of their start are passed over.
        ranks: of a start that does not say its own.
    """
    starts: list[Start] = []
    newest: dict[str, int] = {}  # of each start's name; a local one may come again
    nameless: set[str] = set()
    for event in events:
        kind, name, time = event.get("event"), event.get("incarnation"), event.get("time")
        if not isinstance(name, str) or isinstance(time, bool) or not isinstance(time, int | float):
            continue
        if kind == "start":
            newest[name] = len(starts)
            starts.append(Start(float(time), None, _whole(event.get("world"), ranks)))
        elif kind in ENDS and name in newest:
            place = newest[name]
            starts[place] = Start(starts[place].began, float(time), starts[place].ranks)
        elif kind == "failed":
            nameless.add(name)
    return starts, len(nameless - newest.keys())


def energy(lines: Iterable[Mapping[str, Any]]) -> tuple[float | None, str]:
    """Add up what log/energy.jsonl recorded, in joules: of SLURM's accounting where it says anything, else of NVML.

    Returns:
        The sum and who measured it; None and "" where nothing usable was recorded.
    """
    by_job: dict[str, float] = {}
    by_rank: dict[tuple[str, str], float] = {}
    for line in lines:
        if line.get("by") == "sacct" and (joules := sacct_joules(str(line.get("text", "")))) is not None:
            by_job[str(line.get("job"))] = joules  # asked again, SLURM answers for the whole job
        elif line.get("by") == "nvml" and (used := _number(line.get("joules"))) > 0:
            by_rank[str(line.get("incarnation")), str(line.get("rank"))] = used
    if by_job:
        return sum(by_job.values()), "sacct"
    return (sum(by_rank.values()), "nvml") if by_rank else (None, "")


def sacct_joules(text: str) -> float | None:
    """Read what `sacct -nPD -o JobIDRaw,ConsumedEnergyRaw` printed, in joules; None where nothing was measured.

    A node's meter runs for every step alike, so the batch step holds the energy of the others once more. Numbered
    steps are added up; where none has a value, the largest of the rest counts.
    """
    steps: list[int] = []
    others: list[int] = []
    for line in text.splitlines():
        name, _, value = line.strip().partition("|")
        if value.isdecimal() and 0 < int(value) < NOT_MEASURED:
            (steps if _STEP.match(name) else others).append(int(value))
    return float(sum(steps)) if steps else float(max(others)) if others else None


def _images(run: Run, lines: Iterable[Mapping[str, Any]], meta: Mapping[str, Any], done: Mapping[str, Any]) -> int:
    """Count the training images of the steps that were kept: by metrics.jsonl, else by meta.json and done."""
    batch = run.stored("recipe.yaml").get("batch")
    size = _whole(batch.get("size"), 0) if isinstance(batch, Mapping) else 0
    steps = max((int(line["step"]) for line in lines if line["kind"] == "train"), default=0)
    return size * (steps or _whole(done.get("epochs"), 0) * _whole(meta.get("steps_per_epoch"), 0))


def _evaluated_apart(run: Run) -> bool:
    """Say whether a run that trains left the evaluation of its epochs to a further process."""
    stored = run.stored("recipe.yaml")
    log, method = stored.get("log"), stored.get("method")
    judges = isinstance(method, Mapping) and bool(method.get("eval_of"))
    return isinstance(log, Mapping) and log.get("eval") == "job" and not judges


def _hardware(meta: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> str:
    """Say what a run trained on; node names are left out, for they say nothing elsewhere."""
    devices = [str(line["device"]) for line in lines if line["kind"] == "boot" and "device" in line]
    device = devices[-1] if devices else str(meta.get("device", ""))
    machine = meta.get("machine")
    known = machine if isinstance(machine, Mapping) else {}
    cores = f"{known['cores']} cores" if "cores" in known else ""
    processor = str(known.get("processor_model") or known.get("processor", ""))
    return "; ".join(filter(None, (device, ", ".join(filter(None, (processor, cores))))))


def _whole(value: Any, otherwise: int) -> int:
    return value if type(value) is int and value >= 0 else otherwise


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) and value >= 0 else 0.0
