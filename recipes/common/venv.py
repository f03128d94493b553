"""Go on inside the project's environment when a command was started by another Python. Standard library only."""

import importlib.util
import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def in_environment() -> None:
    """Replace this process by the same command in .venv, unless it is there already or has the packages anyway."""
    environment = PROJECT / ".venv"
    if Path(sys.prefix).resolve() == environment.resolve() or all(
        importlib.util.find_spec(name) for name in ("deepspeed", "pydantic", "submitit", "webdataset")
    ):
        return
    if not (environment / ".installed").exists():
        sys.exit(f"the project's packages are not installed: run `make venv` in {PROJECT}")
    os.execv(environment / "bin" / "python", [str(environment / "bin" / "python"), *sys.orig_argv[1:]])
