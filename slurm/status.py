"""What the runs are doing: `python slurm/status.py [runs=DIR] [watch=SECONDS]`, `why=RUN`, `cancel=RUN`.

  runs=DIR       folder of the run folders (default: runs/ in the project)
  watch=SECONDS  show it again and again
  why=RUN        the last error of a run, from the rank that met it first
  cancel=RUN     cancel a run's SLURM job

One line a run: state, epoch, step, restarts, images/s, time left, last validation accuracy, log. States:

  running     queued (waiting or requeued)     finished
  stuck       running, but nothing was written for so long that the ranks themselves should have ended it (log.stuck_after_s)
  held        in the queue, and stays there until it is released
  blocked     in the queue behind a job that can no longer succeed: it never starts
  stopped     saved on a signal                timed out    ended by the time limit
  failed      cancelled                        gave up      failed three times without progress
  superseded  a newer start of the run has replaced this one, and is gone too
  lost        neither SLURM nor this machine knows of a process, and nothing was said
  new         unknown (SLURM does not answer)

From files and squeue; no accounting needed.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == PROJECT / "slurm":
    sys.path[0] = str(PROJECT)

COLOURS = {"finished": 32, "running": 36, "queued": 33, **dict.fromkeys(("failed", "gave up", "lost", "stuck", "blocked", "timed out"), 31)}
LIVE = ("running", "queued", "held", "blocked", "stuck", "unknown")
"""States in which the run has a job or a process, or may have one: it is not to be started again."""
STUCK_AFTER_S = 600.0
FOLLOWS = r"[Cc]onnection (closed|reset|refused)|^Stuck.* waiting for the other ranks|Broken pipe|[Tt]imed out waiting|Socket Timeout"
"""Errors that a rank meets because of another."""


class Job(NamedTuple):
    """What SLURM says of a job: its state, or the reason why it never leaves the queue, and when it started (seconds)."""

    state: str
    began: float = 0.0


@dataclass(frozen=True)
class Status:
    """One run's line."""

    name: str
    state: str
    epoch: str
    step: str
    restarts: int
    images_per_s: float | None
    left_s: float | None
    val: float | None
    log: str


def queue() -> dict[str, Job] | None:
    """Each of the user's jobs that SLURM still knows, those that ended some minutes ago among them; empty without SLURM,
    None if SLURM does not answer."""
    if shutil.which("squeue") is None:
        return {}
    try:
        shown = subprocess.run(["squeue", "-h", "--me", "-t", "all", "-o", "%i|%T|%S|%r"], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    jobs = {}
    for line in shown.stdout.splitlines():
        job, state, began, reason = line.split("|", 3)
        if state == "PENDING" and (reason == "DependencyNeverSatisfied" or "held" in reason.lower()):
            state = reason
        jobs[job] = Job(state, datetime.fromisoformat(began).timestamp() if began[:1].isdigit() else 0.0)
    return None if shown.returncode else jobs


def _held(folder: Path) -> bool:
    """Whether a local run holds the folder's lock on this machine."""
    try:
        with open(folder / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _lines(path: Path, whole: bool = False) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line or one as the `whole` file; torn ones are passed over."""
    lines, text = [], path.read_text() if path.exists() else ""
    for line in [text] if whole else text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # torn by a kill
            continue
    return lines


def state_of(folder: Path, events: Sequence[dict[str, Any]], jobs: Mapping[str, Job] | None) -> str:
    """The run's state, by the first of these that knows: `done`, the local lock, the queue (see `queue`), the last event."""
    if (folder / "done").exists():
        return "finished"
    if _held(folder):
        return _moving(folder)
    submitted = next((i for i in reversed(range(len(events))) if events[i]["event"] == "submitted"), None)
    job = None if submitted is None else events[submitted]["job"]
    if job and jobs is None:
        return "unknown"
    cancelled = any(event.get("verdict") == "cancelled" for event in events[submitted or 0:])
    said = "cancelled" if cancelled else _said(events[-1]) if events else "new"
    known = (jobs or {}).get(job)
    if known is None:
        return "lost" if said in ("start", "submitted", "requeue") else said
    if known.state == "DependencyNeverSatisfied":
        return "blocked"
    if "held" in known.state.lower():
        return "held"
    if known.state == "COMPLETING":  # on its way out, or back into the queue: what a rank said of its end decides neither
        return "running" if not events or events[-1]["event"] != "verdict" else "queued" if said == "requeue" else said
    if known.state in ("CANCELLED", "TIMEOUT"):
        return {"CANCELLED": "cancelled", "TIMEOUT": "timed out"}[known.state]
    if known.state in ("COMPLETED", "FAILED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY"):
        return "failed" if said in ("start", "submitted", "requeue", "stopped") else said
    return _moving(folder, known.began) if known.state in ("RUNNING", "STAGE_OUT", "SIGNALING") else "queued"


def _said(event: Mapping[str, Any]) -> str:
    """The state that an event speaks of; `start`, `submitted` and `requeue` say nothing of an end."""
    if event["event"] != "verdict":
        return event["event"]
    return {"give up": "gave up", "requeue refused": "failed"}.get(event["verdict"], event["verdict"])


def _moving(folder: Path, began: float = 0.0) -> str:
    """`running`, or `stuck` where the run has been silent for longer than any part of it may take."""
    from ifl.watchdog import boot_limit_s

    written = [path.stat().st_mtime for pattern in ("*", "log/*") for path in folder.glob(pattern) if path.exists()]
    limit = boot_limit_s(_recipe(folder).get("log", {}).get("stuck_after_s", STUCK_AFTER_S))
    return "stuck" if time.time() - max(written + [began]) > limit else "running"


def _recipe(folder: Path) -> dict[str, Any]:
    import yaml

    try:
        return yaml.safe_load((folder / "recipe.yaml").read_text()) or {}
    except (OSError, yaml.YAMLError):
        return {}


def status_of(folder: Path, jobs: Mapping[str, Job] | None) -> Status:
    from slurm.events import read

    events = read(folder)
    lines = _lines(folder / "metrics.jsonl")
    trained = [line for line in lines if line["kind"] == "train"]
    step, rate = (trained[-1]["step"], trained[-1]["images_per_s"]) if trained else (0, None)
    epoch, steps, left = "-", "-", None
    recipe, meta = _recipe(folder), next(iter(_lines(folder / "meta.json", whole=True)), None)
    if recipe and meta:
        epochs, of_epoch = recipe["schedule"]["epochs"], meta["steps_per_epoch"]
        epoch, steps = f"{step / of_epoch:.1f}/{epochs}", f"{step}/{of_epoch * epochs}"
        left = (of_epoch * epochs - step) * recipe["batch"]["size"] / rate if rate else None
    vals = [line["accuracy"]["overall"] for line in lines if line["kind"] == "eval" and line["split"] == "val"]
    state = state_of(folder, events, jobs)
    starts = sum(event["event"] == "start" for event in events)
    logs = [*(folder / "log").glob("rank-0.log"), *(folder / "log").glob("*_0_log.out")]
    log = str(max(logs, key=lambda path: path.stat().st_mtime)) if logs else "-"
    return Status(folder.name, state, epoch, steps, max(0, starts - 1), rate, left if state == "running" else None, vals[-1] if vals else None, log)


def table(statuses: Sequence[Status], colour: bool) -> str:
    rows = [("run", "state", "epoch", "step", "restarts", "img/s", "left", "val %", "log")]
    for s in statuses:
        left = "-" if s.left_s is None else time.strftime("%H:%M:%S", time.gmtime(s.left_s)) if s.left_s < 86400 else f"{s.left_s / 86400:.1f} d"
        rate, val = "-" if s.images_per_s is None else f"{s.images_per_s:.0f}", "-" if s.val is None else f"{100 * s.val:.1f}"
        rows.append((s.name, s.state, s.epoch, s.step, str(s.restarts), rate, left, val, s.log))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    out = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if colour and row[1] in COLOURS:
            cells[1] = f"\033[{COLOURS[row[1]]}m{cells[1]}\033[0m"
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def why(folder: Path) -> str:
    """The last failure: its sentence and the end of the log of the rank that it began with.

    That rank is not always the one that spoke first: of a rank that was killed or hangs the others only say that they
    lost it, or waited for it. Then it is the one that srun saw end first, or else those that were silent.
    """
    from slurm.events import read

    events = [event for event in read(folder) if event["event"] == "failed" or (event["event"] == "verdict" and event.get("ends"))]
    if not events:
        return f"{folder.name}: no failure is recorded"
    events = [event for event in events if event["incarnation"] == events[-1]["incarnation"]]
    failures = [event for event in events if event["event"] == "failed"]
    cause = next((event for event in failures if not re.search(FOLLOWS, event["error"])), None)
    ends = [end for event in events if event["event"] == "verdict" for end in event["ends"]]
    killed = next((match for end in ends if (match := re.search(r"tasks? ([\d,-]+): (?!Exited|Terminated)", end))), None)
    stuck = any(event["error"].startswith("Stuck") for event in failures)
    step = max(events[0]["step"], 0)
    if cause is not None:
        rank, sentence = cause["rank"], f"rank {cause['rank']} after step {step}: {cause['error']}"
    elif killed is not None and not stuck:
        rank, sentence = int(re.split("[,-]", killed[1])[0]), f"rank {killed[1]} after step {step}, says srun: {killed.string}"
    elif failures:
        # A rank that hung may speak after all when SLURM wakes it to end it, but not of waiting for the others.
        spoke = {event["rank"] for event in failures if event["error"].startswith("Stuck") or not stuck}
        silent = [rank for rank in range(_world(folder)) if rank not in spoke]
        rank = (silent or [failures[0]["rank"]])[0]
        lost = f"rank {', '.join(map(str, silent))} was silent; " if silent else ""
        sentence = f"{lost}rank {failures[0]['rank']} after step {step}: {failures[0]['error']}"
    else:
        rank, sentence = 0, f"after step {step}, says srun: {ends[0]}"
    job = events[0]["incarnation"].split(".")[0]
    log = folder / "log" / (f"rank-{rank}.log" if job == "local" else f"{job}_{rank}_log.err")
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""
    return f"{folder.name}: {sentence}\n{log}:\n{tail}"


def _world(folder: Path) -> int:
    """The number of ranks, as the newest start says it."""
    meta = _lines(folder / "meta.json", whole=True)
    return next((line["world"] for line in reversed([*meta, *_lines(folder / "metrics.jsonl")]) if "world" in line), 0)


def cancel(folder: Path) -> str:
    from slurm.events import note, read

    job = next((event["job"] for event in reversed(read(folder)) if event["event"] == "submitted"), None)
    if job is None:
        raise ValueError(f"{folder.name} was not submitted to SLURM from here: a local run ends with Ctrl-C where it runs")
    done = subprocess.run(["scancel", job], capture_output=True, text=True)
    if done.returncode:
        return f"{folder.name}: scancel {job} said: {done.stderr.strip()}"
    note(folder, "verdict", verdict="cancelled")  # SLURM forgets it in some minutes
    return f"{folder.name}: job {job} is being cancelled"


def main(words: Sequence[str]) -> int:
    if any(word in ("-h", "--help", "help") for word in words):
        print(__doc__.strip())
        return 0
    from recipes.words import nearest

    options = {"runs": str(PROJECT / "runs")}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value or key not in ("runs", "watch", "why", "cancel"):
            print(f"status.py: {word} is not a key=value of this command; {nearest(key, ('runs', 'watch', 'why', 'cancel'))}", file=sys.stderr)
            return 2
        options[key] = value
    if not re.fullmatch(r"\d+(\.\d+)?", options.get("watch", "1")):
        print(f"status.py: watch={options['watch']} is no number of seconds", file=sys.stderr)
        return 2
    runs = Path(options["runs"])
    for action, act in (("why", why), ("cancel", cancel)):
        if action in options:
            folder = next((path for path in (Path(options[action]), runs / options[action]) if (path / "recipe.yaml").exists()), None)
            if folder is None:
                there = [path.parent.name for path in runs.glob("[!.]*/recipe.yaml")]
                print(f"status.py: {action}={options[action]} is no run of {runs}; {nearest(options[action], sorted(there))}", file=sys.stderr)
                return 2
            try:
                print(act(folder))
            except ValueError as error:
                print(f"status.py: {error}", file=sys.stderr)
                return 2
            return 0
    while True:
        jobs = queue()
        shown = table([status_of(path.parent, jobs) for path in sorted(runs.glob("[!.]*/recipe.yaml"))], sys.stdout.isatty())
        print(("\033[H\033[2J" if "watch" in options and sys.stdout.isatty() else "") + shown, flush=True)
        if "watch" not in options:
            return 0
        time.sleep(float(options["watch"]))


if __name__ == "__main__":
    from recipes.environment import in_environment

    in_environment()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
