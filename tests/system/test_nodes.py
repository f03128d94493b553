"""Nodes that are bad or slow, on a real SLURM: the look alone finds them, and a run comes back without them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm.cluster.sbatch import batch_job
from slurm.monitoring import events
from slurm.planning.schedule import Run
from tests.helpers import cluster as clusters
from tests.helpers.jobs import launched, wait
from tests.helpers.paths import FAULTS

pytestmark = pytest.mark.full
WORDS = [
    "recipe=glt_randaug_ifl",
    "data=digits_glt",
    "nodes=2",
    "schedule.epochs=8",
    "batch.size=32",
    "batch.bn=16",
    "ifl.milestones=[0,1]",
    "log.every=1",
    "log.eval_test_every=8",
    "slurm.cpus_per_task=1",
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    package = clusters.missing_package()
    if package:
        pytest.skip(f"needs {package} (make system, as root)")
    running = clusters.Cluster(tmp_path_factory.mktemp("slurm"), nodes=3)
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
def shell(cluster: clusters.Cluster, tmp_path: Path) -> dict[str, str]:
    """A shell in which faults of nodes can be asked for, by the file `fault`."""
    (tmp_path / "fault").touch()
    (tmp_path / "site.yaml").write_text("look: {slow_steps: 20, exclude_slow: true}\n")
    variables = {"PYTHONPATH": str(FAULTS), "GLT_FAULT": str(tmp_path / "fault")}
    return {**cluster.environment, **variables, "GLT_SITE": str(tmp_path / "site.yaml"), "OMP_NUM_THREADS": "1"}


def _check(shell: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROJECT / "slurm" / "launch.py"), "check=nodes", "slurm.cpus_per_task=1", *words],
        env={**os.environ, **shell},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_look_alone_names_nodes_and_says_how_to_look_on(
    cluster: clusters.Cluster, shell: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check=nodes` waits for its job: with nothing wrong it ends with 0 and leaves nothing behind; a node that answers
    wrong, and one whose folder cannot be written, are named, and the code is 1. A job that does not start in time is
    told with its state, and stays."""
    sound = _check(shell, "nodes=2", f"runs={tmp_path}")
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert [line.split()[-1] for line in sound.stdout.splitlines()[2:]] == ["ok", "ok"]
    assert list((tmp_path / ".check").iterdir()) == []
    (tmp_path / "fault").write_text("answer r2\nunwritable r1\n")
    said = _check(shell, "nodes=3", f"runs={tmp_path}")
    assert said.returncode == 1, said.stdout + said.stderr
    verdicts = {line.split()[0]: line.split()[-1] for line in said.stdout.splitlines()[2:5]}
    assert verdicts == {"r1": "unfit", "r2": "unfit", "r3": "ok"}, said.stdout
    assert "node r2 gets 1 of 262144 numbers wrong" in said.stdout and "node r1 cannot write" in said.stdout

    from slurm.cluster import node_check
    from slurm.site_file import Site

    blocker = cluster.run("sbatch", "--parsable", "-N", "3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 60")
    for key, value in shell.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(node_check, "START_S", 3.0)
    told = node_check.parse_command(["check=nodes", "nodes=2", f"runs={tmp_path}"], Site())
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        assert told.run() == 1
    assert "is PENDING after" in lines[-1] and "squeue -j" in lines[-1] and "check=" in lines[-1], lines
    cluster.run("scancel", "-u", "root")
    assert blocker.returncode == 0


def test_a_node_that_answers_wrong_is_left_out_and_the_run_finishes(
    cluster: clusters.Cluster, shell: dict[str, str], tiny_root: Path, tmp_path: Path
) -> None:
    """The start that meets the node ends before it trains; the job comes back without it and finishes, and what the
    user excluded stays excluded. Where no other node is left, the run gives up, and the status says why."""
    (tmp_path / "fault").write_text("answer r1\n")
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path}", "schedule.epochs=3"]
    launched(words, shell)
    folder = resolve(words).run_folder
    wait((folder / "done").exists, 150, "the end of the run", cluster, folder)
    noted = events.read(folder)
    assert [(event["node"], event["fault"]) for event in noted if event["event"] == "node"] == [("r1", "answer")]
    assert next(event.get("excluded") for event in noted if event["event"] == "verdict") == ["r1"]
    assert "ExcNodeList=r1 " in cluster.run("scontrol", "show", "job", "-o").stdout
    assert len([event for event in noted if event["event"] == "start"]) == 2

    words = [*words, "nodes=1", "seed=4", "batch.bn=32"]
    alone = resolve(words).run_folder
    for node in ("r2", "r3"):
        cluster.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        launched(words, shell)
        wait(lambda: events.read(alone)[-1].get("verdict"), 90, "the verdict", cluster, alone)
    finally:
        for node in ("r2", "r3"):
            cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert events.read(alone)[-1]["verdict"] == "give up"
    shown = subprocess.run(
        [sys.executable, str(PROJECT / "slurm" / "status.py"), f"runs={tmp_path}"],
        env={**os.environ, **shell},
        capture_output=True,
        text=True,
    ).stdout
    assert f"{alone.name} gave up: node r1 gets 1 of 262144 numbers wrong" in shown
    assert "partition low has no other node that is up" in shown


def test_a_node_that_lacks_what_the_script_needs_is_left_out(
    cluster: clusters.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setup line fails on the first node, before a rank starts: the job comes back, on another node."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    words = ["data=digits_glt", f"runs={tmp_path}", "slurm.partition=low", "slurm.cpus_per_task=1"]
    run = Run(resolve(words))
    (run.folder / "log").mkdir(parents=True)
    finishes = f'echo "$SLURMD_NODENAME" > {run.folder}/done'  # a rank would take its time
    job = batch_job(run, PROJECT, ['[ "$SLURMD_NODENAME" != r1 ]', finishes]).submit()
    wait((run.folder / "done").exists, 150, "the start on another node", cluster, run.folder)
    assert (run.folder / "done").read_text() in ("r2\n", "r3\n")
    shown = cluster.run("scontrol", "show", "job", "-o", str(job)).stdout
    assert "ExcNodeList=r1 " in shown and "Restarts=1 " in shown
    kinds = [(event["event"], event.get("verdict"), event.get("excluded")) for event in events.read(run.folder)]
    assert kinds == [("node", None, None), ("failed", None, None), ("verdict", "requeue", ["r1"])]


def test_a_slow_node_is_named_and_left_out_at_the_next_start(
    cluster: clusters.Cluster, shell: dict[str, str], tiny_root: Path, tmp_path: Path
) -> None:
    """A rank that takes its time in each step: its node is noted with a factor, and left out once the job has gone back
    into the queue."""
    words = [*WORDS, f"data.root={tiny_root}", f"runs={tmp_path}", "seed=5"]
    launched(words, shell)
    folder = resolve(words).run_folder
    (tmp_path / "fault").write_text("slow r2\n")

    def slow() -> list[str]:
        return [event["node"] for event in events.read(folder) if event["event"] == "slow"]

    wait(slow, 120, "the word on the slow node", cluster, folder)
    assert slow() == ["r2"]
    job = next(event["job"] for event in events.read(folder) if event["event"] == "submitted")
    assert cluster.run("scancel", "--signal=USR2", job).returncode == 0
    wait((folder / "done").exists, 150, "the end of the run", cluster, folder)
    assert next(event.get("excluded") for event in events.read(folder) if event["event"] == "verdict") == ["r2"]
    assert "NodeList=r[1,3] " in cluster.run("scontrol", "show", "job", "-o", job).stdout
