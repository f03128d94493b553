"""log/events.jsonl: what happened to a run from outside: starts, stops, failures, verdicts. One JSON object a line.

It is what the batch script decides by and what a status view shows; nothing in it is needed to resume.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any


def incarnation() -> str:
    """Names this start of the job: SLURM's job id and restart count, or the process group of a local run."""
    job = os.environ.get("SLURM_JOB_ID")
    return f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}" if job else f"local.{os.environ.get('MASTER_PORT', '')}"


def newest_step(folder: Path) -> int:
    """The step of the newest committed checkpoint, -1 where there is none."""
    steps = [int(match[1]) for path in folder.glob("ckpt/step-*/MANIFEST.json") if (match := re.fullmatch(r"step-(\d+)", path.parent.name))]
    return max(steps, default=-1)


def note(folder: Path, event: str, **values: Any) -> None:
    """Append an event; a single small write, so that lines of different processes do not mix."""
    line = json.dumps({"event": event, "incarnation": incarnation(), "time": round(time.time(), 1), "step": newest_step(folder), **values}) + "\n"
    (folder / "log").mkdir(exist_ok=True)
    with open(folder / "log" / "events.jsonl", "a") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> list[dict[str, Any]]:
    """All whole lines, oldest first; a torn last one is dropped."""
    path = folder / "log" / "events.jsonl"
    events = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events
