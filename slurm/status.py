"""What the runs are doing: `python slurm/status.py [runs=DIR] [watch=SECONDS]`, `why=RUN`, `cancel=RUN`.

  runs=DIR       folder of the run folders (default: runs/ in the project)
  watch=SECONDS  show it again and again
  why=RUN        the last error of a run, from the rank that met it first
  cancel=RUN     cancel a run's SLURM job

One line a run: state, epoch, restarts, images/s, time left, last validation accuracy, log. States: finished, running,
queued (waiting or requeued), stopped (saved on a signal), failed, cancelled, gave up (failed three times without progress), lost
(neither SLURM nor this machine knows of a process, and nothing was said), new, unknown (SLURM does not answer). From files and squeue; no accounting needed.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
if Path(sys.path[0]).resolve() == PROJECT / "slurm":
    sys.path[0] = str(PROJECT)

COLOURS = {"finished": 32, "running": 36, "queued": 33, "failed": 31, "gave up": 31, "lost": 31}


@dataclass(frozen=True)
class Status:
    """One run's line."""

    name: str
    state: str
    epoch: str
    restarts: int
    images_per_s: float | None
    left_s: float | None
    val: float | None
    log: str


def queue() -> dict[str, str] | None:
    """State of each of the user's jobs that SLURM still knows; empty without SLURM, None if SLURM does not answer."""
    if shutil.which("squeue") is None:
        return {}
    try:
        shown = subprocess.run(["squeue", "-h", "--me", "-o", "%i %T"], capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    return None if shown.returncode else dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())


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


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # torn by a kill
            continue
    return lines


def state_of(folder: Path, events: Sequence[dict[str, Any]], jobs: dict[str, str] | None) -> str:
    """The run's state, by the first of these that knows: `done`, the local lock, the queue (see `queue`), the last event."""
    if (folder / "done").exists():
        return "finished"
    if _held(folder):
        return "running"
    job = next((event["job"] for event in reversed(events) if event["event"] == "submitted"), None)
    if job and jobs is None:
        return "unknown"
    if jobs and job in jobs:
        return "queued" if jobs[job] in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING") else "running"
    last = events[-1] if events else {"event": "new"}
    if last["event"] == "verdict":
        return {"give up": "gave up", "requeue": "lost"}.get(last["verdict"], last["verdict"] if last["verdict"] in ("cancelled", "superseded") else "failed")
    return {"start": "lost", "submitted": "lost"}.get(last["event"], last["event"])


def status_of(folder: Path, jobs: dict[str, str] | None) -> Status:
    from slurm.events import read

    events = read(folder)
    lines = _lines(folder / "metrics.jsonl")
    trained = [line for line in lines if line["kind"] == "train"]
    rate = trained[-1]["images_per_s"] if trained else None
    epoch, left = "-", None
    if (folder / "meta.json").exists() and (folder / "recipe.yaml").exists():
        import yaml

        recipe, meta = yaml.safe_load((folder / "recipe.yaml").read_text()), json.loads((folder / "meta.json").read_text())
        epochs, steps = recipe["schedule"]["epochs"], meta["steps_per_epoch"]
        step = trained[-1]["step"] if trained else 0
        epoch = f"{step / steps:.1f}/{epochs}"
        left = (steps * epochs - step) * recipe["batch"]["size"] / rate if rate else None
    vals = [line["accuracy"]["overall"] for line in lines if line["kind"] == "eval" and line["split"] == "val"]
    state = state_of(folder, events, jobs)
    starts = sum(event["event"] == "start" for event in events)
    logs = sorted((folder / "log").glob("*0*.log")) + sorted((folder / "log").glob("*_0_log.out"))
    return Status(folder.name, state, epoch, max(0, starts - 1), rate, left if state == "running" else None, vals[-1] if vals else None, str(logs[-1]) if logs else "-")


def table(statuses: Sequence[Status], colour: bool) -> str:
    rows = [("run", "state", "epoch", "restarts", "img/s", "left", "val %", "log")]
    for s in statuses:
        left = "-" if s.left_s is None else time.strftime("%H:%M:%S", time.gmtime(s.left_s)) if s.left_s < 86400 else f"{s.left_s / 86400:.1f} d"
        rows.append((s.name, s.state, s.epoch, str(s.restarts), "-" if s.images_per_s is None else f"{s.images_per_s:.0f}", left, "-" if s.val is None else f"{100 * s.val:.1f}", s.log))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    out = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if colour and row[1] in COLOURS:
            cells[1] = f"\033[{COLOURS[row[1]]}m{cells[1]}\033[0m"
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def why(folder: Path) -> str:
    """The last failure: its sentence and the end of the log of the rank that met it first."""
    from slurm.events import read

    failures = [event for event in read(folder) if event["event"] == "failed"]
    if not failures:
        return f"{folder.name}: no failure is recorded"
    first = next(event for event in failures if event["incarnation"] == failures[-1]["incarnation"])
    job = first["incarnation"].split(".")[0]
    log = folder / "log" / (f"rank-{first['rank']}.log" if job == "local" else f"{job}_{first['rank']}_log.err")
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:]) if log.exists() else ""
    return f"{folder.name}: rank {first['rank']} after step {max(first['step'], 0)}: {first['error']}\n{log}:\n{tail}"


def cancel(folder: Path) -> str:
    from slurm.events import read

    job = next((event["job"] for event in reversed(read(folder)) if event["event"] == "submitted"), None)
    if job is None:
        raise ValueError(f"{folder.name} was not submitted to SLURM from here: a local run ends with Ctrl-C where it runs")
    done = subprocess.run(["scancel", job], capture_output=True, text=True)
    return f"{folder.name}: job {job} is being cancelled" if done.returncode == 0 else f"{folder.name}: scancel {job} said: {done.stderr.strip()}"


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
    runs = Path(options["runs"])
    for action, act in (("why", why), ("cancel", cancel)):
        if action in options:
            folder = next((path for path in (Path(options[action]), runs / options[action]) if (path / "recipe.yaml").exists()), None)
            if folder is None:
                there = [path.parent.name for path in runs.glob("*/recipe.yaml")]
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
        shown = table([status_of(path.parent, jobs) for path in sorted(runs.glob("*/recipe.yaml"))], sys.stdout.isatty())
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
