"""`cluster=slurm`: the job as submitit hands it to sbatch."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from recipes.schema import PROJECT, Recipe, RecipeError
from slurm.job import TrainJob


def parameters(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """submitit's SLURM parameters. Values come from the checked recipe alone; the only shell text is ours."""
    slurm = recipe.slurm
    optional = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos, "constraint": slurm.constraint,
                "gpus_per_node": slurm.gpus_per_node or None, "mem": f"{slurm.mem_gb}GB" if slurm.mem_gb else None}
    return {
        "job_name": recipe.run_name,
        "nodes": recipe.nodes,
        "ntasks_per_node": recipe.tasks // recipe.nodes,
        "cpus_per_task": slurm.cpus_per_task,
        "time": slurm.time_min,
        "signal_delay_s": slurm.signal_delay_s,
        "additional_parameters": {"requeue": True},
        "srun_args": ["-K1"],  # one dead rank ends the step; without it the others wait for ever
        "teardown": ["code=$?", f"{shlex.quote(sys.executable)} -P -m slurm.after {shlex.quote(str(folder))} $code"],
        **{key: value for key, value in optional.items() if value is not None},
    }


def batch_file(recipe: Recipe, folder: Path) -> str:
    """The text that sbatch would get."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder / 'log'))}"
    return _make_sbatch_string(command=command, folder=folder / "log", **parameters(recipe, folder))


def require_sbatch() -> None:
    """Raises RecipeError where this machine has no SLURM."""
    if shutil.which("sbatch") is None:
        raise RecipeError("this machine has no sbatch: use cluster=local to run here, or cluster=dry to see the batch file")


def submit(recipe: Recipe, folder: Path) -> str:
    """Submit the run and return the job's id. Raises RecipeError if SLURM refuses it."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    (folder / "log").mkdir(exist_ok=True)
    executor = SlurmExecutor(folder=folder / "log", python=shlex.quote(sys.executable))
    executor.update_parameters(**parameters(recipe, folder))
    # The job imports the suite by name: from the project's folder it finds it without an installation of its own.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    try:
        return str(executor.submit(TrainJob(str(folder))).job_id)
    except FailedJobError as error:
        raise RecipeError(f"sbatch refused the job: {str(error).strip().splitlines()[-1]}") from None
