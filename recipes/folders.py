"""Folders, files and addresses in a recipe: the user's, so they count from the folder of the command, not of the job.

Where a file lies is operation, and its digest, which is written beside it, is science: the same file elsewhere is the
same run, another file of that name is another one, and a table needs no file.
"""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.common.addresses import PIPE, is_remote, path_fault, root_fault
from recipes.common.errors import RecipeError
from recipes.common.files import file_digest

if TYPE_CHECKING:  # the batch script runs this outside of a container, by a Python that has no pydantic
    from recipes.schema import Recipe

FOLDERS = ("runs", "data.root", "data.cache_folder", "method.text", "model.weights")
"""The fields that hold a folder or a file."""
DIGESTS = {"method.text": "method.text_sha256", "model.weights": "model.weights_sha256"}
"""The field of a file -> the field of its digest, in the same section."""
MAKES = {"method.text": "ifl.clip NAME weights=FILE data=NAME", "model.weights": "ifl.pretrained NAME"}
"""The field of a file -> the command that writes such a file; that of weights needs internet."""
OLD = ".old-"
"""Before the number at the end of a run folder that `again=yes` set aside."""
LIGHT = (
    *("recipe.yaml", "meta.json", "metrics.jsonl", "done", "log/events.jsonl", "log/energy.jsonl"),
    *("preds/last/*.npz", "env/*.npz"),
)
"""What tables and figures are made from in a run folder: its light part, as patterns."""
RUN_NAME = "[a-z0-9_]+-[a-z0-9_]+-(glt|cbl)-s[0-9]+-[0-9a-f]{8}"
"""The pattern of the names that recipes give their runs (recipes/schema.py)."""
LONGEST = 2000
"""Characters of a folder's name."""


def is_run_name(name: str) -> bool:
    """Say whether a folder of runs may hold a run under this name: not a hidden one, nor one that was set aside."""
    return not name.startswith(".") and not re.search(rf"{re.escape(OLD)}\d+$", name)


def place_aside(folder: Path) -> Path:
    """Return the name under which a run folder would be set aside: its own with `.old-N`, the first that is free."""
    names = (folder.with_name(f"{folder.name}{OLD}{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def make_absolute(tree: dict[str, Any]) -> None:
    """Replace the folders in `tree` by their absolute paths.

    Raises:
        RecipeError: a folder's name is not legal there.
    """
    for dotted in FOLDERS:
        section, key = tree, dotted
        if "." in dotted:
            name, _, key = dotted.partition(".")
            section = tree.get(name) or {}
        # A blank one is left to the schema, which says in which file it stands.
        if isinstance(section, dict) and isinstance(section.get(key), str) and section[key].strip():
            section[key] = _absolute(dotted, section[key])


def _absolute(dotted: str, text: str) -> str:
    if fault := _fault(dotted, text):
        raise RecipeError(fault)
    if dotted == "data.root" and is_remote(text):
        return text
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise RecipeError(
            f"{dotted}={text} begins with the home folder of a user who is not here: the folder's whole name is legal"
        ) from None
    # A link of this machine says nothing of the nodes' own disks.
    return str(path.absolute() if dotted == "data.cache_folder" else path.resolve())


def _fault(dotted: str, text: str) -> str:
    """Say what is wrong with a folder's name; empty where nothing is."""
    if not text.isprintable():
        return f"{dotted}={text!r} holds control characters"
    if len(text) > LONGEST:
        return f"{dotted}={text} is too long for a folder's name: up to {LONGEST} characters are legal"
    if dotted == "runs" and set("%\\") & set(text):
        return f"runs={text} holds % or \\, which SLURM replaces in the names of logs: another folder is legal"
    if fault := root_fault(text) if dotted == "data.root" else path_fault(text):
        return f"{dotted}={text} is not legal: {fault}"
    if dotted == "data.cache_folder" and "$" in text:
        return (
            f"{dotted}={text} holds $, and nothing replaces variables there: null, each node's temporary folder "
            "(TMPDIR), is legal, or a whole name"
        )
    return ""


def hide_command(tree: dict[str, Any], origin: str, of_site: Any) -> None:
    """Replace a command as data root by a bare `pipe:`: no recipe tells it, for it may be private.

    Args:
        tree: the recipe's values, changed in place.
        origin: where its data root comes from.
        of_site: the site file's data root.

    Raises:
        RecipeError: a command that does not come from the site file.
    """
    data = tree.get("data")
    root = data.get("root") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(root, str) or not root.startswith(PIPE):
        return
    if root not in (PIPE, of_site) or not str(of_site).startswith(PIPE):
        raise RecipeError(
            f"data.root={root} ({origin}) is not legal: only the site file may bring a command, under `data:`, as "
            f"`root: {PIPE}COMMAND`; elsewhere `{PIPE}` alone means it"
        )
    data["root"] = PIPE


def with_digests(recipe: Recipe, noted: bool) -> Recipe:
    """Return the recipe with the digests of its files beside them.

    Args:
        recipe: resolved, but for them.
        noted: whether a run noted it; then it may be resolved where the files are not.

    A run that has begun goes on from its checkpoints, so where the recipe has the digest the file may be gone.

    Raises:
        RecipeError: a file cannot be read, is not the one whose digest stands there, or is not given beside it.
    """
    for field, of_digest in DIGESTS.items():
        name, _, key = field.partition(".")
        section, digest = getattr(recipe, name), of_digest.partition(".")[2]
        place, known = getattr(section, key), getattr(section, digest)
        if known and (noted or (not (place and Path(place).exists()) and _has_begun(recipe))):
            continue
        if known and place is None:
            raise RecipeError(f"{of_digest}={known} says what a file holds that is not given: {field}=FILE is legal")
        if place is not None:
            found = checked_digest(field, Path(place), known)
            recipe = recipe.model_copy(update={name: section.model_copy(update={digest: found})})
    return recipe


def _has_begun(recipe: Recipe) -> bool:
    return (recipe.run_folder / "meta.json").exists()


def checked_digest(field: str, path: Path, noted: str | None) -> str:
    """Return the sha256 of a file's content; `noted` is what it must be, if anything.

    Raises:
        RecipeError: it cannot be read, or is another file; the sentence names the field.
    """
    try:
        state = path.stat()
        found = _digest(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise RecipeError(
            f"{field}={path} cannot be read: {error.strerror}; python -m {MAKES[field]} out=FILE writes such a file"
        ) from None
    if noted not in (None, found):
        raise RecipeError(
            f"{field}={path} is not the file that the recipe was written with: its sha256 begins with {found[:12]}, "
            f"and that one's with {str(noted)[:12]}; that file, or a new run with {field}=FILE, is legal"
        )
    return found


@functools.cache  # a table has many recipes on one file
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    return file_digest(path)
