"""Several runs of one command: which starts after which, how many at once, and nothing twice.

On SLURM the queue keeps the order, by `afterany`: along each of the `max_jobs` lanes, and behind a run that another
needs (a second stage needs its first), which then looks itself whether that one is finished (slurm/cluster/needs.py). A
job that is requeued has not ended, so a preemption does not meet the condition. On this machine
slurm/local/run_queue.py keeps the order.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.common.errors import RecipeError
from recipes.common.locks import locked
from recipes.schema import Recipe
from slurm import environment
from slurm.monitoring.run_state import is_finished, nothing_to_do
from slurm.planning.schedule import Run, Step, finished_of, schedule, tree
from slurm.site_file import Site


# ------------------------------------------------------------------------------------------------------------- running
def submit_all(runs: Sequence[Run], at_once: int | None, site: Site, check: Callable[[Recipe], None]) -> None:
    """Submit to SLURM what is not finished and not in the queue.

    Args:
        runs: each once, and after those that it builds on.
        at_once: how many may be under way at once; None sets no limit.
        site: this machine's site file.
        check: refuses a recipe before anything is submitted.

    Raises:
        RecipeError: SLURM does not answer or refuses a job (those before it stay submitted; the same command goes on),
            or a need cannot be met.
    """
    from slurm.cluster.batch_job import require_sbatch

    for run in runs:
        if not is_finished(run.folder):
            check(run.recipe)
    lacking = not all(is_finished(run.folder) for run in runs)
    if lacking:
        require_sbatch()
    with _alone(runs[0].folder.parent) if lacking else contextlib.nullcontext():
        _submit(runs, at_once, site)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no two launchers submit into one folder of runs at a time: the second would not see the first's jobs yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder / ".launching"):
        yield


def _submit(runs: Sequence[Run], at_once: int | None, site: Site) -> None:
    from slurm.after_run.ending import begin
    from slurm.cluster.sbatch import batch_job
    from slurm.code_snapshot import snapshot_code
    from slurm.monitoring.events import LAUNCHER, append_event
    from slurm.run_folder import prepare

    plan = _plan(runs, at_once)
    if plan.steps:
        begin([run.folder for run in runs], runs[0].command, site.own)
    steps, settled, jobs = plan.steps, plan.settled, plan.jobs
    for run in runs:
        if run.folder in settled:
            print(nothing_to_do(run.folder, settled[run.folder]))
    if any(step.run.recipe.slurm.gpus is None for step in steps):
        print("slurm.gpus_per_node is not set, so the job asks for no GPU (0 says so on purpose)", file=sys.stderr)
    print(*(f"{line}\n" for line in remarks([step.run for step in steps])), sep="", end="", file=sys.stderr, flush=True)
    for step in steps:
        folder = step.run.folder
        code = snapshot_code(folder.parent)
        prepare(step.run.recipe, folder)
        (folder / "log").mkdir(exist_ok=True)
        print(f"run folder: {folder}", flush=True)
        before = dict.fromkeys(jobs[other] for other in (*step.finished, *step.left))
        condition = f"afterany:{':'.join(before)}" if before else None
        own = site.for_run(step.run.recipe)
        job = batch_job(step.run, code, own.setup, condition, own.own).submit()
        needs = [need.name for need in step.finished]
        append_event(folder, "submitted", incarnation=LAUNCHER, job=job, code=code.name, needs=needs)
        if job is None:
            raise RecipeError(
                f"SLURM took the job {folder.name} and does not tell its id (squeue): the same command goes on when it "
                "does"
            )
        jobs[folder] = job
        print(f"job: {job}" + (f" ({condition})" if condition else ""), flush=True)


def remarks(runs: Sequence[Run]) -> list[str]:
    """Say what the user should know of the jobs of these runs, each once: variables of the shell, GPUs that idle."""
    from slurm.cluster.sbatch import batch_job

    said = []
    for run in runs:
        said += environment.remarks(batch_job(run, Path()).decided)
        gpus, tasks = run.recipe.slurm.gpus or 0, run.recipe.tasks // run.recipe.nodes
        if tasks < gpus:
            said.append(
                f"{gpus - tasks} of slurm.gpus_per_node={gpus} stay idle on each node: tasks_per_node={tasks} uses one "
                "each"
            )
    return list(dict.fromkeys(said))


def preview(runs: Sequence[Run], at_once: int | None) -> str:
    """Show what `submit_all` would do, as `tree` shows it; looks at the disk and the queue and changes nothing."""
    plan = _plan(runs, at_once)
    return tree(plan.steps, plan.settled)


@dataclass(frozen=True)
class _Plan:
    """What a command has to do.

    Attributes:
        steps: what is to be submitted, in order.
        settled: the state of each run, or run that one needs, that is not to be submitted.
        jobs: the jobs of those that are in the queue.
    """

    steps: list[Step]
    settled: dict[Path, str]
    jobs: dict[Path, str]


def _plan(runs: Sequence[Run], at_once: int | None) -> _Plan:
    from slurm.monitoring.events import read
    from slurm.monitoring.run_state import LIVE, job_of, queue, state_of

    known = queue()
    finished = finished_of(runs)
    settled = dict.fromkeys(finished, "finished")
    jobs: dict[Path, str] = {}
    folders = dict.fromkeys(folder for run in runs for folder in (*run.needs, run.folder) if folder not in finished)
    for folder in folders:
        events = read(folder)
        state = state_of(folder, events, known)
        if state == "unknown":
            raise RecipeError(
                f"SLURM does not answer (squeue), so nothing was submitted: {folder.name} may be in its queue already"
            )
        if state in LIVE:  # perhaps on this machine
            settled[folder] = state
            if job := job_of(folder, events, known or {}):
                jobs[folder] = job
    steps = schedule(
        [run for run in runs if run.folder not in settled or run.folder in jobs],
        finished,
        sorted(jobs, key=lambda folder: int(jobs[folder])),
        at_once,
    )
    return _Plan(steps, settled, jobs)
