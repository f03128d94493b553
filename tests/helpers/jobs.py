"""Jobs on a real SLURM: started, waited for, and what they end with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.schema import PROJECT
from tests.helpers import cluster as clusters

POISON = {
    **{"SBATCH_JOB_NAME": "train", "SBATCH_EXPORT": "NONE", "SBATCH_OUTPUT": "/dev/null", "SBATCH_TIMELIMIT": "1"},
    **{"SBATCH_NO_REQUEUE": "1", "SBATCH_ARRAY_INX": "0-3", "SBATCH_SIGNAL": "B:KILL@9", "SBATCH_PARTITION": "none"},
    **{"SBATCH_MEM_PER_CPU": "99999", "SBATCH_CPUS_PER_GPU": "2", "SBATCH_GET_USER_ENV": "1"},
    **{"MASTER_ADDR": "nowhere", "MASTER_PORT": "x", "RANK": "7", "WORLD_SIZE": "9", "LOCAL_RANK": "3"},
    **{"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "2", "SUBMITIT_PREEMPT_SIGNAL": "USR1"},
    **{"SLURM_JOB_ID": "99", "SLURM_PROCID": "3", "SLURM_MEM_PER_CPU": "9", "SLURM_CPU_BIND": "map_cpu:0"},
    **{"SLURM_NTASKS_PER_NODE": "9", "SLURM_HOSTFILE": "/none", "SRUN_CPUS_PER_TASK": "1", "SLURM_EXPORT_ENV": "NIL"},
    **{"SLURM_TIME_FORMAT": "relative", "SQUEUE_PARTITION": "none", "SQUEUE_NAMES": "x", "SQUEUE_FORMAT": "%i"},
    **{"SQUEUE_ACCOUNT": "x", "SQUEUE_QOS": "x", "SQUEUE_LICENSES": "x", "SCONTROL_ALL": "1"},
}
"""Variables of a shell that would spoil every command of SLURM, and every rank."""


def launched(words: list[str], environment: dict[str, str] | None = None, seconds: float = 170) -> str:
    result = subprocess.run(
        [sys.executable, str(PROJECT / "slurm" / "launch.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def wait(condition, seconds: float, what: str, cluster: clusters.Cluster, folder: Path):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    logs = "\n".join(
        f"== {path}\n{path.read_text()[-1500:]}"
        for path in sorted(folder.glob("log/*"))
        if path.suffix in (".out", ".err", ".jsonl")
    )
    raise AssertionError(f"{what} did not come in {seconds} s\n{cluster.run('scontrol', 'show', 'job').stdout}\n{logs}")


def result_of(folder: Path) -> dict[str, object]:
    """Return everything a run's numbers are made of: the last checkpoint's tensors, predictions, environments."""
    import torch

    last = max(folder.glob("ckpt/step-*"))
    model = torch.load(last / "engine" / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)[
        "module"
    ]  # written by this test
    suite = torch.load(last / "suite.pt", weights_only=True)
    arrays = {
        path.relative_to(folder).as_posix(): {name: value.tobytes() for name, value in np.load(path).items()}
        for path in sorted(folder.glob("*/**/*.npz"))
    }
    return {
        "step": last.name,
        "model": {name: value.numpy().tobytes() for name, value in model.items()},
        "centers": None if suite["centers"] is None else suite["centers"].numpy().tobytes(),
        "arrays": arrays,
    }


@dataclass(frozen=True)
class Place:
    """A job that only tells which place each of its ranks finds itself in."""

    folder: str

    def __call__(self) -> None:
        """Write rank-R.json: the place that was learned from SLURM, the cores, and the variables."""
        from slurm.rendezvous import export_rank

        export_rank()
        told = {"cores": sorted(os.sched_getaffinity(0)), "variables": dict(os.environ)}
        Path(self.folder, f"rank-{os.environ['RANK']}.json").write_text(json.dumps(told))
