"""log/events.jsonl: what happened to a run from outside: starts, stops, failures, verdicts. One JSON object a line.

It is what the batch script decides by and what a status view shows; nothing in it is needed to resume.
"""

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.common.json_text import Kind, whole_lines, wrong_kinds
from slurm import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALL: "dict[str, type]" = {"event": str, "incarnation": str, "step": int}
"""What every event says, and of which type that is."""
OF: "dict[str, dict[str, Kind]]" = {
    "submitted": {"job": (str, type(None))},  # None where SLURM did not tell the id; of an element, `array` is the name
    "failed": {"rank": int, "error": str},
    "verdict": {"verdict": str},
    "node": {"node": str, "fault": str, "text": str},
    "evaluator": {"text": str},
    "slow": {"node": str, "factor": (int, float), "steps": int},
}
"""What an event of a kind says besides, that others decide by."""
BESIDE = ("notified", "notice refused", "archived", "archive refused")
"""Events of what was done about a run when it had ended: they say nothing of its state, and nobody decides by them."""
REMARKS = ("node", "slow", "evaluator")
"""Events about a node or an evaluator: they say nothing of where the run is."""
LAUNCHER = "local."
"""The incarnation of what a command notes from outside of the run's job, though perhaps inside of another job."""
HELD = "GLT_HELD"
"""Environment variable of ranks that a launcher runs in an allocation of the user's: the job is not the run's."""


def incarnation() -> str:
    """Name this start of the job: SLURM's job id and restart count, or the process group of a launcher's run."""
    job = None if HELD in os.environ else environment.job_id()
    return (
        f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}" if job else f"local.{os.environ.get('MASTER_PORT', '')}"
    )


def newest_step(folder: Path) -> int:
    """Return the step of the newest committed checkpoint, -1 where there is none."""
    names = [path.parent.name for path in folder.glob("ckpt/step-*/MANIFEST.json")]
    return max((int(name[len("step-") :]) for name in names if re.fullmatch(r"step-\d+", name)), default=-1)


def append_event(folder: Path, event: str, **values: Any) -> bool:
    """Append an event; a single small write, so that lines of different processes do not mix.

    Where it cannot be written (a full disk, no open file) it is printed and nothing is raised: what is noted is often a
    failure, and must not be hidden by another.

    Returns:
        Whether it is on disk.
    """
    noted = {"event": event, "incarnation": incarnation(), "time": round(time.time(), 1)}
    try:
        line = json.dumps({**noted, "step": newest_step(folder), **values}) + "\n"
        (folder / "log").mkdir(exist_ok=True)
        with open(folder / "log" / "events.jsonl", "ab+") as file:
            # A line may be torn by a kill, or a disk that was full.
            torn = file.tell() > 0 and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write(b"\n" * torn + line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):  # the log may lie on the same disk
            print(
                f"{folder / 'log' / 'events.jsonl'}: {error.strerror}; not noted there: "
                f"{json.dumps({**noted, **values})}",
                file=sys.stderr,
                flush=True,
            )
        return False
    return True


def read(folder: Path) -> "list[dict[str, Any]]":
    """Return all whole lines but those of `BESIDE`, oldest first; torn ones, and what is not an event, are dropped."""
    return [event for event in _all(folder) if event["event"] not in BESIDE]


def beside(folder: Path) -> "list[dict[str, Any]]":
    """Return the lines of `BESIDE`, oldest first."""
    return [event for event in _all(folder) if event["event"] in BESIDE]


def _all(folder: Path) -> "list[dict[str, Any]]":
    path = folder / "log" / "events.jsonl"
    events = []
    for event in whole_lines(path.read_bytes()) if path.exists() else ():
        if not wrong_kinds(event, ALL) and not wrong_kinds(event, OF.get(event["event"], {})):
            events.append(event)
    return events


def last_launch(events: "Sequence[Mapping[str, Any]]") -> "Mapping[str, Any]":
    """Return the last `submitted`, or the `start` by a launcher if that is newer; empty where there is neither."""
    return next((event for event in reversed(events) if _is_launch(event)), {})


def since_launch(events: "Sequence[dict[str, Any]]") -> "Sequence[dict[str, Any]]":
    """Return the events from the last launch on; all where there was none. A job's own starts are none."""
    first = next((i for i in reversed(range(len(events))) if _is_launch(events[i])), 0)
    return events[first:]


def _is_launch(event: "Mapping[str, Any]") -> bool:
    by_launcher = str(event["incarnation"]).startswith(LAUNCHER)
    return bool(event["event"] == "submitted" or (event["event"] == "start" and by_launcher))
