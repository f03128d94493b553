"""`launch.py build=NAME`: stages as jobs, parts as an array, the same bytes as by one process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recipes.common.errors import DataError, RecipeError
from recipes.schema import PROJECT, Slurm
from sharding.build import is_there
from sharding.build import run as build
from sharding.building.request import HELP, _literals, builders, declared
from slurm.cluster import build_job, submission
from slurm.cluster.build_job import Build, BuildJob, Stage, stages
from slurm.site_file import Site
from tests.helpers import cluster as clusters
from tests.helpers.imagenet import built, content, plant, planted_source
from tests.helpers.imagenet import words as build_words
from tests.helpers.launching import stub


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_source(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def root(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(raw, tmp_path_factory.mktemp("data"))


def launch(arguments: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PROJECT / "slurm" / "launch.py"), *arguments],
        env={**os.environ, "GLT_SITE": "", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=170,
    )


def words(raw: Path, out: Path, *more: str) -> list[str]:
    return ["build=imagenet_glt", *build_words(raw, out)[1:], *more]


def test_stages_and_parts() -> None:
    """Stages that may be are cut in as many parts as there are tasks; what annotation= makes needless is left out."""
    plan = stages(["data=imagenet_glt", "source=s", "out=o"], 4)
    assert [(stage.name, len(stage.parts)) for stage in plan] == [
        ("index", 1),
        ("features", 4),
        ("clusters", 4),
        ("split", 1),
        ("pack", 4),
        ("finish", 1),
    ]
    assert plan[4].parts[2] == ("data=imagenet_glt", "source=s", "out=o", "stage=pack", "part=3/4") and plan[
        5
    ].parts == (("data=imagenet_glt", "source=s", "out=o", "stage=finish"),)
    assert [stage.name for stage in stages(["data=imagenet_glt", "annotation=a"], 4)] == [
        "index",
        "split",
        "pack",
        "finish",
    ]


def test_a_stage_is_not_bound_to_several_nodes(tmp_path: Path) -> None:
    """A site-wide list of nodes is for runs: sbatch would refuse it in a job of one node. A list of one stays."""
    for nodes, kept in (("n[1-4]", False), ("n7", True)):
        slurm = Slurm(options={"nodelist": nodes, "nodefile": "f", "reservation": "ml"})
        stage = Stage("index", (("data=x",),), slurm)
        text = build_job._job(Build("x", (stage,), "dry", tmp_path / "work"), stage, tmp_path, None).text()
        assert (f"--nodelist={nodes}" in text) == kept and "--nodefile" not in text and "--reservation=ml" in text


def test_declarations_are_whole() -> None:
    """Every builder says what it takes; what it leaves out are stages of its own and words that it takes."""
    for name in builders():
        takes, stages_declared = declared(name)
        assert set(takes) <= set(HELP)
        assert all(
            word in takes and set(without) <= set(stages_declared)
            for word, without in _literals(name)["WITHOUT"].items()
        )


def test_dry_shows_the_jobs_and_touches_nothing(raw: Path, tmp_path: Path) -> None:
    """cluster=dry prints each stage's batch file with its array and what it waits for; the features stage alone asks
    for a GPU.
    """
    shown = launch(
        words(raw, tmp_path / "out", "tasks=3", "cluster=dry", "slurm.partition=long", "slurm.gpus_per_node=4")
    )
    assert shown.returncode == 0, shown.stderr
    files = shown.stdout.split("#!/bin/bash")[1:]
    assert len(files) == 6 and ["#SBATCH --array=0-2%3" in text for text in files] == [
        False,
        True,
        True,
        False,
        True,
        False,
    ]
    assert ["#SBATCH --gpus-per-node=1" in text for text in files] == [False, True, False, False, False, False]
    assert all("#SBATCH --partition=long" in text and "#SBATCH --requeue" in text for text in files)
    assert [
        "afterany:JOB_OF_INDEX" in files[1],
        "afterany:JOB_OF_PACK" in files[5],
        "#SBATCH --dependency" in files[0],
    ] == [
        True,
        True,
        False,
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["tasks=0"], "tasks=0 is not legal"),
        (["tasks=10000"], "at once, 1 to 9999"),
        (["cluster=slrm"], "did you mean slurm"),
        (["stage=pack"], "stage=pack and build= do not go together"),
        (["sourc=x"], "did you mean source"),
        (["slurm.tme=3"], "did you mean slurm.time"),
        (["seed=x"], "seed=x is not legal"),
    ],
)
def test_slips_are_one_sentence(more: list[str], sentence: str, raw: Path, tmp_path: Path) -> None:
    """A slip is refused in one sentence before anything is made."""
    with pytest.raises((RecipeError, DataError), match=re.escape(sentence)) as caught:
        build_job.parse_command(
            words(raw, tmp_path / "out", *(["cluster=dry"] if not more[0].startswith("cluster") else []), *more), Site()
        )
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_data_set_without_stages_is_built_at_once(tmp_path: Path) -> None:
    """digits_glt takes seconds: the sentence names its command."""
    shown = launch(["build=digits_glt", f"out={tmp_path}", "cluster=dry"])
    assert (
        shown.returncode == 2
        and f"it takes seconds: python -m sharding.build data=digits_glt out={tmp_path}" in shown.stderr
    )


def test_without_slurm_it_says_so(raw: Path, tmp_path: Path) -> None:
    """Where there is no sbatch nothing is submitted."""
    shown = launch(words(raw, tmp_path / "out", "tasks=2"), {"PATH": str(tmp_path)})
    assert shown.returncode == 2 and "no sbatch" in shown.stderr and not (tmp_path / "out").exists()


def test_a_failed_stage_fails_the_job(tmp_path: Path) -> None:
    """The job leaves with the build's exit code, so that no later stage starts."""
    code = (
        f"from slurm.cluster.build_job import BuildJob; BuildJob(('data=imagenet_glt', 'out={tmp_path}', "
        f"'source={tmp_path / 'no'}', 'annotation=no.json', 'stage=index'))()"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 2 and "annotation=no.json does not exist" in shown.stderr
    assert BuildJob(("a",)).checkpoint().function == BuildJob(("a",))


@pytest.mark.parametrize("stage", ["clusters", "split", "pack", "finish"])
def test_a_stage_refuses_without_the_one_before(stage: str, raw: Path, tmp_path: Path) -> None:
    """A stage that starts because the job before it has ended, and not because it went well, says what is missing."""
    with pytest.raises(DataError, match=r"comes (first|before)"):
        build(["data=imagenet_glt", *build_words(raw, tmp_path)[1:], f"stage={stage}"])


def test_stages_wait_for_the_end_of_the_one_before(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever sbatch prints, each stage waits by `afterany` on the id that SLURM tells for the one before, arrays
    included; while they wait, the same command submits nothing. Of two at the same moment the second sees them."""
    stub(
        tmp_path,
        "sbatch",
        f"""n=$(( $(cat {tmp_path}/n 2>/dev/null || echo 100) + 1 )); echo $n > {tmp_path}/n; echo job 1
name=$(basename -s .sh "$1"); grep -q -- --array "$1" && id="${{n}}_[0-2%3]" || id=$n
grep -oE 'afterany:.*' "$1" >> {tmp_path}/waits
echo "$id|PENDING|N/A|None|$name|$1" >> {tmp_path}/queue""",
    )
    (tmp_path / "queue").touch()
    stub(tmp_path, "squeue", f"cat {tmp_path}/queue")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    asked = build_job.parse_command(words(raw, tmp_path / "out", "tasks=3"), Site())
    assert asked.run() == 0 and "pack: job 105, 3 parts (afterany:104)" in capsys.readouterr().out
    assert (tmp_path / "waits").read_text().split() == [f"afterany:{job}" for job in range(101, 106)]
    assert asked.run() == 0 and "(jobs 101, 102, 103, 104, 105, 106): nothing to do" in capsys.readouterr().out
    other = threading.Thread(target=asked.run)
    with submission.alone(asked.work):  # another command is submitting
        other.start()
        other.join(0.5)
        assert capsys.readouterr().out == ""
    other.join(20)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_a_finished_build_is_not_submitted_again(
    cluster: str,
    raw: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is built says so, as `python -m sharding.build` does, and no stage of it is begun; with another seed there
    is something to do."""
    stub(tmp_path, "sbatch", f"touch {tmp_path}/asked; exit 1")
    stub(tmp_path, "squeue", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    before = content(root)
    asked = build_job.parse_command(words(raw, root, "tasks=3", f"cluster={cluster}"), Site())
    assert (
        asked.run() == 0
        and capsys.readouterr().out == f"imagenet_glt is already in {root / 'imagenet_glt'}: nothing to do\n"
    )
    assert not (tmp_path / "asked").exists() and content(root) == before
    assert not is_there([*asked.words, "seed=7"])


def test_a_licence_of_a_finished_set_needs_no_job(raw: Path, root: Path, tmp_path: Path) -> None:
    """Asked for with license=, a set that is there says so, and has the licence on record."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    asked = build_job.parse_command(words(raw, tmp_path, "license=CC-BY-4.0", "cluster=slurm"), Site())
    assert is_there(asked.words)
    assert "CC-BY-4.0" in (tmp_path / "imagenet_glt" / "croissant.json").read_text()


def test_local_does_the_same(raw: Path, root: Path, tmp_path: Path) -> None:
    """cluster=local goes through the same stages and parts here."""
    plant(raw, tmp_path)
    shown = launch(words(raw, tmp_path, "tasks=2", "cluster=local"))
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert content(tmp_path) == content(root)


@pytest.mark.full
def test_an_array_gives_the_bytes_of_one_process(
    cluster: clusters.Cluster, raw: Path, root: Path, tmp_path: Path
) -> None:
    """On a real SLURM: six jobs, three of them arrays of three, each after the one before; a part is killed and
    requeued on its way. A second command while they wait submits nothing."""
    plant(raw, tmp_path)
    asked = words(raw, tmp_path, "tasks=3", "slurm.cpus_per_task=1")
    first = launch(asked, cluster.environment)
    assert first.returncode == 0, first.stderr
    assert "pack: job" in first.stdout and ", 3 parts (afterany:" in first.stdout
    again = launch(asked, cluster.environment)
    assert "in the queue already" in again.stdout and again.returncode == 0
    pack = next(line.split()[2].strip(",") for line in first.stdout.splitlines() if line.startswith("pack: "))
    deadline, requeued = time.monotonic() + 500, False
    while not (tmp_path / "imagenet_glt" / "dataset.json").exists():
        states = cluster.run("squeue", "-h", "-t", "all", "-o", "%i %T %j").stdout
        if not requeued and any(line.startswith(f"{pack}_") and " RUNNING " in line for line in states.splitlines()):
            part = next(
                line.split()[0] for line in states.splitlines() if line.startswith(f"{pack}_") and " RUNNING " in line
            )
            requeued = cluster.run("scontrol", "requeue", part).returncode == 0
        assert not any(word in states for word in ("FAILED", "DependencyNever")) and time.monotonic() < deadline, (
            states + "".join(path.read_text()[-800:] for path in (tmp_path / "imagenet_glt/.work/log").glob("*.err"))
        )
        time.sleep(0.3)
    assert requeued
    assert content(tmp_path) == content(root)
