"""Runs on this machine: at most so many at once, each after those that it needs, with a view of how far all are."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import Popen

from recipes.common.errors import RecipeError
from recipes.schema import Recipe
from slurm.after_run import ending
from slurm.after_run.settings import hand_over
from slurm.environment import clean
from slurm.job import FINISHED, STOPPED
from slurm.local.process_group import AlreadyFinished, LocalRun, goes_on
from slurm.local.progress import Begin, View
from slurm.local.stop_signals import StopSignals
from slurm.monitoring.commands import note_launch
from slurm.monitoring.events import read
from slurm.monitoring.failure import is_stuck
from slurm.monitoring.run_state import is_finished, nothing_to_do
from slurm.monitoring.several import alike
from slurm.planning.schedule import Run, Step, finished_of, schedule
from slurm.run_folder import set_aside

PAUSE_S = 0.2
"""Between two looks at the runs under way."""
NOTHING: Mapping[str, object] = {}
AT_ONCE = 130
"""The exit code after a second Ctrl-C, as a shell's."""


def run_all(
    runs: Sequence[Run],
    check: Callable[[Recipe], None],
    at_once: int | None = None,
    begin: Begin | None = None,
    own: Mapping[str, object] = NOTHING,
) -> int:
    """Train on this machine, or wherever `begin` starts the ranks, and wait.

    A run that fails stops those that need it and no others; a signal (Ctrl-C, SIGTERM, SIGHUP) lets those under way
    save and starts no other.

    Args:
        runs: each once, and after those that it builds on.
        at_once: how many are under way at a time, which share the cores; 1 if None.
        check: refuses a recipe before anything is started.
        begin: starts a run; None: its ranks are processes of this machine.
        own: the values of the site file's further keys, which say what follows a run's end.

    Returns:
        The exit code: 0 if all are finished, else that of the first that is not.

    Raises:
        RecipeError: nothing was started, or the one run asked for is being trained by another process.
    """
    finished = finished_of(runs)
    outcomes = {run.folder: "finished" for run in runs if run.folder in finished}
    print(*(f"{line}\n" for line in nothing_to_do(outcomes)), sep="", end="")
    steps = schedule(runs, finished, ())
    for step in steps:
        check(step.run.recipe)
    _refuse_queued([step.run for step in steps])
    code = FINISHED
    if steps:
        set_aside([step.run.recipe for step in steps if step.run.again])
        folders = [run.folder for run in runs]
        folders[0].parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        hand_over(folders[0].parent, own)
        note_launch(folders, runs[0].command)
        todo = _Queue(steps, min(at_once or 1, len(steps)), outcomes, begin)
        todo.work()
        code = todo.code
    if len(runs) > 1:
        made = {str(run.folder): outcomes[run.folder] for run in runs if run.folder not in finished}
        print(*(f"{line}\n" for line in _account(made)), sep="", end="")
    return code


def _account(made: Mapping[str, str]) -> Iterator[str]:
    """Yield what became of each run folder; only finished ones share a line, the others are named one by one."""
    for who, _, outcome in alike((folder, outcome) for folder, outcome in made.items() if outcome == "finished"):
        yield f"{outcome}: {who}"
    yield from (f"{outcome}: {folder}" for folder, outcome in made.items() if outcome != "finished")


class _Queue:
    """The runs of a command on this machine: those that wait, those under way, and what became of the others.

    Attributes:
        outcomes: what became of each run, by its folder.
        code: the exit code: 0 while all is well, else that of the first run that was not finished.
        interrupted: whether the user wants it to end; then nothing is started.
    """

    def __init__(self, steps: Sequence[Step], at_once: int, outcomes: dict[Path, str], begin: Begin | None) -> None:
        self.outcomes, self.code, self.interrupted = outcomes, FINISHED, False
        self._waiting, self._at_once, self._alone = list(steps), at_once, len(steps) == 1
        self._goes_on = steps[0].run.same_command
        self._under_way: dict[int, LocalRun] = {}
        self._view = View(steps, at_once, begin)
        self._signals = StopSignals(self._ask, self._pause)
        self._followers: list[tuple[Path, str, Popen[bytes] | None]] = []

    def work(self) -> None:
        """Run all steps, in their order where nothing hinders."""
        try:
            with self._signals.heard():
                while self._waiting or self._under_way:
                    if self._signals.came and not self.interrupted:
                        self._interrupt()
                    self._start()
                    self._collect()
                    self._view.draw(self._under_way.values())
                    time.sleep(PAUSE_S if self._under_way else 0)
        except KeyboardInterrupt:
            self.code = AT_ONCE
            for run in self._under_way.values():
                run.bar.leave = False
                self._view.write(f"{run.folder.name} ended at once; {goes_on(run.run)}", sys.stderr)
            folders = [run.folder for run in self._under_way.values()] + [step.run.folder for step in self._waiting]
            self.outcomes |= dict.fromkeys(folders, "ended at once")
        finally:
            for run in self._under_way.values():
                run.end()
            self._view.close()
            for follower in self._followers:
                ending.wait(*follower)

    def _start(self) -> None:
        """Start the waiting runs that can start now, and give up those that never can."""
        for step in list(self._waiting):
            open_needs = [need for need in step.finished if not is_finished(need)]
            lost = next((need for need in open_needs if need in self.outcomes), None)
            if self.interrupted or self.code == STOPPED or lost:
                self.outcomes[step.run.folder] = f"not started, needs {lost.name}" if lost else "not started"
                self.code = self.code or (STOPPED if self.interrupted else FINISHED)
                self._waiting.remove(step)
                if lost and not self.interrupted:
                    self._follow(step.run.folder, "waiting")
            elif not open_needs and len(self._under_way) < self._at_once:
                self._waiting.remove(step)
                lane = min(set(range(self._at_once)) - self._under_way.keys())
                try:
                    self._under_way[lane] = self._view.start(lane, step.run)
                except AlreadyFinished as found:
                    self._view.write(str(found))
                    self.outcomes[step.run.folder] = "finished"
                except RecipeError as error:
                    if self._alone:
                        raise
                    self._view.write(f"launch.py: {error}", sys.stderr)
                    self.outcomes[step.run.folder], self.code = "failed", self.code or 2

    def _collect(self) -> None:
        """Take the runs that have ended out of their lanes."""
        for lane, run in list(self._under_way.items()):
            if (ended := run.poll()) is not None:
                del self._under_way[lane]
                self.outcomes[run.folder] = {FINISHED: "finished", STOPPED: "stopped"}.get(ended, "failed")
                self.code = ended if ended == STOPPED or self.code == FINISHED else self.code
                self._view.ended(lane, run, self.outcomes[run.folder])
                if ended != STOPPED:
                    self._follow(run.folder, "finished" if ended == FINISHED else _failure(run.folder))

    def _follow(self, folder: Path, word: str) -> None:
        """Start what the site file wants done when a run has ended; the other runs go on meanwhile."""
        self._followers.append((folder, word, ending.start(folder, word, over=True, variables=clean())))

    def _interrupt(self) -> None:
        self.interrupted = True
        self._ask()  # once more: a run may have been started while the signal came
        self._view.write(f"stopping; {self._goes_on} goes on from what is saved (Ctrl-C again ends at once)")

    def _ask(self) -> None:
        for run in list(self._under_way.values()):
            run.stop()

    def _pause(self, paused: bool) -> None:
        for run in list(self._under_way.values()):
            run.pause(paused)


def _failure(folder: Path) -> str:
    return "stuck" if is_stuck(read(folder)) else "failed"


def _refuse_queued(runs: Sequence[Run]) -> None:
    """Refuse runs that have a job: two starts of a run would take it away from each other.

    Without SLURM on this machine a run folder may be a copy.

    Raises:
        RecipeError: one of the runs has a job in SLURM's queue, or may have one.
    """
    from slurm.monitoring.run_state import ENDED, job_of, not_asked, queue, state_of

    known = queue()
    for run in runs:
        folder = run.folder
        events = read(folder)
        job = job_of(folder, events, known or {})
        if known and job and known[job].state not in ENDED:
            raise RecipeError(
                f"{folder.name} has job {job} in SLURM's queue ({known[job].state}): `python slurm/status.py "
                f"cancel={folder}` ends it, then cluster={run.recipe.cluster} can go on"
            )
        if shutil.which("squeue") and state_of(folder, events, known) == "unknown":
            raise RecipeError(f"{not_asked(events)}, so nothing was started: {folder.name} may be in its queue")
