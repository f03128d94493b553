"""`cluster=slurm`: the job as submitit hands it to sbatch."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.common.errors import RecipeError
from recipes.schema import Recipe
from slurm.job import TrainJob
from slurm.planning.schedule import Run

PYTHON = f"{shlex.quote(sys.executable)} -P"
"""This interpreter; -P keeps the folder of the command, which may hold other code, off the module path."""


def parameters(
    recipe: Recipe, folder: Path, code: Path, setup: Sequence[str] = (), dependency: str | None = None
) -> dict[str, Any]:
    """Return submitit's SLURM parameters.

    Values come from the checked recipe, shell lines from us and from the user's site file.

    Args:
        recipe: the run's.
        folder: the run folder.
        code: the copy of the suite that the job runs from.
        setup: the site file's shell lines.
        dependency: as sbatch takes it, such as `afterok:17`; SLURM cancels a job whose dependency can never be met.
    """
    slurm = recipe.slurm
    optional = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "gpus_per_node": slurm.gpus_per_node or None,
        "mem": slurm.mem,
        "dependency": dependency,
    }
    return {
        "job_name": recipe.run_name,
        "nodes": recipe.nodes,
        "ntasks_per_node": recipe.tasks // recipe.nodes,
        "cpus_per_task": slurm.cpus_per_task,
        "time": slurm.time,
        "signal_delay_s": slurm.signal_delay_s,
        "additional_parameters": {"requeue": True, **({"kill-on-invalid-dep": "yes"} if dependency else {})},
        "srun_args": ["-K1"],  # one dead rank ends the step; without it the others wait for ever
        # The suite's copy comes last, so that it is first on the path whatever modules and the site put there.
        "setup": [
            *(f"module load {name} || exit 1" for name in slurm.modules),
            *setup,
            f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        ],
        "teardown": ["code=$?", f"{PYTHON} -m slurm.cluster.requeue {shlex.quote(str(folder))} $code"],
        **{key: value for key, value in optional.items() if value is not None},
    }


def batch_file(recipe: Recipe, folder: Path, code: Path, setup: Sequence[str] = ()) -> str:
    """Return the text that sbatch would get."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{PYTHON} -u -m submitit.core._submit {shlex.quote(str(folder / 'log'))}"
    return _make_sbatch_string(command=command, folder=folder / "log", **parameters(recipe, folder, code, setup))


def require_sbatch() -> None:
    """Refuse to submit from a machine that has no SLURM.

    Raises:
        RecipeError: there is no sbatch.
    """
    if shutil.which("sbatch") is None:
        raise RecipeError(
            "this machine has no sbatch: use cluster=local to run here, or cluster=dry to see the batch file"
        )


def submit(run: Run, code: Path, setup: Sequence[str] = (), dependency: str | None = None) -> str:
    """Submit a run whose folder is prepared, and return the job's id; for the other arguments see `parameters`.

    Raises:
        RecipeError: SLURM refuses the job.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    log = run.folder / "log"
    log.mkdir(exist_ok=True)
    executor = SlurmExecutor(folder=log, python=PYTHON)
    executor.update_parameters(**parameters(run.recipe, run.folder, code, setup, dependency))
    try:
        return str(executor.submit(TrainJob(str(run.folder), run.command)).job_id)
    except FailedJobError as error:
        raise RecipeError(f"sbatch refused the job: {str(error).strip().splitlines()[-1]}") from None
