"""The project's code in another folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from recipes.schema import PROJECT
from slurm import code_snapshot


def copy_of_the_project(folder: Path) -> Path:
    """Copy the suite's rooms to another folder, for a test that changes code."""
    for room in code_snapshot.ROOMS:
        shutil.copytree(PROJECT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
