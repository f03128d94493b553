"""`log.eval=job` on a real SLURM: the evaluator is a job beside the run's, and the run is the same run."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from recipes.resolve import resolve
from slurm import evaluator, status
from slurm.monitoring import events, run_state
from tests.helpers import cluster as clusters
from tests.helpers.interrupted import ending
from tests.helpers.jobs import launched, wait

WORDS = [
    *("recipe=glt_randaug_ifl", "data=digits_glt", "seed=3", "schedule.epochs=12", "batch.size=32", "batch.bn=16"),
    *("ifl.milestones=[0,1]", "log.every=1", "log.eval_test_every=5", "slurm.cpus_per_task=1", "nodes=2"),
]
EPOCHS = [f"epoch-{epoch:03d}.json" for epoch in range(11)]
"""The verdicts of an evaluator that judged all epochs but the last, which the ranks judge."""
JOB = "log.eval=job"


def result(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """All of a finished run that must not depend on who judged its epochs, and the order of its lines."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    order = [(line["kind"], line.get("split"), line["step"]) for line in lines if line["kind"] in ("train", "eval")]
    return ending(folder), order


@pytest.fixture(scope="module")
def undisturbed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path_factory.mktemp('local')}", "cluster=local"]
    launched(words)
    return result(resolve(words).run_folder)


@pytest.fixture
def talking(cluster: clusters.Cluster, monkeypatch: pytest.MonkeyPatch) -> clusters.Cluster:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def evaluators() -> list[str]:
    """The evaluators' jobs that are in the queue."""
    jobs = (run_state.queue() or {}).items()
    return [job for job, said in jobs if said.name.endswith(".eval") and said.state not in run_state.ENDED]


def started(variables: dict[str, str], words: list[str]) -> tuple[str, Path]:
    """Launch a run; returns its job and its folder."""
    job = re.search(r"job: (\d+)", launched(words, variables))[1]
    return job, resolve(words).run_folder


def reached(folder: Path, steps: int) -> bool:
    metrics = folder / "metrics.jsonl"
    return metrics.exists() and metrics.read_text().count('"train"') >= steps


def verdicts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("eval/epoch-*"))


@pytest.mark.full
def test_a_run_with_its_evaluator_is_the_same_run(
    talking: clusters.Cluster, undisturbed: tuple[Any, Any], tiny_root: Path, tmp_path: Path
) -> None:
    """All epochs but the last are judged by the evaluator's job; lines, best epoch, predictions and tensors are those
    of an inline run. The evaluator comes into the queue with the run's start, is not taken for the run, and leaves."""
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path}", "slurm.partition=low", JOB]
    job, folder = started(talking.environment, words)
    wait(lambda: evaluators() or (folder / "done").exists(), 60, "the evaluator", talking, folder)
    assert len(evaluators()) == 1
    state = run_state.queue() or {}
    assert run_state.job_of(folder, events.read(folder), state) == job
    assert f"{folder} is running: nothing to do" in launched(words, talking.environment)
    wait((folder / "done").exists, 200, "the end of the run", talking, folder)
    wait(lambda: not evaluators(), 20, "the end of the evaluator", talking, folder)
    assert verdicts(folder) == EPOCHS
    assert result(folder) == undisturbed
    assert not [event for event in events.read(folder) if event["event"] == "evaluator"]


@pytest.mark.full
def test_preempted_runs_and_evaluators(
    talking: clusters.Cluster, undisturbed: tuple[Any, Any], tiny_root: Path, tmp_path: Path
) -> None:
    """A job of higher priority takes all nodes from run and evaluator, then the evaluator is killed, then it alone is
    thrown out: each comes back, no second evaluator is left, and the run's end is the undisturbed one."""
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path}", "slurm.partition=lowgrace", JOB]
    _, folder = started(talking.environment, [*words, "log.eval_wait_s=600"])
    wait(lambda: len(verdicts(folder)) >= 1, 120, "the first verdict", talking, folder)
    assert talking.run("sbatch", "-p", "high", "-N", "4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    starts = lambda: [event["event"] for event in events.read(folder)].count("start")  # noqa: E731
    wait(lambda: starts() == 2, 90, "the second start", talking, folder)
    judged = len(verdicts(folder))
    wait(lambda: len(verdicts(folder)) > judged, 120, "a verdict of the second start", talking, folder)
    assert len(evaluators()) == 1
    pid = process_of_evaluator(talking, folder)
    os.kill(pid, signal.SIGKILL)
    wait(lambda: process_of_evaluator(talking, folder) not in (0, pid), 90, "it comes back", talking, folder)
    assert talking.run("scontrol", "requeue", evaluators()[0]).returncode == 0
    wait((folder / "done").exists, 300, "the end of the run", talking, folder)
    wait(lambda: not evaluators(), 20, "the end of the evaluator", talking, folder)
    assert verdicts(folder) == EPOCHS and result(folder) == undisturbed


def words_of(pid: int) -> list[str]:
    """The words of a process's command; none of one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def process_of_evaluator(talking: clusters.Cluster, folder: Path) -> int:
    """The process of a run's evaluator on this machine; 0 where there is none."""
    for pid in clusters.of_steps(talking.folder / "slurm.conf"):
        words = words_of(pid)
        if "ifl.evaluation" in words and str(folder) in words and "srun" not in words[0]:
            return pid
    return 0


@pytest.mark.full
@pytest.mark.parametrize("how", ["scancel", "cancel=RUN", "while it waits", "requeued by hand", "without a word"])
def test_a_start_that_is_over_leaves_no_evaluator(
    talking: clusters.Cluster, tiny_root: Path, tmp_path: Path, how: str
) -> None:
    """A cancelled run takes its evaluator out of the queue, also one that still waits for a node, and so does one whose
    job is put back by hand: a run that waits has none. A batch script that is killed with all that it would have done
    is missed by the evaluator itself."""
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path}", "slurm.partition=low", JOB, "schedule.epochs=90"]
    variables = dict(talking.environment)
    if how == "while it waits":
        (tmp_path / "site.yaml").write_text("for: {evaluator: {partition: high}}")
        variables["GLT_SITE"] = str(tmp_path / "site.yaml")
        assert talking.run("scontrol", "update", "PartitionName=high", "State=DOWN").returncode == 0
    job, folder = started(variables, words)
    wait(lambda: reached(folder, 3) and evaluators(), 90, "the third step", talking, folder)
    patience_s = 15  # srun's end, the batch script's own words, and five seconds that SLURM gives them
    if how == "cancel=RUN":
        assert "is being cancelled" in status.cancel(folder)
    elif how == "requeued by hand":
        assert talking.run("scontrol", "update", "PartitionName=low", "State=DOWN").returncode == 0
        assert talking.run("scontrol", "requeue", job).returncode == 0
    elif how == "without a word":
        scripts = [pid for pid in clusters.of_steps(talking.folder / "slurm.conf") if is_script(pid)]
        assert len(scripts) == 2
        talking.run("scancel", "--signal=KILL", "--batch", job)
        talking.run("scancel", job)
        patience_s = evaluator.LOOK_S + 15
    else:
        assert talking.run("scancel", job).returncode == 0
    try:
        wait(lambda: not evaluators(), patience_s, "the end of the evaluator", talking, folder)
    finally:
        for name in ("low", "high"):
            talking.run("scontrol", "update", f"PartitionName={name}", "State=UP")
        talking.run("scancel", job)
    if how == "requeued by hand":
        assert "verdict" not in [event["event"] for event in events.read(folder)]


def is_script(pid: int) -> bool:
    """Say whether a process is a job's batch script."""
    words = words_of(pid)
    return len(words) == 2 and words[0].endswith("bash") and words[1].endswith("slurm_script")


@pytest.mark.full
def test_each_run_of_an_array_has_its_evaluator(talking: clusters.Cluster, tiny_root: Path, tmp_path: Path) -> None:
    """Two seeds as an array, then two packed into a job: each run has an evaluator, which judges its epochs alone."""
    words = ["data=digits_glt", "schedule.epochs=4", "batch.size=32", "batch.bn=16", "slurm.cpus_per_task=1", JOB]
    words += [f"data.root={tiny_root}", "seeds=0,1", "slurm.partition=low", "slurm.gpus_per_node=0"]
    for more in ([], ["pack=2"]):
        runs = tmp_path / f"runs-{len(more)}"
        launched([*words, *more, f"runs={runs}"], talking.environment)
        folders = [path.parent for path in runs.glob("glt*/recipe.yaml")]
        assert len(folders) == 2
        for folder in folders:
            wait((folder / "done").exists, 200, "the end of the run", talking, folder)
            assert verdicts(folder) == EPOCHS[:3]
        wait(lambda: not evaluators(), 20, "the end of the evaluators", talking, folders[0])
