"""How far the runs of one command are together: a table's line in the status view, and in the page."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slurm.monitoring.commands import Command
from slurm.monitoring.run_line import Status

PARTS: Mapping[str, tuple[str, ...]] = {
    "done": ("finished",),
    "running": ("running", "suspended"),
    "queued": ("queued", "held", "new", "not started"),
    "unknown": ("unknown",),
}
"""What a line counts, with the states of each; all others count as failed."""
PART_OF = {state: part for part, states in PARTS.items() for state in states}


@dataclass(frozen=True)
class Progress:
    """A command's runs together.

    Attributes:
        label: the command's words that tell it from others.
        runs: how many there are.
        parts: how many of them are done, running, queued and failed; unknown where there are any.
        failed: how many of the failed ones are in which state.
        left_s: seconds until all are done, if as many stay under way as now; None where that is not known.
        arrays: the ids of job arrays that they are elements of.
    """

    label: str
    runs: int
    parts: Mapping[str, int]
    failed: Mapping[str, int]
    left_s: float | None
    arrays: tuple[str, ...]

    def __str__(self) -> str:
        shown = [f"{number} {part}" for part, number in self.parts.items()]
        if self.failed:
            at = next(i for i, part in enumerate(self.parts) if part == "failed")
            shown[at] += f" ({', '.join(f'{number} {state}' for state, number in self.failed.items())})"
        if self.parts["done"] < self.runs:
            shown.append("hours left unknown" if self.left_s is None else f"about {self.left_s / 3600:.1f} h left")
        arrays = f", array{'s' * (len(self.arrays) > 1)} {', '.join(self.arrays)}" if self.arrays else ""
        return f"{self.label}: {self.runs} runs, {', '.join(shown)}{arrays}"


def progress_of(command: Command, statuses: Mapping[str, Status]) -> Progress:
    """Count a command's runs.

    Args:
        command: what was launched.
        statuses: the lines of all runs of the folder, by their names; a run without a line has not started.
    """
    words = [statuses[name].state if name in statuses else "not started" for name in command.runs]
    parts = Counter(PART_OF.get(word, "failed") for word in words)
    failed = Counter(word for word in words if word not in PART_OF)
    own = [statuses[name] for name in command.runs if name in statuses]
    order = ["done", "running", "queued", "failed", *(["unknown"] if parts["unknown"] else [])]
    return Progress(
        command.label,
        len(words),
        {part: parts[part] for part in order},
        dict(sorted(failed.items())),
        _left(command, statuses, parts["running"]),
        tuple(sorted({status.array for status in own if status.array and status.state != "finished"}, key=int)),
    )


def _left(command: Command, statuses: Mapping[str, Status], running: int) -> float | None:
    """Return the seconds until all that run or wait are done.

    Runs that have no rate yet take what an epoch of the command's others takes. At least the longest that is under way
    has to end.
    """
    own = [statuses[name] for name in command.runs if name in statuses]
    an_epoch = [status.whole_s / status.epochs for status in own if status.whole_s and status.epochs]
    left = []
    for name in command.runs:
        status = statuses.get(name)
        state = status.state if status else "not started"
        if PART_OF.get(state) not in ("running", "queued"):
            continue
        if status and status.left_s is not None:
            left.append(status.left_s)
        elif an_epoch:
            epochs = status.epochs if status and status.epochs else statistics.median(one.epochs for one in own)
            left.append(statistics.median(an_epoch) * epochs)
        else:
            return None
    return max(sum(left) / max(1, running), max(left)) if left else 0.0


def lines(commands: Sequence[Command], statuses: Sequence[Status]) -> list[Progress]:
    """Return the progress of each command of which there is still a run, the newest last."""
    by_name = {status.name: status for status in statuses}
    return [progress_of(command, by_name) for command in commands if any(name in by_name for name in command.runs)]
