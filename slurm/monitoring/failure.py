"""Why a run failed: its sentence and the log of the rank that it began with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slurm.monitoring import run_state
from slurm.monitoring.events import since_launch
from slurm.monitoring.run_state import FORGOTTEN, meta_of, metric_lines, state_of

FOLLOWS = (
    r"[Cc]onnection (closed|reset|refused)|^Stuck.* waiting for the other ranks|Broken pipe|[Tt]imed out waiting"
    r"|Socket Timeout"
)
"""Errors that a rank meets because of another."""


def why(folder: Path) -> str:
    """Return the last failure: its sentence and the end of the log of the rank that it began with.

    That rank is not always the one that spoke first: where a rank was killed or hangs, the others only say that they
    lost it, or waited for it. Then it is the one that srun saw end first, or else those that were silent. Where a job
    ended without any such word (before Python, or by SLURM), the text shows what is known.
    """
    from slurm.monitoring.events import read

    noted = read(folder)
    events = [
        event for event in noted if event["event"] == "failed" or (event["event"] == "verdict" and event.get("ends"))
    ]
    newest = next(
        (
            event
            for event in reversed(noted)
            if event["event"] in ("submitted", "start", "failed") or event.get("code") or event.get("ends")
        ),
        None,
    )
    if not events or newest is None or events[-1]["incarnation"] != newest["incarnation"]:
        state = state_of(folder, noted, run_state.queue())
        if not events or state in (*FORGOTTEN, "gave up", "blocked", "waiting", "failed", "lost"):
            return _without_words(folder, noted, state)
    events = [event for event in events if event["incarnation"] == events[-1]["incarnation"]]
    failures = [event for event in events if event["event"] == "failed"]
    cause = next((event for event in failures if not _follows(event["error"])), None)
    ends = [end for event in events if event["event"] == "verdict" for end in event["ends"]]
    killed = next(
        (match for end in ends if (match := re.search(r"tasks? ([\d,-]+): (?!Exited|Terminated)", end))), None
    )
    stuck = any(event["error"].startswith("Stuck") for event in failures)
    step = max(events[0]["step"], 0)
    if cause is not None:
        rank, sentence = cause["rank"], f"rank {cause['rank']} after step {step}: {cause['error']}"
    elif killed is not None and not stuck:
        rank, sentence = (
            int(re.split("[,-]", killed[1])[0]),
            f"rank {killed[1]} after step {step}, says srun: {killed.string}",
        )
    elif failures:
        # A rank that hung may speak after all when SLURM wakes it to end it, but not of waiting for the others.
        spoke = {event["rank"] for event in failures if event["error"].startswith("Stuck") or not stuck}
        silent = [rank for rank in range(_world(folder)) if rank not in spoke]
        rank = (silent or [failures[0]["rank"]])[0]
        lost = f"rank {', '.join(map(str, silent))} was silent; " if silent else ""
        sentence = f"{lost}rank {failures[0]['rank']} after step {step}: {failures[0]['error']}"
    else:
        rank, sentence = 0, _reason(events) or f"after step {step}, says srun: {ends[0]}"
    job = events[0]["incarnation"].split(".")[0]
    log = folder / "log" / (f"rank-{rank}.log" if job == "local" else f"{job}_{rank}_log.err")
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""
    return f"{folder.name}: {sentence}\n{log}:\n{tail}"


def last_error(events: Sequence[dict[str, Any]]) -> str:
    """Return the sentence of the newest start's failure, or nothing.

    It is the first that follows from no other, or else any, or why the run was given up, or srun's.
    """
    errors = [event["error"] for event in _of_newest(events) if event["event"] == "failed"]
    ends = [str(end) for event in _of_newest(events) for end in event.get("ends") or ()]
    own = [error for error in errors if not _follows(error)]
    return next(filter(None, [*own, *errors, _reason(_of_newest(events)), *ends]), "")


def _reason(events: Sequence[dict[str, Any]]) -> str:
    """Return why the last verdict among these was to give up, where it says so."""
    return next((str(event["reason"]) for event in reversed(events) if event.get("reason")), "")


def is_stuck(events: Sequence[dict[str, Any]]) -> bool:
    """Say whether a watchdog ended the newest start, for it made no progress."""
    return any(event["event"] == "failed" and event["error"].startswith("Stuck") for event in _of_newest(events))


def _of_newest(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the start noted that noted the last event."""
    return [event for event in events if event["incarnation"] == events[-1]["incarnation"]]


def _follows(error: str) -> bool:
    """Whether a rank met an error because of another; what is wrong with the data has that word from a file system."""
    return bool(re.search(FOLLOWS, error)) and not error.startswith("DataError")


def _without_words(folder: Path, events: Sequence[dict[str, Any]], state: str) -> str:
    """Tell what is known where no rank said why a job ended or waits: state, verdict, the newest start's log."""
    events = since_launch(events)
    needs = next((event.get("needs") for event in events if event["event"] == "submitted"), None)
    verdict = next((event for event in reversed(events) if event["event"] == "verdict"), None)
    said = [f"{folder.name}: {state}, and no rank said why", *([f"it needs {', '.join(needs)}"] if needs else [])]
    if verdict:
        said.append(
            f"the last verdict is `{verdict['verdict']}`"
            + (f" after srun ended with {verdict['code']}" if "code" in verdict else "")
            + (f": {verdict['reason']}" if verdict.get("reason") else "")
        )
    logs = sorted(folder.glob("log/*_0_log.err"), key=lambda path: path.stat().st_mtime)
    tail = [f"{logs[-1]}:", *logs[-1].read_text(errors="replace").splitlines()[-20:]] if logs else []
    return "\n".join(["; ".join(said), *tail])


def _world(folder: Path) -> int:
    """Return the number of ranks, as the newest start says it."""
    said = [meta_of(folder) or {}, *metric_lines(folder)]
    return next((line["world"] for line in reversed(said) if "world" in line), 0)
