"""The run folder, as the launcher makes it."""

from __future__ import annotations

import os
from pathlib import Path

from recipes.resolve import dump
from recipes.schema import Recipe


def prepare(recipe: Recipe, folder: Path) -> None:
    """Make the run folder, private to the user, and put the resolved recipe into it (or replace it by one that differs in
    operation alone)."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = folder / f".recipe.{os.getpid()}.tmp"
    temporary.write_text(dump(recipe))
    os.replace(temporary, folder / "recipe.yaml")
