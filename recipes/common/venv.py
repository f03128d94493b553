"""Go on inside the project's environment when a command was started by another Python. Standard library only.

Any Python from 3.6 on must be able to read this file, and each command up to its call of `in_environment`: so no
future import, and nothing at a command's top that these lack.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import List

PROJECT = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)
"""The oldest Python that the project runs on."""


def in_environment() -> None:
    """Replace this process by the same command in .venv, unless it is there already or has the packages anyway.

    Raises:
        SystemExit: there is no environment that could be gone to; one line says what to do.
    """
    environment = PROJECT / ".venv"
    inside, recent = Path(sys.prefix).resolve() == environment.resolve(), sys.version_info[:2] >= OLDEST
    if recent and (inside or has_packages()):
        return
    python = str(environment / "bin" / "python")
    anew = "remove .venv and run `make venv` in {}".format(PROJECT)
    if inside:
        sys.exit("{} is Python {}.{}, and the project needs 3.11: {}".format(python, *sys.version_info[:2], anew))
    if not (environment / ".installed").exists():
        sys.exit("the project's packages are not installed: run `make venv` in {}".format(PROJECT))
    os.environ.pop("PYTHONHOME", None)  # a module's or conda's: the other Python would look for its own library there
    try:
        os.execv(python, [python, *words_of_command()])
    except OSError as error:  # the Python that it was made with is gone
        sys.exit("{} cannot be started ({}): {}".format(python, error.strerror, anew))


def has_packages() -> bool:
    """Say whether this Python has what the project needs."""
    return all(importlib.util.find_spec(name) for name in ("deepspeed", "pydantic", "submitit", "webdataset"))


def words_of_command() -> List[str]:
    """Return what this process was started with, after the name of its Python; before 3.10 without Python's options."""
    if hasattr(sys, "orig_argv"):
        return sys.orig_argv[1:]
    module = sys.modules["__main__"].__spec__  # of `python -m MODULE`
    return (["-m", module.name] if module else sys.argv[:1]) + sys.argv[1:]
