"""Runs on this machine: at most so many at once, each after those that it needs, with a view of how far all are."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from recipes.common.errors import RecipeError
from recipes.schema import Recipe
from slurm.job import FINISHED, STOPPED
from slurm.local.process_group import compile_operator
from slurm.local.progress import View
from slurm.monitoring.run_state import is_finished
from slurm.planning.schedule import Run, Step, arrange, finished_of

PAUSE_S = 0.2
"""Between two looks at the runs under way."""


def run_all(runs: Sequence[Run], check: Callable[[Recipe], None], at_once: int | None = None) -> int:
    """Train on this machine, `at_once` runs at a time (default 1), which share its cores. A run that fails stops those that need it and no
    others; Ctrl-C lets those under way save and starts no other.

    Args:
        check: refuses a recipe before anything is started.

    Returns:
        The exit code: 0 if all are finished, else that of the first that is not.

    Raises:
        RecipeError: nothing was started, or the one run asked for is being trained by another process.
    """
    finished = finished_of(runs)
    outcomes = {run.folder: "finished" for run in runs if run.folder in finished}
    for folder in outcomes:
        print(f"{folder} is finished: nothing to do")
    steps = arrange(runs, finished, ())
    for step in steps:
        check(step.run.recipe)
    _refuse_queued([step.run.folder for step in steps])
    code = _work(steps, min(at_once or 1, len(steps)), outcomes) if steps else FINISHED
    if len(runs) > 1:
        print("\n".join(f"{outcomes[run.folder]}: {run.folder}" for run in runs))
    return code


def _work(steps: Sequence[Step], at_once: int, outcomes: dict[Path, str]) -> int:
    """Run `steps`, in their order where nothing hinders; puts what became of each into `outcomes`, and returns the exit code."""
    compile_operator()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    waiting, under_way, code, interrupted = list(steps), {}, FINISHED, False
    view = View(steps, at_once)
    try:
        while waiting or under_way:
            try:
                for step in list(waiting):
                    open_needs = [need for need in step.finished if not is_finished(need)]
                    lost = next((need for need in open_needs if need in outcomes), None)
                    if interrupted or code == STOPPED or lost:
                        outcomes[step.run.folder] = f"not started, needs {lost.name}" if lost else "not started"
                        waiting.remove(step)
                    elif not open_needs and len(under_way) < at_once:
                        waiting.remove(step)
                        lane = min(set(range(at_once)) - under_way.keys())
                        try:
                            under_way[lane] = view.start(lane, step.run)
                        except RecipeError as error:
                            if len(steps) == 1:
                                raise
                            view.write(f"launch.py: {error}", sys.stderr)
                            outcomes[step.run.folder], code = "failed", code or 2
                for lane, run in list(under_way.items()):
                    if (ended := run.poll()) is not None:
                        del under_way[lane]
                        outcomes[run.folder] = {FINISHED: "finished", STOPPED: "stopped"}.get(ended, "failed")
                        code = ended if ended == STOPPED or code == FINISHED else code
                        view.ended(lane, run, outcomes[run.folder])
                view.draw(under_way.values())
                time.sleep(PAUSE_S if under_way else 0)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                view.write("saving a checkpoint; the same command goes on from it (Ctrl-C again ends at once)")
                for run in under_way.values():
                    run.stop()
    finally:
        for run in under_way.values():
            run.end()
        view.close()
    return code


def _refuse_queued(folders: Sequence[Path]) -> None:
    """Two starts of a run would take it away from each other. Without SLURM on this machine a run folder may be a copy.

    Raises:
        RecipeError: one of the runs has a job in SLURM's queue, or may have one.
    """
    from slurm.monitoring.events import read
    from slurm.monitoring.run_state import ENDED, job_of, queue, state_of

    known = queue()
    for folder in folders:
        events = read(folder)
        job = job_of(folder, events, known or {})
        if known and job and known[job].state not in ENDED:
            raise RecipeError(
                f"{folder.name} has job {job} in SLURM's queue ({known[job].state}): `python slurm/status.py cancel={folder}` ends it, then cluster=local can go on"
            )
        if shutil.which("squeue") and state_of(folder, events, known) == "unknown":
            raise RecipeError(
                f"SLURM does not answer (squeue), so nothing was started: {folder.name} may be in its queue"
            )
