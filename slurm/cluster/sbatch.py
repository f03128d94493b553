"""`cluster=slurm`: a run as a job."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.schema import Recipe, Slurm
from slurm.cluster.batch_job import PYTHON, BatchJob, setup_lines
from slurm.job import TrainJob
from slurm.planning.schedule import Run


def asked(slurm: Slurm) -> dict[str, Any]:
    """Return submitit's parameters for what every job asks SLURM for; values that were not given are not there."""
    given = {key: getattr(slurm, key) for key in ("partition", "account", "qos", "constraint", "mem")}
    return {
        "cpus_per_task": slurm.cpus_per_task,
        "time": slurm.time,
        "signal_delay_s": slurm.signal_delay_s,
        "additional_parameters": {"requeue": True},
        # -K1: one dead rank ends the step, and the others do not wait for ever. The cores and the environment of a
        # task are said again: srun of 22.05 and 23.02 takes the first, and of a shell with SBATCH_EXPORT neither.
        "srun_args": ["-K1", "--export=ALL", f"--cpus-per-task={slurm.cpus_per_task}"],
        **{key: value for key, value in given.items() if value is not None},
    }


def parameters(
    recipe: Recipe,
    folder: Path | None,
    code: Path,
    setup: Sequence[str] = (),
    dependency: str | None = None,
    needs: Sequence[Path] = (),
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
    """
    own = '"$run"' if folder is None else shlex.quote(str(folder))
    optional = {"gpus_per_node": recipe.slurm.gpus_per_node, "dependency": dependency}
    return {
        **asked(recipe.slurm),
        "job_name": recipe.run_name,
        "nodes": recipe.nodes,
        "ntasks_per_node": recipe.tasks // recipe.nodes,
        "setup": [
            f"[ ! -e {own}/done ] || exit 0  # finished, though SLURM starts it again",
            *setup_lines(recipe.slurm.modules, setup, code),
            *(
                f"[ -e {need}/done ] || {PYTHON} -m slurm.cluster.needs {own} {need} || exit 0"
                for need in (shlex.quote(str(need)) for need in needs)
            ),
        ],
        "teardown": ["code=$?", f"{PYTHON} -m slurm.cluster.requeue {own} $code"],
        **{key: value for key, value in optional.items() if value},
    }


def batch_job(run: Run, code: Path, setup: Sequence[str] = (), dependency: str | None = None) -> BatchJob:
    """Return a run's job; for the other arguments see `parameters`."""
    recipe, folder = run.recipe, run.folder
    return BatchJob(
        folder / "log",
        (TrainJob(str(folder), run.command),),
        parameters(recipe, folder, code, setup, dependency, run.needs),
        () if recipe.slurm.gpus_per_node is None else ("gpus_per_node",),  # 0 decides, too
    )
