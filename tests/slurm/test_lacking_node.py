"""A node that lacks what a start needs: the job goes on elsewhere, thrice at most, and the run's events say why."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from recipes.resolve import resolve
from slurm.cluster.array_job import array_job, write_elements
from slurm.cluster.batch_job import BatchJob
from slurm.cluster.sbatch import batch_job
from slurm.monitoring import events, failure, run_state
from slurm.nodes.remarks import remarks
from slurm.planning.arrays import Array
from slurm.planning.schedule import Run
from slurm.run_folder import prepare
from slurm.starting.container import Container
from tests.helpers.launching import stub
from tests.helpers.paths import PROJECT

NODES = "\n".join(f"r{number} idle (null) (null) 8 8000" for number in range(1, 4))
SLURM = """case "$(basename "$0") $1" in
"scontrol show") echo "JobId=7 JobState=${{STATE-RUNNING}} Restarts=$SLURM_RESTART_COUNT Partition=p NumNodes=1";;
"sinfo -h") printf '%s\\n' {nodes};;
srun*) echo started;;
sacct*) ;;
*) echo "$*" >> {asked};;
esac"""
CONTAINER = Container("apptainer", "/none.sif")


class Node:
    """A node r1 of three, and what its SLURM was asked to change."""

    def __init__(self, folder: Path) -> None:
        self.bin, self._asked = folder / "bin", folder / "asked"
        self.bin.mkdir()
        for name in ("scontrol", "sinfo", "sacct", "srun"):
            stub(self.bin, name, SLURM.format(nodes=shlex.quote(NODES), asked=shlex.quote(str(self._asked))))
        stub(self.bin, "python3", f'exec {shlex.quote(sys.executable)} "$@"')

    def start(self, job: BatchJob, number: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the job's batch file as its start of this number."""
        own = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(number), "SLURMD_NODENAME": "r1", **variables}
        path = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": "/"}
        return subprocess.run(["/bin/bash", "-c", job.text()], env={**path, **own}, capture_output=True, text=True)

    def asked(self) -> list[str]:
        """Return what SLURM was asked to change since the last call."""
        said = self._asked.read_text().splitlines() if self._asked.exists() else []
        self._asked.unlink(missing_ok=True)
        return said


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def runs(folder: Path, number: int = 1) -> list[Run]:
    """Runs with their folders, submitted as job 7."""
    made = [Run(resolve(["data=digits_glt", f"seed={seed}", f"runs={folder / 'my runs'}"])) for seed in range(number)]
    for run in made:
        prepare(run.recipe, run.folder)
        events.append_event(run.folder, "submitted", incarnation=events.LAUNCHER, job="7")
    return made


def verdicts(run: Run) -> list[str]:
    return [event["verdict"] for event in events.read(run.folder) if event["event"] == "verdict"]


@pytest.mark.parametrize(
    ("setup", "own", "lack"),
    [
        (["true", "[ -d /none ]  # 'secret'"], {}, "fails at setup line 2 of the site file"),
        (["[ -d /none ] || exit 1"], {}, "ends at a setup line of the site file"),
        (["exit 0"], {}, "ends at a setup line of the site file"),
        (["set -euo pipefail", "false", "true"], {}, "ends at a setup line of the site file"),
        (["set -u", 'cd "$SECRET"'], {}, "ends at a setup line of the site file"),
        ([], {"container": CONTAINER}, "has no apptainer: `container` of the site file needs it"),
        ([], {"python": "/none/python"}, "has no python=/none/python of the site file, or one older than Python 3.11"),
    ],
)
def test_a_run_goes_on_without_the_node_and_is_given_up_after_three(
    node: Node, tmp_path: Path, setup: Sequence[str], own: dict[str, object], lack: str
) -> None:
    """Whatever it is: the next start is on another node, and where three starts in a row fail so, the run is given up;
    in words that name the node, and hold nothing of the line."""
    (run,) = runs(tmp_path)
    job = batch_job(run, PROJECT, setup, own=own)
    for number, verdict in enumerate(("requeue", "requeue", "give up")):
        ended = node.start(job, number)
        assert (ended.returncode, ended.stdout) == (1, "") and ended.stderr.count(f" {lack}, so the job ends") == 1
        assert verdicts(run)[number:] == [verdict]
        put_back = ["requeue 7", "update JobId=7 ExcNodeList=r1"] if verdict == "requeue" else []
        assert node.asked() == put_back
    noted = events.read(run.folder)
    assert remarks("a", noted) == [f"a gave up: node r1 {lack}"] and "secret" not in json.dumps(noted)
    assert f"node r1 {lack}" in failure.last_error(noted) and not any("code" in event for event in noted)
    assert run_state.state_of(run.folder, noted, {}) == "gave up"


def test_a_start_that_made_progress_begins_the_count_again(node: Node, tmp_path: Path) -> None:
    """Bad nodes now and then, with work between them, are no reason to give up."""
    (run,) = runs(tmp_path)
    job = batch_job(run, PROJECT, ["false"])
    for number in range(6):
        if number % 2:
            start = {"incarnation": f"7.{number}", "step": events.newest_step(run.folder)}
            events.append_event(run.folder, "start", **start)
            (run.folder / "ckpt" / f"step-{number:09d}").mkdir(parents=True)
            (run.folder / "ckpt" / f"step-{number:09d}" / "MANIFEST.json").write_text("{}")
        else:
            node.start(job, number)
    assert verdicts(run) == ["requeue"] * 3


@pytest.mark.parametrize("left", ["the node's", "none"])
def test_what_is_missing_may_be_what_the_jobs_python_needs(node: Node, tmp_path: Path, left: str) -> None:
    """Then the node's own Python decides; where there is none either, the run is given up in a sentence."""
    (run,) = runs(tmp_path)
    job = batch_job(run, PROJECT, ["false"], own={"python": "/none/python"})
    if left == "none":
        stub(node.bin, "python3", "exit 1")
    assert node.start(job).returncode == 1
    assert verdicts(run) == ["requeue" if left == "the node's" else "give up"]
    if left == "none":
        assert node.asked() == [] and events.read(run.folder)[-1]["incarnation"] == "7.0"
        assert "no Python of its node could be started" in remarks("a", events.read(run.folder))[0]


def test_a_node_that_does_not_see_the_launchers_python(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the site file names no Python, jobs have this command's, on a disk that a node may have lost."""
    (run,) = runs(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/none/python")
        job = batch_job(run, PROJECT)
    assert node.start(job).returncode == 1 and verdicts(run) == ["requeue"]
    assert events.read(run.folder)[-2]["error"] == "node r1 does not see /none/python, which starts the job"


def test_a_finished_run_stays_finished(node: Node, tmp_path: Path) -> None:
    """SLURM may start its job again on a node that lacks something: no node is blamed, and nothing is put back."""
    (run,) = runs(tmp_path)
    (run.folder / "done").touch()
    node.start(batch_job(run, PROJECT, ["false"]))
    assert node.asked() == [] and verdicts(run) == ["finished"]
    assert not [event for event in events.read(run.folder) if event["event"] in ("node", "failed")]


@pytest.mark.parametrize("pack", [1, 2])
def test_elements_of_an_array_and_packed_runs_go_on_elsewhere(node: Node, tmp_path: Path, pack: int) -> None:
    """Only the element that is on the node, with all its runs but those that are finished or given up already."""
    made = runs(tmp_path, 4)
    array = Array(tuple(tuple(made[at : at + pack]) for at in range(0, 4, pack)), tuple(range(4 // pack)))
    job = array_job(array, PROJECT, ["false"])
    write_elements(array, job.folder)
    (made[3].folder / "log").mkdir(exist_ok=True)
    (made[3].folder / "log" / "7_1.over").touch()
    element = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    assert node.start(job, **element).returncode == 1
    assert node.asked() == ["requeue 7_1", "update JobId=7_1 ExcNodeList=r1"]
    mine = made[pack : 2 * pack]
    assert [verdicts(run) for run in made] == [["requeue"] if run in mine and run != made[3] else [] for run in made]
    stub(node.bin, "python3", "exit 1")
    blind = array_job(array, PROJECT, ["set -f", "false"], own={"python": "/none/python"})
    assert node.start(blind, 1, **element).returncode == 1
    assert [events.read(run.folder)[-1].get("incarnation") for run in mine] == ["7_1.1"] * pack


def test_what_setup_lines_set_ends_with_them(node: Node, tmp_path: Path) -> None:
    """After `set -e`, or with a trap on ERR, a rank that fails would end the script before it is decided what becomes
    of the job. A trap of the site's own on EXIT stays."""
    (run,) = runs(tmp_path)
    stub(node.bin, "srun", 'echo "started"; exit 1')
    tidies = f"trap 'touch {shlex.quote(str(tmp_path / 'tidied'))}' EXIT"
    ended = node.start(batch_job(run, PROJECT, ["set -eEuf -o pipefail", "trap 'exit 1' ERR", tidies]))
    assert ended.stdout == "started\n" and verdicts(run) == ["requeue"], ended.stderr
    assert (tmp_path / "tidied").exists()


@pytest.mark.parametrize("signal", ["TERM", "USR2"])
def test_a_signal_in_setup_lines_is_no_fault_of_the_node(node: Node, tmp_path: Path, signal: str) -> None:
    """A job that is put back would go on as if nobody had cancelled it; what the site's own trap tidies, it tidies."""
    (run,) = runs(tmp_path)
    for lines in ([], [f"trap 'touch {shlex.quote(str(tmp_path / 'tidied'))}' EXIT"]):
        ended = node.start(batch_job(run, PROJECT, [*lines, f"kill -{signal} $$", "true"]))
        assert (ended.returncode, ended.stdout, verdicts(run), node.asked()) == (143, "", [], []), ended.stderr
    assert (tmp_path / "tidied").exists()


def test_a_good_node_notices_nothing(node: Node, tmp_path: Path) -> None:
    (run,) = runs(tmp_path)
    assert node.start(batch_job(run, PROJECT, ["[ -d / ]"]), STATE="CANCELLED").stdout == "started\n"
    assert not [event for event in events.read(run.folder) if event["event"] == "node"]
