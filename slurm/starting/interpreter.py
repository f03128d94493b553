"""`python:` of the site file: the interpreter that starts ranks, such as conda's or a module's."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from recipes.common.errors import RecipeError
from slurm.starting.lacking_node import or_lacks

OPTIONS = "-P"
"""It keeps the folder of the command, which may hold other code, off the module path."""
PYTHON = f"{shlex.quote(sys.executable)} {OPTIONS}"
"""The interpreter of this command, which is that of jobs where the site file names none."""


def read_python(value: object, path: Path) -> str:
    """Read the key.

    Raises:
        RecipeError: the value is neither an absolute path nor the name of a program.
    """
    text = os.path.expanduser(value) if isinstance(value, str) else ""
    if not re.fullmatch(r"/[^\x00-\x1f\x7f]*[^/\x00-\x1f\x7f]|[A-Za-z0-9][A-Za-z0-9._+-]*", text):
        raise RecipeError(
            f"{path}: python={value!r} is no path: the absolute path of a Python is legal, such as "
            "/opt/conda/envs/glt/bin/python, or the name under which `modules` or `setup` bring one, such as python3.11"
        )
    return text


def own_check_lines() -> list[str]:
    """Return the shell lines that end a job where the node does not see this command's interpreter."""
    return [or_lacks(f"[ -x {shlex.quote(sys.executable)} ]", f"does not see {sys.executable}, which starts the job")]


def check_lines(python: str) -> list[str]:
    """Return the shell lines that end a job where the site file's interpreter cannot start ranks."""
    test = f"{shlex.quote(python)} -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null"
    return [or_lacks(test, f"has no python={python} of the site file, or one older than Python 3.11")]
