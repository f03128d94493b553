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
from slurm.monitoring import events, run_state
from tests.helpers import cluster as clusters
from tests.helpers.jobs import POISON, Place, wait
from tests.helpers.launching import stub


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
    words = ["data=digits_glt", f"runs={tmp_path}", "nodes=2", "slurm.partition=low", "slurm.time=77"]
    recipe = resolve([*words, "slurm.mem=512M", "slurm.cpus_per_task=2", "slurm.gpus_per_node=0"])
    folder = recipe.run_folder
    (folder / "log").mkdir(parents=True)
    given = parameters(recipe, folder, PROJECT, ["export SLURM_CPU_BIND=cores  # as many sites do"])
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
        assert place == {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "SLURM_JOB_ID": job}
        assert told["variables"]["MASTER_ADDR"] in ("r1", "r2", "127.0.0.1")
        assert not {"TORCHELASTIC_RUN_ID", "GROUP_RANK", "SLURM_MEM_PER_CPU"} & set(told["variables"])
        assert len(told["cores"]) == min(2, os.cpu_count() or 1), "a rank and its loader workers share one core"


def test_a_job_that_the_site_renames_is_found(
    cluster: clusters.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever name SLURM has for a job, it keeps the file that sbatch was given (Command= of scontrol), and the run's
    job is known by that."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    stub(tmp_path, "sbatch", f'{shutil.which("sbatch")} --hold --job-name=site-renamed "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    recipe = resolve(["data=digits_glt", f"runs={tmp_path}", "slurm.partition=low"])
    folder = recipe.run_folder
    (folder / "log").mkdir(parents=True)
    job = BatchJob(folder / "log", (Place(str(folder)),), parameters(recipe, folder, PROJECT)).submit()
    shown = cluster.run("scontrol", "show", "job", str(job)).stdout
    assert "JobName=site-renamed" in shown and f"Command={folder}/log/{folder.name}.sh" in shown
    known = run_state.queue() or {}
    assert run_state.job_of(folder, [], known) == job and run_state.state_of(folder, [], known) == "held"
    cluster.run("scancel", str(job))


@pytest.mark.full
def test_a_start_leaves_at_once_where_it_has_nothing_to_do(cluster: clusters.Cluster, tmp_path: Path) -> None:
    """A job of a finished run, and one whose first stage is not finished, end COMPLETED without a rank; the second is
    noted as waiting."""
    recipe = resolve(["data=digits_glt", "slurm.cpus_per_task=1", "slurm.partition=low"])
    folders, jobs = [tmp_path / "finished", tmp_path / "second"], []
    for folder in folders:
        (folder / "log").mkdir(parents=True)
    (folders[0] / "done").touch()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        for folder in folders:
            given = parameters(recipe, folder, PROJECT, needs=[tmp_path / "first"])
            jobs.append(BatchJob(folder / "log", (Place(str(folder)),), given).submit())
    for job, folder in zip(jobs, folders, strict=True):
        wait(
            lambda job=job: "COMPLETED" in cluster.run("scontrol", "show", "job", str(job)).stdout,
            120,
            "the job's end",
            cluster,
            folder,
        )
        assert not list(folder.glob("rank-*"))
    assert [[event["event"] for event in events.read(folder)] for folder in folders] == [[], ["waiting"]]
    assert run_state.state_of(folders[1], events.read(folders[1]), {}) == "waiting"


def test_no_running_job_is_hidden(poisoned: clusters.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever squeue's variables ask for, the queue shows the user's jobs."""
    (tmp_path / "a.sh").write_text("#!/bin/sh\nsleep 1\n")
    with monkeypatch.context() as patch:
        for name in POISON:
            patch.delenv(name)
        words = ["--parsable", "-H", "-p", "high", "-J", "mine", "-o", "/dev/null", str(tmp_path / "a.sh")]
        job = poisoned.run("sbatch", *words).stdout.strip()
    known = run_state.queue()
    assert known and known[job] == run_state.Job("JobHeldUser", 0.0, "mine", str(tmp_path / "a.sh"))
    poisoned.run("scancel", job)
