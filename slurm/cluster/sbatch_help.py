"""Which options this machine's sbatch has, by its own help text."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterable

from recipes.common.cli import nearest
from recipes.common.errors import RecipeError
from recipes.sbatch.options import OF_ALL_VERSIONS, OF_SOME_VERSIONS, refused
from slurm import environment

PATIENCE_S = 10


def refuse_unknown(names: Iterable[str]) -> None:
    """Refuse options that sbatch does not have.

    Raises:
        RecipeError: the first of them, with the nearest that can be set.
    """
    for name in dict.fromkeys(names):
        own = names_here()
        known = {*OF_ALL_VERSIONS.split(), *(OF_SOME_VERSIONS.split() if own is None else own)}
        if name not in known:
            whose = "in any sbatch that is known" if own is None else "in this machine's sbatch"
            raise RecipeError(
                f"slurm.options.{name} is not legal: there is no option --{name} {whose}; "
                f"{nearest(name, sorted(one for one in known if not refused(one)))}"
            )


@functools.cache
def names_here() -> frozenset[str] | None:
    """Return the long options in the help text of this machine's sbatch; None where it has none or prints none."""
    try:
        said = subprocess.run(
            ["sbatch", "--help"],
            env=environment.clean(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        ).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    found = frozenset(re.findall(r"^ +(?:-\w,? +)?--([a-z][a-z0-9-]*)", said, re.MULTILINE))
    return found if "partition" in found else None
