"""What meta.json says of a run's code and data: digests, what is in no commit, folders of one's own, class groups."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.backbones.facts import library_of, question
from recipes.code.checkout import PROJECT, git_in, uncommitted
from recipes.code.digest import FOLDERS, ROOMS, code_digests, code_files
from recipes.common import search_path
from recipes.resolve import source_of
from recipes.schema import Recipe
from recipes.yaml_io import load_yaml
from sharding.format.dataset import Dataset

OWN_FOLDERS = "glt_path/FOLDERS.json"
"""In a copy made for a job: what `own_folders` said when the copy was made, beside the folders' own copies 0, 1, ..."""


def code(recipe: Recipe) -> dict[str, Any]:
    """Return what meta.json says of the code: digests of the run's own, and what of all code is in no commit.

    Other methods and models than the run's, and other recipes, do not count. Where GLT_PATH names folders, it says of
    these, too, where they lay and at which commits they were.
    """
    files = [path for paths in code_files(recipe).values() for path in paths]
    named = own_folders()
    elsewhere = {
        name: state
        for name, state in uncommitted(ROOMS).items()
        if name.endswith(".py") and not name.startswith(tuple(f"{folder}/" for folder in FOLDERS.values()))
    }
    ours = uncommitted([path for path in files if not path.is_absolute()])
    found = {"code": code_digests(recipe), "uncommitted": {**ours, **elsewhere, **_uncommitted_own(files, named)}}
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


def network(recipe: Recipe) -> dict[str, Any]:
    """Return what the library said of the run's network, so that its recipe resolves where the library is not."""
    model = recipe.model
    if not library_of(model.name):
        return {}
    from ifl.network.library_facts import facts  # with torch, which the launcher does without

    return {"network_facts": {question(model.name, model.args): facts(model.name, model.args)}}


def weights(recipe: Recipe) -> dict[str, Any]:
    """Return the file of pretrained weights that the run started from, and its sha256."""
    model = recipe.model
    return {"weights": {"file": model.weights, "sha256": model.weights_sha256}} if model.weights_sha256 else {}
