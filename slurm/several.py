"""Several runs of one command: which starts after which, how many at once, and nothing twice.

On SLURM the order is the queue's: `afterok` for a run that another needs (a second stage needs its first), `afterany` along each
of the `max_jobs` lanes. A job that is requeued has not ended, so neither is met by a preemption. On this machine slurm/local_queue.py keeps the order.
"""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.schema import Recipe, RecipeError
from slurm.site_file import Site


@dataclass(frozen=True)
class Run:
    """A run to launch, the run folders that must be finished before it starts, and what the user should know about it."""

    recipe: Recipe
    needs: tuple[Path, ...] = ()
    remark: str = ""

    @property
    def folder(self) -> Path:
        return self.recipe.run_folder


@dataclass(frozen=True)
class Step:
    """A run's place in the order: it starts when all of `finished` are finished and all of `left` have left the queue."""

    run: Run
    finished: tuple[Path, ...] = ()
    left: tuple[Path, ...] = ()


# --------------------------------------------------------------------------------------------------------------- order
def arrange(
    runs: Sequence[Run], finished: Collection[Path], queued: Sequence[Path], at_once: int | None = None
) -> list[Step]:
    """The runs that are neither finished nor queued, in an order in which each comes after what it needs.

    Args:
        finished: run folders that need nothing more.
        queued: run folders that have a job in the queue, oldest first.
        at_once: how many of these runs may be under way at once; no limit if None.

    Raises:
        RecipeError: a run needs another that is neither finished nor in the queue nor among these.
    """
    own = [run.folder for run in runs]
    assert len(set(own)) == len(own), f"a run stands twice among {own}"
    todo = [run for run in runs if run.folder not in finished and run.folder not in queued]
    for run in todo:
        if missing := next(
            (need for need in run.needs if need not in finished and need not in queued and need not in own), None
        ):
            raise RecipeError(
                f"{run.folder.name} needs {missing}, which is neither finished nor in the queue nor part of this command"
            )
    under_way = [folder for folder in queued if folder in own]
    # If more are under way than may be, those that are too many come before every lane.
    lanes = (
        [[*under_way[:-at_once], *under_way[-at_once:][lane : lane + 1]] for lane in range(at_once)] if at_once else []
    )
    steps: list[Step] = []
    ordered = {*finished, *queued}
    while todo:
        run = next((run for run in todo if ordered.issuperset(run.needs)), None)
        assert run is not None, f"these runs need each other: {[run.folder for run in todo]}"
        todo.remove(run)
        ordered.add(run.folder)
        lane = min(lanes, key=len, default=[])
        # After the whole lane, not its last run alone: that one may be cancelled while an earlier one still runs.
        steps.append(Step(run, tuple(need for need in run.needs if need not in finished), tuple(lane)))
        lane.append(run.folder)
    return steps


def tree(steps: Sequence[Step], settled: dict[Path, str]) -> str:
    """The run folders, each under the last one that it starts after; `settled` says of folders without a step why they have none."""
    lines = {folder: (None, f"{folder}  {why}") for folder, why in settled.items()}
    for step in steps:
        after = [
            *(f"{folder.name} is finished" for folder in step.finished),
            *(f"{folder.name} has left the queue" for folder in step.left[-1:]),
        ]
        above = next((folder for folder in [*step.left[::-1], *step.finished] if folder in lines), None)
        lines[step.run.folder] = (above, str(step.run.folder) + (f"  after {' and '.join(after)}" if after else ""))

    def below(above: Path | None, indent: str) -> list[str]:
        return [
            text
            for folder, (parent, line) in lines.items()
            if parent == above
            for text in (indent + line, *below(folder, indent + "  "))
        ]

    return "\n".join(below(None, ""))


# ------------------------------------------------------------------------------------------------------------- running
def submit_all(runs: Sequence[Run], at_once: int | None, site: Site, check: Callable[[Recipe], None]) -> None:
    """Submit to SLURM what is not finished and not in the queue. `check` refuses a recipe before anything is submitted.

    Raises:
        RecipeError: SLURM does not answer or refuses a job (those before it stay submitted; the same command goes on), or
            a need cannot be met.
    """
    from slurm.submit import require_sbatch

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
    """No two launchers submit into one folder of runs at the same time: the second would not see the first's jobs yet."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(folder / ".launching", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _submit(runs: Sequence[Run], at_once: int | None, site: Site) -> None:
    from slurm.events import note
    from slurm.folder import prepare
    from slurm.snapshot import take
    from slurm.submit import submit

    steps, settled, jobs = _plan(runs, at_once)
    for run in runs:
        if run.folder in settled:
            print(f"{run.folder} is {settled[run.folder]}: nothing to do")
    if any(step.run.recipe.slurm.gpus_per_node is None for step in steps):
        print("slurm.gpus_per_node is not set, so the job asks for no GPU (0 says so on purpose)", file=sys.stderr)
    for step in steps:
        recipe, folder = step.run.recipe, step.run.folder
        code = take(folder.parent)
        prepare(recipe, folder)
        print(f"run folder: {folder}", flush=True)
        conditions = [
            f"{kind}:{':'.join(jobs[other] for other in others)}"
            for kind, others in (("afterok", step.finished), ("afterany", step.left))
            if others
        ]
        jobs[folder] = submit(recipe, folder, code, site.setup, ",".join(conditions) or None)
        note(folder, "submitted", job=jobs[folder], code=code.name, needs=[need.name for need in step.finished])
        print(f"job: {jobs[folder]}" + (f" ({','.join(conditions)})" if conditions else ""), flush=True)


def preview(runs: Sequence[Run], at_once: int | None) -> str:
    """What `submit_all` would do, as `tree` shows it; looks at the disk and the queue and changes nothing."""
    steps, settled, _ = _plan(runs, at_once)
    return tree(steps, settled)


def _plan(runs: Sequence[Run], at_once: int | None) -> tuple[list[Step], dict[Path, str], dict[Path, str]]:
    """What is to be submitted, in order; the state of each run (or run that one needs) that is not; the jobs of those in the queue."""
    from slurm.events import read
    from slurm.status import LIVE, job_of, queue, state_of

    known = queue()
    finished = finished_of(runs)
    settled, jobs = {folder: "finished" for folder in finished}, {}
    for folder in dict.fromkeys(
        folder for run in runs for folder in (*run.needs, run.folder) if folder not in finished
    ):
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
    steps = arrange(
        [run for run in runs if run.folder not in settled or run.folder in jobs],
        finished,
        sorted(jobs, key=lambda folder: int(jobs[folder])),
        at_once,
    )
    return steps, settled, jobs


def is_finished(folder: Path) -> bool:
    return (folder / "done").exists()


def finished_of(runs: Sequence[Run]) -> set[Path]:
    """Those of the runs, and of what they need, that are finished."""
    return {folder for run in runs for folder in (run.folder, *run.needs) if is_finished(folder)}
