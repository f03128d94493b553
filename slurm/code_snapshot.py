"""The code that was submitted is the code that runs, after a requeue too, whatever happens to the project meanwhile.

A job runs from a copy of the suite, `RUNS/.code/HASH/`. HASH is the first 12 hex digits of the sha256 of its files and
of the commit they were at, so runs submitted from the same code share one copy. A local run needs none: nothing
requeues it. The folders of GLT_PATH are copied, too, and the job finds them in the copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from recipes.code.digest import ROOMS
from recipes.common import search_path
from recipes.common.errors import RecipeError
from recipes.schema import PROJECT
from slurm import site_file

SUFFIXES = ("*.py", "*.yaml")
EXAMPLE = "site.example.yaml"
"""The one YAML file of slurm/ that is no user's site file."""
FOLDER = ".code"
OWN = "glt_path"
"""The folder in a copy that holds those of GLT_PATH, under the names 0, 1, ..."""


def place(runs: Path) -> Path:
    """Return where the copy of today's code is, or would be, for run folders in `runs`."""
    return _place(runs, _today())


def snapshot_code(runs: Path) -> Path:
    """Make the copy of today's code for run folders in `runs`, unless it is there; returns its folder.

    Raises:
        RecipeError: the copy that is there was changed since it was made.
    """
    files = _today()
    folder = _place(runs, files)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            with open(temporary / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o444)  # no editor may change what queued jobs will run
        try:
            temporary.rename(folder)
        except OSError:  # another launcher was first
            shutil.rmtree(temporary)
    if _digest({**_read(folder), **_own_of(folder)}) != folder.name:
        raise RecipeError(
            f"{folder} is no longer the code that it was made from: remove it (jobs in the queue that run from it "
            "would fail) and submit again"
        )
    return folder


def running() -> str:
    """Name the code that this process runs: a copy's hash, or the commit of the project itself."""
    from recipes.code.checkout import commit

    return PROJECT.name if PROJECT.parent.name == FOLDER else commit()


def _today() -> dict[str, bytes]:
    from recipes.code.checkout import commit, uncommitted

    lines = [commit(), *(f"{state} {name}" for name, state in uncommitted(ROOMS).items())]
    return {**_read(PROJECT), "COMMIT": "".join(f"{line}\n" for line in lines).encode(), **_own_today()}


def copied_folders(code: Path) -> list[Path]:
    """Return the folders that GLT_PATH names to a job which runs from a copy of today's code."""
    return [code / OWN / str(number) for number in range(len(search_path.folders()))]


def _own_today() -> dict[str, bytes]:
    """Read what GLT_PATH brings, by its relative names in a copy; nothing where it names no folder."""
    from ifl.saving import run_facts

    files: dict[str, bytes] = {}
    for number, folder in enumerate(search_path.folders()):
        paths = {path for kind in search_path.KINDS for suffix in SUFFIXES for path in (folder / kind).rglob(suffix)}
        files |= {
            f"{OWN}/{number}/{path.relative_to(folder).as_posix()}": path.read_bytes()
            for path in sorted(paths)
            if path.is_file()
        }
        files.setdefault(f"{OWN}/{number}/{search_path.METHODS}/__init__.py", b"")  # a copy holds no empty folder
    if files:
        files[run_facts.OWN_FOLDERS] = (json.dumps(run_facts.own_folders(), indent=1) + "\n").encode()
    return files


def _own_of(copy: Path) -> dict[str, bytes]:
    """Read the same from a copy."""
    paths = [path for suffix in (*SUFFIXES, "FOLDERS.json") for path in (copy / OWN).rglob(suffix)]
    return {path.relative_to(copy).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def _read(root: Path) -> dict[str, bytes]:
    """Read the suite's files by their relative names, without site files, which are this user's and may hold secrets.

    They lie in slurm/, under any name, or where GLT_SITE says.
    """
    paths = [
        root / "COMMIT",
        *(path for room in ROOMS for suffix in SUFFIXES for path in (root / room).rglob(suffix)),
    ]
    own = {site_file.place(), *(root / "slurm").glob("*.yaml")} - {root / "slurm" / EXAMPLE}
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in paths if path.is_file() and path not in own
    }


def _digest(files: dict[str, bytes]) -> str:
    content = "".join(f"{hashlib.sha256(files[name]).hexdigest()} {name}\n" for name in sorted(files))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _place(runs: Path, files: dict[str, bytes]) -> Path:
    if ":" in str(runs):
        raise RecipeError(
            f"runs={runs} holds a colon, which cannot stand in the module path (PYTHONPATH) of a job: rename the folder"
        )
    return runs / FOLDER / _digest(files)
