"""On a real SLURM: four nodes on this machine, from Debian's packages (tests/cluster.py)."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import cluster as clusters
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm import after, events, status

# Small and slow enough to be hit: 12 epochs of 14 steps, environments and centers from the first epoch on.
WORDS = ["recipe=glt_randaug_ifl", "data=digits_glt", "nodes=2", "seed=3", "schedule.epochs=12", "batch.size=32", "batch.bn=16", "ifl.milestones=[0,1]", "log.every=1",
         "log.eval_test_every=12", "slurm.cpus_per_task=1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    running = clusters.Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield running.start()
    finally:
        running.stop()


def launch(words: list[str], environment: dict[str, str] | None = None) -> str:
    result = subprocess.run([sys.executable, str(PROJECT / "slurm" / "launch.py"), *words], env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}, capture_output=True,
                            text=True, timeout=170)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def wait(condition, seconds: float, what: str, cluster: clusters.Cluster, folder: Path):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    logs = "\n".join(f"== {path}\n{path.read_text()[-1500:]}" for path in sorted(folder.glob("log/*")) if path.suffix in (".out", ".err", ".jsonl"))
    raise AssertionError(f"{what} did not come in {seconds} s\n{cluster.run('scontrol', 'show', 'job').stdout}\n{logs}")


def result_of(folder: Path) -> dict[str, object]:
    """Everything a run's numbers are made of: the last checkpoint's tensors, predictions and environments."""
    import torch

    last = max(folder.glob("ckpt/step-*"))
    model = torch.load(last / "engine" / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)["module"]  # written by this test
    suite = torch.load(last / "suite.pt", weights_only=True)
    arrays = {path.relative_to(folder).as_posix(): {name: value.tobytes() for name, value in np.load(path).items()} for path in sorted(folder.glob("*/**/*.npz"))}
    return {"step": last.name, "model": {name: value.numpy().tobytes() for name, value in model.items()}, "centers": suite["centers"].numpy().tobytes(), "arrays": arrays}


def queue_of(cluster: clusters.Cluster) -> dict[str, str] | None:
    """What the status command would learn from this cluster."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in cluster.environment.items():
            patch.setenv(key, value)
        return status.queue()


@pytest.fixture(scope="module")
def undisturbed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path_factory.mktemp('local')}", "cluster=local"]
    launch(words)
    return result_of(resolve(words).run_folder)


def test_preempted_by_a_real_job_the_run_ends_with_the_same_bits(cluster: clusters.Cluster, undisturbed: dict[str, object], tiny_root: Path, tmp_path: Path) -> None:
    """A run on a preemptible partition that a job of higher priority throws out is put back by itself, goes on from its
    checkpoint, and ends with the parameters, buffers, centers, environments and predictions of an undisturbed run on
    this machine, bit for bit."""
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path}", "slurm.partition=lowgrace"]
    job = re.search(r"job: (\d+)", launch(words, cluster.environment))[1]
    folder = resolve(words).run_folder
    metrics = folder / "metrics.jsonl"
    wait(lambda: metrics.exists() and metrics.read_text().count('"train"') >= 5, 90, "the fifth step", cluster, folder)
    assert status.state_of(folder, events.read(folder), queue_of(cluster)) == "running"
    assert "is running: nothing to do" in launch(words, cluster.environment)
    assert cluster.run("sbatch", "-p", "high", "-N", "4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2").returncode == 0
    wait(lambda: status.state_of(folder, events.read(folder), queue_of(cluster)) == "queued", 60, "the requeue", cluster, folder)
    wait((folder / "done").exists, 150, "the end of the run", cluster, folder)
    kinds = [event["event"] for event in events.read(folder)]
    assert kinds.count("start") == 2 and kinds[-1] in ("finished", "verdict"), kinds
    steps = [line["step"] for line in map(json.loads, metrics.read_text().splitlines()) if line["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert result_of(folder) == undisturbed
    wait(lambda: "COMPLETED" in cluster.run("scontrol", "show", "job", job).stdout, 30, "the job's end", cluster, folder)


# ------------------------------------------------------------------------------------------------------- the authority
@pytest.mark.parametrize(
    "steps, stopped, cancelled, done, verdict",
    [
        ([0], True, False, False, "requeue"),
        ([0, 0, 0, 0], True, False, False, "requeue"),
        ([0], False, False, False, "requeue"),
        ([0, 7, 7], False, False, False, "requeue"),
        ([0, 7, 7, 7], False, False, False, "give up"),
        ([0, 0, 0, 7], False, False, False, "requeue"),
        ([0], True, True, False, "cancelled"),
        ([0], True, True, True, "finished"),
    ],
)
def test_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[int], stopped: bool, cancelled: bool, done: bool, verdict: str) -> None:
    """A stop by a signal is requeued always, a failure unless three starts in a row found the same checkpoint, a cancelled
    or finished job never."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    for step in steps:
        (tmp_path / "ckpt" / f"step-{step:09d}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "ckpt" / f"step-{step:09d}" / "MANIFEST.json").write_text("{}")
        events.note(tmp_path, "start")
    if stopped:
        events.note(tmp_path, "stopped")
    if done:
        (tmp_path / "done").touch()
    assert after.decide(tmp_path, cancelled) == verdict


@pytest.mark.parametrize(
    "noted, jobs, done, state",
    [
        ([], {}, False, "new"),
        ([("submitted", {"job": "7"})], {"7": "PENDING"}, False, "queued"),
        ([("submitted", {"job": "7"}), ("start", {})], {"7": "RUNNING"}, False, "running"),
        ([("submitted", {"job": "7"}), ("start", {})], {"8": "RUNNING"}, False, "lost"),
        ([("submitted", {"job": "7"}), ("start", {})], None, False, "unknown"),
        ([("start", {}), ("failed", {"rank": 1, "error": "E: x"})], {}, False, "failed"),
        ([("start", {}), ("stopped", {})], None, False, "stopped"),
        ([("start", {}), ("verdict", {"verdict": "give up"})], {}, False, "gave up"),
        ([("start", {}), ("verdict", {"verdict": "cancelled"})], {}, False, "cancelled"),
        ([("submitted", {"job": "7"}), ("start", {})], {"7": "RUNNING"}, True, "finished"),
    ],
)
def test_states(tmp_path: Path, noted: list, jobs: dict[str, str] | None, done: bool, state: str) -> None:
    """The status command's word for a run follows from the first that knows: done, the queue, the last event; where SLURM
    does not answer it says so."""
    for event, values in noted:
        events.note(tmp_path, event, **values)
    if done:
        (tmp_path / "done").touch()
    assert status.state_of(tmp_path, events.read(tmp_path), jobs) == state


def test_a_held_lock_is_a_running_run(tmp_path: Path) -> None:
    """A local run is running while a process holds its folder's lock, and lost when it let go without a word."""
    events.note(tmp_path, "start")
    with open(tmp_path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status.state_of(tmp_path, events.read(tmp_path), {}) == "running"
    assert status.state_of(tmp_path, events.read(tmp_path), {}) == "lost"


def test_why_names_the_first_rank_to_fail(tmp_path: Path) -> None:
    """`why=RUN` shows the error of the rank that failed first in the newest start, and the end of its log."""
    events.note(tmp_path, "failed", rank=0, error="Old: from an earlier start")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_PORT", "2")
        events.note(tmp_path, "failed", rank=1, error="DataError: shard x is damaged")
        events.note(tmp_path, "failed", rank=0, error="RuntimeError: connection closed by peer")
    (tmp_path / "log" / "rank-1.log").write_text("the last words of rank 1")
    said = status.why(tmp_path)
    assert "rank 1" in said and "DataError: shard x is damaged" in said and "the last words of rank 1" in said


def test_a_fenced_start_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that found a newer one's claim ends for good: requeued, it would take the run away from the newer one."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    events.note(tmp_path, "start")
    events.note(tmp_path, "failed", rank=0, error="Fenced: another token")
    assert after.decide(tmp_path, cancelled=False) == "superseded"


def test_a_replaced_start_cannot_commit(tmp_path: Path) -> None:
    """Once a newer start has claimed the run folder, the older one's commit is refused and the newer one's is not."""
    from ifl.fence import Fence, Fenced

    old, new = Fence(tmp_path), Fence(tmp_path)
    new.check()
    with pytest.raises(Fenced, match="newer start"):
        old.check()


def test_a_cluster_leaves_nothing_behind(tmp_path: Path) -> None:
    """`stop()` ends every daemon of a cluster and removes its folder."""
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    running = clusters.Cluster(tmp_path / "c", nodes=1).start()
    bystander = subprocess.Popen(["sleep", "60"], env={**os.environ, **running.environment})  # a user's shell has SLURM_CONF too
    assert running._processes()
    running.stop()
    assert bystander.poll() is None, "a process that only talks to the cluster is not the cluster's"
    bystander.kill()
    bystander.wait()
    assert not running._processes() and not running.folder.exists()
