"""Where a run's numbers come from: commit, versions, machine, data."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.code_digest import code_digests, code_files
from recipes.common import search_path
from recipes.resolve import source_of
from recipes.schema import PROJECT, Recipe
from recipes.yaml_io import load_yaml

if TYPE_CHECKING:
    from sharding.format.dataset import Dataset

PACKAGES = ("torch", "torchvision", "deepspeed", "webdataset", "numpy", "pillow", "simplejpeg")


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
    """Return what meta.json says of the run's own code: digests, and what of it is in no commit."""
    files = [path for paths in code_files(recipe).values() for path in paths]
    return {"code": code_digests(recipe), "uncommitted": uncommitted(files)}


def of_the_data(dataset: Dataset) -> dict[str, Any]:
    """Return what analysis needs to know of a data set that it cannot ask: its splits, and both ways to group its
    classes where dataset.json has them.
    """
    groups = dataset.meta.get("notes", {}).get("groups")
    splits = {edition: sorted(splits) for edition, splits in dataset.editions.items()}
    return {"editions": splits, **({"groups": groups} if isinstance(groups, dict) else {})}


def own_recipes(recipe: Recipe) -> dict[str, Any]:
    """Return the values of the run's recipe, and of its first stage's, where their files lie in a user's folder."""
    source = source_of(recipe)
    names = [recipe.recipe, *([source.partition("-")[0]] if source else [])]
    files = {name: search_path.find_own(search_path.RECIPES, name) for name in names}
    values = {name: load_yaml(file) for name, file in files.items() if file}
    return {"recipe_values": values} if values else {}


def _git(*words: str) -> str:
    """Ask git about the project's checkout, also where it belongs to another user (root in a container)."""
    command = ["git", "-c", f"safe.directory={PROJECT}", *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()


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
