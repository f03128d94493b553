"""What meta.json says of the folders of one's own that GLT_PATH names: where they lay, and at which commits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ifl.saving.provenance import PROJECT, git_in
from recipes.common import search_path

OWN_FOLDERS = "glt_path/FOLDERS.json"
"""In a copy made for a job: what `own_folders` said when the copy was made, beside the folders' own copies 0, 1, ..."""


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


def uncommitted_own(files: Sequence[Path], named: Sequence[Mapping[str, Any]]) -> dict[str, str]:
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
        return git_in(folder, "rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _changes_in(folder: Path) -> dict[str, str]:
    """Return which files of the user's folder are not as its repository's commit has them; none where there is none."""
    words = ["--no-optional-locks", "-c", "core.quotePath=false", "status", "--porcelain", "--no-renames"]
    try:
        prefix = git_in(folder, "rev-parse", "--show-prefix")
        lines = git_in(folder, *words, "--untracked-files=all", "--", *search_path.KINDS).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {}
    states = (line.strip().split(maxsplit=1) for line in lines)
    return {name.removeprefix(prefix): "untracked" if state == "??" else "changed" for state, name in states}
