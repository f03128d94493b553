"""What the runs are doing: `python slurm/status.py [runs=DIR] [watch=SECONDS]`, `why=RUN`, `cancel=RUN`.

  runs=DIR       folder of the run folders (default: runs/ in the project)
  watch=SECONDS  show it again and again
  why=RUN        the last error of a run, from the rank that met it first, or what became of a job that could not say
  cancel=RUN     cancel a run's SLURM job

One line a run: state, epoch, step, restarts, images/s, time left, last validation accuracy, log. States:

  running     queued (waiting or requeued)     finished
  stuck       running, but nothing was written for so long that the ranks themselves should have ended it (log.stuck_after_s)
  suspended   has nodes, and does not run until it is resumed
  held        in the queue, and stays there until it is released
  blocked     in the queue behind a job that can no longer succeed: it never starts
  stopped     saved on a signal                timed out    ended by the time limit
  failed      cancelled                        gave up      failed three times without progress
  superseded  a newer start of the run has replaced this one, and is gone too
  lost        neither SLURM nor this machine knows of a process, and nothing was said
  new         unknown (SLURM does not answer, or is not on this machine)
  unreadable  a file of the run folder is damaged: why=RUN says which value

From files and squeue; no accounting needed. What squeue says of a cancelled or timed-out job is noted in log/events.jsonl, once:
SLURM forgets it in some minutes.
"""

from __future__ import annotations

import fcntl
import json
import os
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

COLOURS = {
    "finished": 32,
    "running": 36,
    "queued": 33,
    **dict.fromkeys(("failed", "gave up", "lost", "stuck", "blocked", "timed out", "unreadable"), 31),
}
LIVE = ("running", "queued", "suspended", "held", "blocked", "stuck", "unknown")
"""States in which the run has a job or a process, or may have one: it is not to be started again."""
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "PREEMPTED",
    "REVOKED",
    "NODE_FAIL",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
)
HELD = r"HOLD|Hold|[Hh]eld|SPECIAL_EXIT"
"""SLURM's states and reasons of a job that waits to be released; not `QOSUsageThreshold`."""
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError)
"""What reading a file meets in which something is missing or is of another kind."""
STUCK_AFTER_S = 600.0
EXAMPLES = {
    "runs": "a folder of run folders",
    "watch": "the seconds between two looks, as in watch=5",
    "why": "a run, as in why=NAME",
    "cancel": "a run, as in cancel=NAME",
}
FOLLOWS = r"[Cc]onnection (closed|reset|refused)|^Stuck.* waiting for the other ranks|Broken pipe|[Tt]imed out waiting|Socket Timeout"
"""Errors that a rank meets because of another."""


class StatusError(Exception):
    """A wish that cannot be met, as one sentence."""


class Job(NamedTuple):
    """What SLURM says of a job: its state, or the reason why it never leaves the queue, when it started (seconds), its name
    (a run's job has the run folder's) and its batch file (in the run folder's log/)."""

    state: str
    began: float = 0.0
    name: str = ""
    batch_file: str = ""


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
    """Each of the user's jobs that SLURM still knows, those that ended some minutes ago among them; None if SLURM does not
    answer or is not on this machine."""
    if shutil.which("squeue") is None:
        return None
    try:
        shown = subprocess.run(
            ["squeue", "-h", "--me", "-t", "all", "-o", "%i|%T|%S|%r|%j|%o"], capture_output=True, text=True, timeout=30
        )
    except subprocess.TimeoutExpired:
        return None
    jobs = {}
    for line in shown.stdout.splitlines():
        job, state, began, reason, name, batch_file = line.split("|", 5)
        if state == "PENDING" and (reason == "DependencyNeverSatisfied" or re.search(HELD, reason)):
            state = reason
        jobs[job] = Job(
            state, datetime.fromisoformat(began).timestamp() if began[:1].isdigit() else 0.0, name, batch_file
        )
    return None if shown.returncode else jobs


def job_of(folder: Path, events: Sequence[Mapping[str, Any]], jobs: Mapping[str, Job]) -> str | None:
    """The id of the run's job among `jobs`: the one noted last, or one that waits or runs although nothing was noted (a full
    disk, Ctrl-C after sbatch). SLURM gives out ids anew, so that the name decides too; runs in other folders have it as well."""
    noted, log = _noted(events), os.path.realpath(folder / "log")
    own = [
        job
        for job, said in jobs.items()
        if said.name == folder.name
        and (job == noted or (said.state not in ENDED and os.path.realpath(os.path.dirname(said.batch_file)) == log))
    ]
    return max(own, key=lambda job: (jobs[job].state not in ENDED, int(job)), default=None)


def _noted(events: Sequence[Mapping[str, Any]]) -> str | None:
    """The job that was submitted last, as the run folder knows it."""
    return next((event["job"] for event in reversed(events) if event["event"] == "submitted"), None)


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
    cancelled = any(event.get("verdict") == "cancelled" for event in _since_submitted(events))
    said = "cancelled" if cancelled else _said(events[-1]) if events else "new"
    if jobs is None and _noted(events):
        return said if _over(events) else "unknown"
    job = job_of(folder, events, jobs or {})
    known = jobs[job] if jobs and job else None
    if known is None:
        return "lost" if said in ("start", "submitted", "requeue") else said
    if known.state == "DependencyNeverSatisfied":
        return "blocked"
    if re.search(HELD, known.state):
        return "held"
    if known.state in ("SUSPENDED", "STOPPED"):
        return "suspended"
    if (
        known.state == "COMPLETING"
    ):  # on its way out, or back into the queue: what a rank said of its end decides neither
        return "running" if not events or events[-1]["event"] != "verdict" else "queued" if said == "requeue" else said
    if known.state in ("CANCELLED", "TIMEOUT"):
        return {"CANCELLED": "cancelled", "TIMEOUT": "timed out"}[known.state]
    if known.state in ENDED:
        return "failed" if said in ("start", "submitted", "requeue", "stopped") else said
    return _moving(folder, known.began) if known.state in ("RUNNING", "STAGE_OUT", "SIGNALING") else "queued"


def _since_submitted(events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    start = next((i for i in reversed(range(len(events))) if events[i]["event"] == "submitted"), 0)
    return events[start:]


def _over(events: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last word is a verdict after which the job does not come back."""
    final = ("finished", "give up", "cancelled", "timed out", "requeue refused")
    return bool(events) and events[-1].get("verdict") in final


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


def line_of(folder: Path, jobs: Mapping[str, Job] | None) -> Status:
    """The run's line. One damaged run must not hide the others, whatever is wrong with it."""
    try:
        return status_of(folder, jobs)
    except DAMAGE:
        return Status(folder.name, "unreadable", "-", "-", 0, None, None, None, "-")


def status_of(folder: Path, jobs: Mapping[str, Job] | None) -> Status:
    from slurm.events import note, read

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
    if state in ("cancelled", "timed out") and not _over(events):
        note(folder, "verdict", verdict=state)  # SLURM forgets it in some minutes
    starts = sum(event["event"] == "start" for event in events)
    logs = [*(folder / "log").glob("rank-0.log"), *(folder / "log").glob("*_0_log.out")]
    log = str(max(logs, key=lambda path: path.stat().st_mtime)) if logs else "-"
    return Status(
        folder.name,
        state,
        epoch,
        steps,
        max(0, starts - 1),
        rate,
        left if state == "running" else None,
        vals[-1] if vals else None,
        log,
    )


def table(statuses: Sequence[Status], colour: bool) -> str:
    rows = [("run", "state", "epoch", "step", "restarts", "img/s", "left", "val %", "log")]
    for s in statuses:
        left = (
            "-"
            if s.left_s is None
            else time.strftime("%H:%M:%S", time.gmtime(s.left_s))
            if s.left_s < 86400
            else f"{s.left_s / 86400:.1f} d"
        )
        rate, val = (
            "-" if s.images_per_s is None else f"{s.images_per_s:.0f}",
            "-" if s.val is None else f"{100 * s.val:.1f}",
        )
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
    lost it, or waited for it. Then it is the one that srun saw end first, or else those that were silent. Of a job that
    ended without any such word (before Python, or by SLURM) it shows what is known.
    """
    from slurm.events import read

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
    if not events or events[-1]["incarnation"] != newest["incarnation"]:
        state = state_of(folder, noted, queue())
        if not events or state in ("gave up", "timed out", "cancelled", "blocked", "failed", "lost"):
            return _without_words(folder, noted, state)
    events = [event for event in events if event["incarnation"] == events[-1]["incarnation"]]
    failures = [event for event in events if event["event"] == "failed"]
    cause = next((event for event in failures if not re.search(FOLLOWS, event["error"])), None)
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
        rank, sentence = 0, f"after step {step}, says srun: {ends[0]}"
    job = events[0]["incarnation"].split(".")[0]
    log = folder / "log" / (f"rank-{rank}.log" if job == "local" else f"{job}_{rank}_log.err")
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""
    return f"{folder.name}: {sentence}\n{log}:\n{tail}"


def _without_words(folder: Path, events: Sequence[dict[str, Any]], state: str) -> str:
    """What is known of a run whose job ended or waits without a rank's word: state, verdict, and the newest start's log."""
    events = _since_submitted(events)
    needs = next((event.get("needs") for event in events if event["event"] == "submitted"), None)
    verdict = next((event for event in reversed(events) if event["event"] == "verdict"), None)
    said = [f"{folder.name}: {state}, and no rank said why", *([f"it needs {', '.join(needs)}"] if needs else [])]
    if verdict:
        said.append(
            f"the last verdict is `{verdict['verdict']}`"
            + (f" after srun ended with {verdict['code']}" if "code" in verdict else "")
        )
    logs = sorted(folder.glob("log/*_0_log.err"), key=lambda path: path.stat().st_mtime)
    tail = [f"{logs[-1]}:", *logs[-1].read_text(errors="replace").splitlines()[-20:]] if logs else []
    return "\n".join(["; ".join(said), *tail])


def _world(folder: Path) -> int:
    """The number of ranks, as the newest start says it."""
    meta = _lines(folder / "meta.json", whole=True)
    return next((line["world"] for line in reversed([*meta, *_lines(folder / "metrics.jsonl")]) if "world" in line), 0)


def cancel(folder: Path) -> str:
    from slurm.events import note, read

    jobs, events = queue(), read(folder)
    if jobs is None:
        raise StatusError(
            f"SLURM does not answer (squeue), so nothing was cancelled: {folder.name} may have a job all the same"
        )
    job = job_of(folder, events, jobs)
    if job is None or jobs[job].state in ENDED:
        raise StatusError(
            f"{folder.name} has no job in SLURM's queue, it is {state_of(folder, events, jobs)}: a local run ends with Ctrl-C where it runs"
        )
    done = subprocess.run(["scancel", job], capture_output=True, text=True)
    if done.returncode:
        return f"{folder.name}: scancel {job} said: {done.stderr.strip()}"
    note(folder, "verdict", verdict="cancelled")  # SLURM forgets it in some minutes
    return f"{folder.name}: job {job} is being cancelled"


def main(words: Sequence[str]) -> int:
    if any(word in ("-h", "--help", "help") for word in words):
        print(__doc__.strip())
        return 0
    from recipes.words import nearest, one_line

    options = {"runs": str(PROJECT / "runs")}
    for word in words:
        key, _, value = word.partition("=")
        if not value and key in EXAMPLES:
            print(f"status.py: {key}= needs a value: {EXAMPLES[key]}", file=sys.stderr)
            return 2
        if key not in EXAMPLES:
            print(f"status.py: {word} is not a key=value of this command; {nearest(key, EXAMPLES)}", file=sys.stderr)
            return 2
        options[key] = value
    if not re.fullmatch(r"\d+(\.\d+)?", options.get("watch", "1")):
        print(f"status.py: watch={options['watch']} is no number of seconds", file=sys.stderr)
        return 2
    runs = Path(options["runs"])
    if not runs.is_dir() and options["runs"] != str(PROJECT / "runs"):
        print(f"status.py: runs={runs} is no folder", file=sys.stderr)
        return 2
    for action, act in (("why", why), ("cancel", cancel)):
        if action in options:
            folder = next(
                (path for path in (Path(options[action]), runs / options[action]) if (path / "recipe.yaml").exists()),
                None,
            )
            if folder is None:
                there = [path.parent.name for path in runs.glob("[!.]*/recipe.yaml")]
                print(
                    f"status.py: {action}={options[action]} is no run of {runs}; {nearest(options[action], sorted(there)) if there else 'there are none'}",
                    file=sys.stderr,
                )
                return 2
            try:
                print(act(folder.absolute()))
            except StatusError as error:
                print(f"status.py: {error}", file=sys.stderr)
                return 2
            except DAMAGE as error:
                print(
                    f"status.py: {folder} is damaged: {one_line(f'{type(error).__name__}: {error}')}", file=sys.stderr
                )
                return 2
            return 0
    while True:
        jobs = queue()
        shown = table(
            [line_of(path.parent, jobs) for path in sorted(runs.glob("[!.]*/recipe.yaml"))], sys.stdout.isatty()
        )
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
