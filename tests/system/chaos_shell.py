"""Faults of the shell that submits a run: its environment, and what stands in front of SLURM's commands.

Each cancels the run; the launch after it comes from such a shell, and must bring the run back.
"""

from __future__ import annotations

import random
import shutil

from tests.helpers.launching import stub
from tests.system.chaos_kinds import Blow, Target, kind

POISON = {
    "SBATCH_JOB_NAME": "train",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_TIMELIMIT": "1",
    "SLURM_TIME_FORMAT": "relative",
    "SQUEUE_NAMES": "another",
    "SQUEUE_PARTITION": "high",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "1",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
}
"""What notebooks, torchrun and users' start files export."""


def register() -> None:
    """Make these kinds known."""
    kind("environment")(poison_the_environment)
    kind("sbatch-misread")(wrap_sbatch)


def poison_the_environment(target: Target, dice: random.Random) -> Blow:
    """The next launch comes from a shell that exports what would override the command."""
    target.next_environment = POISON
    target.cluster.run("scancel", target.job)
    return Blow(comes_back=False)


def wrap_sbatch(target: Target, dice: random.Random) -> Blow:
    """The next launch finds a site's wrapper of sbatch, which prints a notice about another job and the bare id."""
    folder, real = target.disk.parent / "wrapped", shutil.which("sbatch")
    folder.mkdir(exist_ok=True)
    stub(folder, "sbatch", f'echo "job 2025 is the maintenance"\n{real} "$@" | sed "s/Submitted batch job //"')
    target.next_environment = {"PATH": f"{folder}:{target.path}"}
    target.cluster.run("scancel", target.job)
    return Blow(comes_back=False)
