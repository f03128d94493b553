"""A finished run used again, on this machine and by one process.

`eval=RUN [select=best] [data.root=DIR]` evaluates it again, `export=RUN out=FILE [select=best]` writes its weights. The
run folder may come from another machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipes.common.addresses import PIPE, is_remote, path_fault, with_command
from recipes.common.cli import Fault, key_values, nearest, take_words
from recipes.common.errors import RecipeError
from recipes.resolve import load_resolved, resolve
from recipes.schema import PROJECT
from slurm import environment
from slurm.monitoring.run_state import missing_weights
from slurm.site_file import Site

SELECTS = ("last", "best")
LEGAL = {"eval": ("eval", "select", "runs", "data.root"), "export": ("export", "select", "out", "runs", "data.root")}
"""What is done -> the keys of its command."""
TWICE: tuple[Literal["twice"]] = ("twice",)


@dataclass(frozen=True)
class Reuse:
    """A command with `eval=` or `export=`.

    Attributes:
        job: the words of `python -m ifl.finished_run`.
        pipe: the site file's command, by which data may come.
    """

    job: tuple[str, ...]
    pipe: str | None = None

    def run(self) -> int:
        """Run it; returns the exit code."""
        words = [sys.executable, "-m", "ifl.finished_run", *self.job]  # without RANK the only rank (ifl/engine.py)
        return subprocess.run(words, cwd=PROJECT, env=with_command(environment.clean(), self.pipe)).returncode


def asks(words: Sequence[str]) -> bool:
    """Say whether a command is one of these two."""
    return bool(take_words(words, tuple(LEGAL))[0])


def parse(words: Sequence[str], site: Site) -> Reuse:
    """Read the command. What is fetched is kept where the site file says.

    Raises:
        RecipeError: a word that does not go with it, or a run that is not there or not finished.
    """
    what = "eval" if take_words(words, ("eval",))[0] else "export"

    def wrong(fault: Fault) -> RecipeError:
        if fault.kind == "address":
            return RecipeError(fault.refusal)
        if fault.kind == "empty":
            return RecipeError(f"{fault.key}= has no value: {fault.key}=VALUE is legal, or leave it out")
        return RecipeError(f"{fault.key}= does not go with {what}=: {nearest(fault.key, LEGAL[what])}")

    values = key_values(words, LEGAL[what], wrong, legal=TWICE, texts=("data.root",))
    select, out = values.get("select", "last"), values.get("out")
    if select not in SELECTS:
        raise RecipeError(f"select={select} is not legal: {nearest(select, SELECTS)}")
    if what == "export" and not out:
        raise RecipeError(
            "out= is missing: export=RUN out=FILE names the file to write, such as out=weights.safetensors"
        )
    run = _finished(what, values[what], values.get("runs", str(site.runs) if site.runs else None))
    gone = missing_weights(run, select)
    if gone:
        raise RecipeError(f"{what}={values[what]}: {gone}")
    if out:  # which needs no data
        return Reuse(("export", str(run), select, str(Path(out).absolute())))
    own = site.for_run(load_resolved(run / "recipe.yaml"))
    here = resolve([], own.slurm, str(site.path)).data  # for what the site file says of this run, whatever the recipe
    kept = {"cache_folder": here.cache_folder, "cache_gb": here.cache_gb}
    root = _root(run, values.get("data.root"), here.root)
    return Reuse(("evaluate", str(run), select, json.dumps({"root": root, **kept})), own.pipe)


def _root(run: Path, wanted: str | None, usual: str | None) -> str:
    """Return where the data of a run lie: where the command says, else where they lay for the run, else the `usual`.

    Raises:
        RecipeError: they are in neither place, as where the run folder was copied from another machine.
    """
    recipe = load_resolved(run / "recipe.yaml")
    name, own = recipe.data.name, recipe.data_root
    if wanted is not None:
        if wanted.startswith(PIPE) and wanted != PIPE:
            raise RecipeError(f"data.root={wanted} is not legal: only the site file names a command; {PIPE} means it")
        if not is_remote(wanted) and path_fault(wanted):
            raise RecipeError(f"data.root={wanted} is not legal: a folder or an http(s) address is")
        return wanted if is_remote(wanted) else str(Path(wanted).absolute())
    found = next((root for root in (own, usual) if root and (is_remote(root) or (Path(root) / name).is_dir())), None)
    if found is None:
        raise RecipeError(
            f"the data of {run.name} are not in {own}, where they were when it was trained: data.root=DIR says where "
            f"{name} is here, or the site file's `data: {{root: DIR}}`"
        )
    if found != own:
        print(f"data from {found}: {own}, where the run had them, is not here", flush=True)
    return found


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
