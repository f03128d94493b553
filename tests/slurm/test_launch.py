"""The launcher: what it says, what it refuses, and the job that SLURM would get. Nothing is trained here."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from submitit.core.utils import DelayedSubmission

from ifl.saving import provenance
from recipes.resolve import dump, resolve
from recipes.schema import PROJECT
from slurm.cluster.sbatch import parameters
from slurm.code_snapshot import place
from slurm.job import FAILED, TrainJob
from slurm.local import process_group
from slurm.monitoring import events
from slurm.planning.schedule import Run
from tests.helpers.launching import LAUNCH, batch_file, batch_part, flags, launch, refused, stub

DRY = ["data=digits_glt", "recipe=glt_ifl", "cluster=dry"]
FULL = [
    "nodes=4",
    "tasks_per_node=2",
    "slurm.partition=gpu,long",
    "slurm.account=me@lab",
    "slurm.qos=high",
    "slurm.constraint=a100",
    "slurm.mem=64G",
    "slurm.gpus_per_node=2",
    "slurm.cpus_per_task=3",
    "slurm.time=77",
    "slurm.signal_delay_s=99",
]


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


# ---------------------------------------------------------------------------------------------------------------- help
@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help(word: str, tmp_path: Path) -> None:
    """Help names the main keys, every recipe there is and the three clusters, from any folder, and returns 0."""
    result = launch(word, cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    for text in (
        "recipe=",
        "data=",
        "cluster=slurm",
        "cluster=local",
        "cluster=dry",
        "seed=",
        "nodes=",
        *(path.stem for path in (PROJECT / "recipes").glob("*.yaml")),
    ):
        assert text in result.stdout


def test_slurm_folder_leaves_the_path() -> None:
    """`python slurm/launch.py` puts slurm/ first on the module path; the launcher puts the project there instead, so
    that none of its files stands in for a module.
    """
    code = (
        f"import runpy, sys; sys.path[0] = {str(LAUNCH.parent)!r}; runpy.run_path({str(LAUNCH)!r}); print(sys.path[0])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/")
    assert result.stdout.strip() == str(PROJECT), result.stderr


# ----------------------------------------------------------------------------------------------------------------- dry
def test_dry_prints_recipe_and_batch_file_and_touches_nothing(tmp_path: Path) -> None:
    """`cluster=dry` prints the run folder, the resolved recipe (which resolves to itself) and the batch file, from any
    folder, and makes no file anywhere: not in the project, not where runs would go, not where it was called, not in a
    temporary folder."""
    here, runs, temporary = tmp_path / "here", tmp_path / "runs", tmp_path / "tmp"
    for folder in (here, temporary):
        folder.mkdir()
    before = {folder for folder in ("runs", "data", "out") if (PROJECT / folder).exists()}
    result = launch(
        *DRY, *FULL, f"runs={runs}", cwd=here, TMPDIR=str(temporary), HOME=str(tmp_path), PYTHONDONTWRITEBYTECODE="1"
    )
    assert result.returncode == 0 and result.stderr == ""
    assert contents(tmp_path) == {"here": contents(tmp_path)["here"], "tmp": contents(tmp_path)["tmp"]}
    assert {folder for folder in ("runs", "data", "out") if (PROJECT / folder).exists()} == before
    expected = resolve([*DRY, *FULL, f"runs={runs}"])
    assert result.stdout.startswith(f"# {expected.run_folder}\n")
    assert yaml.safe_load(result.stdout[: result.stdout.index("#!/bin/bash")]) == yaml.safe_load(dump(expected))


def test_batch_file_asks_for_what_the_run_needs() -> None:
    """The batch file requeues, warns by USR2 in time, ends the step when one rank dies (-K1), appends to its logs, and
    asks for the nodes, tasks and resources of the recipe; values that were not given are not there."""
    text = batch_part(launch(*DRY, *FULL).stdout)
    found = flags(text)
    folder = resolve([*DRY, *FULL]).run_folder
    assert found == {
        "job-name": folder.name,
        "nodes": "4",
        "ntasks-per-node": "2",
        "cpus-per-task": "3",
        "time": "77",
        "signal": "USR2@99",
        "partition": "gpu,long",
        "account": "me@lab",
        "qos": "high",
        "constraint": "a100",
        "mem": "64G",
        "gpus-per-node": "2",
        "requeue": None,
        "open-mode": "append",
        "output": f"{folder}/log/%j_0_log.out",
        "error": f"{folder}/log/%j_0_log.err",
    }
    (run,) = [line for line in text.splitlines() if line.startswith("srun")]
    assert {"-K1", "--export=ALL", "--cpus-per-task=3"} <= set(shlex.split(run))
    assert shlex.split(run)[-1] == str(folder / "log")
    plain = flags(batch_part(launch(*DRY).stdout))
    assert not {"partition", "account", "qos", "constraint", "mem", "gpus-per-node"} & set(plain)
    assert (plain["nodes"], plain["ntasks-per-node"], plain["signal"]) == ("1", "1", "USR2@120")
    gpus = flags(batch_part(launch(*DRY, "slurm.gpus_per_node=4", "nodes=2").stdout))
    assert (gpus["nodes"], gpus["ntasks-per-node"], gpus["gpus-per-node"]) == ("2", "4", "4")


def test_batch_file_holds_checked_values_only(tmp_path: Path) -> None:
    """submitit gets only parameters of this list, none of them shell text, the one additional parameter fixed; and
    every value that comes from the recipe is a number or a word that the schema checked."""
    recipe = resolve([*DRY, *FULL, f"runs={tmp_path}"])
    given = parameters(recipe, tmp_path / "a run", tmp_path / "some code")
    assert set(given) == {
        "job_name",
        "nodes",
        "ntasks_per_node",
        "cpus_per_task",
        "time",
        "signal_delay_s",
        "partition",
        "account",
        "qos",
        "constraint",
        "gpus_per_node",
        "mem",
        "additional_parameters",
        "srun_args",
        "setup",
        "teardown",
    }
    assert given.pop("teardown") == [
        "code=$?",
        "trap : TERM",
        f"{shlex.quote(sys.executable)} -P -m slurm.cluster.requeue {shlex.quote(str(tmp_path / 'a run'))} $code",
    ]
    own, code = shlex.quote(str(tmp_path / "a run")), shlex.quote(str(tmp_path / "some code"))
    assert given.pop("setup") == [
        f"export PYTHONPATH={shlex.quote(str(tmp_path / 'some code'))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export GLT_PATH=",
        f"[ ! -e {own}/done ] || {{ cd {code} || exit 0; PYTHONPATH={code} {shlex.quote(sys.executable)} -P "
        f"-m slurm.after_run {own} finished over; exit; }}",
    ]
    assert given.pop("additional_parameters") == {"requeue": True}
    assert given.pop("srun_args") == ["-K1", "--export=ALL", "--cpus-per-task=3"]
    for value in given.values():
        assert isinstance(value, int) or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.,:=/@+-]*", value)


HOSTILE = [
    "with space",
    "a;touch canary;b",
    "$(touch canary)",
    "`touch canary`",
    "a'touch canary'b",
    'a"b',
    "a&touch canary&",
    "*",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_batch_file_runs_nothing_but_srun(tmp_path: Path, name: str) -> None:
    """Run by bash, the batch file calls srun once, with the run's log folder as one word, whatever the folder of the
    runs is called.
    """
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    stub(
        bin_folder,
        "srun",
        f'echo called >> {shlex.quote(str(tmp_path / "calls"))}; printf "%s\\0" "$@" > '
        f"{shlex.quote(str(tmp_path / 'words'))}",
    )
    runs = tmp_path / name
    recipe = resolve([*DRY, f"runs={runs}"])
    text = batch_file(recipe, recipe.run_folder, place(runs))
    (recipe.run_folder / "log").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    subprocess.run(
        ["bash", "-c", text], cwd=tmp_path / "work", env={"PATH": f"{bin_folder}:/usr/bin:/bin"}, check=True, timeout=20
    )
    words = (tmp_path / "words").read_text().split("\0")[:-1]
    assert words[-1] == str(recipe.run_folder / "log") and words[-2:-1] == ["submitit.core._submit"]
    assert (tmp_path / "calls").read_text() == "called\n"
    assert not list(tmp_path.rglob("canary"))


# --------------------------------------------------------------------------------------------------------------- slurm
def test_slurm_without_sbatch_names_the_other_clusters(tiny_root: Path, tmp_path: Path) -> None:
    """On a machine without sbatch `cluster=slurm` stops with one sentence that names cluster=local and cluster=dry, and
    makes no run folder.
    """
    (tmp_path / "bin").mkdir()
    sentence = refused(
        "data=digits_glt", f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}", PATH=str(tmp_path / "bin")
    )
    assert "no sbatch" in sentence and "cluster=local" in sentence and "cluster=dry" in sentence
    assert not (tmp_path / "runs").exists()


def test_slurm_submits_what_dry_shows(tiny_root: Path, tmp_path: Path) -> None:
    """With an sbatch (here one that keeps what it gets) `cluster=slurm` makes the run folder, private and with its
    recipe, submits the batch file that `cluster=dry` shows, notes which code the job runs, hands it the command for the
    run's meta.json, and prints run folder and job id."""
    bin_folder, runs = tmp_path / "bin", tmp_path / "runs"
    bin_folder.mkdir()
    # It prints what a site's wrapper may print: no id that anybody could rely on.
    stub(
        bin_folder, "sbatch", f'cp "$1" {tmp_path}/batch.sh; echo "$1" > {tmp_path}/file; echo "job 2025 is not yours"'
    )
    stub(
        bin_folder,
        "squeue",
        f'f=$(cat {tmp_path}/file) || exit 0; echo "4711|PENDING|N/A|None|$(basename -s .sh $f)|$f"',
    )
    stub(bin_folder, "scontrol", "echo 'ClusterName             = here'")
    words = ["data=digits_glt", "recipe=glt_ifl", *FULL, "nodes=2", f"data.root={tiny_root}", f"runs={runs}"]
    result = launch(*words, cwd=tmp_path, PATH=f"{bin_folder}:/usr/bin:/bin", PYTHONPATH="/other", SLURM_JOB_ID="5")
    assert result.returncode == 0, result.stderr
    recipe = resolve(words)
    assert result.stdout == f"run folder: {recipe.run_folder}\njob: 4711\n"
    assert stat.S_IMODE(recipe.run_folder.stat().st_mode) == 0o700
    assert resolve([f"recipe={recipe.run_folder / 'recipe.yaml'}"]) == recipe
    (event,) = events.read(recipe.run_folder)
    assert event["incarnation"] == "local.", "the job that the shell is in has no part in it"
    assert (event["event"], event["job"], event["needs"]) == ("submitted", "4711", []) and event["cluster"] == "here"
    assert (runs / ".code" / event["code"]).is_dir()
    shown = batch_part(launch(*words, "cluster=dry").stdout)
    assert f"/.code/{event['code']}" in shown
    assert (tmp_path / "batch.sh").read_text().strip() == shown.strip()
    (pickled,) = (recipe.run_folder / "log").glob("*.pkl")
    assert DelayedSubmission.load(pickled).function == TrainJob(str(recipe.run_folder), (str(LAUNCH), *words))


def test_a_job_whose_recipe_is_damaged_says_so(tmp_path: Path) -> None:
    """The rank's log has one sentence that names the file, and so have the events."""
    (tmp_path / "recipe.yaml").write_bytes(b"seed: \xff")
    command = [sys.executable, "-m", "slurm.job", str(tmp_path)]
    job = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert job.returncode == FAILED and job.stderr.startswith(f"{tmp_path / 'recipe.yaml'} is not readable YAML: ")
    assert job.stderr.count("\n") == 1 and "recipe.yaml" in events.read(tmp_path)[-1]["error"]


PICKLE = """
import sys
import cloudpickle
from slurm.job import TrainJob
data = cloudpickle.dumps(TrainJob(sys.argv[1], ("launch.py", "seed=1")))
assert len(data) < 300, len(data)
assert not {"torch", "deepspeed"} & set(sys.modules)
open(sys.argv[2], "wb").write(data)
"""
UNPICKLE = """
import pickle, sys
job = pickle.load(open(sys.argv[2], "rb"))
assert type(job).__module__ == "slurm.job" and job == type(job)(sys.argv[1], ("launch.py", "seed=1")), job
assert job.checkpoint() is None
assert not {"torch", "deepspeed"} & set(sys.modules)
"""


def test_job_pickles_small_and_by_name(tmp_path: Path) -> None:
    """The job survives submitit's pickling into another process in another folder, carries nothing but the run folder
    and the command (where to go on is found on disk), and loads nothing heavy by it."""
    for script in (PICKLE, UNPICKLE):
        words = [sys.executable, "-c", script, "/runs/a run", str(tmp_path / "job.pkl")]
        result = subprocess.run(
            words,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
    assert b"/runs/a run" in (tmp_path / "job.pkl").read_bytes()


# ------------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    "words, sentence",
    [
        (["sead=1"], "did you mean seed?"),
        (["recipe=glt_randag"], "did you mean glt_randaug?"),
        (["cluster=locl"], "did you mean local?"),
        (["seed"], "not of the form key=value"),
        (["slurm.partition=a;b"], "slurm.partition=a;b"),
        (["recipe=nowhere/recipe.yaml"], "does not exist"),
    ],
)
def test_refusals_are_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    """A slip ends with exit code 2 and one sentence, before anything is made."""
    assert sentence in refused(*words, f"runs={tmp_path / 'runs'}")
    assert list(tmp_path.iterdir()) == []


def test_steps_that_a_run_has_not_cannot_be_profiled(tiny_root: Path, tmp_path: Path) -> None:
    """Where the data are here the launcher says so, with the number of steps; where they are not the command goes on
    to whatever says that."""
    words = [
        "recipe=glt_baseline",
        "data=digits_glt",
        "batch.size=32",
        "batch.bn=16",
        "schedule.epochs=2",
        "cluster=dry",
    ]
    here = [*words, f"data.root={tiny_root}", f"runs={tmp_path / 'runs'}"]
    sentence = refused(*here, "log.profile=10:15")
    name = resolve(here).run_name
    assert sentence == f"log.profile=10:15: {name} has 14 steps, 2 epochs of 7, so up to 14 is legal"
    assert launch(*here, "log.profile=10:14").returncode == 0
    assert launch(*words, "log.profile=10:15", f"data.root={tmp_path}").returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["glt_baseline", "glt_ifl", "glt_bbn"])
@pytest.mark.parametrize("budget", ["paper", "matched"])
def test_steps_are_counted_as_they_are_planned(recipe: str, budget: str, tiny_root: Path) -> None:
    """The launcher's count is that of the plans, for one stream and several."""
    from sharding.open import open_dataset
    from sharding.plan.epoch import BatchShape, plan_epoch, stream_draws
    from sharding.plan.philox import DrawKey
    from slurm.planning.cost import steps_of

    words = [f"recipe={recipe}", "data=digits_glt", f"data.root={tiny_root}", f"batch.budget={budget}"]
    resolved = resolve([*words, "batch.draws_per_epoch=1.3"])
    batch, samples = resolved.batch, open_dataset(str(tiny_root), "digits_glt").samples("glt", "train")
    draws = stream_draws(
        [None] * resolved.streams, samples, draws_per_epoch=batch.draws_per_epoch, matched=budget == "matched"
    )
    shape = BatchShape(batch.size, batch.group, resolved.streams)
    planned = plan_epoch(draws, shape, DrawKey(0, 0)).steps * resolved.schedule.epochs
    assert steps_of(Run(resolved)) == planned > 0


@pytest.mark.parametrize("cluster", ["local", "slurm"])
@pytest.mark.parametrize("data", ["digits_glt", "imagenet_glt"])
def test_missing_data_name_the_command_that_builds_them(cluster: str, data: str, tmp_path: Path) -> None:
    """Data that are not there are found before the queue: the sentence is the command that builds them, with this root,
    and no run folder is made.
    """
    root = tmp_path / "data"
    assert f"python -m sharding.build data={data} out={root}" in refused(
        f"data={data}", f"data.root={root}", f"cluster={cluster}", f"runs={tmp_path / 'runs'}"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, legal",
    [
        (["nodes=3"], ": 1, 2, 4 ranks are legal"),
        (["nodes=8"], "at most 4 ranks are legal here"),
        (["nodes=2", "tasks_per_node=4"], "at most 4 ranks are legal here"),
        (["batch.bn=0", "nodes=129"], "at most 128 are legal"),
    ],
)
def test_too_many_ranks_name_the_legal_numbers(words: list[str], legal: str, tiny_root: Path, tmp_path: Path) -> None:
    """More ranks than the batch's groups can feed on CPUs are refused before anything is made; the sentence repeats the
    command's numbers and says which are legal.
    """
    sentence = refused(
        "data=digits_glt",
        f"data.root={tiny_root}",
        "cluster=local",
        "batch.size=128",
        "batch.bn=32",
        f"runs={tmp_path / 'runs'}",
        *words,
    )
    assert legal in sentence and next(word for word in words if word.startswith("nodes=")) in sentence
    assert list(tmp_path.iterdir()) == []


def test_ranks_may_share_a_group_on_gpus_only(tiny_root: Path, tmp_path: Path) -> None:
    """Eight ranks for four groups are refused on SLURM nodes without GPUs and pass with them (and then stop for want of
    sbatch).
    """
    words = [
        "data=digits_glt",
        f"data.root={tiny_root}",
        "nodes=8",
        "batch.size=128",
        "batch.bn=32",
        f"runs={tmp_path / 'runs'}",
    ]
    (tmp_path / "bin").mkdir()
    assert "at most 4 ranks" in refused(*words, "slurm.gpus_per_node=0", PATH=str(tmp_path / "bin"))
    assert "no sbatch" in refused(*words, "slurm.gpus_per_node=1", PATH=str(tmp_path / "bin"))


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_finished_run_is_left_alone(cluster: str, tmp_path: Path) -> None:
    """The same command for a finished run says so, returns 0 and changes no file, with its data gone too."""
    words = ["data=digits_glt", f"runs={tmp_path}", f"data.root={tmp_path / 'none'}", f"cluster={cluster}"]
    folder = resolve(words).run_folder
    folder.mkdir()
    (folder / "done").write_text("{}")
    before = contents(tmp_path)
    result = launch(*words)
    assert (result.returncode, result.stderr) == (0, "") and result.stdout == f"{folder} is finished: nothing to do\n"
    assert contents(tmp_path) == before


def test_running_folder_is_not_trained_twice(tiny_root: Path, tmp_path: Path) -> None:
    """While one process holds a run folder, a second local start is refused in one sentence."""
    words = ["data=digits_glt", f"runs={tmp_path}", f"data.root={tiny_root}", "cluster=local"]
    folder = resolve(words).run_folder
    folder.mkdir()
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # only an exclusive lock of the launcher's collides with it
        result = launch(*words)
    assert result.returncode == 2
    assert result.stderr == f"launch.py: {folder} is being trained by another process on this machine\n"


def test_ranks_of_a_local_run_are_handed_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each local rank gets the launcher's command as arguments of its own, word for word."""
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: started.append(words))
    recipe = resolve(["data=digits_glt", f"runs={tmp_path}", "cluster=local", "tasks_per_node=2"])
    recipe.run_folder.mkdir()
    with open(tmp_path / "lock", "w") as lock:
        process_group._start(Run(recipe, command=("launch.py", "runs=a folder")), lock, lock.fileno(), threads=1)
    assert [words[1:] for words in started] == 2 * [
        ["-m", "slurm.job", str(recipe.run_folder), "launch.py", "runs=a folder"]
    ]


def test_meta_json_names_the_command_that_launched_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`argv` is the launcher's where there is one, and that of the process itself where there is none."""
    monkeypatch.setattr(sys, "argv", ["trains.py"])
    assert provenance.meta({}, ("launch.py", "seed=1"))["argv"] == ["launch.py", "seed=1"]
    assert provenance.meta({})["argv"] == ["trains.py"]


def test_a_look_at_the_lock_does_not_refuse_a_start(tmp_path: Path) -> None:
    """A status view holds the lock for an instant; a local start waits it out."""
    with open(tmp_path / "lock", "w") as view, open(tmp_path / "lock", "a+") as start:
        fcntl.flock(view, fcntl.LOCK_SH)
        looked = threading.Timer(0.2, fcntl.flock, (view, fcntl.LOCK_UN))
        looked.start()
        process_group._take(start, tmp_path)
        looked.join()


@pytest.mark.parametrize("features", ["a100|h100", "[rack1|rack2]*2", "(a100&nvme)|h100", "a100*2&v100*1"])
def test_constraints_are_quoted(features: str, tmp_path: Path) -> None:
    """Node features with SLURM's signs reach sbatch as one word that no shell reads."""
    recipe = resolve([*DRY, f"slurm.constraint={features}"])
    text = batch_file(recipe, tmp_path, tmp_path)
    assert flags(text)["constraint"] == features and f"#SBATCH --constraint='{features}'" in text.splitlines()


# --------------------------------------------------------------------------------------------------------- environment
def bare_python() -> str:
    """A Python that lacks the project's packages, or a skip."""
    for python in (getattr(sys, "_base_executable", None), "/usr/bin/python3", shutil.which("python3")):
        if (
            python
            and subprocess.run([python, "-c", "import pydantic, submitit, deepspeed"], capture_output=True).returncode
        ):
            return python
    pytest.skip("every python3 of this machine has the project's packages")


def test_plain_python_goes_on_in_the_environment(tmp_path: Path) -> None:
    """Started by a Python without the packages, the launcher goes on in the project's .venv with the same words."""
    if not (PROJECT / ".venv" / "bin" / "python").exists():
        pytest.skip("the project's .venv is not there: `make venv` makes it")
    result = launch(*DRY, "seed=5", python=bare_python(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == launch(*DRY, "seed=5", python=str(PROJECT / ".venv" / "bin" / "python")).stdout
    assert "-s5-" in result.stdout


def test_missing_environment_names_the_command_that_makes_it(tmp_path: Path) -> None:
    """Without packages and without .venv the launcher stops with the one command that makes them."""
    (tmp_path / "slurm").mkdir()
    shutil.copy(LAUNCH, tmp_path / "slurm" / "launch.py")
    shutil.copytree(PROJECT / "recipes" / "common", tmp_path / "recipes" / "common")
    result = launch(*DRY, python=bare_python(), file=tmp_path / "slurm" / "launch.py")
    assert result.returncode != 0 and len(result.stderr.splitlines()) == 1
    assert f"run `make venv` in {tmp_path}" in result.stderr


@pytest.mark.parametrize(
    "command", [["-m", "analysis", "--help"], ["-m", "sharding.build", "--help"], ["slurm/status.py", "--help"]]
)
def test_every_command_finds_the_environment(command: list[str]) -> None:
    """The README's commands, started in the project's folder by a Python without the packages, go on in .venv."""
    if not (PROJECT / ".venv" / ".installed").exists():
        pytest.skip("the project's .venv is not there: `make venv` makes it")
    result = subprocess.run([bare_python(), *command], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "DIR" in result.stdout, result.stderr


@pytest.mark.parametrize("runs", ["/proc/none", "/dev/null"])
def test_a_folder_that_cannot_be_made_is_one_sentence(runs: str, tiny_root: Path) -> None:
    """Where the run folder cannot be made the launcher says which and why, without a traceback."""
    sentence = refused("data=digits_glt", f"data.root={tiny_root}", "cluster=local", f"runs={runs}")
    assert runs in sentence
