"""What a shell's variables may say to SLURM's commands and to ranks, and what the batch script does by itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from slurm import environment, launch, rendezvous
from slurm.cluster import batch_job as jobs
from slurm.cluster import needs
from slurm.cluster.batch_job import BatchJob
from slurm.cluster.sbatch import batch_job
from slurm.cluster.submission import remarks
from slurm.local import process_group
from slurm.monitoring import events
from slurm.planning.schedule import Run
from slurm.site_file import Site
from tests.helpers.launching import batch_file, stub
from tests.helpers.launching import launch as launched

DRY = ["data=digits_glt", "cluster=dry"]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that is in no job and that says nothing to SLURM."""
    for name in list(os.environ):
        if name.startswith((*environment.OF_A_JOB, *environment.OF_A_QUESTION, "SBATCH_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    for name in environment.OF_A_RANK:
        monkeypatch.delenv(name, raising=False)


# ---------------------------------------------------------------------------------------------------------- variables
def test_only_what_nobody_decided_reaches_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SBATCH_ variable goes where the file sets that option, where SLURM refuses it beside ours, and where it
    touches what the launcher owns; others are below the recipe; of an outer job and a rank nothing stays but the way to
    SLURM."""
    given = {
        **{"SBATCH_JOB_NAME": "x", "SBATCH_EXPORT": "NONE", "SBATCH_TIMELIMIT": "1", "SBATCH_MEM_PER_CPU": "1"},
        **{"SBATCH_RESERVATION": "r", "SBATCH_PARTITION": "p", "SBATCH_GRES": "gpu:1"},
        **{"SBATCH_CONTAINER": "/c", "SBATCH_KILL_INVALID_DEP": "yes", "SBATCH_TRES_PER_TASK": "gpu:1"},
        **{"SLURM_CONF": "/c", "SLURM_JWT": "j", "SLURM_JOB_ID": "5", "SRUN_DEBUG": "1", "SUBMITIT_FOLDER": "x"},
        **{"RANK": "3", "TORCHELASTIC_USE_AGENT_STORE": "True", "SQUEUE_USERS": "x"},
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for options, passed in (
        (("time", "mem", "partition", "gpus_per_node"), {"SBATCH_RESERVATION"}),
        (("time", "mem"), {"SBATCH_RESERVATION", "SBATCH_PARTITION", "SBATCH_GRES"}),
    ):
        assert set(environment.for_sbatch(options)) & set(given) == {"SLURM_CONF", "SLURM_JWT", *passed}
    assert environment.remarks(("time", "mem", "gpus_per_node")) == [
        "variables of this shell that are set aside: SBATCH_CONTAINER, SBATCH_EXPORT, SBATCH_GRES, SBATCH_JOB_NAME, "
        "SBATCH_KILL_INVALID_DEP, SBATCH_MEM_PER_CPU, SBATCH_TIMELIMIT, SBATCH_TRES_PER_TASK, RANK, "
        "TORCHELASTIC_USE_AGENT_STORE, 3 of a job or step",
        "variables of this shell that sbatch gets, below the recipe: SBATCH_PARTITION=p, SBATCH_RESERVATION=r",
    ]


def test_dry_names_what_the_shell_says(tmp_path: Path) -> None:
    """`cluster=dry` shows as comments which variables are set aside and which reach sbatch, of a run and of a build;
    the warning signal is not the shell's to choose."""
    shell = {"SBATCH_PARTITION": "p", "SBATCH_RESERVATION": "r", "SUBMITIT_PREEMPT_SIGNAL": "USR1"}
    build = ["build=imagenet_glt", f"source={tmp_path}", f"out={tmp_path}", "cluster=dry"]
    for words in ([*DRY], build):
        shown = launched(*words, "slurm.partition=gpu", **shell).stdout
        assert "# variables of this shell that are set aside: SBATCH_PARTITION, 1 of a job or step\n" in shown
        assert "# variables of this shell that sbatch gets, below the recipe: SBATCH_RESERVATION=r\n" in shown
        assert "--signal=USR2@120" in shown and "wckey" not in shown


def test_a_rank_learns_its_place_from_slurm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On SLURM a rank's variables of another launcher are replaced, and a rank of a local run keeps its own."""
    monkeypatch.setattr(os, "environ", dict(os.environ))  # more is set than a patch would take back
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "77")
    rendezvous.export_rank()
    assert os.environ["RANK"] == "77"
    for name, value in {
        **{"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "5", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"},
        **{"SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost,other"},
    }.items():
        monkeypatch.setenv(name, value)
    rendezvous.export_rank()
    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")] == [
        *("1", "2", "0", "localhost")
    ]
    assert 20000 <= int(os.environ["MASTER_PORT"]) <= 60000 and "TORCHELASTIC_RUN_ID" not in os.environ


def test_a_local_run_is_in_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started in an allocation or by torchrun, a local rank has neither's variables, and its own place."""
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, env, **_: seen.append(env))
    for name in ("SLURM_JOB_ID", "SLURM_PROCID", "GROUP_RANK", "TORCHELASTIC_USE_AGENT_STORE", "RANK"):
        monkeypatch.setenv(name, "7")
    recipe = resolve(["data=digits_glt", f"runs={tmp_path}", "cluster=local"])
    recipe.run_folder.mkdir()
    with open(tmp_path / "lock", "w") as lock:
        process_group._start(Run(recipe), lock, ended=lock.fileno(), threads=1)
    (given,) = seen
    assert given["RANK"] == "0" and not {"SLURM_JOB_ID", "SLURM_PROCID", "GROUP_RANK"} & set(given)
    assert "TORCHELASTIC_USE_AGENT_STORE" not in given


# ---------------------------------------------------------------------------------------------------------------- gpus
def test_more_tasks_than_gpus_are_refused_and_fewer_are_said() -> None:
    """Two processes cannot share a GPU; GPUs that idle are named once; a local run asks for none."""
    words = ["data=digits_glt", "slurm.gpus_per_node=2", "batch.size=128", "batch.bn=16"]
    with pytest.raises(RecipeError, match=r"^tasks_per_node=4 with slurm.gpus_per_node=2 would put two processes on"):
        launch.parse([*words, "tasks_per_node=4"], Site())
    launch.parse([*words, "tasks_per_node=4", "cluster=local"], Site())
    fewer = Run(resolve([*words, "tasks_per_node=1", "nodes=2"]))
    assert remarks([fewer, fewer]) == [
        "1 of slurm.gpus_per_node=2 stay idle on each node: tasks_per_node=1 uses one each"
    ]
    assert remarks([Run(resolve(words))]) == []


# ------------------------------------------------------------------------------------------------------------ the id
def job_in(folder: Path) -> BatchJob:
    (folder / "log").mkdir(parents=True)
    recipe = resolve(["data=digits_glt", f"runs={folder}"])
    return BatchJob(folder / "log", (len,), batch_job(Run(recipe), folder).parameters)


@pytest.mark.parametrize("said", ["echo 31", "echo job 2025 ends; echo; echo 4", "true", "echo Submitted batch job 9"])
def test_what_sbatch_prints_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """The id is that of the new job with our name and a batch file in our folder, and not of one that was there or of
    one of this name in another folder; all files of the job are there before SLURM hears of it."""
    job = job_in(tmp_path / "a run")
    own, name = tmp_path / "a run" / "log", job.name
    (tmp_path / "queue").write_text(f"99|FAILED|N/A|None|{name}|{own}/x.sh\n")
    line = f"66|PENDING|N/A|None|{name}|/other/log/x.sh\n7|PENDING|N/A|None|{name}|{own}/x.sh"
    stub(tmp_path, "sbatch", f"{said}; ls '{own}' > {tmp_path}/files; echo '{line}' >> {tmp_path}/queue")
    stub(tmp_path, "squeue", f"cat {tmp_path}/queue")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert job.submit() == "7"
    assert (tmp_path / "files").read_text().split() == [f"{name}.pkl", f"{name}.sh"]


def test_nothing_is_submitted_while_squeue_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a list of the jobs before, an older one of this name would be taken for the new one."""
    job = job_in(tmp_path / "a")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(jobs, "ID_S", 0.1)
    stub(tmp_path, "sbatch", f"touch {tmp_path}/asked; exit 1")
    stub(tmp_path, "squeue", f"[ -e {tmp_path}/asked ] && echo '5|CANCELLED|N/A|None|{job.name}|{tmp_path}/a/log/x.sh'")
    with pytest.raises(RecipeError, match=r"^SLURM does not answer \(squeue\), so .* was not submitted$"):
        job.submit()
    assert not (tmp_path / "asked").exists()


def test_a_wrapper_may_hand_over_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the name alone decides. What is refused is refused in sbatch's words, unless the job is there all the same;
    where SLURM does not tell, nothing is made up."""
    job = job_in(tmp_path / "a")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(jobs, "ID_S", 0.1)
    line = f"echo '7|PENDING|N/A|None|{job.name}|/tmp/wrapped.sh' >> {tmp_path}/queue"
    line += f"; echo '8|PENDING|N/A|None|{job.name}|/other/log/{job.name}.sh' >> {tmp_path}/queue"
    for script, answer in ((line, "7"), (f"{line}; echo timed out >&2; exit 1", "7"), ("echo 12", None)):
        (tmp_path / "queue").write_text("")
        stub(tmp_path, "sbatch", script)
        stub(tmp_path, "squeue", f"cat {tmp_path}/queue")
        assert job.submit() == answer
    stub(tmp_path, "sbatch", "echo 'sbatch: error: QOS limit' >&2; exit 1")
    with pytest.raises(RecipeError, match=rf"^sbatch refused {job.name}: sbatch: error: QOS limit$"):
        (tmp_path / "queue").write_text("")
        job.submit()


def test_parts_of_an_array_find_their_pickles(tmp_path: Path) -> None:
    """Each task of an array, and a job of one part, finds its own pickle by its place in the folder; a start after a
    requeue finds it again."""
    job = job_in(tmp_path)
    array = BatchJob(job.folder, (len, sum), job.parameters)
    for of, variables, link, target in (
        (job, {"SLURM_JOB_ID": "5"}, "5_submitted.pkl", f"{job.name}.pkl"),
        (array, {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "1"}, "6_1_submitted.pkl", f"{job.name}-1.pkl"),
    ):
        (job.folder / target).write_text("")
        for _ in range(2):
            subprocess.run(["bash", "-c", "\n".join(of.setup()[-2:])], env=variables, check=True)
            assert os.readlink(job.folder / link) == target


# ---------------------------------------------------------------------------------------------------- the batch script
def started(text: str, folder: Path) -> tuple[int, str]:
    """Run a batch file with a srun and a Python that only say their names."""
    script = f"srun() {{ echo srun; }}; module() {{ echo module; }}\n{text.replace(jobs.PYTHON, 'python')}"
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    stub(bin_folder, "python", 'echo "$*"; case "$*" in *needs*) exit 1;; esac')
    ran = subprocess.run(
        ["bash", "-c", script], env={"PATH": f"{bin_folder}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    return ran.returncode, ran.stdout


def test_a_finished_run_is_not_started_again(tmp_path: Path) -> None:
    """Where `done` is there the batch script does what was left, behind modules and setup, which its Python may
    need, and leaves with 0 before srun."""
    recipe, run = resolve(["data=digits_glt", "slurm.modules=[cuda]"]), tmp_path / "a run"
    (run / "log").mkdir(parents=True)
    text = batch_file(recipe, run, tmp_path, ["echo setup"])
    said = started(text, tmp_path)[1]
    assert said.split()[:3] == ["module", "setup", "srun"]
    (run / "done").touch()
    code, said = started(text, tmp_path)
    assert code == 0 and said.split()[:2] == ["module", "setup"]
    assert "-m slurm.after_run" in said and len(said.splitlines()) == 3


def test_a_second_stage_without_its_first_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batch script ends with 0 and without srun, and the word `waiting` is noted; with the first stage's `done` it
    goes on."""
    first, folder = tmp_path / "first", tmp_path / "second"
    for path in (first, folder / "log"):
        path.mkdir(parents=True)
    given = batch_job(Run(resolve(["data=digits_glt", f"runs={tmp_path}"]), (first,)), tmp_path).parameters
    text = BatchJob(folder / "log", (len,), given).text()
    code, said = started(text, tmp_path)
    assert code == 0 and "slurm.cluster.needs" in said and "srun" not in said
    monkeypatch.setattr(needs, "SEEN_S", 0.0)
    assert needs.main(folder, [first]) == 1
    assert [(event["event"], event["needs"]) for event in events.read(folder)] == [("waiting", ["first"])]
    (first / "done").touch()
    assert "srun" in started(text, tmp_path)[1] and needs.main(folder, [first]) == 0
