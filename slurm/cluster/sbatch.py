"""`cluster=slurm`: a run as a job."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.schema import Recipe, Slurm
from slurm.cluster.batch_job import BatchJob, setup_lines
from slurm.job import TrainJob
from slurm.planning.schedule import Run
from slurm.starting.rank_start import RankStart, folders_of, rank_start


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
            done_guard(own, code, start),
            *setup_lines(recipe.slurm.modules, setup, code),
            *start.lines,
            *(
                f"[ -e {need}/done ] || {start.outside} -m slurm.cluster.needs {own} {need} || exit 0"
                for need in (shlex.quote(str(need)) for need in needs)
            ),
        ],
        # Without the trap the shell would end at a requeue before the nodes to leave out are told.
        "teardown": ["code=$?", "trap : TERM", f"{start.outside} -m slurm.cluster.requeue {own} $code"],
        **{key: value for key, value in optional.items() if value},
    }


def done_guard(own: str, code: Path, start: RankStart) -> str:
    """Return the shell line by which a job of a finished run leaves, before modules and setup lines.

    SLURM may start it again, and may have ended it before all was done that follows a run's end.
    """
    at = shlex.quote(str(code))  # where Python looks first, whatever its options
    after = f"cd {at}; PYTHONPATH={at} {start.outside} -m slurm.after_run {own} finished over"
    return f"[ ! -e {own}/done ] || {{ {after}; exit 0; }}"


def batch_job(
    run: Run,
    code: Path,
    setup: Sequence[str] = (),
    dependency: str | None = None,
    own: Mapping[str, Any] | None = None,
) -> BatchJob:
    """Return a run's job; `own`: the site file's further keys; for the other arguments see `parameters`."""
    recipe, folder = run.recipe, run.folder
    start = rank_start(own or {}, code, folders_of(recipe))
    return BatchJob(
        folder / "log",
        (TrainJob(str(folder), run.command),),
        parameters(recipe, folder, code, setup, dependency, run.needs, start),
        gpu_options(recipe.slurm),
        start.rank,
    )
