"""What a batch script says to start Python: the ranks', perhaps in a container, and its own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.common.addresses import is_remote
from recipes.schema import Recipe
from slurm.starting.container import Container
from slurm.starting.interpreter import OPTIONS, PYTHON, check_lines, own_check_lines
from slurm.starting.lacking_node import OUTSIDE, or_lacks

NODE_ADDRESSES = "GLT_NODE_ADDRESSES"
"""Environment variable: the job's nodes as NAME=ADDRESS, as SLURM knows them, for ranks in containers without SLURM."""
_TOLD = (
    'scontrol show node -o "$SLURM_JOB_NODELIST" | '
    r"sed -n 's/^NodeName=\([^ ]*\) .*NodeAddr=\([^ ]*\) .*/\1=\2/p'"
)


@dataclass(frozen=True)
class RankStart:
    """How the Python of a job is started.

    Attributes:
        rank: shell words before the module that a rank runs.
        outside: the same for what the batch script runs itself.
        srun: further arguments of srun.
        lines: shell lines of the batch script, after its modules and setup.
    """

    rank: str = PYTHON
    outside: str = PYTHON
    srun: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def rank_start(own: Mapping[str, Any], code: Path, folders: Sequence[str]) -> RankStart:
    """Return how jobs of this site start Python.

    Args:
        own: the site file's further keys, of which `python` and `container` are read.
        code: the suite that runs.
        folders: what ranks read and write, besides the code; they are bound into a container.

    Raises:
        RecipeError: a folder cannot be bound.
    """
    python, container = own.get("python"), own.get("container")
    if not isinstance(container, Container):
        if python is None:
            return RankStart(lines=tuple(own_check_lines()))
        words = f"{shlex.quote(python)} {OPTIONS}"
        return RankStart(words, words, (), tuple(check_lines(python)))
    needed = [*folders, str(code)]
    # Said by `env` and not by the engine: an image's own variables would win, and modules of the node are not for it.
    inside = ["env", f"PYTHONPATH={code}", "PYTHONNOUSERSITE=1", python or "python3", OPTIONS]
    lines = [
        *container.check_lines(),
        f'export {NODE_ADDRESSES}="$({_TOLD})"',
        or_lacks(f"cd {shlex.quote(str(code))}", "does not see the copy of the code"),
    ]
    rank = shlex.join([*container.words(needed), *inside])
    return RankStart(rank, OUTSIDE, tuple(container.srun_arguments(needed)), tuple(lines))


def folders_of(recipe: Recipe) -> list[str]:
    """Return what a run's ranks see of the disk: all runs, for first stages lie beside it; data; a cache; text."""
    runs, cache = recipe.run_folder.parent, recipe.data.cache_folder
    # A cache's folder may not be there yet, so the one around it is bound.
    around = [] if cache is None else [cache if Path(cache).parent == Path("/") else str(Path(cache).parent)]
    text = [] if recipe.method.text is None else [str(Path(recipe.method.text).parent)]
    return [
        str(runs),
        *([] if is_remote(recipe.data_root) else [str(Path(recipe.data_root).absolute())]),
        *around,
        *text,
    ]
