"""Job arrays on a real SLURM: each element works in its own run folder, comes back as itself, and ends alone."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from recipes.common.errors import StatusError
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm import status
from slurm.cluster.array_job import array_job, write_elements
from slurm.monitoring import events, run_state
from slurm.monitoring.run_line import status_of
from slurm.planning.arrays import Array
from slurm.planning.schedule import Run
from tests.helpers import cluster as clusters
from tests.helpers.jobs import launched, result_of, wait

TINY = ["data=digits_glt", "schedule.epochs=2", "batch.size=32", "batch.bn=16", "slurm.cpus_per_task=1", "log.every=1"]
LONG = "schedule.epochs=40"  # seconds of training on any machine: long enough to be met by a preemption


@pytest.fixture()
def talking(cluster: clusters.Cluster, monkeypatch: pytest.MonkeyPatch) -> clusters.Cluster:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


@dataclass(frozen=True)
class Work:
    """Stands in for training: notes its start, and waits for the word to go on; a warning stops it as a save would."""

    folder: str

    def __call__(self) -> None:
        """Write `done` and end, or leave with 99."""
        folder = Path(self.folder)
        warned: list[int] = []
        signal.signal(signal.SIGUSR2, lambda number, _: warned.append(number))
        events.append_event(folder, "start")
        while not warned and not (folder / "go").exists():
            time.sleep(0.05)
        if not warned:
            (folder / "done").write_text(os.environ["SLURM_ARRAY_TASK_ID"])
        events.append_event(folder, "stopped" if warned else "finished")
        print("out of", folder.name)
        sys.stdout.flush()
        os._exit(99 if warned else 0)


def in_training(folder: Path) -> bool:
    """Say whether a run has made its first steps and not its last."""
    trained = folder / "metrics.jsonl"
    return trained.exists() and trained.read_text().count('"train"') >= 2 and not (folder / "done").exists()


def throw_out(talking: clusters.Cluster) -> None:
    """Take all nodes away by a short job of higher priority."""
    told = talking.run("sbatch", "-p", "high", "-N", "4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2")
    assert told.returncode == 0


def kinds(folder: Path) -> list[str]:
    return [event.get("verdict", event["event"]) for event in events.read(folder)]


def test_an_element_works_comes_back_and_is_cancelled_alone(talking: clusters.Cluster, tmp_path: Path) -> None:
    """Of four runs the second is done and left out. The others start in their own folders, with their logs there; the
    first is warned, and only it comes back into the queue, as itself, and ends. The third is cancelled by its name, and
    the fourth, whose submission was not noted, is known all the same."""
    runs = [
        Run(resolve([*TINY, f"runs={tmp_path / 'my runs'}", "slurm.partition=low", f"seed={seed}"]))
        for seed in range(4)
    ]
    first, done, third, fourth = folders = [run.folder for run in runs]
    for folder in folders:
        (folder / "log").mkdir(parents=True)
        (folder / "recipe.yaml").write_text("log: {}")
    array = Array(tuple((run,) for run in runs), (0, 2, 3), at_once=3)
    job = array_job(array, PROJECT)
    job = replace(job, calls=tuple(Work(str(run.folder)) for run in array.runs))
    write_elements(array, job.folder)
    main = job.submit()
    assert main is not None
    for number in (0, 2):
        events.append_event(folders[number], "submitted", job=f"{main}_{number}", array=job.name)
    wait(lambda: all("start" in kinds(f) for f in (first, third, fourth)), 60, "the starts", talking, first)
    known = run_state.queue() or {}
    assert sorted(job for job in known if job.startswith(f"{main}_")) == [f"{main}_{number}" for number in (0, 2, 3)]
    found = [run_state.job_of(folder, events.read(folder), known) for folder in folders]
    assert found == [f"{main}_0", None, f"{main}_2", f"{main}_3"]
    assert run_state.state_of(fourth, events.read(fourth), known) == "running"
    assert talking.run("scancel", "--signal=USR2", f"{main}_0").returncode == 0
    assert "is being cancelled" in status.cancel(third)
    wait(lambda: kinds(first).count("start") == 2, 60, "the second start", talking, first)
    (first / "go").touch()
    (fourth / "go").touch()
    wait(lambda: all(kinds(f).count("finished") == 2 for f in (first, fourth)), 60, "the ends", talking, first)
    assert kinds(first) == ["submitted", "start", "stopped", "requeue", "start", "finished", "finished"]
    assert kinds(fourth) == ["start", "finished", "finished"] and (fourth / "done").read_text() == "3"
    assert kinds(third)[:3] == ["submitted", "start", "cancelled"] and not (third / "done").exists()
    assert list((done / "log").iterdir()) == []
    for number in (0, 3):
        log = folders[number] / "log"
        assert f"out of {folders[number].name}" in (log / f"{main}_{number}_0_log.out").read_text()
        assert ": finished" in (log / f"{main}_{number}_0_log.err").read_text()


def test_packed_runs_share_a_job_and_end_alone(talking: clusters.Cluster, tmp_path: Path) -> None:
    """Two runs are steps of one job, side by side. One ends; the other is warned: the job comes back for it alone, and
    the run that is finished is not started again. Each has its own logs, and neither can be cancelled without the
    other."""
    words = [*TINY, f"runs={tmp_path / 'my runs'}", "slurm.partition=low", "slurm.mem=512M"]
    runs = [Run(resolve([*words, f"seed={seed}"])) for seed in range(2)]
    first, second = folders = [run.folder for run in runs]
    for folder in folders:
        (folder / "log").mkdir(parents=True)
        (folder / "recipe.yaml").write_text("log: {}")
    array = Array((tuple(runs),), (0,))
    job = array_job(array, PROJECT)
    job = replace(job, calls=tuple(Work(str(run.folder)) for run in array.runs))
    write_elements(array, job.folder)
    main = job.submit()
    wait(lambda: all("start" in kinds(folder) for folder in folders), 60, "the starts", talking, first)
    known = run_state.queue() or {}
    assert [job for job in known if job.startswith(f"{main}_")] == [f"{main}_0"]
    assert [run_state.job_of(folder, [], known) for folder in folders] == [f"{main}_0"] * 2
    assert "NumCPUs=2 NumTasks=2" in talking.run("scontrol", "show", "job", "-o", f"{main}_0").stdout
    with pytest.raises(StatusError, match=r"shares job .* with 1 other run,"):
        status.cancel(second)
    (first / "go").touch()
    wait(lambda: kinds(first).count("finished") == 2, 60, "the first's verdict", talking, first)
    assert run_state.state_of(second, events.read(second), known) == "running"
    assert talking.run("scancel", "--signal=USR2", f"{main}_0").returncode == 0
    wait(lambda: kinds(second).count("start") == 2, 60, "the second start", talking, second)
    (second / "go").touch()
    wait(lambda: kinds(second).count("finished") == 2, 60, "the second's verdict", talking, second)
    assert kinds(first) == ["start", "finished", "finished"]
    assert kinds(second) == ["start", "stopped", "requeue", "start", "finished", "finished"]
    for folder in folders:
        assert f"out of {folder.name}" in (folder / "log" / f"{main}_0_0_log.out").read_text()
        assert ": finished" in (folder / "log" / f"{main}_0_0_log.err").read_text()
    ended = ("show", "job", "-o", f"{main}_0")
    wait(lambda: "JobState=COMPLETED" in talking.run("scontrol", *ended).stdout, 30, "the end", talking, first)


@pytest.mark.full
def test_packed_training_ends_with_the_bits_of_single_jobs(
    talking: clusters.Cluster, tiny_root: Path, tmp_path: Path
) -> None:
    """Three seeds, two in a job, thrown out by a job of higher priority, end with the bits of runs that had a job of
    their own."""
    words = [*TINY, LONG, "slurm.partition=low", f"data.root={tiny_root}"]
    packed, alone = [*words, f"runs={tmp_path / 'packed'}"], [*words, f"runs={tmp_path / 'alone'}"]
    said = launched([*packed, "seeds=0,1,2", "pack=2"], talking.environment)
    assert said.count("array: ") == 1 and "2 jobs" in said, said
    folders = sorted(path.parent for path in (tmp_path / "packed").glob("[!.]*/recipe.yaml"))
    wait(lambda: in_training(folders[0]), 300, "a step", talking, folders[0])
    throw_out(talking)
    launched([*alone, "seeds=0,1,2", "slurm.arrays=false"], talking.environment)
    for folder in folders:
        other = tmp_path / "alone" / folder.name
        wait(lambda f=folder, o=other: (f / "done").exists() and (o / "done").exists(), 600, "both", talking, folder)
        assert result_of(folder) == result_of(other)
    assert max(kinds(folder).count("start") for folder in folders) == 2


@pytest.mark.full
def test_larger_tables_are_several_arrays_of_this_slurm(tiny_root: Path, tmp_path: Path) -> None:
    """Where MaxArraySize is 4, six runs are an array of four and one of two, which wait for nodes; the same command
    again submits nothing, and `cancel=` takes one element out of a waiting array. Cancelled together before they
    started, the others are cancelled, each."""
    if package := clusters.missing_package():
        pytest.skip(f"needs {package} (make system, as root)")
    running = clusters.Cluster(tmp_path / "c", nodes=1, options="MaxArraySize=4\n")
    try:
        running.start()
        running.run("scontrol", "update", "NodeName=r1", "State=DRAIN", "Reason=test")
        words = [*TINY, "slurm.partition=low", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}"]
        several = [*words, "seeds=0,1,2,3,4,5", "max_jobs=9"]
        said = launched(several, running.environment)
        first, second = re.findall(r"array: (\d+), ", said)
        assert "array: " not in launched(several, running.environment)
        folders = [resolve([*words, f"seed={seed}"]).run_folder for seed in range(6)]
        with pytest.MonkeyPatch.context() as patch:
            for name, value in running.environment.items():
                patch.setenv(name, value)
            known = run_state.queue() or {}
            elements = [*(f"{first}_{number}" for number in range(4)), f"{second}_0", f"{second}_1"]
            assert [run_state.job_of(folder, events.read(folder), known) for folder in folders] == elements
            assert f"job {first}_2 is being cancelled" in status.cancel(folders[2])
            assert running.run("scancel", first).returncode == 0
            states = [status_of(folder, run_state.queue()).state for folder in folders]
            assert states == [*["cancelled"] * 4, "queued", "queued"]
        assert "4 runs in 4 jobs" in launched(several, running.environment)
    finally:
        running.stop()


@pytest.mark.full
def test_a_table_of_twenty_runs_ends_whole(talking: clusters.Cluster, tiny_root: Path, tmp_path: Path) -> None:
    """Twenty runs of ten seeds and two rates, four at once, are one array; all running elements are thrown out by a job
    of higher priority, twice, and each comes back as itself. Every run ends, and those of one seed end with the bits of
    runs that were jobs of their own. The same command again submits nothing."""
    words = [*TINY, LONG, "slurm.partition=low", f"data.root={tiny_root}", "grid=optim.lr:.05,.1"]
    own, alone = [*words, f"runs={tmp_path / 'array'}"], [*words, f"runs={tmp_path / 'alone'}", "slurm.arrays=false"]
    seeds = f"seeds={','.join(map(str, range(10)))}"
    said = launched([*own, seeds, "max_jobs=4"], talking.environment)
    assert said.count("array: ") == 1 and said.count("\njob: ") == 0, said
    main = said.split("array: ")[1].split(",")[0]
    assert len({job.partition("_")[0] for job in run_state.queue() or {}} & {main}) == 1
    folders = sorted(path.parent for path in (tmp_path / "array").glob("[!.]*/recipe.yaml"))
    assert len(folders) == 20

    def finished() -> int:
        return sum((folder / "done").exists() for folder in folders)

    for count in (2, 8):
        wait(
            lambda count=count: finished() >= count and any(map(in_training, folders)),
            300,
            f"{count} finished runs and one in training",
            talking,
            folders[0],
        )
        throw_out(talking)
    wait(lambda: finished() == 20, 600, "the end of all", talking, folders[0])
    starts = [kinds(folder).count("start") for folder in folders]
    assert max(starts) >= 2 and sum(starts) >= 22, starts
    assert "array: " not in launched([*own, seeds], talking.environment)
    launched([*alone, "seed=0"], talking.environment)
    single = sorted(path.parent for path in (tmp_path / "alone").glob("[!.]*/recipe.yaml"))
    assert len(single) == 2
    wait(lambda: all((folder / "done").exists() for folder in single), 200, "the single jobs", talking, single[0])
    for folder in single:
        assert result_of(tmp_path / "array" / folder.name) == result_of(folder)
        jobs = [
            event["job"] for event in events.read(tmp_path / "array" / folder.name) if event["event"] == "submitted"
        ]
        assert len(jobs) == 1 and jobs[0].startswith(f"{main}_"), json.dumps(jobs)
