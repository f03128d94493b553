"""The commands are started by whatever Python a user has, and read by whatever stands behind a pipe."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.paths import PROJECT

DOORS = {
    "slurm/launch.py": ["slurm/launch.py"],
    "slurm/status.py": ["slurm/status.py"],
    "slurm/scaling.py": ["-m", "slurm.scaling"],
    "analysis/__main__.py": ["-m", "analysis"],
    "sharding/build.py": ["-m", "sharding.build"],
    "sharding/verify.py": ["-m", "sharding.verify"],
    "sharding/describe.py": ["-m", "sharding.describe"],
    "sharding/coco_attributes.py": ["-m", "sharding.coco_attributes"],
    "ifl/engine.py": ["-m", "ifl.engine"],
    "ifl/clip/__main__.py": ["-m", "ifl.clip"],
    "ifl/pretrained/__main__.py": ["-m", "ifl.pretrained"],
}
"""The file of each command, and how Python is told to start it."""
BEFORE = {
    *DOORS,
    *(f"{Path(door).parts[0]}/__init__.py" for door in DOORS),
    "ifl/clip/__init__.py",
    "ifl/pretrained/__init__.py",
    "recipes/__init__.py",
    "recipes/common/__init__.py",
    "recipes/common/venv.py",
    "recipes/common/install.py",
}
"""What an old Python reads before it hands over: these hold to its grammar, whole."""
OLD = ("3.6", "3.7", "3.8", "3.9", "3.10")


def last_before_environment(tree: ast.Module) -> int:
    """The line of a command's call of `in_environment`, after which it is run by the right Python alone."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node) == "in_environment()"]
    assert len(calls) == 1
    return calls[0].lineno


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_old_pythons_can_read_a_command(name: str) -> None:
    """Every command, the packages that are imported on the way to it and what hands it over to .venv are of Python
    3.6's grammar, which knows neither `from __future__ import annotations` nor `f"{x=}"`.
    """
    source = (PROJECT / name).read_text()
    tree = ast.parse(source, name, feature_version=(3, 6))
    future = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert not future and not re.search(r"\{[\w.\[\]()]+=\}", source)


@pytest.mark.parametrize("door", DOORS)
def test_a_command_hands_over_before_it_imports(door: str) -> None:
    """Before `in_environment` a command imports sys and pathlib, which Python 3.6 has, and nothing else."""
    tree = ast.parse((PROJECT / door).read_text())
    last = last_before_environment(tree)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and node.lineno < last]
    lines = {ast.unparse(node) for node in imports}
    assert lines <= {"import sys", "from pathlib import Path", "from recipes.common.venv import in_environment"}


@cache
def found(version: str) -> str | None:
    """This machine's Python of that version, or None."""
    named = shutil.which(f"python{version}")
    kept = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python"))
    candidates = [*([named] if named else []), *map(str, kept)]
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    for python in candidates:
        said = subprocess.run([python, "-c", code], capture_output=True, text=True)
        if said.stdout.strip() == version:
            return python
    return None


PRETEND = """
import builtins, functools, os, runpy, sys
lacking = {"dataclasses", "contextvars", "graphlib", "zoneinfo", "tomllib", "importlib.resources", "importlib.metadata"}
os.environ["PYTHONHOME"] = "of the old one"
os.execv = lambda path, words: sys.exit(" ".join(["EXEC", os.environ.get("PYTHONHOME", ""), *words[1:]]))
real = builtins.__import__
def refusing(name, *args, **kwargs):
    if name in lacking: raise ImportError("3.6 has no " + name)
    return real(name, *args, **kwargs)
sys.version_info, builtins.__import__ = (3, 6, 15, "final", 0), refusing
del sys.orig_argv, functools.cache
for name in lacking & set(sys.modules): del sys.modules[name]
"""
"""A Python that lacks what 3.6 lacks, and says what it would start in its place."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands and what they import on the way to .venv, beside an .venv whose Python only repeats its words."""
    folder = tmp_path_factory.mktemp("doors") / "a project"
    for name in BEFORE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    python.chmod(0o755)
    (folder / ".venv" / ".installed").touch()
    return folder


def test_a_stand_in_for_an_old_python_hands_over(project: Path) -> None:
    """With neither sys.orig_argv nor functools.cache nor dataclasses every command is started again in .venv, with
    its words, and without what says where the old one's library is.
    """
    for door, start in DOORS.items():
        how = f'run_module("{start[1]}"' if start[0] == "-m" else f'run_path("{door}"'
        words = '["-m", "some words"]' if start[0] == "-m" else f'["{door}", "some words"]'
        code = f'{PRETEND}\nsys.argv = {words}\nrunpy.{how}, run_name="__main__"' + (
            ", alter_sys=True)" if start[0] == "-m" else ")"
        )
        result = subprocess.run([sys.executable, "-S", "-c", code], cwd=project, capture_output=True, text=True)
        module = f"{start[-1]}.__main__" if door.endswith("__main__.py") else start[-1]
        assert result.stderr.splitlines() == [f"EXEC  {' '.join([*start[:-1], module, 'some words'])}"], result.stderr


@pytest.mark.full
@pytest.mark.parametrize("version", OLD)
def test_an_old_python_hands_over(version: str, project: Path) -> None:
    """A real Python of each old version starts every command again in .venv, with its words."""
    python = found(version)
    if python is None:
        pytest.skip(f"needs a Python {version} beside the project's own")
    for start in DOORS.values():
        result = subprocess.run(
            [python, *start, "a=b c"], cwd=project, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )
        module = "analysis.__main__" if start[-1] == "analysis" and version != "3.10" else start[-1]
        assert result.stdout.splitlines() == [*start[:-1], module, "a=b c"], result.stderr
        assert result.returncode == 0 and result.stderr == ""


def test_an_environment_that_cannot_be_started_is_one_line(project: Path, tmp_path: Path) -> None:
    """An .venv whose Python was removed, and none at all, are told with what to do."""
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    python = copy / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")

    def said() -> str:
        result = subprocess.run(
            [sys.executable, "-S", "slurm/status.py"], cwd=copy, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 1 and result.stdout == ""
        (line,) = result.stderr.splitlines()
        return line

    assert said().endswith(f"(No such file or directory): remove .venv and run `make venv` in {copy}")
    (copy / ".venv" / ".installed").unlink()
    assert said() == f"the project's packages are not installed: run `make venv` in {copy}"


# --------------------------------------------------------------------------------------------------- behind a pipe
@pytest.fixture
def unread() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_every_command_may_be_piped_into_head(unread: int, tmp_path: Path) -> None:
    """With a reader that has gone no command says a word, and all but `status.py`, which may show for ever and is
    ended by the signal, end as they would have.
    """
    run = tmp_path / "run"
    (run / "log").mkdir(parents=True)
    (run / "recipe.yaml").touch()
    (run / "log" / "events.jsonl").write_text('{"event": "failed", "rank": 0, "error": "why", "time": 0}\n')
    words = {"slurm/status.py": [f"why={run}"], "slurm/scaling.py": ["image_s=1", "interruptions_h=0"]}
    started = {
        door: subprocess.Popen(
            [sys.executable, *start, *words.get(door, ["--help"])],
            cwd=PROJECT,
            stdout=unread,
            stderr=subprocess.PIPE,
            text=True,
        )
        for door, start in DOORS.items()
        if door not in ("ifl/engine.py", "sharding/coco_attributes.py")  # one line, and none
    }
    for door, process in started.items():
        _, error = process.communicate(timeout=60)
        assert error == "" and process.returncode == (-13 if door == "slurm/status.py" else 0), (door, error)


def test_every_command_tells_of_an_output_that_cannot_be_written() -> None:
    """On a full disk each ends with code 2 and one sentence; whatever its standard error is, it says no more."""
    words = {"slurm/status.py": ["runs=examples/fashion_glt"], "slurm/scaling.py": ["image_s=1", "interruptions_h=0"]}
    with open("/dev/full", "w") as full:
        started = {
            door: subprocess.Popen(
                [sys.executable, *start, *words.get(door, ["--help"])],
                cwd=PROJECT,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
            for door, start in DOORS.items()
            if door not in ("ifl/engine.py", "sharding/coco_attributes.py")  # of make, and of a subprocess of ours
        }
        for door, process in started.items():
            _, error = process.communicate(timeout=60)
            assert process.returncode == 2, (door, error)
            assert re.fullmatch(r"\S+: the standard output cannot be written: No space left on device\n", error), door


def test_what_the_standard_error_does_not_take_is_dropped() -> None:
    """Bars and remarks on a full disk stop no command."""
    code = "import sys; from recipes.common.output import go_on_unread; go_on_unread(); print('x', file=sys.stderr)"
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-c", f"{code}; print('y')"], cwd=PROJECT, stdout=-1, stderr=full)
    assert (result.stdout, result.returncode) == (b"y\n", 0)


@pytest.mark.parametrize("words", [["slurm/launch.py", "cluster=dry"], ["slurm/status.py"], ["-m", "sharding.verify"]])
def test_a_command_runs_without_standard_streams(words: list[str], tmp_path: Path) -> None:
    """`COMMAND >&- 2>&-` ends as it does with them."""
    command = shlex.join([sys.executable, *words, *([f"runs={tmp_path}"] if words[0] != "-m" else [])])
    codes = {
        ends: subprocess.run(
            ["bash", "-c", f"{command} {ends}"], cwd=PROJECT, capture_output=True, timeout=60
        ).returncode
        for ends in (">/dev/null 2>&1", ">&-", "<&- >&- 2>&-")
    }
    assert len(set(codes.values())) == 1, codes
