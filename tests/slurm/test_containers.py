"""Containers and interpreters of the site file: what is legal, what the batch file says, and what runs outside."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm import site_file
from slurm.cluster.sbatch import batch_job
from slurm.monitoring import events
from slurm.planning.schedule import Run
from slurm.starting.container import Container
from slurm.starting.lacking_node import OUTSIDE, ends
from tests.helpers.launching import launch, refused, stub
from tests.house.test_doors import OLD, found

HOSTILE = "a $(touch pwned) 'b' \"c\" `d` é;&|*.sif"


def site(folder: Path, monkeypatch: pytest.MonkeyPatch, **values: Any) -> site_file.Site:
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(values))
    monkeypatch.setenv("GLT_SITE", str(path))
    return site_file.load()


def text_of(folder: Path, given: site_file.Site, *words: str) -> str:
    run = Run(resolve(["data=digits_glt", f"data.root={folder / 'data'}", f"runs={folder / 'my runs'}", *words]))
    return batch_job(run, folder / "my runs" / ".code" / "c0", given.setup, own=given.own).text()


def srun(text: str) -> list[str]:
    """The words of srun's line, without what every job has."""
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("srun --unb")))
    return words[words.index("--export=ALL") + 2 :]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("a.sif", "container='a.sif' is not legal: its keys are"),
        ([], "container=[] is not legal: its keys are"),
        ({}, "container.image=None is not legal: a file"),
        ({"image": ""}, "container.image='' is not legal"),
        ({"image": "a\nb"}, r"container.image='a\nb' is not legal"),
        ({"image": "--writable"}, "container.image='--writable' is not legal"),
        ({"image": 5}, "container.image=5 is not legal"),
        ({"image": ["a.sif"]}, "container.image=['a.sif'] is not legal"),
        ({"image": "a.sif", "imgae": 1}, "container.imgae is not legal with engine: apptainer: did you mean image?"),
        ({"image": "a.sif", "mounts": []}, "container.mounts is not legal with engine: apptainer: with engine: pyxis"),
        ({"image": "a", "engine": "pyxis", "nv": True}, "with engine: pyxis: with engine: apptainer or singularity"),
        ({"image": "a.sif", "engine": "docker"}, "container.engine='docker' is not legal: legal: apptainer"),
        ({"image": "a.sif", "engine": ["pyxis"]}, "container.engine=['pyxis'] is not legal"),
        ({"image": "a.sif", "nv": "yes"}, "container.nv='yes' is not legal: true or false is"),
        *(
            ({"image": "a.sif", "binds": binds}, "container.binds=")
            for binds in (
                "/a",
                ["a"],
                ["/a:b"],
                ["/a,/b"],
                ["/a:/b:r o"],
                ["/a:/b:ro:x"],
                [5],
                [""],
                ["/a\n"],
                ["$HOME"],
            )
        ),
    ],
)
def test_a_container_that_is_not_legal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, sentence: str
) -> None:
    """One sentence names the file, the key and what would be legal."""
    with pytest.raises(RecipeError) as error:
        site(tmp_path, monkeypatch, container=value)
    assert str(error.value).startswith(f"{tmp_path}/site.yaml: container") and sentence in str(error.value)


@pytest.mark.parametrize("value", ["", "./python", "bin/python", "a b", "python3; rm", "/opt/x/", "/a\nb", 3, ["a"]])
def test_a_python_that_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    """It is one sentence, from the launcher too."""
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"python": value}))
    monkeypatch.setenv("GLT_SITE", str(path))
    with pytest.raises(RecipeError, match=r"is no path: the absolute path of a Python is legal"):
        site_file.load()


def test_apptainer_gets_what_ranks_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks start in the image: with the runs (the code's copy and first stages among them), the data and the folder
    around the cache under their own names, the site's binds, and the suite's copy alone on the path."""
    given = site(tmp_path, monkeypatch, container={"image": "glt.sif", "binds": ["/lustre/in:/in:ro"], "nv": True})
    runs, data = tmp_path / "my runs", tmp_path / "data"
    text = text_of(tmp_path, given, "data.cache_folder=/local/glt")
    binds = ["/lustre/in:/in:ro", *(f"{folder}:{folder}" for folder in (runs, data, "/local"))]
    assert srun(text)[:-1] == [
        *("apptainer", "exec", *(word for bind in binds for word in ("--bind", bind)), "--nv"),
        *(f"{tmp_path}/glt.sif", "env", f"PYTHONPATH={runs}/.code/c0", "PYTHONNOUSERSITE=1", "python3", "-P"),
        *("-u", "-m", "submitit.core._submit"),
    ]
    lines = text.splitlines()
    assert lines[-1].startswith(f"{OUTSIDE} -m slurm.cluster.requeue ") and "--container" not in text
    assert "--bind" not in text_of(tmp_path, site(tmp_path, monkeypatch, partition="gpu"))


def test_a_bind_of_the_site_s_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the site binds from elsewhere is not bound again over it; a name that cannot be bound is refused;
    data from afar need no folder."""
    given = site(tmp_path, monkeypatch, container={"image": "/a.sif", "binds": [f"/lustre:{tmp_path}/data"]})
    words = srun(text_of(tmp_path, given, f"data.root={tmp_path}/data/sets"))
    assert [words[i + 1] for i, word in enumerate(words) if word == "--bind"] == [
        f"/lustre:{tmp_path}/data",
        f"{tmp_path}/my runs:{tmp_path}/my runs",
    ]
    assert " /lustre" in text_of(tmp_path, given, "data.root=https://example.org/x")
    with pytest.raises(RecipeError, match=r"a,b cannot be bound into the container"):
        text_of(tmp_path, given, f"data.root={tmp_path}/a,b")


def test_pyxis_is_a_part_of_srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun gets image and mounts; the rank's command is Python, with the suite's copy on the path."""
    values = {"engine": "pyxis", "image": "nvcr.io#nvidia/pytorch:25.01-py3", "mounts": ["/lustre"]}
    given = site(tmp_path, monkeypatch, container=values, python="/opt/venv/bin/python")
    runs, data = tmp_path / "my runs", tmp_path / "data"
    assert srun(text_of(tmp_path, given))[:-1] == [
        "--container-image=nvcr.io#nvidia/pytorch:25.01-py3",
        f"--container-mounts=/lustre,{runs}:{runs},{data}:{data}",
        *("env", f"PYTHONPATH={runs}/.code/c0", "PYTHONNOUSERSITE=1", "/opt/venv/bin/python", "-P"),
        *("-u", "-m", "submitit.core._submit"),
    ]
    squash = site(tmp_path, monkeypatch, container={"engine": "pyxis", "image": "glt.sqsh"})
    assert f"--container-image={tmp_path}/glt.sqsh" in srun(text_of(tmp_path, squash))


def test_names_are_names_whatever_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes, spaces, $() and unicode reach the engine as they stand, and no command of them runs."""
    image, bind = tmp_path / HOSTILE, f"/{HOSTILE}"
    image.touch()
    given = site(tmp_path, monkeypatch, container={"image": HOSTILE, "binds": [bind]}, python=f"/opt/{HOSTILE}")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, script in (("srun", f'printf "%s\\0" "$@" > {tmp_path}/words'), ("apptainer", ""), ("scontrol", "")):
        stub(bin_folder, name, script)
    text = text_of(tmp_path, given)
    (tmp_path / "my runs" / ".code").mkdir(parents=True)
    (tmp_path / "my runs" / ".code" / "c0").symlink_to(PROJECT)
    (resolve(["data=digits_glt", f"runs={tmp_path / 'my runs'}"]).run_folder / "log").mkdir(parents=True)
    ended = subprocess.run(
        ["bash", "-c", text],
        cwd=tmp_path,
        env={"PATH": f"{bin_folder}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "r1"},
        capture_output=True,
        text=True,
    )
    assert ended.stderr == "", ended
    words = (tmp_path / "words").read_text().split("\0")
    assert {str(image), bind, f"/opt/{HOSTILE}"} <= set(words) and not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    ("container", "lack"),
    [
        (
            Container("apptainer", "/none.sif"),
            "has no apptainer: `container` of the site file needs it, so the job ends",
        ),
        (Container("singularity", "docker://a"), "has no singularity: "),
        (Container("pyxis", "a"), "has a srun without Pyxis: "),
    ],
)
def test_a_node_without_the_engine(tmp_path: Path, container: Container, lack: str) -> None:
    """The job ends with one sentence, which names the node; so it does where the image is not seen."""
    stub(tmp_path, "srun", "echo --container")
    stub(tmp_path, "python3", "")

    def said() -> tuple[int, str]:
        script = "\n".join([*ends(), *container.check_lines(), "echo went on"])
        ran = subprocess.run(
            ["/bin/bash", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True
        )
        return ran.returncode, (ran.stdout + ran.stderr).decode().strip()

    assert said() == (1, said()[1]) and lack in said()[1] and said()[1].startswith(os.uname().nodename)
    stub(tmp_path, container.engine, "")
    stub(tmp_path, "srun", "echo --container-image")
    seen = (1, f"{os.uname().nodename} does not see the image /none.sif")
    assert said()[1].startswith(seen[1]) if container.image == "/none.sif" else said() == (0, "went on")


def test_a_named_python_starts_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks and batch script start by it; where the node has it not, or it is too old, the job ends with one sentence
    after modules and setup, and before anything else."""
    python = tmp_path / "my python"
    given = site(tmp_path, monkeypatch, python=str(python), setup=["export A=1"])
    text = text_of(tmp_path, given)
    assert srun(text)[:3] == [str(python), "-P", "-u"]
    assert f"'{python}' -P -m slurm.cluster.requeue" in text.splitlines()[-1] and sys.executable not in text
    for script, code in ((None, 1), ("exit 1", 1), ("exit 0", 0)):
        if script is not None:
            stub(tmp_path, python.name, script)
        lines = text.splitlines()
        check = lines[next(i for i, line in enumerate(lines) if "sys.version_info" in line)]
        ran = subprocess.run(["bash", "-c", "\n".join([*ends(), check])], capture_output=True, text=True)
        said = (
            f"{os.uname().nodename} has no python={python} of the site file, or one older than Python 3.11, so the job "
            "ends\n"
        )
        assert (ran.returncode, ran.stderr) == (code, said if code else "")
    assert srun(text_of(tmp_path, site(tmp_path, monkeypatch, python="python3.11")))[:2] == ["python3.11", "-P"]


def test_dry_shows_a_container_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    """Through the command itself."""
    path = tmp_path / "site.yaml"
    path.write_text("container: {image: /shared/glt.sif}\n")
    shown = launch("data=digits_glt", "cluster=dry", f"runs={tmp_path}/runs", GLT_SITE=str(path)).stdout
    assert "/shared/glt.sif env PYTHONPATH=" in shown and not (tmp_path / "runs").exists()
    path.write_text("container: {image: /shared/glt.sif, bind: [/a]}\n")
    assert "container.bind is not legal" in refused("data=digits_glt", "cluster=dry", GLT_SITE=str(path))


def test_the_definition_is_whole() -> None:
    """slurm/container.def copies files that are there, its scripts are bash, and it checks packages that are pinned."""
    text = (PROJECT / "slurm" / "container.def").read_text()
    sections = dict(zip(*[iter(re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert set(sections) == {"files", "post", "environment", "test"}
    assert all((PROJECT / line.split()[0]).is_file() for line in sections["files"].splitlines() if line.strip())
    for name in ("post", "environment", "test"):
        assert subprocess.run(["bash", "-n", "-c", sections[name]], capture_output=True).stderr == b""
    imported = re.search(r"import ([\w, ]+);", sections["test"])
    pinned = re.findall(r"^([\w-]+)==", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)
    assert imported and set(imported[1].split(", ")) <= set(pinned)
    assert "apptainer build glt.sif slurm/container.def" in (PROJECT / "docs" / "containers.md").read_text()


# ------------------------------------------------------------------------------------------------------ what is outside
BARE = ["-E", "-s", "-S"]
"""No packages, no variables: what a node's own Python has at least."""


def outside_modules() -> list[Path]:
    """The project's files that the batch script's own commands load."""
    code = (
        "import sys, slurm.after_run.__main__, slurm.cluster.needs, slurm.cluster.packed, slurm.cluster.requeue\n"
        "import slurm.evaluator\n"
        "files = (getattr(module, '__file__', None) or '' for module in sys.modules.values())\n"
        "print(*(file for file in files if file.startswith(sys.argv[1])), sep='\\n')"
    )
    ran = subprocess.run(
        [sys.executable, *BARE, "-c", code, str(PROJECT)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return [Path(line) for line in ran.stdout.splitlines()]


def test_what_runs_outside_is_of_python_3_6() -> None:
    """Everything that the batch script's own commands load is of Python 3.6's grammar and needs no package."""
    files = outside_modules()
    assert PROJECT / "slurm/cluster/requeue.py" in files and PROJECT / "slurm/monitoring/events.py" in files
    for path in files:
        tree = ast.parse(path.read_text(), str(path), feature_version=(3, 6))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]


def _outside(python: str, folder: Path) -> list[str]:
    """End three starts of a run by the batch script's own words, with a plain Python; returns the verdicts."""
    (folder / "bin").mkdir(parents=True)
    stub(folder / "bin", "scontrol", 'echo "JobId=12 JobState=RUNNING Restarts=0"; [ $1 = show ] || echo "pending" >&2')
    stub(folder / "bin", "sacct", "echo '12.0|1000'")
    stub(folder / "bin", "sleep", "")
    run = folder / "a run"
    variables = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "SLURM_JOB_ID": "12"}
    done = []
    for restart in range(3):
        (run / "ckpt" / "step-000000001").mkdir(parents=True, exist_ok=True)
        (run / "ckpt" / "step-000000001" / "MANIFEST.json").touch()
        words = [python, *BARE, "-c", "import time; time.sleep = print; import runpy, sys; sys.path[0] = ''\n"
                 "sys.argv = sys.argv[1:]; runpy.run_module('slurm.cluster.requeue', run_name='__main__')",
                 "requeue", str(run), "1"]  # fmt: skip
        done.append(
            subprocess.run(
                words,
                cwd=PROJECT,
                env={**variables, "SLURM_RESTART_COUNT": str(restart)},
                capture_output=True,
                text=True,
            )
        )
    assert not [ran.stderr for ran in done if "Traceback" in ran.stderr or ran.returncode != 1]
    assert json.loads((run / "log" / "energy.jsonl").read_text())["text"] == "12.0|1000"
    need = folder / "first"
    need.mkdir()
    (need / "done").touch()
    words = [python, *BARE, "-m", "slurm.cluster.needs", str(run), str(need)]
    assert subprocess.run(words, cwd=PROJECT, env=variables).returncode == 0
    return [event["verdict"] for event in events.read(run) if event["event"] == "verdict"]


def test_the_batch_script_decides_without_any_package(tmp_path: Path) -> None:
    """requeue and needs decide the same with a Python that has nothing but its library as with the project's."""
    assert _outside(sys.executable, tmp_path) == ["requeue", "requeue", "give up"]


@pytest.mark.full
@pytest.mark.parametrize("version", OLD)
def test_the_batch_script_decides_with_an_old_python(tmp_path: Path, version: str) -> None:
    """So they do with a real Python of each old version."""
    python = found(version)
    if python is None:
        pytest.skip(f"needs a Python {version} beside the project's own")
    assert _outside(python, tmp_path) == ["requeue", "requeue", "give up"]
