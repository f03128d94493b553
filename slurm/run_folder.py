"""The run folder, as the launcher makes it, compares it with today's code, and sets it aside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from recipes.backbones.facts import library_of
from recipes.code.digest import FOLDERS, code_digests
from recipes.common import search_path
from recipes.common.errors import RecipeError
from recipes.common.files import write_whole
from recipes.folders import place_aside
from recipes.resolve import dump, load_resolved
from recipes.schema import Recipe


def prepare(recipe: Recipe, folder: Path) -> None:
    """Make the run folder, private to the user, and put the resolved recipe into it.

    A recipe that is there is replaced; the new one differs from it only in how it runs.

    Raises:
        RecipeError: the run began with other defaults of the method's arguments.
    """
    if others := other_defaults(recipe, folder):
        raise RecipeError(f"{folder.name} {others}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(folder / "recipe.yaml", dump(recipe))


def other_defaults(recipe: Recipe, folder: Path) -> str:
    """Say that a run in progress began with other defaults of the method's arguments, which no run's name tells.

    A sentence without the run's name; empty where none differs. An argument that the run does not know has its default.
    """
    from slurm.monitoring.run_state import has_begun, is_finished

    if is_finished(folder) or not has_begun(folder):
        return ""
    try:
        began = load_resolved(folder / "recipe.yaml").method.args
    except RecipeError:
        return ""  # damaged: it is written again
    now = recipe.method.args
    changed = [
        f"method.args.{key}={value}, and its default is {now[key]} now"
        for key, value in began.items()
        if key in now and now[key] != value
    ]
    if not changed:
        return ""
    file = search_path.place(search_path.METHODS, recipe.method.name)
    return (
        f"began with {'; '.join(changed)}: the old default in {file} goes on with it, and again=yes makes it again and "
        "keeps the old folder beside it"
    )


def other_code(recipe: Recipe, folder: Path) -> str:
    """Say that the run began with other files of method and model than there are, and what to do about it.

    A sentence without the run's name; empty where no file differs, or where the run is older than the digests.
    """
    if others := other_defaults(recipe, folder):
        return others
    try:
        began = json.loads((folder / "meta.json").read_text())["code"]
        now = code_digests(recipe)
        files = [
            _place(kind, getattr(recipe, word).name)
            for word, kind in FOLDERS.items()
            if word in began and began[word] != now.get(word)
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    if not files:
        return ""
    goes_on = "" if (folder / "done").exists() else ", and a start goes on with this one"
    return (
        f"began with another {' and '.join(files)} than there is now{goes_on}: again=yes makes a run again and keeps "
        "the old folder beside it"
    )


def _place(kind: str, name: str) -> str:
    """Return what a sentence calls a method's or model's file, or a library's network, whose version it may be."""
    library = library_of(name)
    return f"version of {library}" if library else search_path.place(kind, name)


def refuse_under_way(folders: Iterable[Path]) -> None:
    """Refuse to make runs again of which one has a job or a process.

    Raises:
        RecipeError: one is under way, or may be.
    """
    from slurm.monitoring.events import read
    from slurm.monitoring.run_state import LIVE, queue, state_of

    there = [folder for folder in folders if (folder / "recipe.yaml").exists()]
    jobs = queue() if there else None
    for folder in there:
        if (state := state_of(folder, read(folder), jobs)) in LIVE:
            raise RecipeError(f"again=yes: {folder.name} is {state}, so it is not set aside: end it first")


def set_aside(recipes: Sequence[Recipe]) -> None:
    """Prepare the folders of runs that are made again; those of runs that have begun are renamed before.

    Each notes that it is `new`: it is told from a copy in the archive, and goes on without again=yes.

    Raises:
        RecipeError: one of the runs is under way, or may be; then nothing is changed.
    """
    from slurm.monitoring.events import LAUNCHER, append_event
    from slurm.monitoring.run_state import has_begun

    refuse_under_way(recipe.run_folder for recipe in recipes)
    for recipe in recipes:
        folder = recipe.run_folder
        if has_begun(folder):
            folder.rename(place_aside(folder))
        prepare(recipe, folder)
        append_event(folder, "new", incarnation=LAUNCHER)
