"""The launcher as a user calls it, its output, and a fake of a program that it calls."""

from __future__ import annotations

import shlex
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.schema import PROJECT, Recipe
from slurm.cluster.batch_job import BatchJob
from slurm.cluster.sbatch import parameters
from slurm.environment import clean
from slurm.job import TrainJob

LAUNCH = PROJECT / "slurm" / "launch.py"


def launch(
    *words: str, cwd: Path | None = None, python: str = sys.executable, file: Path = LAUNCH, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, str(file), *words],
        cwd=cwd or PROJECT,
        env={**clean(), "GLT_SITE": "", **variables},  # the tests may run in an allocation
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def refused(*words: str, **options: str) -> str:
    """Return the one sentence on stderr with which the launcher refuses a command.

    The exit code must be 2, stdout empty, and no traceback printed.
    """
    result = launch(*words, **options)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("launch.py: ")
    return lines[0].removeprefix("launch.py: ")


def batch_file(recipe: Recipe, folder: Path, code: Path, setup: Sequence[str] = ()) -> str:
    """The batch file of a run in any folder."""
    return BatchJob(folder / "log", (TrainJob(str(folder)),), parameters(recipe, folder, code, setup)).text()


def batch_part(output: str) -> str:
    return output[output.index("#!/bin/bash") :]


def flags(text: str) -> dict[str, str | None]:
    """Return the #SBATCH lines as sbatch reads them."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            (word,) = shlex.split(line.removeprefix("#SBATCH"))
            key, equals, value = word.removeprefix("--").partition("=")
            found[key] = value if equals else None
    return found


def stub(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
