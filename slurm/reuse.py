"""`eval=RUN [select=best]` and `export=RUN out=FILE [select=best]`: a finished run used again, on this machine and by one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from recipes.common.cli import Fault, key_values, nearest, take_words
from recipes.common.errors import RecipeError
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm.site_file import Site

SELECTS = ("last", "best")


def asks(words: Sequence[str]) -> bool:
    """Whether a command is one of these two."""
    return bool(take_words(words, ("eval", "export"))[0])


def command(words: Sequence[str], site: Site) -> int:
    """Run it; returns the exit code. What comes from afar is kept where the site file says.

    Raises:
        RecipeError: a word that does not go with it, or a run that is not there or not finished.
    """
    what = "eval" if take_words(words, ("eval",))[0] else "export"
    legal = ("eval", "select", "runs") if what == "eval" else ("export", "select", "out", "runs")

    def unknown(fault: Fault) -> RecipeError:
        return RecipeError(f"{fault.key}= does not go with {what}=: {nearest(fault.key, legal)}")

    values = key_values(words, legal, unknown, legal=("empty", "twice"))
    if (select := values.get("select", "last")) not in SELECTS:
        raise RecipeError(f"select={select} is not legal: {nearest(select, SELECTS)}")
    if what == "export" and not values.get("out"):
        raise RecipeError(
            "out= is missing: export=RUN out=FILE names the file to write, such as out=weights.safetensors"
        )
    run = next(
        (
            path
            for path in (Path(values[what]), Path(values.get("runs") or PROJECT / "runs") / values[what])
            if values[what] and (path / "recipe.yaml").is_file()
        ),
        None,
    )
    if run is None:
        raise RecipeError(
            f"{what}={values[what]}: no run folder of that name; a folder of {values.get('runs', 'runs')}/ or a path is legal"
        )
    if not (run / "done").is_file():
        raise RecipeError(f"{what}={values[what]}: the run is not finished")
    environment = {
        key: value for key, value in os.environ.items() if key != "RANK"
    }  # without it the process is the only rank (ifl/engine.py)
    if what == "eval":
        here = resolve([], site.slurm, str(site.path)).data  # for what a site file says of any recipe
        job = [
            "evaluate",
            run.resolve(),
            select,
            json.dumps({"cache_folder": here.cache_folder, "cache_gb": here.cache_gb}),
        ]
    else:
        job = ["export", run.resolve(), select, Path(values["out"]).absolute()]
    return subprocess.run(
        [sys.executable, "-m", "ifl.finished_run", *map(str, job)], cwd=PROJECT, env=environment
    ).returncode
