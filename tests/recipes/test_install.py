"""Set-up on a machine that lacks something ends with one sentence that names it, before anything large is
downloaded.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from recipes.common import install
from recipes.schema import PROJECT
from tests.conftest import not_tested

FILE = PROJECT / "recipes" / "common" / "install.py"


def sentence(*command: str | Path, folder: Path = PROJECT, **variables: str) -> str:
    """What set-up says on its last line, where it must refuse, without a traceback and without touching the folder."""
    result = subprocess.run(
        [*map(str, command)], cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode != 0
    said = (result.stdout + result.stderr).splitlines()
    assert "Traceback" not in result.stderr
    return next(line for line in reversed(said) if line.startswith("set-up stopped: "))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that `make` can be run in, without an environment."""
    folder = tmp_path / "a project"
    (folder / "recipes" / "common").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder / name)
    shutil.copy(FILE, folder / "recipes" / "common" / "install.py")
    return folder


def test_set_up_can_be_read_by_an_old_python() -> None:
    """The file that names the Python that is needed must itself be read by older ones."""
    ast.parse(FILE.read_text(), feature_version=(3, 6))
    assert "from __future__ import annotations" not in FILE.read_text()  # 3.7


@pytest.mark.parametrize("version", [(3, 6), (3, 9), (3, 10), (3, 15), (4, 0)])
def test_another_python_is_refused_by_name(version: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python for which the pinned packages have no wheels is refused, with what to install on Debian, Red Hat and
    conda.
    """
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    said = install.why_not()
    assert (
        said
        and "Python 3.11 to 3.14" in said
        and f"this is Python {version[0]}.{version[1]}" in said
        and "make PYTHON=" in said
    )
    for system in ("apt-get install python3 python3-venv", "dnf install", "conda create"):
        assert system in said


def test_the_pins_and_the_versions_agree() -> None:
    """pyproject names the same oldest Python."""
    assert f'requires-python = ">={install.OLDEST[0]}.{install.OLDEST[1]}"' in (PROJECT / "pyproject.toml").read_text()


def test_no_python_at_all(project: Path) -> None:
    assert "python-that-is-not-there is not installed" in sentence(
        "make", "venv", "PYTHON=python-that-is-not-there", folder=project
    )


@pytest.mark.parametrize("lost", ["venv", "ensurepip"])
def test_a_python_without_venv(lost: str, project: Path, tmp_path: Path) -> None:
    """Debian's python3 without python3-venv is told by the package's name."""
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / f"{lost}.py").write_text("raise ImportError")
    said = sentence("make", "venv", f"PYTHON={sys.executable}", folder=project, PYTHONPATH=str(tmp_path / "lost"))
    assert "apt-get install python3-venv" in said and not (project / ".venv").exists()


def test_a_full_disk_is_told_before_the_download(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "PROJECT", str(project))
    monkeypatch.setattr(install, "VENV", str(project / ".venv"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("Usage", "total used free")(1, 0, 600_000_000))
    assert f"the disk of {project} has 0.6 GB free" in (install.why_not() or "")
    (project / ".venv").mkdir()
    (project / ".venv" / ".installed").touch()
    assert install.why_not() is None  # what is there already takes no more


def test_a_folder_of_another_user(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may not write there is told whose folder it is."""
    monkeypatch.setattr(install, "PROJECT", str(project))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"{project} belongs to {install.owner_of(str(project))} and cannot be written" in (install.why_not() or "")


def test_a_folder_that_no_environment_can_be_in(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr(install, "PROJECT", f"{project}:2")
    assert "rename" in (install.why_not() or "")


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("OSError: [Errno 28] No space left on device", "a disk is full"),
        ("OSError: [Errno 122] Disk quota exceeded", "quota"),
        (
            "NewConnectionError: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution",
            "no package index can be reached",
        ),
        ("ConnectTimeoutError(... timed out)", "no package index can be reached"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "PIP_CERT"),
        ("ERROR: No matching distribution found for torch==2.13.0", "no wheel of a pinned package"),
        ("something else", "pip could not install"),
    ],
)
def test_what_pip_met_is_one_sentence(log: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "pip.log").write_text(f"2026-01-01T00:00:00 Collecting torch\n{log}\n")
    said = install.what_pip_met(str(tmp_path / "pip.log"))
    assert words in said and "\n" not in said


def test_without_internet_the_sentence_comes_from_pip_itself(project: Path) -> None:
    """pip is really run, against an index where nobody answers."""
    nobody = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
    }
    said = sentence("make", "venv", f"PYTHON={sys.executable}", folder=project, **nobody)
    assert "no package index can be reached" in said and not (project / ".venv" / ".installed").exists()


def test_the_last_line_says_what_was_not_tested() -> None:
    """What `make system` would bring is counted by its package, other reasons are given whole, and nothing is said
    where all was tested.
    """
    assert not_tested([]) == ""
    slurm, chromium = (
        "Skipped: needs slurm-wlm (make system, as root)",
        "Skipped: chromium is not installed; the Debian package chromium has it (`make system`)",
    )
    line = not_tested([slurm, chromium, slurm, "Skipped: no checkout here, or no git"])
    assert line.startswith("not tested here, 4 of the tests: 2 need slurm-wlm, 1 need chromium (`make system`, as root")
    assert line.endswith("; 1: no checkout here, or no git") and "\n" not in line
