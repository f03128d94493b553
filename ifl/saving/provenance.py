"""Where a run's numbers come from: commit, versions, machine, data."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recipes.code_digest import code_digests, code_files
from recipes.common import search_path
from recipes.schema import PROJECT, Recipe

PACKAGES = ("torch", "torchvision", "deepspeed", "webdataset", "numpy", "pillow", "simplejpeg")

OWN_FOLDERS = "glt_path/FOLDERS.json"
"""In a copy made for a job: what `own_folders` said when the copy was made, beside the folders' own copies 0, 1, ..."""
_COMMAND: ContextVar[Sequence[str]] = ContextVar("command", default=())


def commit() -> str:
    """Return the checked-out commit, with `+changes` where the work tree differs from it.

    In a copy made for a job it is what was checked out when the copy was made.
    """
    if (stated := PROJECT / "COMMIT").exists():
        return stated.read_text(errors="replace").partition("\n")[0]
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def uncommitted(paths: Sequence[Path | str]) -> dict[str, str]:
    """Return which files of the project are not as the commit has them: their names -> `changed` or `untracked`.

    Args:
        paths: files or folders to look at, relative to the project.
    """
    if (stated := PROJECT / "COMMIT").exists():
        lines = stated.read_text().splitlines()[1:]
        names = {name: state for state, _, name in (line.partition(" ") for line in lines)}
        return {name: state for name, state in names.items() if any(Path(name).is_relative_to(path) for path in paths)}
    try:
        words = ["--no-optional-locks", "status", "--porcelain", "--no-renames", "--untracked-files=all"]
        lines = _git(*words, "--", *map(str, paths)).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {}
    states = (line.strip().split(maxsplit=1) for line in lines)
    return {name: "untracked" if state == "??" else "changed" for state, name in states}


def code(recipe: Recipe) -> dict[str, Any]:
    """Return what meta.json says of the run's own code: digests, and what of it is in no commit.

    Where GLT_PATH names folders, it says of these, too, where they lay and at which commits they were.
    """
    files = [path for paths in code_files(recipe).values() for path in paths]
    named = own_folders()
    found = {
        "code": code_digests(recipe),
        "uncommitted": uncommitted([path for path in files if not path.is_absolute()]) | _uncommitted_own(files, named),
    }
    return {**found, "glt_path": named} if named else found


def own_folders() -> list[dict[str, Any]]:
    """Return the folders of GLT_PATH, each with its commit and the files that differ from it.

    In a copy made for a job they are those that were copied.
    """
    if (stated := PROJECT / OWN_FOLDERS).exists():
        copied: list[dict[str, Any]] = json.loads(stated.read_text())
        return copied
    return [
        {"folder": str(folder), "commit": _commit_of(folder), "uncommitted": _changes_in(folder)}
        for folder in search_path.folders()
    ]


def _uncommitted_own(files: Sequence[Path], named: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the state of the run's files that lie in folders of GLT_PATH and differ from these folders' commits."""
    states = {}
    for folder, entry in zip(search_path.folders(), named, strict=True):
        for path in files:
            inner = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else ""
            if inner in entry["uncommitted"]:
                states[f"{entry['folder']}/{inner}"] = entry["uncommitted"][inner]
    return states


def _commit_of(folder: Path) -> str:
    try:
        return _git_in(folder, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _changes_in(folder: Path) -> dict[str, str]:
    """Return which files of the user's folder are not as its repository's commit has them; none where there is none."""
    words = ["--no-optional-locks", "-c", "core.quotePath=false", "status", "--porcelain", "--no-renames"]
    try:
        prefix = _git_in(folder, "rev-parse", "--show-prefix")
        lines = _git_in(folder, *words, "--untracked-files=all", "--", *search_path.KINDS).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {}
    states = (line.strip().split(maxsplit=1) for line in lines)
    return {name.removeprefix(prefix): "untracked" if state == "??" else "changed" for state, name in states}


def _git_in(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def _git(*words: str) -> str:
    """Ask git about the project's checkout, also where it belongs to another user (root in a container)."""
    return _git_in(PROJECT, "-c", f"safe.directory={PROJECT}", *words)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@contextlib.contextmanager
def launched_by(command: Sequence[str]) -> Iterator[None]:
    """Make `meta` name this command inside as the one that launched the run.

    Args:
        command: the launcher's `sys.argv`; where it is empty, the process speaks for itself.
    """
    token = _COMMAND.set(command)
    try:
        yield
    finally:
        _COMMAND.reset(token)


def meta(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of meta.json: where the run comes from, and the facts of the run itself."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"node": platform.node(), "processor": platform.machine(), "cores": os.cpu_count()},
        "argv": list(_COMMAND.get() or sys.argv),
        **facts,
    }
