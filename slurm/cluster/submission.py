"""Several runs of one command: which starts after which, how many at once, and nothing twice.

On SLURM the queue keeps the order, by `afterany`: along each of the `max_jobs` lanes, and behind a run that another
needs (a second stage needs its first), which then looks itself whether that one is finished (slurm/cluster/needs.py). A
job that is requeued has not ended, so a preemption does not meet the condition. On this machine
slurm/local/run_queue.py keeps the order.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.common.errors import RecipeError
from recipes.common.locks import locked
from recipes.schema import Recipe
from slurm import environment
from slurm.monitoring.run_state import cluster_name, is_finished, main_id, not_asked, nothing_to_do
from slurm.planning.arrays import Array, arrays, plain_jobs, shown
from slurm.planning.schedule import Run, Step, finished_of, schedule, tree
from slurm.site_file import Site

if TYPE_CHECKING:  # a command imports only what it needs, so that it answers at once
    from slurm.cluster.batch_job import BatchJob
    from slurm.cluster.limits import Limits

LAUNCHING = ".launching"
"""The lock in a folder of runs, or of a build, that submissions hold."""


# ------------------------------------------------------------------------------------------------------------- running
def submit_all(
    runs: Sequence[Run], at_once: int | None, site: Site, check: Callable[[Recipe], None], pack: int = 1
) -> None:
    """Submit to SLURM what is not finished and not in the queue.

    Args:
        runs: each once, and after those that it builds on.
        at_once: how many may be under way at once; None sets no limit.
        site: this machine's site file.
        check: refuses a recipe before anything is submitted.
        pack: how many share a job.

    Raises:
        RecipeError: SLURM does not answer or refuses a job (those before it stay submitted; the same command goes on),
            or a need cannot be met.
    """
    from slurm.after_run.settings import hand_over
    from slurm.cluster.batch_job import require_sbatch

    lacking = [run for run in runs if run.again or not is_finished(run.folder)]
    for run in lacking:
        check(run.recipe)
    if lacking:
        require_sbatch()
    with alone(runs[0].folder.parent) if lacking else contextlib.nullcontext():
        plan = _plan(runs, at_once, pack, site)
        if lacking:  # those that wait in the queue read it, too, whether or not anything is submitted
            hand_over(runs[0].folder.parent, site.own)
        _submit(plan, runs, site)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no two commands submit into one folder at a time, or tidy it: they would not see new jobs yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    said = f"another command submits into {folder} or tidies it: waiting for it"
    with locked(folder / LAUNCHING, busy=lambda: print(said, file=sys.stderr, flush=True)):
        yield


def _submit(plan: _Plan, runs: Sequence[Run], site: Site) -> None:
    from slurm.monitoring.commands import note_launch
    from slurm.run_folder import other_defaults, set_aside

    settled = {run.folder: plan.settled[run.folder] for run in runs if run.folder in plan.settled}
    print(*(f"{line}\n" for line in nothing_to_do(settled)), sep="", end="")
    if plan.left_out and not plan.arrays:
        raise RecipeError(plan.left_out)
    if plan.arrays and plan.live is None:
        raise RecipeError("SLURM does not answer (squeue), so nothing was submitted")
    todo = [run for array in plan.arrays for run in array.runs]
    begun = [(run, said) for run in todo if not run.again and (said := other_defaults(run.recipe, run.folder))]
    if begun:
        more = f"; {len(begun) - 1} more of this command's runs began with other defaults" if len(begun) > 1 else ""
        raise RecipeError(f"{begun[0][0].folder.name} {begun[0][1]}{more}; nothing was submitted")
    if any(run.recipe.slurm.gpus is None for run in todo):
        print("slurm.gpus_per_node is not set, so the job asks for no GPU (0 says so on purpose)", file=sys.stderr)
    print(*(f"{line}\n" for line in remarks(todo)), sep="", end="", file=sys.stderr, flush=True)
    if plan.arrays:
        # Those that there is no room for, too: the command that goes on with them takes what is finished for made.
        set_aside([step.run.recipe for step in plan.steps if step.run.again])
        note_launch([run.folder for run in runs], runs[0].command)
    jobs = dict(plan.jobs)
    for array in plan.arrays:
        before = awaited([jobs[other] for other in array.after], plan.live or frozenset())
        condition = f"afterany:{':'.join(before)}" if before else None
        jobs |= _submit_one(array, site, condition)
    if plan.left_out:
        print(plan.left_out, flush=True)


def awaited(jobs: Sequence[str], live: frozenset[str]) -> list[str]:
    """Return the ids of jobs to wait for, each once: an array's own, where all its elements that live are among them.

    Args:
        jobs: the ids.
        live: those of all jobs that have not ended.
    """
    others = [main_id(job) for job in live - {*jobs}]
    together = Counter(map(main_id, {*jobs}))
    whole = {array for array, elements in together.items() if elements > 1 and array not in others}
    return list(dict.fromkeys(main_id(job) if main_id(job) in whole else job for job in jobs))


def _submit_one(array: Array, site: Site, condition: str | None) -> dict[Path, str]:
    """Make the folders of an array's runs and hand it to SLURM; returns the job to wait for of each run.

    Raises:
        RecipeError: SLURM refuses it, does not answer, or does not tell the id.
    """
    from slurm.cluster.array_job import write_elements
    from slurm.code_snapshot import snapshot_code
    from slurm.monitoring.events import LAUNCHER, append_event
    from slurm.run_folder import prepare

    runs = array.runs
    code = snapshot_code(runs[0].folder.parent)
    for run in runs:
        prepare(run.recipe, run.folder)
        (run.folder / "log").mkdir(exist_ok=True)
        _write_evaluator(run, code, site, array.pack)
        if array.alone:
            print(f"run folder: {run.folder}", flush=True)
    asked = job_of(array, code, site, condition)
    if not array.alone:
        write_elements(array, asked.folder)
    try:
        job = asked.submit()
    except RecipeError as error:
        raise RecipeError(f"{error}; once the cause is mended, {runs[0].same_command} goes on") from None
    cluster = {"cluster": name} if (name := cluster_name()) else {}
    for number in array.numbers:
        for run in array.elements[number]:
            id_ = job if array.alone or job is None else f"{job}_{number}"
            named = cluster if array.alone else {**cluster, "array": asked.name}
            needs = [need.name for need in run.needs if not is_finished(need)]
            append_event(run.folder, "submitted", incarnation=LAUNCHER, job=id_, code=code.name, needs=needs, **named)
            if not array.alone and job is not None:
                print(f"{id_}: {run.folder}")
    if job is None:
        raise RecipeError(
            f"SLURM took the job {asked.name} and does not tell its id (squeue): {runs[0].same_command} goes on when "
            "it does"
        )
    behind = f" ({condition})" if condition else ""
    print(
        f"job: {job}{behind}" if array.alone else f"array: {job}, {len(runs)} runs in {array.jobs} jobs{behind}",
        flush=True,
    )
    return {run.folder: job for run in runs}


def _write_evaluator(run: Run, code: Path, site: Site, pack: int) -> None:
    """Write the batch file of a run's evaluator, which the run's job submits; an earlier one goes."""
    from recipes.common.files import write_whole
    from slurm import evaluator
    from slurm.cluster.sbatch import evaluator_job

    folder = run.folder / evaluator.FOLDER
    if run.recipe.has_evaluator:
        folder.mkdir(exist_ok=True)
        write_whole(folder / evaluator.FILE, evaluator_job(run, code, site, pack).text())
    else:
        (folder / evaluator.FILE).unlink(missing_ok=True)


def evaluator_text(array: Array, site: Site, origins: Mapping[str, str]) -> list[str]:
    """Return the batch file of a run's evaluator, the first run's of an array, with a word on it; none has none.

    Args:
        array: the runs.
        site: this machine's site file.
        origins: where the run's values come from, by their dotted keys.
    """
    from slurm.cluster.origins import LAUNCHER, by_origin
    from slurm.cluster.sbatch import evaluator_job
    from slurm.code_snapshot import place

    first = array.runs[0]
    if not first.recipe.has_evaluator:
        return []
    job = evaluator_job(first, place(first.folder.parent), site, array.pack)
    more = f"; the others' are like it ({len(array.runs)} runs)" if len(array.runs) > 1 else ""
    said = f"batch file of {job.name}, which the run's job submits at each of its starts{more}"
    own = {**origins, **site.evaluator_origins, "nodes": LAUNCHER, "tasks_per_node": LAUNCHER}
    return ["", *(f"# {line}" for line in (said, *by_origin(job, own))), job.text()]


def job_of(array: Array, code: Path, site: Site, condition: str | None = None) -> BatchJob:
    """Return what sbatch is given for an array or a plain job.

    Args:
        array: the runs.
        code: the copy of the code that they run from.
        site: this machine's site file.
        condition: SLURM's dependency, such as `afterany:17`.
    """
    from slurm.cluster.array_job import array_job
    from slurm.cluster.sbatch import batch_job

    first = array.runs[0]
    own = site.for_run(first.recipe)  # alike for all, see `_request`
    if array.alone:
        return batch_job(first, code, own.setup, condition, own.own)
    return array_job(array, code, own.setup, condition, own.own)


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


def preview(runs: Sequence[Run], at_once: int | None, site: Site, pack: int = 1) -> tuple[str, list[Array]]:
    """Show what `submit_all` would do, as `tree` and `shown` show it, and what it would submit; changes nothing."""
    plan = _plan(runs, at_once, pack, site)
    if plan.arrays == plain_jobs(plan.steps):
        return tree(plan.steps, plan.settled), plan.arrays
    return "\n".join(filter(None, [shown(plan.arrays, plan.settled), plan.left_out])), plan.arrays


@dataclass(frozen=True)
class _Plan:
    """What a command has to do.

    Attributes:
        steps: the runs that are to be made, in order.
        arrays: what is to be submitted, in order.
        settled: the state of each run, or run that one needs, that is not to be submitted.
        jobs: the jobs of those that are in the queue.
        live: the ids of all jobs in the queue that have not ended; None where SLURM does not answer.
        left_out: what is not submitted for want of room in the queue, in a sentence.
    """

    steps: list[Step]
    arrays: list[Array]
    settled: dict[Path, str]
    jobs: dict[Path, str]
    live: frozenset[str] | None = frozenset()
    left_out: str = ""


def _plan(runs: Sequence[Run], at_once: int | None, pack: int, site: Site) -> _Plan:
    from slurm.cluster.limits import limits
    from slurm.monitoring.events import read
    from slurm.monitoring.run_state import ENDED, LIVE, job_of, number_of, queue, state_of

    known = queue()
    finished = finished_of(runs)
    live = None if known is None else frozenset(job for job, said in known.items() if said.state not in ENDED)
    settled = dict.fromkeys(finished, "finished")
    jobs: dict[Path, str] = {}
    folders = dict.fromkeys(folder for run in runs for folder in (*run.needs, run.folder) if folder not in finished)
    for folder in folders:
        events = read(folder)
        state = state_of(folder, events, known)
        if state == "unknown":
            raise RecipeError(
                f"{not_asked(events)}, so nothing was submitted: {folder.name} may be in its queue already"
            )
        if state in LIVE:  # perhaps on this machine
            settled[folder] = state
            if job := job_of(folder, events, known or {}):
                jobs[folder] = job
    queued = sorted(jobs, key=lambda folder: number_of(jobs[folder]))
    left = [run for run in runs if run.folder not in settled or run.folder in jobs]
    together = sum(run.folder not in jobs for run in left) > 1 and any(run.recipe.slurm.arrays for run in left)
    steps = schedule(left, finished, queued, None if together else at_once)
    if not together:
        return _Plan(steps, plain_jobs(steps), settled, jobs, live)
    asked: dict[tuple[str | None, ...], Limits] = {}

    def allowed(run: Run) -> Limits:  # runs may differ in their accounts, by the site file's `for:`
        slurm = run.recipe.slurm
        key = slurm.account, slurm.qos, slurm.partition
        return asked[key] if key in asked else asked.setdefault(key, limits(slurm))

    size = min(allowed(run).array_size for run in left)
    under_way = [folder for folder in queued if folder in {run.folder for run in runs}]
    planned = arrays(
        runs,
        steps,
        lambda run: _request(run, site),
        at_once,
        under_way,
        size,
        pack,
    )
    fitting, left_out = _fitting(planned, allowed, len(live or ()))
    return _Plan(steps, fitting, settled, jobs, live, left_out)


def _request(run: Run, site: Site) -> str:
    """Return all that a run's job asks for and does besides the run; runs with the same may share an array."""
    from slurm.cluster.sbatch import parameters
    from slurm.starting.rank_start import folders_of

    own = site.for_run(run.recipe)
    asked = {**parameters(run.recipe, None, Path(), own.setup), "job_name": ""}  # its end tells of an evaluator, too
    return repr((asked, own.own, folders_of(run.recipe)))


def _fitting(planned: Sequence[Array], allowed: Callable[[Run], Limits], live: int) -> tuple[list[Array], str]:
    """Return what there is room for in the queue, from the beginning, and a sentence on the rest.

    Nothing is submitted that would wait for a run that is left out. All jobs that are there count for each limit.
    """
    fitting: list[Array] = []
    left_out: set[Path] = set()
    taken: dict[str, int] = {}
    met: dict[str, int] = {}
    for array in planned:
        of_jobs = allowed(array.runs[0]).of_jobs
        ready = [
            number
            for number in array.numbers
            if not any(need in left_out for run in array.elements[number] for need in run.needs)
        ]
        rooms = {limit: max(0, limit.jobs - live - taken.get(limit.of, 0)) for limit in of_jobs}
        room = min(rooms.values(), default=len(ready))
        kept = replace(array, numbers=tuple(ready[:room]))
        met |= {limit.of: limit.jobs for limit, free in rooms.items() if free == room < len(ready)}
        taken |= {limit.of: taken.get(limit.of, 0) + kept.jobs for limit in of_jobs}
        left_out |= {run.folder for run in array.runs} - {run.folder for run in kept.runs}
        if kept.jobs:
            after = tuple(folder for folder in kept.after if folder not in left_out)
            fitting.append(replace(kept, after=after))
    if not left_out:
        return list(planned), ""
    submitted, asked = (sum(array.jobs for array in arrays) for arrays in (fitting, planned))
    lets = " and ".join(f"{of} lets you have {jobs}" for of, jobs in met.items())
    return fitting, (
        f"{submitted} of {asked} jobs are submitted: {lets} in the queue, and {live} are there; "
        f"{planned[0].runs[0].same_command} goes on with the others when there is room"
    )
