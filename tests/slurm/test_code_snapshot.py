"""The code that was submitted is the code that runs: one copy for all runs from the same code, found before the
project's.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recipes.code import checkout
from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm import code_snapshot
from tests.helpers.launching import batch_file
from tests.helpers.project_copy import copy_of_the_project


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that stands in for the project: its code is what is submitted."""
    folder = copy_of_the_project(tmp_path / "project")
    for module in (code_snapshot, checkout):
        monkeypatch.setattr(module, "PROJECT", folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_copy_is_the_suite_and_its_commit(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy holds every .py and .yaml of the five rooms, byte for byte and read-only, and the commit; no tests, no
    site file whatever its name, no example runs and no temporary folder beside it.
    """
    sites = ("slurm/site.yaml", "slurm/lab.yaml", "recipes/home.yaml")
    for name in sites:
        (project / name).write_text("setup: [export TOKEN=secret]\n")
    monkeypatch.setenv("GLT_SITE", str(project / "recipes" / "home.yaml"))
    (project / "tests").mkdir()
    (project / "tests" / "test_x.py").touch()
    code = code_snapshot.snapshot_code(tmp_path / "runs")
    expected = {
        name: text
        for name, text in contents(project).items()
        if name.endswith((".py", ".yaml")) and not name.startswith(("tests/", *sites, "examples/fashion_glt/"))
    }
    assert len(expected) > 50
    assert contents(code) == expected | {"COMMIT": b"unknown\n"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in code.rglob("*") if path.is_file()} == {0o444}
    assert stat.S_IMODE(code.parent.stat().st_mode) == stat.S_IMODE(code.stat().st_mode) == 0o700
    assert [path.name for path in code.parent.iterdir()] == [code.name] and len(code.name) == 12


def test_runs_from_the_same_code_share_one_copy(project: Path, tmp_path: Path) -> None:
    """The same code is copied once; another line of code, another recipe file, or another commit is another copy;
    `place` says where before it is made.
    """
    runs = tmp_path / "runs"
    place = code_snapshot.place(runs)
    assert not runs.exists()
    first = code_snapshot.snapshot_code(runs)
    before = first.stat().st_mtime_ns
    assert (
        first == place == code_snapshot.snapshot_code(runs) == code_snapshot.snapshot_code(runs)
        and first.stat().st_mtime_ns == before
    )
    (project / "slurm" / "site.yaml").write_text("partition: gpu\n")
    assert code_snapshot.snapshot_code(runs) == first, "a site file is no code"
    seen = {first}
    for file in ("ifl/train.py", "recipes/glt_ifl.yaml", "COMMIT"):
        path = project / file
        path.write_text((path.read_text() if path.exists() else "") + "# changed\n")
        seen.add(code_snapshot.snapshot_code(runs))
    assert len(seen) == len(list((runs / ".code").iterdir())) == 4


def test_many_launchers_at_once_make_one_copy(project: Path, tmp_path: Path) -> None:
    """Launchers that make the same copy at the same moment end with one whole copy and no leftovers."""
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: code_snapshot.snapshot_code(tmp_path / "runs"), range(16)))
    assert len(made) == 1 and list((tmp_path / "runs" / ".code").iterdir()) == list(made)


def test_a_changed_copy_is_refused(project: Path, tmp_path: Path) -> None:
    """A copy that someone changed is not submitted again under its old name: one sentence names it."""
    code = code_snapshot.snapshot_code(tmp_path / "runs")
    (code / "ifl" / "train.py").chmod(0o644)
    (code / "ifl" / "train.py").write_text("raise SystemExit\n")
    with pytest.raises(RecipeError, match=f"{code} is no longer the code"):
        code_snapshot.snapshot_code(tmp_path / "runs")


def test_a_colon_in_the_runs_folder_is_refused(tmp_path: Path) -> None:
    """A folder whose name would be read as two in PYTHONPATH is refused before anything is made."""
    with pytest.raises(RecipeError, match="holds a colon"):
        code_snapshot.place(tmp_path / "a:b")


WHO = (
    "import json, recipes.schema, recipes.code.checkout, slurm.code_snapshot, slurm.cluster.requeue, slurm.job; "
    "print(recipes.schema.PROJECT, slurm.job.__file__, recipes.code.checkout.commit(), slurm.code_snapshot.running())"
)


def test_a_job_finds_its_copy_before_the_project(tmp_path: Path) -> None:
    """In the environment of the batch script, started in the project's own folder and with the project on PYTHONPATH
    too, every module is the copy's; commit and name of the code are those it was submitted with, though git would say
    otherwise."""
    code = code_snapshot.snapshot_code(tmp_path)
    text = batch_file(resolve(["data=digits_glt", f"runs={tmp_path}"]), tmp_path / "run", code)
    (export,) = [line for line in text.splitlines() if line.startswith("export PYTHONPATH=")]
    assert f"{sys.executable} -P -u -m submitit" in text and f"{sys.executable} -P -m slurm.cluster.requeue" in text
    result = subprocess.run(
        ["bash", "-c", f'{export}; {sys.executable} -P -c "{WHO}"'],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.split() == [
        str(code),
        str(code / "slurm" / "job.py"),
        (code / "COMMIT").read_text().splitlines()[0],
        code.name,
    ], result.stderr


def test_a_checkout_of_another_user_has_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """git refuses a checkout that belongs to somebody else (root in a container); a run there still names its
    commit.
    """
    if checkout.commit() == "unknown":
        pytest.skip("no checkout here, or no git")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert checkout.commit() != "unknown"


def test_a_local_run_names_the_commit() -> None:
    """Outside a copy the code that runs is named by the project's commit."""
    assert code_snapshot.running() == checkout.commit()


def test_copies_are_no_runs(tmp_path: Path) -> None:
    """The status view and the tables pass over the copies."""
    code_snapshot.snapshot_code(tmp_path)
    for command in (
        [sys.executable, "slurm/status.py", f"runs={tmp_path}"],
        [sys.executable, "-m", "analysis", f"runs={tmp_path}", f"out={tmp_path / 'out'}"],
    ):
        result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
        assert ".code" not in result.stdout + result.stderr and "Traceback" not in result.stderr
