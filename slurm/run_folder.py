"""The run folder, as the launcher makes it, compares it with today's code, and sets it aside."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.backbones.facts import library_of
from recipes.code.digest import FOLDERS, code_digests
from recipes.common import search_path
from recipes.common.errors import RecipeError
from recipes.common.files import write_whole
from recipes.folders import place_aside
from recipes.resolve import dump
from recipes.schema import Recipe


def prepare(recipe: Recipe, folder: Path) -> None:
    """Make the run folder, private to the user, and put the resolved recipe into it.

    A recipe that is there is replaced; the new one differs from it only in how it runs.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(folder / "recipe.yaml", dump(recipe))


def other_code(recipe: Recipe, folder: Path) -> str:
    """Name the files of method and model that are not what the run began with, with what to do about it.

    Empty where none differs, or where the run is older than the digests.
    """
    try:
        began = json.loads((folder / "meta.json").read_text())["code"]
        now = code_digests(recipe)
        files = [
            _place(kind, getattr(recipe, word).name)
            for word, kind in FOLDERS.items()
            if word in began and began[word] != now.get(word)
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    if not files:
        return ""
    done = (folder / "done").exists()
    return (
        f"{folder.name} {'was made' if done else 'began'} with another {' and '.join(files)} than there is now"
        f"{'' if done else ', and a start goes on with this one'}: again=yes makes it anew and keeps the old one "
        "beside it"
    )


def _place(kind: str, name: str) -> str:
    """Return what a sentence calls a method's or model's file, or a library's network, whose version it may be."""
    library = library_of(name)
    return f"version of {library}" if library else search_path.place(kind, name)


def set_aside(folder: Path) -> Path | None:
    """Rename a run folder, so that the run is made anew; returns its new name, or None where there is none.

    Raises:
        RecipeError: the run is under way, or may be.
    """
    from slurm.monitoring.events import read
    from slurm.monitoring.run_state import LIVE, queue, state_of

    if not (folder / "recipe.yaml").exists():
        return None
    if (state := state_of(folder, read(folder), queue())) in LIVE:
        raise RecipeError(f"again=yes: {folder.name} is {state}, so it is not set aside: end it first")
    return folder.rename(place_aside(folder))
