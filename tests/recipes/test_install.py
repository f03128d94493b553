"""Set-up on a machine that lacks something ends with one sentence that names it, before anything large is
downloaded.
"""

from __future__ import annotations

import ast
import os
import pty
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
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


def test_without_a_pseudo_terminal_its_tests_say_so(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Where none can be opened, tests that need one are skipped, and the last line says how to have them run."""

    def refuse() -> tuple[int, int]:
        raise OSError("out of pty devices")

    monkeypatch.setattr(pty, "openpty", refuse)
    with pytest.raises(pytest.skip.Exception) as skipped:
        request.getfixturevalue("terminal")
    assert not_tested([f"Skipped: {skipped.value}"] * 2) == (
        "not tested here, 2 of the tests: 2: needs a pseudo-terminal (out of pty devices); "
        "`mount -t devpts devpts /dev/pts`, as root, brings it"
    )


# ----------------------------------------------------------------------------------------------------------- wheelhouse
BACKEND = """
import os, tarfile, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    import setuptools  # which pip has to find where it finds the rest
    name = "{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as file:
        file.writestr("{name}.py", "value = 1\\n")
        file.writestr("{name}-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        file.writestr("{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("{name}-1.0.dist-info/RECORD", "")
    return name
build_editable = build_wheel
"""
"""Builds a package of one module as setuptools would, which it needs, in no time."""
SETTINGS = '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def source_of(name: str, folder: Path) -> Path:
    """The source of a package whose build needs setuptools, as DeepSpeed's and the project's do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "backend.py").write_text(BACKEND.format(name=name))
    (folder / "pyproject.toml").write_text(SETTINGS)
    (folder / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return folder


def bare_environment(folder: Path) -> None:
    """An environment with this one's pip: made at once, where Python's own way takes seconds."""
    import pip

    venv.create(folder, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    for path in Path(pip.__file__).parents[1].glob("pip*"):
        (site / path.name).symlink_to(path)


def test_a_wheelhouse_is_all_that_set_up_needs(project: Path, tmp_path: Path) -> None:
    """`make wheelhouse` builds what is only there as a source and adds what builds the project; with the index switched
    off `make venv WHEELHOUSE=` installs all of it, and its sentence says what a folder lacks.
    """
    index = tmp_path / "index"  # stands in for the package index
    index.mkdir()
    with tarfile.open(index / "tiny-1.0.tar.gz", "w:gz") as file:
        file.add(source_of("tiny", tmp_path / "tiny"), "tiny-1.0")
    for name in ("setuptools", "wheel"):
        with zipfile.ZipFile(index / f"{name}-99.0-py3-none-any.whl", "w") as wheel:
            about = f"{name}-99.0.dist-info"
            wheel.writestr(f"{name}.py", "")
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    source_of("project_itself", project)
    (project / "requirements.txt").write_text("# pinned\ntiny==1.0\n-e .\n")
    bare_environment(project / ".venv")
    none = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_FIND_LINKS": ""}
    house = tmp_path / "a house"

    def made(*words: str, **variables: str) -> None:
        subprocess.run(
            ["make", *words, f"PYTHON={sys.executable}", f"WHEELHOUSE={house}"],
            cwd=project,
            env={**os.environ, **none, **variables},
            check=True,
            capture_output=True,
            timeout=60,
        )

    assert "is no folder of wheels" in sentence(
        "make", "venv", f"PYTHON={sys.executable}", f"WHEELHOUSE={house}", folder=project
    )
    made("wheelhouse", PIP_FIND_LINKS=str(index))
    assert {path.name.partition("-")[0] for path in house.iterdir()} == {"tiny", "setuptools", "wheel"}
    assert all(path.suffix == ".whl" for path in house.iterdir()) and not (project / ".venv" / ".installed").exists()
    made("venv", PYTHONPATH="/a module's packages")
    code = "import tiny, project_itself; print(tiny.value)"
    shown = subprocess.run([project / ".venv/bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "1\n" and (project / ".venv" / ".installed").exists()


def test_what_a_wheelhouse_lacks_is_one_sentence(tmp_path: Path) -> None:
    """Wheels of another Python, or of older pins, are told by the folder and what makes it anew."""
    (tmp_path / "pip.log").write_text("ERROR: No matching distribution found for torch==2.13.0\n")
    said = install.what_pip_met(str(tmp_path / "pip.log"), "/wheels")
    assert said.startswith("/wheels lacks a wheel for this Python") and "make wheelhouse" in said and "\n" not in said


@pytest.mark.full
def test_the_whole_wheelhouse(project: Path, tmp_path: Path) -> None:
    """The real packages: fetched from this machine's index, then installed with the index switched off, DeepSpeed and
    the project itself among them.
    """
    for room in ("recipes", "sharding", "ifl", "slurm", "analysis"):
        shutil.copytree(PROJECT / room, project / room, dirs_exist_ok=True)
    (project / "README.md").touch()
    house, make = tmp_path / "house", ["make", f"PYTHON={sys.executable}", f"WHEELHOUSE={tmp_path / 'house'}"]
    subprocess.run([*make, "wheelhouse"], cwd=project, check=True, timeout=3000)
    assert list(house.glob("deepspeed-*.whl")) and list(house.glob("setuptools-*.whl"))
    nobody = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | nobody
    subprocess.run([*make, "venv"], cwd=project, env=variables, check=True, timeout=3000)
    started = [project / ".venv/bin/python", "-m", "ifl.engine"]
    shown = subprocess.run(started, cwd=project, capture_output=True, text=True, timeout=300)
    assert "a rank starts here" in shown.stdout, shown.stderr
