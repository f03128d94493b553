"""The run folder, as the launcher makes it."""

from __future__ import annotations

from pathlib import Path

from recipes.common.files import write_whole
from recipes.resolve import dump
from recipes.schema import Recipe


def prepare(recipe: Recipe, folder: Path) -> None:
    """Make the run folder, private to the user, and put the resolved recipe into it.

    A recipe that is there is replaced; the new one differs from it only in how it runs.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(folder / "recipe.yaml", dump(recipe))
