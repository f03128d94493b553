"""On a real SLURM: four nodes on this machine, from Debian's packages (tests/helpers/cluster.py)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.resolve import resolve
from slurm.monitoring import events, run_state
from tests.helpers import cluster as clusters
from tests.helpers.jobs import POISON, launched, result_of, wait
from tests.helpers.project_copy import copy_of_the_project

# Small and slow enough to be hit: 12 epochs of 14 steps, environments and centers from the first epoch on.
WORDS = [
    "recipe=glt_randaug_ifl",
    "data=digits_glt",
    "nodes=2",
    "seed=3",
    "schedule.epochs=12",
    "batch.size=32",
    "batch.bn=16",
    "ifl.milestones=[0,1]",
    "log.every=1",
    "log.eval_test_every=12",
    "slurm.cpus_per_task=1",
]


def state_on(cluster: clusters.Cluster, folder: Path) -> str:
    """What the status command would say of a run where it asks this cluster."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in cluster.environment.items():
            patch.setenv(key, value)
        return run_state.state_of(folder, events.read(folder), run_state.queue())


@pytest.fixture(scope="module")
def undisturbed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path_factory.mktemp('local')}", "cluster=local"]
    launched(words)
    return result_of(resolve(words).run_folder)


def test_preempted_by_a_real_job_the_run_ends_with_the_same_bits(
    cluster: clusters.Cluster, undisturbed: dict[str, object], tiny_root: Path, tmp_path: Path
) -> None:
    """A run on a preemptible partition that a job of higher priority throws out is put back by itself, goes on from its
    checkpoint, and ends with the parameters, buffers, centers, environments and predictions of an undisturbed run on
    this machine, bit for bit; whatever variables the submitting shell holds."""
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path}", "slurm.partition=lowgrace", "slurm.mem=512M"]
    shell = {**cluster.environment, **POISON}
    job = re.search(r"job: (\d+)", launched(words, shell))[1]
    folder = resolve(words).run_folder
    metrics = folder / "metrics.jsonl"
    wait(lambda: metrics.exists() and metrics.read_text().count('"train"') >= 5, 90, "the fifth step", cluster, folder)
    assert state_on(cluster, folder) == "running"
    assert "is running: nothing to do" in launched(words, shell)
    assert (
        cluster.run("sbatch", "-p", "high", "-N", "4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2").returncode
        == 0
    )
    wait(lambda: state_on(cluster, folder) == "queued", 60, "the requeue", cluster, folder)

    def kinds() -> list[str]:
        return [event["event"] for event in events.read(folder)]

    wait(lambda: "finished" in kinds(), 150, "the end of the run", cluster, folder)
    assert (folder / "done").exists()
    assert kinds().count("start") == 2 and kinds()[-1] in ("finished", "verdict"), kinds()
    steps = [line["step"] for line in map(json.loads, metrics.read_text().splitlines()) if line["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert result_of(folder) == undisturbed
    wait(
        lambda: "COMPLETED" in cluster.run("scontrol", "show", "job", job).stdout, 30, "the job's end", cluster, folder
    )


@pytest.mark.full
def test_requeued_runs_go_on_with_the_code_that_was_submitted(
    cluster: clusters.Cluster, undisturbed: dict[str, object], tiny_root: Path, tmp_path: Path
) -> None:
    """Two seeds, one at a time, from a project whose code is destroyed after they were submitted: the first, warned (so
    that its batch script requeues it) and then requeued by hand, goes on with the code it was submitted with and ends
    with an undisturbed run's bits; the second waits through both requeues, then runs from the same code. The job has
    the site file's shell lines at each start, and SLURM's limits are the recipe's."""
    project = copy_of_the_project(tmp_path / "project")
    site = tmp_path / "site.yaml"
    site.write_text(f"partition: low\ntime: 0-02:30\nmem: 512M\nsetup: ['echo start >> {tmp_path}/shell']\n")
    words = [word for word in WORDS if not word.startswith("seed=")] + [
        f"data.root={tiny_root}",
        f"runs={tmp_path / 'runs'}",
    ]
    said = subprocess.run(
        [sys.executable, str(project / "slurm" / "launch.py"), *words, "seeds=3,4", "max_jobs=1"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **cluster.environment, "OMP_NUM_THREADS": "1", "GLT_SITE": str(site)},
    )
    assert said.returncode == 0, said.stdout + said.stderr
    jobs = re.findall(r"job: (\d+)", said.stdout)
    shown = cluster.run("scontrol", "show", "job", jobs[0]).stdout
    assert "TimeLimit=02:30:00" in shown and "MinMemoryNode=512M" in shown and "Partition=low" in shown, shown
    for path in project.rglob("*.py"):
        path.write_text("raise SystemExit('this is not what was submitted')\n")
    first, second = (resolve([*words, f"seed={seed}"]).run_folder for seed in (3, 4))

    def reached(starts: int, steps: int) -> bool:
        kinds = [event["event"] for event in events.read(first)]
        return (
            kinds.count("start") == starts
            and (first / "metrics.jsonl").exists()
            and (first / "metrics.jsonl").read_text().count('"train"') >= steps
        )

    wait(lambda: reached(1, 5), 90, "the fifth step", cluster, first)
    assert cluster.run("scancel", "--signal=USR2", jobs[0]).returncode == 0
    wait(lambda: reached(2, 12), 90, "the second start", cluster, first)
    assert cluster.run("scontrol", "requeue", jobs[0]).returncode == 0
    wait((second / "done").exists, 240, "the end of the second run", cluster, second)
    noted, later = events.read(first), events.read(second)
    codes = {event["code"] for event in [*noted, *later] if event["event"] in ("start", "submitted")}
    assert len(codes) == 1 and (tmp_path / "runs" / ".code" / codes.pop()).is_dir()
    assert [event["event"] for event in noted].count("start") == 3
    assert (
        next(event for event in noted if event["event"] == "finished")["time"]
        < next(event for event in later if event["event"] == "start")["time"]
    )
    assert (tmp_path / "shell").read_text() == "start\n" * 4
    assert result_of(first) == undisturbed


@pytest.mark.full
@pytest.mark.parametrize("code", [0, 1])
def test_a_requeued_job_has_not_ended_for_those_that_wait_for_it(
    cluster: clusters.Cluster, tmp_path: Path, code: int
) -> None:
    """Dependencies hold through a requeue from the batch script (as slurm.cluster.requeue does it) and one by hand:
    what waits for the job (afterany) starts after its real end; what needs it (afterok) starts then if it ended well,
    and else is cancelled by SLURM."""
    script = tmp_path / "job.sh"
    script.write_text(f"""#!/bin/bash
echo start >> {tmp_path}/out
case ${{SLURM_RESTART_COUNT:-0}} in 0) scontrol requeue $SLURM_JOB_ID; sleep 60;; 1) sleep 60;; esac
sleep 1; echo end >> {tmp_path}/out; exit {code}
""")

    def sbatch(*options: str) -> str:
        return cluster.run("sbatch", "--parsable", "-p", "low", "-o", "/dev/null", *options).stdout.strip()

    def out() -> list[str]:
        return (tmp_path / "out").read_text().split() if (tmp_path / "out").exists() else []

    job = sbatch("--requeue", str(script))
    needs, waits = (
        sbatch(f"--dependency={kind}:{job}", "--kill-on-invalid-dep=yes", "--wrap", f"echo {kind} >> {tmp_path}/out")
        for kind in ("afterok", "afterany")
    )
    wait(lambda: len(out()) == 2, 40, "the second start", cluster, tmp_path)
    assert cluster.run("scontrol", "requeue", job).returncode == 0
    wait(
        lambda: not {job, needs, waits} & set(cluster.run("squeue", "-h", "-o", "%i").stdout.split()),
        60,
        "the end of all three",
        cluster,
        tmp_path,
    )
    assert out()[:4] == ["start", "start", "start", "end"]
    assert sorted(out()[4:]) == (["afterany", "afterok"] if code == 0 else ["afterany"])
    assert ("COMPLETED" if code == 0 else "CANCELLED") in cluster.run("scontrol", "show", "job", needs).stdout


def test_a_cluster_leaves_nothing_behind(tmp_path: Path) -> None:
    """`stop()` ends every daemon of a cluster and removes its folder."""
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    running = clusters.Cluster(tmp_path / "c", nodes=1).start()
    bystander = subprocess.Popen(
        ["sleep", "60"], env={**os.environ, **running.environment}
    )  # a user's shell has SLURM_CONF too
    assert running._processes()
    running.stop()
    assert bystander.poll() is None, "a process that only talks to the cluster is not the cluster's"
    bystander.kill()
    bystander.wait()
    assert not running._processes() and not running.folder.exists()


def test_a_step_is_found_without_the_daemons_mark(tmp_path: Path) -> None:
    """A job's processes are the cluster's by SLURM_CONF and a job's id, with the slurmstepd above them; a shell that
    only talks to the cluster is not."""
    conf, stepd = tmp_path / "slurm.conf", tmp_path / "slurmstepd"
    stepd.symlink_to("/bin/bash")
    clean = {"PATH": os.environ["PATH"], "GLT_NO_MARK": "1"}
    step = subprocess.Popen([stepd, "-c", f"SLURM_CONF={conf} SLURM_JOB_ID=7 sleep 60 & wait"], env=clean)
    shell = subprocess.Popen(["sleep", "60"], env={**clean, "SLURM_CONF": str(conf)})
    try:
        wait(lambda: len(clusters.of_steps(conf)) == 2, 10, "the step", clusters.Cluster(tmp_path), tmp_path)
        assert step.pid in clusters.of_steps(conf) and shell.pid not in clusters.of_steps(conf)
    finally:
        clusters.send([shell.pid, *clusters.of_steps(conf)], signal.SIGKILL)
        step.wait(), shell.wait()
