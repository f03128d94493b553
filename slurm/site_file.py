"""The site file: what is true of a cluster and of no recipe, written once.

`slurm/site.yaml`, or the file that the environment variable GLT_SITE names (empty: none). It holds values of the recipe's
`slurm.` section and `setup:`, shell lines that the batch script runs before the ranks start. slurm/site.example.yaml shows all.
Shell stands here alone: a recipe comes from others too, and must not be able to run any. Local runs do not use `setup`.
`recipe=RUN_FOLDER` repeats a run with the `slurm.` values that are written out in its recipe, and with this file's `setup`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.resolve import load_yaml
from recipes.schema import PROJECT, RecipeError


@dataclass(frozen=True)
class Site:
    """What a site file says: `slurm` is checked together with the recipe that it is merged into."""

    path: Path | None = None
    slurm: dict[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()


def load() -> Site:
    """This machine's site file, or an empty one where there is none.

    Raises:
        RecipeError: one sentence that names the file and what is wrong with it.
    """
    chosen = os.environ.get("GLT_SITE")
    path = (PROJECT / "slurm" / "site.yaml" if chosen is None else Path(chosen)).expanduser().absolute()
    if chosen == "" or (chosen is None and not path.exists()):
        return Site()
    if not path.exists():
        raise RecipeError(f"GLT_SITE={chosen} names a file that does not exist")
    if path.is_file() and all(line.lstrip()[:1] in (b"", b"#") for line in path.read_bytes().splitlines()):
        return Site(path)  # nothing but comments
    values = load_yaml(path)
    if "slurm" in values:
        raise RecipeError(f"{path}: leave out `slurm:`, the file holds the values of that section without its name, such as `partition: gpu`")
    setup = values.pop("setup", None) or []
    if not isinstance(setup, list) or not all(isinstance(line, str) and "\n" not in line for line in setup):
        raise RecipeError(f"{path}: setup={setup!r} is not a list of shell lines (quote a line that holds `: ` or ` #`)")
    return Site(path, values, tuple(setup))
