"""What the runs are doing: `python slurm/status.py [runs=DIR] [watch=SECONDS]`, `why=RUN`, `cancel=RUN`.

  runs=DIR       folder of the run folders (default: runs/ in the project)
  watch=SECONDS  show it again and again
  why=RUN        the last error of a run, from the rank that met it first, or what became of a job that could not say
  cancel=RUN     cancel a run's SLURM job

One line a run: state, epoch, step, restarts, device, images/s, time left, last validation accuracy, log. States:

  running     queued (waiting or requeued)     finished
  stuck       running, but nothing was written for so long that the ranks themselves should have ended it
              (log.stuck_after_s)
  suspended   has nodes, and does not run until it is resumed
  held        in the queue, and stays there until it is released
  blocked     in the queue behind a job that can no longer succeed: it never starts
  waiting     left the queue because its first stage had not finished when its turn came: launch it again
  stopped     saved on a signal                timed out    ended by the time limit
  failed      cancelled                        gave up      failed three times without progress
  superseded  a newer start of the run has replaced this one, and is gone too
  lost        neither SLURM nor this machine knows of a process, and nothing was said
  new         unknown (SLURM does not answer, or is not on this machine)
  unreadable  a file of the run folder is damaged: why=RUN says which value

From files and squeue; no accounting needed. What squeue says of a cancelled or timed-out job is noted in
log/events.jsonl, once: SLURM forgets it in some minutes.
"""

import sys
from pathlib import Path

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # not slurm/: its files must not stand in for modules
if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recipes.common.cli import Fault, asks_help, key_values, nearest
from recipes.common.errors import StatusError, UserError, one_line
from recipes.common.output import end_unread, ends_told
from slurm import environment
from slurm.monitoring import run_state
from slurm.monitoring.commits import other_commits
from slurm.monitoring.failure import why
from slurm.monitoring.run_state import (
    ENDED,
    Job,
    is_over,
    job_of,
    meta_of,
    metric_lines,
    recipe_of,
    state_of,
)

PROJECT = Path(__file__).resolve().parent.parent
COLOURS = {
    "finished": 32,
    "running": 36,
    "queued": 33,
    **dict.fromkeys(("failed", "gave up", "lost", "stuck", "blocked", "waiting", "timed out", "unreadable"), 31),
}
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError)
"""What reading a file meets in which something is missing or is of another kind."""
TWICE: tuple[Literal["twice"]] = ("twice",)
EXAMPLES = {
    "runs": "a folder of run folders",
    "watch": "the seconds between two looks, as in watch=5",
    "why": "a run, as in why=NAME",
    "cancel": "a run, as in cancel=NAME",
}


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


def line_of(folder: Path, jobs: Mapping[str, Job] | None) -> Status:
    """Return the run's line. One damaged run must not hide the others, whatever is wrong with it."""
    try:
        return status_of(folder, jobs)
    except DAMAGE:
        return Status(folder.name, "unreadable", "-", "-", 0, "-", None, None, None, "-")


def status_of(folder: Path, jobs: Mapping[str, Job] | None) -> Status:
    """Return the run's line, from its files and the queue; notes an end that SLURM soon forgets."""
    from slurm.monitoring.events import LAUNCHER, append_event, read

    events = read(folder)
    lines = metric_lines(folder)
    trained = [line for line in lines if line["kind"] == "train"]
    step, rate = (trained[-1]["step"], trained[-1]["images_per_s"]) if trained else (0, None)
    epoch, steps, left = "-", "-", None
    recipe, meta = recipe_of(folder), meta_of(folder)
    if recipe and meta and meta["steps_per_epoch"]:  # a later evaluation has none
        epochs, of_epoch = recipe["schedule"]["epochs"], meta["steps_per_epoch"]
        epoch, steps = f"{step / of_epoch:.1f}/{epochs}", f"{step}/{of_epoch * epochs}"
        left = (of_epoch * epochs - step) * recipe["batch"]["size"] / rate if rate else None
    vals = [line["accuracy"]["overall"] for line in lines if line["kind"] == "eval" and line["split"] == "val"]
    state = state_of(folder, events, jobs)
    if state in ("cancelled", "timed out") and not is_over(events):
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
    )


def _device(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return what the newest start trains on, `cpu` or `cuda`."""
    boots = [str(line["device"]) for line in lines if line["kind"] == "boot" and "device" in line]
    return boots[-1].split()[0] if boots else "-"


def table(statuses: Sequence[Status], colour: bool) -> str:
    """Set the runs' lines as a table; `colour` marks the states for a terminal."""
    rows = [("run", "state", "epoch", "step", "restarts", "device", "img/s", "left", "val %", "log")]
    for s in statuses:
        rate = "-" if s.images_per_s is None else f"{s.images_per_s:.0f}"
        val = "-" if s.val is None else f"{100 * s.val:.1f}"
        rows.append((s.name, s.state, s.epoch, s.step, str(s.restarts), s.device, rate, _left(s.left_s), val, s.log))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    out = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if colour and row[1] in COLOURS:
            cells[1] = f"\033[{COLOURS[row[1]]}m{cells[1]}\033[0m"
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86400 else f"{seconds / 86400:.1f} d"


def cancel(folder: Path) -> str:
    """Cancel the run's SLURM job; returns what to tell the user.

    Raises:
        StatusError: SLURM does not answer, or the run has no job in its queue.
    """
    from slurm.monitoring.events import LAUNCHER, append_event, read

    jobs, events = run_state.queue(), read(folder)
    if jobs is None:
        raise StatusError(
            f"SLURM does not answer (squeue), so nothing was cancelled: {folder.name} may have a job all the same"
        )
    job = job_of(folder, events, jobs)
    if job is None or jobs[job].state in ENDED:
        raise StatusError(
            f"{folder.name} has no job in SLURM's queue, it is {state_of(folder, events, jobs)}: a local run ends "
            "with Ctrl-C where it runs"
        )
    if (together := run_state.runs_of(jobs[job])) > 1:
        raise StatusError(
            f"{folder.name} shares job {job} with {together - 1} other run{'s' * (together > 2)}, which would end with "
            f"it, so nothing was cancelled: scancel {job} cancels all"
        )
    done = subprocess.run(["scancel", job], env=environment.clean(), capture_output=True, text=True)
    if done.returncode:
        return f"{folder.name}: scancel {job} said: {done.stderr.strip()}"
    append_event(folder, "verdict", incarnation=LAUNCHER, verdict="cancelled")  # SLURM forgets it in some minutes
    return f"{folder.name}: job {job} is being cancelled"


# ------------------------------------------------------------------------------------------------------------ commands
@dataclass(frozen=True)
class Look:
    """Show all runs of a folder: once, or again and again every so many seconds."""

    runs: Path
    every_s: float | None

    def run(self) -> int:
        """Print the table; returns the exit code."""
        clear = "\033[H\033[2J" if self.every_s is not None and sys.stdout.isatty() else ""
        while True:
            jobs = run_state.queue()
            folders = [path.parent for path in sorted(self.runs.glob("[!.]*/recipe.yaml"))]
            lines = [line_of(folder, jobs) for folder in folders]
            shown = [table(lines, sys.stdout.isatty()), other_commits(folders)]
            print(clear + "\n".join(filter(None, shown)), flush=True)
            if self.every_s is None:
                return 0
            time.sleep(self.every_s)


@dataclass(frozen=True)
class About:
    """Say why a run failed, or cancel it."""

    folder: Path
    act: Callable[[Path], str]

    def run(self) -> int:
        """Print what there is to say; returns the exit code.

        Raises:
            StatusError: it cannot be told or done, or the run folder is damaged.
        """
        try:
            print(self.act(self.folder.absolute()))
        except UserError as error:
            raise StatusError(str(error)) from None
        except DAMAGE as error:
            raise StatusError(f"{self.folder} is damaged: {one_line(f'{type(error).__name__}: {error}')}") from None
        return 0


def parse(words: Sequence[str]) -> Look | About:
    """Read a command.

    Raises:
        StatusError: a word is not legal, or there is no such run.
    """
    usual = str(PROJECT / "runs")
    options = {"runs": usual, **key_values(words, EXAMPLES, _fault, legal=TWICE)}
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", options.get("watch", "1")):
        raise StatusError(f"watch={options['watch']} is no number of seconds, of which 0 to 999999 are legal")
    runs = Path(options["runs"])
    if not runs.is_dir() and options["runs"] != usual:
        raise StatusError(f"runs={runs} is no folder")
    for key, act in (("why", why), ("cancel", cancel)):
        if key in options:
            return About(_run_named(key, options[key], runs), act)
    return Look(runs, float(options["watch"]) if "watch" in options else None)


def _run_named(key: str, name: str, runs: Path) -> Path:
    """Return the run folder that `key=name` means: a path, or a folder of `runs`."""
    for folder in (Path(name), runs / name):
        if (folder / "recipe.yaml").exists():
            return folder
    there = sorted(path.parent.name for path in runs.glob("[!.]*/recipe.yaml"))
    raise StatusError(f"{key}={name} is no run of {runs}; {nearest(name, there) if there else 'there are none'}")


def _fault(fault: Fault) -> StatusError:
    if fault.kind == "address":
        return StatusError(fault.refusal)
    if fault.kind == "empty":
        return StatusError(f"{fault.key}= needs a value: {EXAMPLES[fault.key]}")
    return StatusError(f"{fault.word} is not a key=value of this command; {nearest(fault.key, EXAMPLES)}")


def main(words: Sequence[str]) -> int:
    """Do what a command says; returns the exit code."""
    if asks_help(words):
        print((__doc__ or "").strip())
        return 0
    try:
        return parse(words).run()
    except StatusError as error:
        print(f"status.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    end_unread()
    try:
        sys.exit(ends_told("status.py", lambda: main(sys.argv[1:])))
    except KeyboardInterrupt:
        sys.exit(130)
