"""Where a run's numbers come from: commit, versions, machine. Standard library only: a status view asks for it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("torch", "torchvision", "deepspeed", "webdataset", "numpy", "pillow", "pylibjxl", "simplejpeg", "torchcodec"),
    *("timm", "peft", "open_clip_torch"),
)


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


def git_in(folder: Path, *words: str) -> str:
    """Return what git says of the repository of a folder.

    Raises:
        OSError: there is no git.
        CalledProcessError: the folder is in no repository.
    """
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def _git(*words: str) -> str:
    """Ask git about the project's checkout, also where it belongs to another user (root in a container)."""
    return git_in(PROJECT, "-c", f"safe.directory={PROJECT}", *words)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def meta(facts: Mapping[str, Any], command: Sequence[str] = ()) -> dict[str, Any]:
    """Return the contents of meta.json: where the run comes from, and the facts of the run itself.

    Args:
        facts: of the run.
        command: the launcher's `sys.argv`; where it is empty, the process speaks for itself.
    """
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {"node": platform.node(), "processor": platform.machine(), "cores": os.cpu_count()},
        "argv": list(command or sys.argv),
        **facts,
    }
