"""Where a run's numbers come from: commit, versions, machine, data."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a status view asks for the commit, and must answer at once
    from recipes.schema import Recipe
    from sharding.format.dataset import Dataset

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "deepspeed", "webdataset", "numpy", "pillow", "simplejpeg")


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
    """Return what meta.json says of the code: digests of the run's own, and what of all code is in no commit.

    Other methods and models than the run's, and other recipes, do not count. Where GLT_PATH names folders, it says of
    these, too, where they lay and at which commits they were.
    """
    from ifl.saving.own_folders import own_folders, uncommitted_own
    from recipes.code_digest import FOLDERS, ROOMS, code_digests, code_files

    files = [path for paths in code_files(recipe).values() for path in paths]
    named = own_folders()
    elsewhere = {
        name: state
        for name, state in uncommitted(ROOMS).items()
        if name.endswith(".py") and not name.startswith(tuple(f"{folder}/" for folder in FOLDERS.values()))
    }
    ours = uncommitted([path for path in files if not path.is_absolute()])
    found = {"code": code_digests(recipe), "uncommitted": {**ours, **elsewhere, **uncommitted_own(files, named)}}
    return {**found, "glt_path": named} if named else found


def of_the_data(dataset: Dataset) -> dict[str, Any]:
    """Return what analysis needs to know of a data set that it cannot ask: its splits, and both ways to group its
    classes where dataset.json has them.
    """
    groups = dataset.meta.get("notes", {}).get("groups")
    splits = {edition: sorted(splits) for edition, splits in dataset.editions.items()}
    return {"editions": splits, **({"groups": groups} if isinstance(groups, dict) else {})}


def own_recipes(recipe: Recipe) -> dict[str, Any]:
    """Return the values of the run's recipe, and of its first stage's, where their files lie in a user's folder."""
    from recipes.common import search_path
    from recipes.resolve import source_of
    from recipes.yaml_io import load_yaml

    source = source_of(recipe)
    names = [recipe.recipe, *([source.partition("-")[0]] if source else [])]
    files = {name: search_path.find_own(search_path.RECIPES, name) for name in names}
    values = {name: load_yaml(file) for name, file in files.items() if file}
    return {"recipe_values": values} if values else {}


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
