"""`cluster=slurm`: a run as a job, and its evaluator as another (`log.eval=job`)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.schema import Recipe, Slurm
from slurm import evaluator
from slurm.cluster.batch_job import BatchJob, setup_lines
from slurm.job import TrainJob
from slurm.planning.schedule import Run
from slurm.site_file import Site
from slurm.starting.lacking_node import comes_back, ends
from slurm.starting.rank_start import RankStart, folders_of, rank_start

AWAITED = 'wait "$evaluator"'
"""The shell line after which the evaluator's job is submitted, or will not be."""


def asked(slurm: Slurm, start: RankStart) -> dict[str, Any]:
    """Return submitit's parameters for what every job asks SLURM for; values that were not given are not there."""
    given = {key: getattr(slurm, key) for key in ("partition", "account", "qos", "constraint", "mem")}
    return {
        "cpus_per_task": slurm.cpus_per_task,
        "time": slurm.time,
        "signal_delay_s": slurm.signal_delay_s,
        "additional_parameters": {"requeue": True, **slurm.options},
        # -K1: one dead rank ends the step, and the others do not wait for ever. The cores and the environment of a
        # task are said again: srun of 22.05 and 23.02 takes the first, and of a shell with SBATCH_EXPORT neither.
        "srun_args": ["-K1", "--export=ALL", f"--cpus-per-task={slurm.cpus_per_task}", *start.srun],
        **{key: value for key, value in given.items() if value is not None},
    }


def gpu_options(slurm: Slurm) -> tuple[str, ...]:
    """Return the options by which the number of GPUs is decided, also where it is 0 and no line says so."""
    return () if slurm.gpus is None else ("gpus_per_node",)


def step_gpus(slurm: Slurm) -> tuple[str, ...]:
    """Return srun's arguments for the GPUs of a node, in the form that the recipe asks for them."""
    items = str(slurm.options.get("gres", "")).split(",")
    gres = ",".join(item for item in items if item.split(":")[0] == "gpu")  # of others a job may have too few for all
    asked_for = {"gpus-per-node": slurm.gpus_per_node, "gres": gres}
    return tuple(f"--{name}={value}" for name, value in asked_for.items() if value)


def parameters(
    recipe: Recipe,
    folder: Path | None,
    code: Path,
    setup: Sequence[str] = (),
    dependency: str | None = None,
    needs: Sequence[Path] = (),
    start: RankStart | None = None,
) -> dict[str, Any]:
    """Return submitit's SLURM parameters.

    Values come from the checked recipe, shell lines from us and from the user's site file.

    Args:
        recipe: the run's.
        folder: the run folder; None in an array, whose elements learn theirs on the node.
        code: the copy of the suite that the job runs from.
        setup: the site file's shell lines.
        dependency: as sbatch takes it, such as `afterany:17`.
        needs: run folders that must be finished, or the job leaves and the run is `waiting`.
        start: how Python is started on the nodes; None: as this command was.
    """
    start = start or RankStart()
    own = '"$run"' if folder is None else shlex.quote(str(folder))
    optional = {"gpus_per_node": recipe.slurm.gpus_per_node, "dependency": dependency}
    return {
        **asked(recipe.slurm, start),
        "job_name": recipe.run_name,
        "nodes": recipe.nodes,
        "ntasks_per_node": recipe.tasks // recipe.nodes,
        "setup": [
            *setup_lines(recipe.slurm.modules, setup, code),
            done_guard(own, code, start),
            *start.lines,
            *(
                f"[ -e {need}/done ] || {start.outside} -m slurm.cluster.needs {own} {need} || exit 0"
                for need in (shlex.quote(str(need)) for need in needs)
            ),
        ],
        # Without the trap the shell would end at a requeue before the nodes to leave out are told. It comes last: a
        # shell that waits would go on at SIGTERM, and put a cancelled job back, which SLURM does.
        "teardown": [
            "code=$?",
            *([AWAITED] if recipe.has_evaluator else []),
            "trap : TERM",
            f"{start.outside} -m slurm.cluster.requeue {own} $code",
        ],
        **{key: value for key, value in optional.items() if value},
    }


def done_guard(own: str, code: Path, start: RankStart) -> str:
    """Return the shell line by which a job of a finished run leaves, behind what its Python may need to start.

    SLURM may start it again, and may have ended it before all was done that follows a run's end.

    Args:
        own: the run folder, as a shell's word.
        code: the copy of the suite.
        start: how Python is started.
    """
    at = shlex.quote(str(code))  # where Python looks first, whatever its options; perhaps removed since the end
    after = f"PYTHONPATH={at} {start.outside} -m slurm.after_run {own} finished over"
    return f"[ ! -e {own}/done ] || {{ cd {at} || exit 0; {after}; exit; }}"


def batch_job(
    run: Run,
    code: Path,
    setup: Sequence[str] = (),
    dependency: str | None = None,
    own: Mapping[str, Any] | None = None,
) -> BatchJob:
    """Return a run's job; `own`: the site file's further keys; for the other arguments see `parameters`."""
    recipe, folder, own_folder = run.recipe, run.folder, shlex.quote(str(run.folder))
    start = rank_start(own or {}, code, folders_of(recipe))
    return BatchJob(
        folder / "log",
        (TrainJob(str(folder), run.command),),
        parameters(recipe, folder, code, setup, dependency, run.needs, start),
        gpu_options(recipe.slurm),
        start.rank,
        begins_evaluator(recipe, folder, start),
        comes_back(f"slurm.cluster.requeue {own_folder} lacking", own_folder, "$SLURM_JOB_ID", code, start.outside),
    )


def begins_evaluator(recipe: Recipe, folder: Path | None, start: RankStart) -> tuple[str, ...]:
    """Return the shell lines that submit the run's evaluator beside the ranks' start; for the arguments `parameters`.

    Nothing waits for it: where SLURM is slow to answer, the ranks start all the same. A job that is cancelled or put
    back gets SIGTERM, which ends a script before it decides anything; then the evaluator goes first.
    """
    if not recipe.has_evaluator:
        return ()
    own = '"$run"' if folder is None else shlex.quote(str(folder))
    words = f"{start.outside} -m slurm.evaluator"
    return (f"trap {shlex.quote(f'{words} end {own}; exit 143')} TERM", f"{words} begin {own} & evaluator=$!")


class EvaluatorJob(BatchJob):
    """The evaluator of a run as a job; its folder is `eval/`, and nothing of it is pickled."""

    def setup(self) -> list[str]:
        return [*self.lacks, *self.parameters["setup"]]

    def command(self) -> str:
        """Return srun's whole line: what it starts writes where the batch script does."""
        words = ["srun", "--unbuffered", *self.parameters["srun_args"]]
        return f"{shlex.join(words)} {self.python} -u -m ifl.evaluation {shlex.quote(str(self.folder.parent))}"


def evaluator_job(run: Run, code: Path, site: Site, pack: int = 1) -> EvaluatorJob:
    """Return the job of a run's evaluator, which the run's own submits: one task, with what one of the run's has.

    Args:
        run: the run.
        code: the copy of the code that both run from.
        site: this machine's site file; its `for: evaluator` may say otherwise.
        pack: how many runs share the run's job.
    """
    recipe, own = run.recipe, site.for_evaluator(run.recipe)
    slurm = site.asked_of_evaluator(recipe.slurm.share(pack * recipe.tasks // recipe.nodes))
    start = rank_start(own.own, code, folders_of(recipe))
    folder, log = shlex.quote(str(run.folder)), run.folder / "log" / evaluator.LOG
    given = asked(slurm, start)
    given["additional_parameters"] |= {"output": log, "error": log}
    parameters = {
        **given,
        "job_name": f"{recipe.run_name}.eval",
        "nodes": 1,
        "ntasks_per_node": 1,
        "use_srun": False,
        "setup": [
            *setup_lines(slurm.modules, own.setup, code),
            evaluator.UNTIL_STARTED,
            *start.lines,
            f"{start.outside} -m slurm.evaluator needed {folder}; {evaluator.STARTED}",
            *threads(recipe.slurm),
            f"{start.outside} -m slurm.evaluator watch {folder} &",
        ],
        "teardown": ["trap : TERM", f"{start.outside} -m slurm.evaluator again {folder}"],
        **({"gpus_per_node": slurm.gpus_per_node} if slurm.gpus_per_node else {}),
    }
    lacks = (*evaluator.notes_none(run.folder), *ends(evaluator.WITHOUT))
    return EvaluatorJob(run.folder / evaluator.FOLDER, (), parameters, gpu_options(slurm), start.rank, lacks=lacks)


def threads(slurm: Slurm) -> list[str]:
    """Return the shell line by which an evaluator computes with as many threads as a rank (slurm/rendezvous.py)."""
    return [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{slurm.cpus_per_task}}} OMP_WAIT_POLICY=PASSIVE"]
