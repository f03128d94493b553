"""What of the code is checked out: the commit, and the files that are not as it has them. Standard library only."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


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
