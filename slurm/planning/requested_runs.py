"""Which runs a command asks for: one, a run for each seed, or those of a table; with the runs that these build on.

`table=NAME` means the runs of every row on every (data, edition) of the table's columns; runs that rows or tables share
are made once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from recipes.common.cli import take_words
from recipes.common.errors import RecipeError, TooManyTasks
from recipes.resolve import load_resolved, resolve, source_of, source_words
from recipes.schema import Recipe
from recipes.table_layout import FOLDER as TABLES
from recipes.table_layout import Layout, load_layout
from recipes.yaml_io import named
from slurm.planning.schedule import Run
from slurm.site_file import Site

OF_THE_TABLE = ("recipe", "data", "data.name", "train", "preset", "batch.budget")
CACHE = ("data.cache=", "data.cache_folder=", "data.cache_gb=")
WITH_A_TABLE = (
    "slurm.",
    "log.",
    "data.root=",
    "data.workers=",
    *CACHE,
    "nodes=",
    "tasks_per_node=",
    "seed=",
    "runs=",
    "cluster=",
    "optim.zero=",
)
"""Words, or beginnings of words, that a table's runs take: how they run, and not what they are. With others a second
stage would build on another first stage than the table's row."""
CARRIED = ("slurm.", "log.", "data.workers=", *CACHE, "optim.zero=")
"""Words that a run hands on to the run that it builds on, besides the axes: they say how it runs and not what it is."""


def requested_runs(words: Sequence[str], site: Site) -> tuple[list[Run], int | None]:
    """Return the runs that a command asks for, each once and after those that it builds on; and `max_jobs`.

    Raises:
        RecipeError: a value of `table`, `seeds` or `max_jobs` that is not legal, words that the table itself decides,
            or a recipe that cannot be run.
    """
    values, rest = take_words(words, ("table", "seeds", "max_jobs"))
    at_once = values.get("max_jobs")
    if at_once is not None and not re.fullmatch(r"[1-9][0-9]{0,5}", at_once):
        raise RecipeError(f"max_jobs={at_once} is not legal: it is the number of jobs that may run at once, 1 or more")
    commands = [rest]
    if "table" in values:
        layout = _layout(values["table"])
        if own := next(iter(take_words(rest, OF_THE_TABLE)[0]), None):
            raise RecipeError(f"{own}= and table= do not go together: recipes/tables/{layout.name}.yaml says which")
        if science := next((word for word in rest if not word.startswith(WITH_A_TABLE)), None):
            raise RecipeError(
                f"{science} and table= do not go together: a table's runs are its recipes', and only slurm., log., "
                "data.root, data.workers, data.cache, data.cache_folder, data.cache_gb, nodes, tasks_per_node, runs, "
                "cluster and optim.zero go with it"
            )
        commands = [[*command, *rest] for command in _of_table(layout)]
        if "seeds" not in values and not any(word.startswith("seed=") for word in rest):
            values["seeds"] = ",".join(map(str, layout.seeds))
    if "seeds" in values:
        if any(word.startswith("seed=") for word in rest):
            raise RecipeError("seed= and seeds= do not go together: give one seed, or all of them as seeds=0,1,2")
        commands = [[*command, f"seed={seed}"] for seed in _seeds(values["seeds"]) for command in commands]
    runs: dict[Path, Run] = {}
    for command in commands:
        recipe, remark = (
            _fitting(command, site) if "table" in values else (resolve(command, site.slurm, str(site.path)), "")
        )
        _add(runs, recipe, rest, site, remark)
    return list(runs.values()), int(at_once) if at_once else None


def _layout(name: str) -> Layout:
    try:
        return load_layout(named(TABLES, name, "table"))
    except RecipeError:
        raise
    except ValueError as error:
        raise RecipeError(f"recipes/tables/{error}") from None


def _seeds(text: str) -> list[str]:
    seeds = text.split(",")
    if not all(re.fullmatch(r"0|[1-9][0-9]{0,9}", seed) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise RecipeError(f"seeds={text} is not legal: distinct whole numbers with commas are, such as seeds=0,1,2")
    return seeds


def _of_table(layout: Layout) -> list[list[str]]:
    """Return the commands of a table's rows, without a seed."""
    return [
        [
            f"recipe={row.recipe}",
            f"data={data}",
            f"train={train}",
            f"preset={layout.preset}",
            *([] if row.budget == "paper" else [f"batch.budget={row.budget}"]),
        ]
        for row in layout.rows
        for data, train in layout.sources
    ]


def _fitting(command: Sequence[str], site: Site) -> tuple[Recipe, str]:
    """Resolve a table row's recipe on as many of the nodes asked for as it can use; a remark says if those are not all.

    One row that cannot use all nodes must not take them from the other rows.
    """
    try:
        return resolve(command, site.slurm, str(site.path)), ""
    except TooManyTasks as error:
        asked = int(float(take_words(["nodes=1", *command], ("nodes",))[0]["nodes"]))  # legal, also as 1e1
        for nodes in range(asked - 1, 0, -1):
            with contextlib.suppress(TooManyTasks):
                return resolve(
                    [*command, f"nodes={nodes}"], site.slurm, str(site.path)
                ), f"on {nodes} of the {asked} nodes, for {error}"
        raise


def _add(runs: dict[Path, Run], recipe: Recipe, words: Sequence[str], site: Site, remark: str = "") -> None:
    """Add a recipe's run to `runs`, and before it the one that it builds on."""
    folder, source = recipe.run_folder, source_of(recipe)
    if folder in runs:
        return
    needs = (folder.parent / source,) if source else ()
    for need in needs:
        if not (need / "done").exists():
            _add(runs, _source(recipe, need, words, site), words, site)
    runs[folder] = Run(recipe, needs, remark, pipe=site.pipe)


def _source(recipe: Recipe, folder: Path, words: Sequence[str], site: Site) -> Recipe:
    """Return the recipe of the run that another builds on: as it was prepared, or as its name says."""
    if (folder / "recipe.yaml").exists():
        return load_resolved(folder / "recipe.yaml").model_copy(
            update={
                "cluster": recipe.cluster,
                "nodes": recipe.nodes,
                "tasks_per_node": recipe.tasks_per_node,
                "slurm": recipe.slurm,
            }
        )
    carried = [word for word in words if word.startswith(CARRIED)]
    source = resolve([*source_words(recipe, folder.name.partition("-")[0]), *carried], site.slurm, str(site.path))
    if source.run_folder != folder:
        raise RecipeError(
            f"{recipe.recipe} builds on the run {folder.name}, which is not in {folder.parent}, and "
            f"recipe={source.recipe} alone makes another ({source.run_name}): launch it first"
        )
    return source
