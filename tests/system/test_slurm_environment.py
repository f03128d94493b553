"""On a real SLURM with task/affinity: what the submitting shell, a site's wrapper and srun may not change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm.cluster.batch_job import BatchJob
from slurm.cluster.sbatch import parameters
from slurm.monitoring import run_state
from tests.helpers import cluster as clusters
from tests.helpers.jobs import Place, wait
from tests.helpers.launching import stub

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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    running = clusters.Cluster(tmp_path_factory.mktemp("slurm"), nodes=2, task_plugin="task/affinity")
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture()
def poisoned(cluster: clusters.Cluster, monkeypatch: pytest.MonkeyPatch) -> clusters.Cluster:
    """A shell that talks to the cluster and whose variables would spoil every command."""
    for name, value in {**POISON, **cluster.environment}.items():
        monkeypatch.setenv(name, value)
    return cluster


def test_a_job_gets_what_recipe_and_command_say(
    poisoned: clusters.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a shell full of SBATCH_, SLURM_, SRUN_, SQUEUE_ and torchrun's variables, through an sbatch that prints
    other numbers than the job's: the job is found by its name, has the recipe's limits, and each rank learns its place
    from SLURM alone, with all the cores that it asked for."""
    real = shutil.which("sbatch")
    stub(tmp_path, "sbatch", f'echo "Notice: job 2025 is over"; {real} "$@" > /dev/null && echo 31 && echo bye')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    words = ["data=digits_glt", f"runs={tmp_path}", "tasks_per_node=2", "slurm.partition=low", "slurm.time=77"]
    recipe = resolve([*words, "slurm.mem=512M", "slurm.cpus_per_task=4", "slurm.gpus_per_node=0"])
    folder = recipe.run_folder
    (folder / "log").mkdir(parents=True)
    given = parameters(recipe, folder, PROJECT)
    job = BatchJob(folder / "log", (Place(str(folder)),), given, ("gpus_per_node",)).submit()
    assert job not in (None, "2025", "31")
    shown = poisoned.run("scontrol", "show", "job", str(job)).stdout
    for said in (f"JobName={folder.name}", "TimeLimit=01:17:00", "Partition=low", "Requeue=1", "MinMemoryNode=512M"):
        assert said in shown, shown
    ranks = [folder / f"rank-{rank}.json" for rank in (0, 1)]
    wait(lambda: all(path.exists() and path.read_text() for path in ranks), 30, "the ranks", poisoned, folder)
    for rank, path in enumerate(ranks):
        told = json.loads(path.read_text())
        place = {name: told["variables"].get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_JOB_ID")}
        assert place == {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "SLURM_JOB_ID": job}
        assert told["variables"]["MASTER_ADDR"] in ("r1", "r2", "127.0.0.1")
        assert not {"TORCHELASTIC_RUN_ID", "GROUP_RANK", "SLURM_MEM_PER_CPU"} & set(told["variables"])
        assert len(told["cores"]) >= min(2, os.cpu_count() or 1), "a rank and its loader workers share one core"


def test_no_running_job_is_hidden(poisoned: clusters.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever squeue's variables ask for, and in a partition that is hidden, the queue shows the user's jobs."""
    assert poisoned.run("scontrol", "update", "PartitionName=high", "Hidden=YES").returncode == 0
    (tmp_path / "a.sh").write_text("#!/bin/sh\nsleep 1\n")
    with monkeypatch.context() as patch:
        for name in POISON:
            patch.delenv(name)
        words = ["--parsable", "-H", "-p", "high", "-J", "mine", "-o", "/dev/null", str(tmp_path / "a.sh")]
        job = poisoned.run("sbatch", *words).stdout.strip()
    known = run_state.queue()
    assert known and known[job] == run_state.Job("JobHeldUser", 0.0, "mine", str(tmp_path / "a.sh"))
    assert run_state.queue("mine") == {job: known[job]} and run_state.queue("other") == {}
    poisoned.run("scancel", job)
