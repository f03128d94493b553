"""A finished run used again, on this machine and by one process.

`eval=RUN [select=best]` evaluates it again, `export=RUN out=FILE [select=best]` writes its weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.common.cli import Fault, key_values, nearest, take_words
from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm import environment
from slurm.site_file import Site

SELECTS = ("last", "best")
LEGAL = {"eval": ("eval", "select", "runs"), "export": ("export", "select", "out", "runs")}
"""What is done -> the keys of its command."""


@dataclass(frozen=True)
class Reuse:
    """A command with `eval=` or `export=`.

    Attributes:
        job: the words of `python -m ifl.finished_run`.
    """

    job: tuple[str, ...]

    def run(self) -> int:
        """Run it; returns the exit code."""
        words = [sys.executable, "-m", "ifl.finished_run", *self.job]  # without RANK the only rank (ifl/engine.py)
        return subprocess.run(words, cwd=PROJECT, env=environment.clean()).returncode


def asks(words: Sequence[str]) -> bool:
    """Say whether a command is one of these two."""
    return bool(take_words(words, tuple(LEGAL))[0])


def parse(words: Sequence[str], site: Site) -> Reuse:
    """Read the command. What is fetched is kept where the site file says.

    Raises:
        RecipeError: a word that does not go with it, or a run that is not there or not finished.
    """
    what = "eval" if take_words(words, ("eval",))[0] else "export"

    def unknown(fault: Fault) -> RecipeError:
        return RecipeError(f"{fault.key}= does not go with {what}=: {nearest(fault.key, LEGAL[what])}")

    values = key_values(words, LEGAL[what], unknown, legal=("empty", "twice"))
    select, out = values.get("select", "last"), values.get("out")
    if select not in SELECTS:
        raise RecipeError(f"select={select} is not legal: {nearest(select, SELECTS)}")
    if what == "export" and not out:
        raise RecipeError(
            "out= is missing: export=RUN out=FILE names the file to write, such as out=weights.safetensors"
        )
    run = str(_finished(what, values[what], values.get("runs")))
    if out:
        return Reuse(("export", run, select, str(Path(out).absolute())))
    here = resolve([], site.slurm, str(site.path)).data  # for what a site file says of any recipe
    cache = json.dumps({"cache_folder": here.cache_folder, "cache_gb": here.cache_gb})
    return Reuse(("evaluate", run, select, cache))


def _finished(what: str, name: str, runs: str | None) -> Path:
    """Return the folder of the finished run that `what=name` means: a path, or a folder of `runs`."""
    places = (Path(name), Path(runs or PROJECT / "runs") / name) if name else ()
    run = next((path for path in places if (path / "recipe.yaml").is_file()), None)
    if run is None:
        raise RecipeError(
            f"{what}={name}: no run folder of that name; a folder of {'runs' if runs is None else runs}/ or a path is "
            "legal"
        )
    if not (run / "done").is_file():
        raise RecipeError(f"{what}={name}: the run is not finished")
    return run.resolve()
