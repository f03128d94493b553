"""`cluster=here` on a real SLURM: runs in an allocation that is held, shared, interrupted and taken away; containers.

The containers are stand-ins, which note how they are called, hide what is not bound, and run the command here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from recipes.common.locks import is_held
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm.monitoring import events
from tests.helpers import cluster as clusters
from tests.helpers.containers import sandbox, stand_ins
from tests.helpers.jobs import launched, result_of, wait

WORDS = [
    *(
        "recipe=glt_ifl",
        "data=digits_glt",
        "schedule.epochs=30",
        "batch.size=32",
        "batch.bn=16",
        "ifl.milestones=[0,1]",
    ),
    *("log.every=1", "log.eval_test_every=12", "slurm.cpus_per_task=1", "nodes=2"),
]


class Held:
    """An allocation, and a shell's commands in it."""

    def __init__(self, cluster: clusters.Cluster, *options: str) -> None:
        self.cluster, self.started = cluster, []
        said = cluster.run("salloc", "--no-shell", "-N", "2", "-c", "2", "-p", "low", *options)
        self.job = re.search(r"job allocation (\d+)", said.stderr)[1]
        cpus = cluster.run("scontrol", "show", "job", "-o", self.job).stdout
        assert "JobState=RUNNING" in cpus
        self.variables = {
            **{**os.environ, **cluster.environment, "OMP_NUM_THREADS": "1", "GLT_SITE": ""},
            **{"SLURM_JOB_ID": self.job, "SLURM_JOB_CPUS_PER_NODE": "2(x2)", "SLURM_MEM_PER_CPU": "9"},
        }

    def start(self, *words: str, before: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
        """Start the launcher there."""
        self.started.append(
            subprocess.Popen(
                [*before, sys.executable, str(PROJECT / "slurm" / "launch.py"), *words, "cluster=here"],
                env={**self.variables, **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        )
        return self.started[-1]

    def ended(self, process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
        said = process.communicate(timeout=seconds)[0]
        return process.returncode, said

    def steps(self) -> list[str]:
        return self.cluster.run("squeue", "-s", "-h", "-j", self.job, "-o", "%i %j").stdout.split()

    def give_back(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
        self.cluster.run("scancel", self.job)


@pytest.fixture
def held(cluster: clusters.Cluster) -> Iterator[Held]:
    allocation = Held(cluster)
    yield allocation
    allocation.give_back()


def run_in(folder: Path, root: Path, *words: str) -> tuple[list[str], Path]:
    """A run's words, and its folder."""
    given = [*WORDS, f"data.root={root}", f"runs={folder}", *words]
    return given, resolve(given).run_folder


def trained(folder: Path, steps: int) -> bool:
    metrics = folder / "metrics.jsonl"
    return metrics.exists() and metrics.read_text().count('"train"') >= steps


def site_with(folder: Path, **container: object) -> tuple[Path, Path]:
    """A site file with stand-ins for containers on its PATH; and the file that they note their calls in.

    They hide all temporary folders of the tests, SLURM's configuration among them.
    """
    bin_folder, calls = stand_ins(folder / "stand-ins", folder.parent)
    image = folder / "an image.sif"
    image.touch()
    values = {
        **{
            "container": {"image": str(image), **container},
            "python": str(Path(sys.prefix).resolve() / "bin" / "python"),
        },
        **{"partition": "lowgrace", "setup": [f"export PATH='{bin_folder}':$PATH"]},
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(values))
    return folder / "site.yaml", calls


def test_a_run_in_a_held_allocation_and_a_container(held: Held, tiny_root: Path, tmp_path: Path) -> None:
    """A run starts at once on the held node, in the site's container, where neither SLURM nor the nodes' names are
    known; its end and code are those of a local run."""
    site, calls = site_with(tmp_path)
    words, folder = run_in(tmp_path / "runs", tiny_root, "nodes=1", "schedule.epochs=2")
    code, said = held.ended(held.start(*words, GLT_SITE=str(site)))
    assert code == 0 and f"run folder: {folder}" in said, said
    assert (folder / "done").exists() and [event["event"] for event in events.read(folder)] == ["start", "finished"]
    assert (
        calls.read_text().count("exec --bind") == 1 and f"{tmp_path}/an image.sif env PYTHONPATH=" in calls.read_text()
    )


@pytest.mark.full
@pytest.mark.parametrize("engine", ["apptainer", "pyxis", *(["a real apptainer"] if shutil.which("apptainer") else [])])
def test_a_job_in_a_container_is_preempted_and_goes_on(
    cluster: clusters.Cluster, undisturbed: dict[str, object], tiny_root: Path, tmp_path: Path, engine: str
) -> None:
    """Both of its starts have their ranks in the container, the batch script between them runs outside by the node's
    plain python3, and it ends with an undisturbed run's bits."""
    site, calls = site_with(tmp_path, engine=engine.split()[-1])
    if engine == "a real apptainer":  # which sees nothing of this machine but what is bound
        values = yaml.safe_load(site.read_text())
        values |= {"container": sandbox(tmp_path / "sandbox"), "setup": ["export APPTAINER_NO_MOUNT=home,tmp,cwd"]}
        site.write_text(yaml.safe_dump(values))
    words, folder = run_in(tmp_path / "runs", tiny_root)
    launched(words, {**cluster.environment, "GLT_SITE": str(site)})
    wait(lambda: trained(folder, 5), 90, "the fifth step", cluster, folder)
    cluster.run("sbatch", "-p", "high", "-N", "4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")

    def kinds() -> list[str]:
        return [event["event"] for event in events.read(folder)]

    wait(lambda: kinds().count("verdict") == 2, 200, "the verdict on the second start", cluster, folder)
    verdicts = [event["verdict"] for event in events.read(folder) if event["event"] == "verdict"]
    assert kinds().count("start") == 2 and verdicts == ["requeue", "finished"]
    assert result_of(folder) == undisturbed
    noted = calls.read_text().splitlines() if calls.exists() else []
    if engine == "a real apptainer":
        assert not noted and "APPTAINER_NO_MOUNT" in (folder / "log" / f"{folder.name}.sh").read_text()
    elif engine == "pyxis":  # srun's words, once a start
        assert noted[0] == f"--container-image={tmp_path}/an image.sif" and len(noted) == 4
    else:  # a call a rank
        assert len(noted) == 4 and all(f"--bind {tmp_path}/runs:{tmp_path}/runs" in call for call in noted)
    assert "python3 -E -s -m slurm.cluster.requeue" in (folder / "log" / f"{folder.name}.sh").read_text()


@pytest.fixture(scope="module")
def undisturbed(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    words, folder = run_in(tmp_path_factory.mktemp("local"), tiny_root)
    launched([*words, "cluster=local"])
    return result_of(folder)


@pytest.mark.full
def test_stopped_taken_away_and_gone_on(
    cluster: clusters.Cluster, held: Held, undisturbed: dict[str, object], tiny_root: Path, tmp_path: Path
) -> None:
    """While a run is under way here it is `running` and refused to others; Ctrl-C saves it (99); in an allocation that
    is cancelled under it it saves, too; the same command in another finishes it with an undisturbed run's bits."""
    words, folder = run_in(tmp_path, tiny_root)
    first = held.start(*words)
    wait(lambda: trained(folder, 5), 90, "the fifth step", cluster, folder)
    shown = launched_status(held, tmp_path)
    assert " running " in shown, shown
    again = held.start(*words)
    code, said = held.ended(again)
    assert code == 2 and "is being trained by another process" in said
    assert "is running: nothing to do" in launched([*words, "cluster=slurm"], held.variables)
    first.send_signal(signal.SIGINT)
    code, said = held.ended(first)
    assert code == 99 and "stopped and saved after step" in said, said
    assert not held.steps() and not is_held(folder / "lock")
    second, steps = held.start(*words), events.newest_step(folder)
    wait(lambda: trained(folder, steps + 5), 90, "five steps more", cluster, folder)
    cluster.run("scancel", held.job)
    code, said = held.ended(second)
    assert code == 99 and "the same command goes on from there" in said, said
    code, said = held.ended(held.start(*words))
    assert code == 2 and f"the allocation of this shell, job {held.job}, is over" in said
    third = Held(cluster)
    try:
        code, said = third.ended(third.start(*words))
        assert code == 0, said
    finally:
        third.give_back()
    assert result_of(folder) == undisturbed
    # Ranks that share cores may be slow.
    kinds = [event["event"] for event in events.read(folder) if event["event"] != "slow"]
    assert kinds == ["start", "stopped"] * 2 + ["start", "finished"]


def launched_status(held: Held, runs: Path) -> str:
    words = [sys.executable, str(PROJECT / "slurm" / "status.py"), f"runs={runs}"]
    return subprocess.run(words, env=held.variables, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.full
def test_an_evaluator_is_a_further_step(
    held: Held, undisturbed: dict[str, object], tiny_root: Path, tmp_path: Path
) -> None:
    """With log.eval=job a step beside the ranks' judges all epochs but the last, which the ranks judge; it ends with
    the run, whose bits are an inline run's. Killed, it is started again."""
    words, folder = run_in(tmp_path, tiny_root, "log.eval=job", "log.eval_wait_s=600")
    process = held.start(*words)
    wait(lambda: any(folder.glob("eval/epoch-*")), 90, "the first verdict", held.cluster, folder)
    assert len(held.steps()) == 2 * 2, "a number and a name of each step"
    evaluator = next(pid for pid in clusters.of_steps(held.cluster.folder / "slurm.conf") if is_evaluator(pid))
    os.kill(evaluator, signal.SIGKILL)
    code, said = held.ended(process, 200)
    assert code == 0 and "is started again" in said, said
    assert not held.steps() and len(list(folder.glob("eval/epoch-*"))) == 29
    assert not [event for event in events.read(folder) if event["event"] == "evaluator"]
    assert result_of(folder) == undisturbed


def is_evaluator(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"ifl.evaluation" in words and not words[0].endswith(b"srun") and b"--overlap" not in words


@pytest.mark.full
def test_several_share_an_allocation(cluster: clusters.Cluster, held: Held, tiny_root: Path, tmp_path: Path) -> None:
    """The runs of seeds= and of a second command are under way side by side as steps; all end well."""
    words, _ = run_in(tmp_path, tiny_root, "nodes=1", "schedule.epochs=2")
    both = held.start(*words, "seeds=0,1", "max_jobs=2")
    other = held.start(*words, "seed=2")
    most = 0
    while both.poll() is None and other.poll() is None:
        most = max(most, len(held.steps()) // 2)
        time.sleep(0.3)
    assert most == 3
    for process in (both, other):
        code, said = held.ended(process)
        assert code == 0, said
    ports = {event["incarnation"] for folder in tmp_path.glob("glt*") for event in events.read(folder)}
    assert len(ports) == 3


@pytest.mark.full
def test_a_launcher_that_is_killed(cluster: clusters.Cluster, held: Held, tiny_root: Path, tmp_path: Path) -> None:
    """kill -9 of the launcher: the ranks see it, save and leave; a start meanwhile waits for them and goes on."""
    words, folder = run_in(tmp_path, tiny_root)
    first = held.start(*words)
    wait(lambda: trained(folder, 5), 90, "the fifth step", cluster, folder)
    first.kill()
    first.wait()
    assert is_held(folder / "lock")
    code, said = held.ended(held.start(*words))
    assert code == 0, said
    kinds = [event["event"] for event in events.read(folder)]
    assert kinds == ["start", "stopped", "start", "finished"]


@pytest.mark.full
def test_a_rank_that_fails_and_an_end_at_once(
    cluster: clusters.Cluster, held: Held, tiny_root: Path, tmp_path: Path
) -> None:
    """A killed rank ends the run with code 1 and srun's word on it; a second Ctrl-C ends all ranks at once with 130."""
    words, folder = run_in(tmp_path, tiny_root)
    first = held.start(*words)
    wait(lambda: trained(folder, 3), 90, "the third step", cluster, folder)
    rank = next(pid for pid in clusters.of_steps(cluster.folder / "slurm.conf") if is_rank(pid, "1"))
    os.kill(rank, signal.SIGKILL)
    code, said = held.ended(first)
    assert code == 1 and re.search(r"srun: error: r2: task 1: Killed", said), said
    made = (folder / "metrics.jsonl").read_text().count('"train"')
    second = held.start(*words)
    wait(lambda: trained(folder, made + 3), 90, "three steps more", cluster, folder)
    for pid in clusters.of_steps(cluster.folder / "slurm.conf"):
        if is_rank(pid, "0"):
            os.kill(pid, signal.SIGSTOP)
    second.send_signal(signal.SIGINT)
    time.sleep(1.5)
    second.send_signal(signal.SIGINT)
    code, said = held.ended(second, 30)
    assert code == 130 and "ended at once" in said, said
    wait(lambda: not held.steps(), 20, "the end of the step", cluster, folder)
    assert not [pid for pid in clusters.of_steps(cluster.folder / "slurm.conf") if is_rank(pid, "0")]


def is_rank(pid: int, rank: str) -> bool:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"SLURM_PROCID={rank}".encode() in variables and b"slurm.job" in words


@pytest.mark.full
def test_inside_an_interactive_job(cluster: clusters.Cluster, tiny_root: Path, tmp_path: Path) -> None:
    """In a shell that srun gave, whose own step holds all cores, a run starts at once, too."""
    words, folder = run_in(tmp_path, tiny_root, "nodes=1", "schedule.epochs=2")
    command = [sys.executable, str(PROJECT / "slurm" / "launch.py"), *words, "cluster=here"]
    said = subprocess.run(
        ["srun", "-p", "low", "-N", "1", "-c", "2", *command],
        env={**os.environ, **cluster.environment, "GLT_SITE": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert (folder / "done").exists()
