"""The site file: what is true of a cluster and of no recipe, written once.

`slurm/site.yaml`, or the file that the environment variable GLT_SITE names (empty: none). It holds values of the
recipe's `slurm.` section, `setup:`, shell lines that the batch script runs before the ranks start, `data:`, where data
lie and what nodes keep of them, and `look:`, what is asked of nodes. slurm/site.example.yaml shows all.

Only this file may hold shell: a recipe comes from others too, and must not be able to run any. Local runs do not use
`setup`. `recipe=RUN_FOLDER` repeats a run with the `slurm.` values and the data root that are written out in its
recipe; from this file come `setup` and what the run left open under `data:`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.addresses import COMMAND, PIPE
from recipes.common.cli import nearest
from recipes.common.errors import RecipeError
from recipes.schema import PROJECT
from recipes.yaml_io import load_yaml
from slurm.nodes import site_limits

DATA = ("root", "cache_folder", "cache_gb")
"""Keys of the data section that are true of a cluster."""
READERS: Mapping[str, Callable[[object, Path], Any]] = {"look": site_limits.read}
"""Keys of the file that are neither the recipe's nor shell: each with what turns its value into `Site.own[KEY]`.

A reader gets the value and the file's path, and raises a RecipeError that names both.
"""


@dataclass(frozen=True)
class Site:
    """What a site file says: `slurm`, with `data` in it, is checked together with the recipe that it is merged into.

    Attributes:
        path: the file; None where there is none.
        slurm: values of the recipe's section, and `data`.
        setup: shell lines of the batch script.
        own: values of further keys, each as its reader returns it.
    """

    path: Path | None = None
    slurm: dict[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pipe(self) -> str | None:
        """The one command by which data may come (`data: root: pipe:COMMAND`)."""
        root = self.slurm.get("data", {}).get("root")
        return root.removeprefix(PIPE) if isinstance(root, str) and root.startswith(PIPE) else None


def load() -> Site:
    """Read this machine's site file; an empty one where there is none.

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
        raise RecipeError(
            f"{path}: leave out `slurm:`, the file holds the values of that section without its name, such as "
            "`partition: gpu`"
        )
    setup = values.pop("setup", None) or []
    if not isinstance(setup, list) or not all(isinstance(line, str) and "\n" not in line for line in setup):
        raise RecipeError(
            f"{path}: setup={setup!r} is not a list of shell lines (quote a line that holds `: ` or ` #`)"
        )
    data = values.get("data", {})
    if not isinstance(data, dict) or (wrong := next((key for key in data if key not in DATA), None)):
        raise RecipeError(
            f"{path}: data={data!r} is not legal: {', '.join(DATA)} are its keys"
            if not isinstance(data, dict)
            else f"{path}: data.{wrong} is not legal: {nearest(str(wrong), DATA)}"
        )
    own = {key: read(values.pop(key), path) for key, read in READERS.items() if key in values}
    setup += site_limits.exported(own.get("look"))
    site = Site(path, values, tuple(setup), own)
    if site.pipe is None:
        return site
    if "{path}" not in site.pipe:
        raise RecipeError(
            f"{path}: data.root={PIPE}{site.pipe} is a command without {{path}}, which stands for the file that it is "
            "to print"
        )
    return Site(path, values, (*setup, f"export {COMMAND}={shlex.quote(site.pipe)}"), own)
