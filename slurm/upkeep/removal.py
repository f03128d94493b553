"""`tidy=show|yes`: what nobody needs any more is shown, and with `yes` removed.

    python slurm/launch.py tidy=show [runs=DIR]

Nothing is submitted into the folder meanwhile, and each run is held by its lock, so that no local start takes it. What
goes is renamed first, inside of the folder that was looked at and not by its path: where a folder has got another run
meanwhile, nothing of that one is touched; and what a kill leaves behind has a name that the next call removes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from recipes.common.cli import Fault, key_values, nearest
from recipes.common.errors import DataError, RecipeError
from recipes.common.locks import release, try_acquire
from recipes.resolve import resolve
from recipes.schema import PROJECT
from slurm.cluster.submission import alone
from slurm.monitoring import run_state
from slurm.site_file import Site
from slurm.upkeep.superfluous import CHECKPOINTS, TIDIED, Found, Item, by_kind, has_its_weights, look

WORDS = ("show", "yes")
TWICE: tuple[Literal["twice"]] = ("twice",)


@dataclass(frozen=True)
class Tidy:
    """A command with `tidy=`."""

    runs: Path
    remove: bool

    def run(self) -> int:
        """Show, and remove if asked to; returns the exit code: 1 if something could not be removed."""
        if not self.remove:
            found = look(self.runs, run_state.queue())
            _print(self.runs, found.items)
            _print_sums(found, "not needed any more")
            if found.items:
                print("tidy=yes removes this")
            return 0
        with alone(self.runs):
            found = look(self.runs, run_state.queue())
            gone, said = remove(found.items)
        _print(self.runs, gone)
        _print_sums(Found(gone, found.kept), "removed")
        for sentence in said:
            print(sentence)
        return 1 if said else 0


def parse(words: Sequence[str], site: Site) -> Tidy:
    """Read the command.

    Raises:
        RecipeError: a word that does not go with it, or a folder that is not there or cannot be told.
    """

    def wrong(fault: Fault) -> RecipeError:
        if fault.kind == "address":
            return RecipeError(fault.refusal)
        if fault.kind == "empty":
            return RecipeError(f"{fault.key}= has no value: {fault.key}=VALUE is legal, or leave it out")
        return RecipeError(f"{fault.key}= does not go with tidy=: {nearest(fault.key, ('tidy', 'runs'))}")

    values = key_values(words, ("tidy", "runs"), wrong, legal=TWICE)
    if values["tidy"] not in WORDS:
        raise RecipeError(f"tidy={values['tidy']} is not legal: {nearest(values['tidy'], WORDS)}")
    if "runs" not in values:
        site.refuse_unknown_runs()
    own = [f"runs={values['runs']}"] if "runs" in values else []
    runs = Path(resolve(own, site.slurm, str(site.path)).runs or PROJECT / "runs")
    if not runs.is_dir():
        raise RecipeError(f"runs={runs} is no folder: one with run folders is legal")
    return Tidy(runs, values["tidy"] == "yes")


def remove(items: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """Remove what was found; returns what is gone, and a sentence about each thing that is not."""
    gone: list[Item] = []
    said: list[str] = []
    for root, own in groupby(items, key=lambda item: item.root):
        with contextlib.ExitStack() as held:
            try:
                folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
                held.callback(os.close, folder)
                if (root / "recipe.yaml").exists() and not _take(root, folder, held):
                    said.append(f"{root.name} was taken up meanwhile, and nothing of it is removed")
                    continue
                things = list(own)
                if any(item.kind == CHECKPOINTS for item in things) and not has_its_weights(root):
                    said.append(f"{root.name}: its weights are not what was written, so its checkpoints are kept")
                    things = [item for item in things if item.kind != CHECKPOINTS]
                for item in things:
                    try:
                        _remove(item, folder)
                        gone.append(item)
                    except FileNotFoundError:
                        continue
            except (OSError, DataError) as error:
                said.append(f"{root}: {getattr(error, 'strerror', None) or error}; the same command goes on")
    return gone, said


def _take(root: Path, folder: int, held: contextlib.ExitStack) -> bool:
    """Hold a run's lock until `held` ends; says whether it is still the run that was looked at, and idle."""
    lock = held.enter_context(open(root / "lock", "a"))  # noqa: SIM115 (held as long as the removal)
    if not try_acquire(lock):
        return False
    held.callback(release, lock)
    return os.path.samestat(os.fstat(folder), root.stat())


def _remove(item: Item, folder: int) -> None:
    """Remove one thing, inside of an open folder."""
    above, _, _ = item.name.rpartition("/")
    aside = f"{above}/{TIDIED}{secrets.token_hex(4)}".lstrip("/")
    os.rename(item.name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    try:
        os.unlink(aside, dir_fd=folder)
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(aside, dir_fd=folder)


def _print(runs: Path, items: Sequence[Item]) -> None:
    for item in items:
        print(f"{shown(item.size):>8}  {(item.root / item.name).relative_to(runs)}")


def _print_sums(found: Found, what: str) -> None:
    sums = by_kind(found.items)
    for kind, (number, size) in sums.items():
        print(f"{kind}: {number}, {shown(size)} {what}")
    print(f"in all {shown(sum(size for _, size in sums.values()))} {what}")
    for sentence in found.kept:
        print(sentence)


def shown(size: int) -> str:
    """Return bytes in a unit that reads well."""
    value, units = float(size), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while value >= 999.5 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.0f} {unit}" if unit == "B" or value >= 9.95 else f"{value:.1f} {unit}"
