"""What the runs are doing: `python slurm/status.py [runs=DIR] [watch=SECONDS] [html=FILE]`, `why=RUN`, `cancel=RUN`.

  runs=DIR       folder of the run folders (default: the site file's, else runs/ in the project)
  site=NAME      which cluster of the site file, where its folders differ
  watch=SECONDS  show it again and again
  html=FILE      write it as a web page, which a browser reads again every 30 seconds, or as often as watch= says; with
                 watch= the page is written again and again
  why=RUN        the last error of a run, from the rank that met it first, or what became of a job that could not say
  cancel=RUN     cancel a run's SLURM job

First a line for each command of several runs (a table, seeds, a grid) until all are finished: how many of them are
done, running, queued and failed, and the hours until all are done if as many stay under way. Then one line a run:
state, epoch, step, restarts, device, images/s, time left, last validation accuracy, log. Elements of a job array that
only wait are one line. Below stands what a user should know of nodes, and which running runs wait a tenth of their time
or more. States:

  running     queued (waiting or requeued)     finished
  stuck       running, but nothing was written for so long that the ranks themselves should have ended it
              (log.stuck_after_s)
  suspended   has nodes, and does not run until it is resumed
  held        in the queue, and stays there until it is released
  blocked     in the queue behind a job that can no longer succeed: it never starts
  waiting     left the queue because its first stage had not finished when its turn came: launch it again
  stopped     saved on a signal                timed out    ended by the time limit
  preempted   taken away for good (PreemptMode=CANCEL): launch it again
  failed      cancelled                        gave up      failed three times without progress
  superseded  a newer start of the run has replaced this one, and is gone too
  lost        neither SLURM nor this machine knows of a process, and nothing was said
  new         unknown (SLURM does not answer, or is not on this machine)
  unreadable  a file of the run folder is damaged: why=RUN says which value

From files and squeue; no accounting needed. What squeue says of a cancelled, timed-out or preempted job is
noted in log/events.jsonl, once: SLURM forgets it in some minutes.
"""

import sys
from pathlib import Path

if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # not slurm/: its files must not stand in for modules
if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from recipes.common.cli import Fault, asks_help, key_values, nearest
from recipes.common.errors import RecipeError, StatusError, UserError, one_line
from recipes.common.output import end_unread, ends_told
from slurm import environment
from slurm.after_run import ending
from slurm.evaluator import dismiss
from slurm.monitoring import commands, page, progress, run_state
from slurm.monitoring.commits import other_commits
from slurm.monitoring.failure import why
from slurm.monitoring.run_line import DAMAGE, Status, line_of, table
from slurm.monitoring.run_state import ENDED, job_of, state_of
from slurm.nodes.remarks import remarks

PROJECT = Path(__file__).resolve().parent.parent
PAUSE_S = 1.0
"""At least so long between two looks where SLURM is asked, whose controller has others to answer."""
PAGE_S = 30.0
"""How often a browser reads a page again that is not written again and again."""
TWICE: tuple[Literal["twice"]] = ("twice",)
EXAMPLES = {
    "runs": "a folder of run folders",
    "site": "a cluster of the site file",
    "watch": "the seconds between two looks, as in watch=5",
    "html": "a file, as in html=status.html",
    "why": "a run, as in why=NAME",
    "cancel": "a run, as in cancel=NAME",
}


def about_nodes(folders: Sequence[Path]) -> list[str]:
    """Say what a user should know of the nodes of these runs, in a sentence each."""
    from slurm.monitoring.events import read

    said: list[str] = []
    for folder in folders:
        with contextlib.suppress(*DAMAGE):  # a damaged run has its word in the table
            said += remarks(folder.name, read(folder))
    return said


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
    cluster = run_state.elsewhere(events)
    if cluster:
        raise StatusError(
            f"{folder.name} has its job on cluster {cluster}, and {run_state.not_asked(events)}: the same command "
            "there cancels it"
        )
    job = job_of(folder, events, jobs)
    if job is None or jobs[job].state in ENDED:
        raise StatusError(
            f"{folder.name} has no job in SLURM's queue, it is {state_of(folder, events, jobs)}: a local run ends "
            "with Ctrl-C where it runs"
        )
    together = run_state.runs_of(jobs[job])
    if together > 1:
        raise StatusError(
            f"{folder.name} shares job {job} with {together - 1} other run{'s' * (together > 2)}, which would end with "
            f"it, so nothing was cancelled: scancel {job} cancels all"
        )
    done = subprocess.run(["scancel", job], env=environment.clean(), capture_output=True, text=True)
    if done.returncode:
        return f"{folder.name}: scancel {job} said: {done.stderr.strip()}"
    append_event(folder, "verdict", incarnation=LAUNCHER, verdict="cancelled")  # SLURM forgets it in some minutes
    dismiss(folder)  # its start may have had no time for that
    ending.wait(folder, "cancelled", ending.start(folder, "cancelled", over=True, variables=environment.clean()))
    return f"{folder.name}: job {job} is being cancelled"


# ------------------------------------------------------------------------------------------------------------ commands
@dataclass(frozen=True)
class Look:
    """Show all runs of a folder: once, or again and again every so many seconds.

    Attributes:
        runs: the folder.
        every_s: the seconds between two looks; None for one look.
        page: the web page that is written instead.
    """

    runs: Path
    every_s: float | None
    page: Path | None = None

    def run(self) -> int:
        """Print the table, or write the page; returns the exit code."""
        clear = "\033[H\033[2J" if self.every_s is not None and sys.stdout.isatty() else ""
        while True:
            jobs = run_state.queue()
            folders = [path.parent for path in sorted(self.runs.glob("[!.]*/recipe.yaml"))]
            lines = [line_of(folder, jobs) for folder in folders]
            together = progress.lines(commands.commands(self.runs), lines)
            waiting = [f"{line.name} {what}" for line in lines for what in line.waits]
            about = list(filter(None, (*about_nodes(folders), *waiting, other_commits(folders))))
            if self.page:
                self._write(self.page, together, lines, about)
            else:
                under_way = [str(one) for one in together if one.parts["done"] < one.runs]
                shown = [*under_way, table(lines, sys.stdout.isatty()), *about]
                print(clear + "\n".join(shown), flush=True)
            if self.every_s is None:
                return 0
            time.sleep(max(self.every_s, 0 if shutil.which("squeue") is None else PAUSE_S))

    def _write(
        self, file: Path, together: Sequence[progress.Progress], lines: Sequence[Status], about: Sequence[str]
    ) -> None:
        """Write the page, and say so; one that is written again and again may fail now and then.

        Raises:
            StatusError: the one page cannot be written.
        """
        try:
            page.write(file, self.runs.absolute(), together, lines, about, self.every_s or PAGE_S)
        except OSError as error:
            sentence = f"{file} cannot be written: {error.strerror}"
            if self.every_s is None:
                raise StatusError(sentence) from None
            print(f"status.py: {sentence}", file=sys.stderr, flush=True)
            return
        print(f"{file}: {len(lines)} runs", flush=True)


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
    options = key_values(words, EXAMPLES, _fault, legal=TWICE)
    acts: dict[str, Callable[[Path], str]] = {"why": why, "cancel": cancel}
    asked = [key for key in (*acts, "watch", "html") if key in options]
    if len(asked) > 1 and asked[0] in acts:
        raise StatusError(f"{asked[0]}= and {asked[1]}= do not go together: give one of them")
    for key, act in acts.items():
        if key in options and _is_run(Path(options[key])):
            return About(Path(options[key]), act)
    usual = str(PROJECT / "runs") if "runs" in options else _usual(options.get("site"))
    options = {"runs": usual, **options}
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", options.get("watch", "1")):
        raise StatusError(f"watch={options['watch']} is no number of seconds, of which 0 to 999999 are legal")
    runs = Path(options["runs"])
    if not runs.is_dir() and options["runs"] != usual:
        raise StatusError(f"runs={runs} is no folder")
    for key, act in acts.items():
        if key in options:
            return About(_run_named(key, options[key], runs), act)
    file = Path(options["html"]) if "html" in options else None
    if file and (file.is_dir() or not file.absolute().parent.is_dir()):
        wrong = "a folder" if file.is_dir() else "in a folder that is not there"
        raise StatusError(f"html={file} is {wrong}: the name of a file is legal, in a folder that is there")
    return Look(runs, float(options["watch"]) if "watch" in options else None, file)


def _usual(site: str | None) -> str:
    """Return the folder of run folders where the command names none: the site file's, else the project's."""
    runs = None
    if site is not None or os.environ.get("GLT_SITE") or (PROJECT / "slurm" / "site.yaml").exists():
        from slurm import site_file  # loads the schema, and most need it not

        try:
            described = site_file.load(site)
            described.refuse_unknown_runs()
            runs = described.runs
        except RecipeError as error:
            raise StatusError(str(error)) from None
    return str(runs or PROJECT / "runs")


def _run_named(key: str, name: str, runs: Path) -> Path:
    """Return the run folder that `key=name` means in `runs`."""
    if _is_run(runs / name):
        return runs / name
    there = sorted(path.parent.name for path in runs.glob("[!.]*/recipe.yaml"))
    raise StatusError(f"{key}={name} is no run of {runs}; {nearest(name, there) if there else 'there are none'}")


def _is_run(folder: Path) -> bool:
    return (folder / "recipe.yaml").exists()


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
    sys.exit(ends_told("status.py", lambda: main(sys.argv[1:])))
