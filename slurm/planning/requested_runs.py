"""Which runs a command asks for: one, a run for each seed, or those of a table; with the runs that these build on.

`table=NAME` means the runs of every row on every (data, edition) of the table's columns; runs that rows or tables share
are made once. An open table is laid out on the data sets of `data=`. `grid=` makes each of them once for
each of its points.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from recipes.common import search_path
from recipes.common.addresses import is_remote
from recipes.common.cli import take_words
from recipes.common.errors import DataError, RecipeError, TooManyTasks
from recipes.common.json_text import read_object
from recipes.dataset_values import sets_in
from recipes.layers import COMMAND, Layer, merged, parse_words
from recipes.resolve import (
    FIRST,
    differences,
    first_words,
    load_resolved,
    of_the_first,
    resolve,
    source_of,
    source_words,
    without_first,
)
from recipes.rules import idle
from recipes.schema import PROJECT, Recipe
from recipes.sweeps.grid import Point
from recipes.table_layout import OF_THE_TABLE, Layout, data_names, find_layout, known_data
from slurm.planning.grids import NO_POINT, announcement, grid_of, refuse_rows
from slurm.planning.schedule import Run
from slurm.site_file import Site

SEVERAL = ("table", "seeds", "grid", "max_jobs", "pack", "again")
"""Words of a command that are none of a recipe."""
MOST_PACKED = 64
"""Runs in a job, at most."""
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


class Requested(NamedTuple):
    """What a command asks for.

    Attributes:
        runs: each once, and after those that it builds on.
        at_once: how many may be under way at once; None where the command does not say.
        said: what the user should know of the whole.
        pack: how many runs share a job of SLURM's.
    """

    runs: list[Run]
    at_once: int | None
    said: tuple[str, ...] = ()
    pack: int = 1


def requested_runs(words: Sequence[str], site: Site) -> Requested:
    """Return the runs that a command asks for.

    Raises:
        RecipeError: a value of `table`, `seeds`, `grid`, `max_jobs`, `pack` or `again` that is not legal, words that
            the table itself decides, or a recipe that cannot be run.
    """
    values, rest = take_words(words, SEVERAL)
    at_once, again = values.get("max_jobs"), values.get("again", "no")
    if again not in ("yes", "no"):
        raise RecipeError(f"again={again} is not legal: yes is, which makes runs again and keeps the old ones, or no")
    if at_once is not None and not re.fullmatch(r"[1-9][0-9]{0,5}", at_once):
        raise RecipeError(
            f"max_jobs={at_once} is not legal: it is the number of jobs that may run at once, 1 to 999999"
        )
    pack = _pack(values.get("pack", "1"))
    commands: list[tuple[list[str], list[str]]] = [(rest, [])]
    said: tuple[str, ...] = ()
    layout = None
    if "table" in values:
        of_data, rest = take_words(rest, ("data",))
        layout = _layout(values["table"], of_data.get("data"), _known_data(rest, site))
        _refuse_own_words(layout, rest)
        sources, said = _sources(layout, rest, site)
        own = "seeds" not in values and not any(word.startswith("seed=") for word in rest)
        commands = [
            ([*layout.words(row, source), *rest], list(map(str, layout.seeds_of(row))) if own else [])
            for row in layout.rows
            for source in sources
        ]
    grid = grid_of(values.get("grid"), rest, layout)
    if grid and layout:
        for command, _ in commands:
            refuse_rows(grid, _fitting(command, site)[0])
    if "seeds" in values:
        if any(word.startswith("seed=") for word in rest):
            raise RecipeError("seed= and seeds= do not go together: give one seed, or all of them as seeds=0,1,2")
        seeds = _seeds(values["seeds"])
        commands = [(command, seeds) for command, _ in commands]
    runs: dict[Path, Run] = {}
    named: dict[Path, Recipe] = {}
    points = grid.points if grid else (NO_POINT,)
    for command in _seed_by_seed(commands):
        fits = functools.partial(_fitting if layout else _as_it_is, site=site)
        of_row = [word for word in command if word.startswith(FIRST)] if layout else []  # by its `set`
        made = [(fits([*command, *point.words]), point) for point in points]
        if grid and grid.is_of_training and not made[0][0][0].trains:  # no point of it changes a number
            made = [(fits(command), NO_POINT)]
        named |= _add_points(runs, made, command, [*of_row, *rest], site)
    _refuse_idle([*rest, *points[0].words], runs, named)
    if grid:
        rows = len(layout.rows) if layout else 0
        said = (*said, *announcement(grid, list(named.values()), rows, len(runs) - len(named)))
    asked = [
        replace(run, recipe=_shared(run.recipe, pack), again=again == "yes" and run.folder in named)
        for run in runs.values()
    ]
    return Requested(asked, int(at_once) if at_once else None, said, pack)


def _refuse_idle(words: Sequence[str], runs: Mapping[Path, Run], named: Mapping[Path, Recipe]) -> None:
    """Refuse what a command or its grid sets and none of its runs reads: they would be others of the same numbers.

    What files say, a table's `set` too, is for several runs, and may say nothing in all of those here.

    Args:
        words: the command's, and of a point of its grid.
        runs: all that it makes.
        named: the recipes of those that are not only there for others to build on.

    Raises:
        RecipeError: there is such a key.
    """
    firsts = [run.recipe for folder, run in runs.items() if folder not in named]
    own = [word for word in words if not word.startswith(FIRST)]
    of_first = [without_first(word) for word in words if word.startswith(FIRST)]
    for typed, recipes, told in ((own, list(named.values()), str), (of_first, firsts, of_the_first)):
        keys = merged([Layer(COMMAND, parse_words(typed))])[1]
        for key, why in idle(recipes[0]).items() if recipes else ():
            if key in keys and all(key in idle(recipe) for recipe in recipes):
                raise RecipeError(told(why))


def _pack(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]?", text) or int(text) > MOST_PACKED:
        raise RecipeError(f"pack={text} is not legal: it is how many runs share a job, from 1 to {MOST_PACKED}")
    return int(text)


def _shared(recipe: Recipe, pack: int) -> Recipe:
    """Return the recipe with its share of a node's GPUs, where several runs share a job.

    Raises:
        RecipeError: they cannot.
    """
    gpus = recipe.slurm.gpus
    if pack == 1:
        return recipe
    if recipe.cluster in ("local", "here"):
        raise RecipeError(
            f"pack={pack} puts runs into one job of SLURM's; with cluster={recipe.cluster} use max_jobs={pack}"
        )
    if not recipe.slurm.arrays:
        raise RecipeError(
            f"pack={pack} and slurm.arrays=false do not go together: packed runs are elements of an array"
        )
    if recipe.nodes > 1:
        raise RecipeError(
            f"pack={pack} is legal for runs of one node, and {recipe.recipe} has nodes={recipe.nodes}: leave out one "
            "of them"
        )
    if gpus and gpus % pack:
        raise RecipeError(
            f"pack={pack} does not share a node's {gpus} GPUs (slurm.gpus_per_node) evenly: "
            f"{', '.join(str(share) for share in range(1, gpus + 1) if gpus % share == 0)} are legal"
        )
    if not gpus:
        return recipe
    return recipe.model_copy(update={"slurm": recipe.slurm.with_gpus(gpus // pack)})


def _add_points(
    runs: dict[Path, Run],
    made: Sequence[tuple[tuple[Recipe, str], Point]],
    command: Sequence[str],
    words: Sequence[str],
    site: Site,
) -> dict[Path, Recipe]:
    """Add the runs of one command, one for each point of its grid, to `runs`, before each the one that it builds on.

    Args:
        runs: those that there are already.
        made: recipe and remark of each, and its point.
        command: what they were resolved from, but for the points.
        words: the user's part of the command, and what a table's row sets of its first stage.
        site: this machine's site file.

    Returns:
        The recipes by their folders.

    Raises:
        RecipeError: one builds on a run that it cannot build on, or two points make the same run.
    """
    found: dict[Path, Point] = {}
    for (recipe, remark), point in made:
        folder = recipe.run_folder
        if folder in found:
            raise RecipeError(
                f"grid= has {found[folder]} and {point}, which make the same run {recipe.run_name}; each value once is "
                "legal"
            )
        found[folder] = point
        _add(runs, recipe, [*words, *(word for word in point.words if word.startswith(FIRST))], site, remark)
        runs[folder] = replace(runs[folder], point=str(point), words=(*command, *point.words))
    return {recipe.run_folder: recipe for (recipe, _), _ in made}


def _layout(name: str, data: str | None, known: Sequence[str]) -> Layout:
    try:
        layout = find_layout(name, data_names(data) if data is not None else (), known)
        layout.refuse_unknown_twins(search_path.files(search_path.RECIPES))
        return layout
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _known_data(words: Sequence[str], site: Site) -> list[str]:
    """List the data sets that have a file of values or are built in the data root."""
    of_site = site.slurm.get("data", {}).get("root")
    root = take_words(words, ("data.root",))[0].get("data.root") or of_site or PROJECT / "data"
    return sorted({*known_data(), *([] if is_remote(str(root)) else sets_in(str(root)))})


def _refuse_own_words(layout: Layout, words: Sequence[str]) -> None:
    """Refuse words that the table decides, or that would change what its runs are.

    Raises:
        RecipeError: there is such a word.
    """
    decided = {*OF_THE_TABLE} - {"seed"}  # a command may have other seeds than the table
    if own := next(iter(take_words(words, decided)[0]), None):
        raise RecipeError(f"{own}= and table= do not go together: the table {layout.name} says which")
    if science := next((word for word in words if not word.startswith(WITH_A_TABLE)), None):
        raise RecipeError(
            f"{science} and table= do not go together: a table's runs are its recipes', and only slurm., log., "
            "data.root, data.workers, data.cache, data.cache_folder, data.cache_gb, nodes, tasks_per_node, runs, "
            "cluster and optim.zero go with it; `set:` in a layout of yours changes the values of all rows or of one"
        )


def _sources(layout: Layout, words: Sequence[str], site: Site) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Return the (data, edition) of a table's runs, without editions that the built data have not; and what to say.

    Where the data are not here to be asked, all are taken.

    Raises:
        RecipeError: nothing is left.
    """
    kept, said = [], []
    for data, train in layout.sources:
        root = _fitting([*layout.words(layout.rows[0], (data, train)), *words], site)[0].data_root
        try:
            editions = read_object(Path(root) / data / "dataset.json", {"editions": dict})["editions"]
        except (DataError, OSError):
            editions = {train: {}}
        if train in editions:
            kept.append((data, train))
        else:
            protocols = {column.protocol.upper() for column in layout.columns if column.source == (data, train)}
            said.append(
                f"{' and '.join(sorted(protocols))} is left out: {data} has no edition {train} (its edition is "
                f"{', '.join(editions)})"
            )
    if not kept:
        raise RecipeError(f"table={layout.name}: there is nothing to run: {'; '.join(said)}")
    return kept, tuple(said)


def _seeds(text: str) -> list[str]:
    seeds = text.split(",")
    if not all(re.fullmatch(r"0|[1-9][0-9]{0,9}", seed) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise RecipeError(f"seeds={text} is not legal: distinct whole numbers with commas are, such as seeds=0,1,2")
    return seeds


def _seed_by_seed(commands: Sequence[tuple[list[str], list[str]]]) -> list[list[str]]:
    """Return each command with each of its seeds, all commands with a seed before any with the next.

    Args:
        commands: [(words, its seeds)]; a command without seeds stays as it is.
    """
    seeds = dict.fromkeys(seed for _, own in commands for seed in own)
    return [
        *(words for words, own in commands if not own),
        *([*words, f"seed={seed}"] for seed in seeds for words, own in commands if seed in own),
    ]


def _as_it_is(command: Sequence[str], site: Site) -> tuple[Recipe, str]:
    """Resolve a command, with nothing to remark."""
    return resolve(command, site.slurm, str(site.path)), ""


def _fitting(command: Sequence[str], site: Site) -> tuple[Recipe, str]:
    """Resolve a table row's recipe on as many of the nodes asked for as it can use; a remark says if those are not all.

    One row that cannot use all nodes must not take them from the other rows.

    Raises:
        RecipeError: the recipe cannot be run; the sentence names it.
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
    except RecipeError as error:  # a table's values need not fit each of its rows
        raise RecipeError(f"the row of {take_words(command, ('recipe',))[0]['recipe']}: {error}") from None


def _add(
    runs: dict[Path, Run],
    recipe: Recipe,
    words: Sequence[str],
    site: Site,
    remark: str = "",
    resolved_from: Sequence[str] = (),
) -> None:
    """Add a recipe's run to `runs`, and before it the one that it builds on.

    Args:
        runs: those that there are already.
        recipe: the run's.
        words: the user's part of the command, and what a table's row sets of the first stage.
        site: this machine's site file.
        remark: what is to be said of the run.
        resolved_from: `Run.words`.
    """
    folder, source = recipe.run_folder, source_of(recipe)
    if folder in runs:
        return
    needs = (folder.parent / source,) if source else ()
    for need in needs:
        if not (folder / "meta.json").exists():
            _refuse_another_network(recipe, need)
        if not (need / "done").exists():
            first = first_words(words)
            own = [*(word for word in words if not word.startswith(FIRST)), *first]
            prepared = (need / "recipe.yaml").exists()
            changed = [] if prepared else differences(recipe, _recipe_of(need), first, site.slurm)
            said = f"as the first stage of {recipe.recipe}, with {', '.join(changed)}" if changed else ""
            of_source = _words_of_source(recipe, need, words)
            _add(runs, _source(recipe, need, of_source, site), own, site, said, of_source)
    runs[folder] = Run(recipe, needs, remark, pipe=site.for_run(recipe).pipe, words=tuple(resolved_from))


def _recipe_of(run: Path) -> str:
    """Return the recipe in a run's name."""
    return run.name.partition("-")[0]


def _refuse_another_network(recipe: Recipe, source: Path) -> None:
    """Refuse to start from a run that lies there with another backbone.

    Raises:
        RecipeError: the weights cannot fit.
    """
    if not (source / "recipe.yaml").exists():
        return
    model = load_resolved(source / "recipe.yaml").model.name
    if model != recipe.model.name:
        raise RecipeError(
            f"{recipe.recipe} has model.name={recipe.model.name} and builds on the run {source.name}, which has "
            f"model.name={model}: its weights cannot fit; give both the same"
        )


def _words_of_source(recipe: Recipe, folder: Path, words: Sequence[str]) -> list[str]:
    """Return the command of the run that another builds on, where that is its recipe's own."""
    carried = [*first_words(words), *(word for word in words if word.startswith(CARRIED))]
    return [*source_words(recipe, _recipe_of(folder)), *carried]


def _source(recipe: Recipe, folder: Path, words: Sequence[str], site: Site) -> Recipe:
    """Return the recipe of the run that another builds on: as it was prepared, or as its command says."""
    source = resolve(words, site.slurm, str(site.path))
    if (folder / "recipe.yaml").exists():
        return load_resolved(folder / "recipe.yaml").model_copy(
            update={
                "cluster": recipe.cluster,
                "nodes": recipe.nodes,
                "tasks_per_node": recipe.tasks_per_node,
                "slurm": source.slurm,
            }
        )
    if source.run_folder != folder:
        raise RecipeError(
            f"{recipe.recipe} builds on the run {folder.name}, which is not in {folder.parent}, and "
            f"recipe={source.recipe} alone makes another ({source.run_name}): launch it first"
        )
    return source
