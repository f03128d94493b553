"""From the words of a command to a resolved recipe, in which every value is written out.

Merge order (later wins): schema < data/NAME.yaml < presets/PRESET.yaml < site file (`slurm.` and what it says of data)
< recipe < the recipe's `on:` blocks (PRESET < NAME < NAME/EDITION) < command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recipes.common.errors import RecipeError
from recipes.declarations import declaration
from recipes.folders import hide_command, make_absolute
from recipes.layers import (
    Layer,
    axes_of,
    find_recipe,
    layers_of,
    merged,
    parse_words,
    preset_values,
    recipe_file,
    refuse_changes,
)
from recipes.messages import sentence
from recipes.rules import check, epoch_of, epochs_of, method_args
from recipes.schema import Recipe
from recipes.yaml_io import load_yaml


# ------------------------------------------------------------------------------------------------------------ resolve
def resolve(words: Iterable[str], site: Mapping[str, Any] | None = None, site_name: str = "the site file") -> Recipe:
    """Return the recipe that a command means.

    Args:
        words: the command's, key=value.
        site: values of the `slurm.` section, and under `data` of that one.
        site_name: names `site` in messages.

    Raises:
        RecipeError: one sentence that names the key, the value, where it came from and what would be legal.
    """
    command = parse_words(words)
    file = recipe_file(command.pop("recipe", "glt_baseline"))
    axes = axes_of(command, file.values)
    if file.is_written_out:
        refuse_changes(command, file, axes)
    site_layer = _site_layer(site or {}, site_name)
    tree, origins = merged(layers_of(command, file, axes, site_layer))
    make_absolute(tree)
    hide_command(tree, origins.get("data.root", ""), site_layer.values.get("data", {}).get("root"))
    recipe = _with_source(_validated(tree, origins), site)
    check(recipe)
    return _written_out(recipe)


def _site_layer(site: Mapping[str, Any], name: str) -> Layer:
    slurm = {key: value for key, value in site.items() if key != "data"}
    return Layer(name, {"slurm": slurm, "data": site.get("data", {})} if site else {})


def _validated(tree: dict[str, Any], origins: dict[str, str]) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(" ".join(sentence(error, origins).split())) from None


# ---------------------------------------------------------------------------------------------------- runs it builds on
def source_of(recipe: Recipe) -> str | None:
    """Name the finished run, in the same folder of runs, that a second stage or a later evaluation needs; or None."""
    return recipe.method.init_from or recipe.method.eval_of


def _with_source(recipe: Recipe, site: Mapping[str, Any] | None) -> Recipe:
    """Write `init_from` and `eval_of` as the name of a run.

    A recipe's name means its run on the same data, edition, seed and preset.
    """
    values = recipe.model_dump()
    for key in ("init_from", "eval_of"):
        name = getattr(recipe.method, key)
        if name is None or "-" in name:  # a recipe's name has no dash, a run's has
            continue
        find_recipe(name, f"method.{key}")
        if name == recipe.recipe:
            raise RecipeError(f"method.{key}={name} names the recipe itself")
        values["method"][key] = resolve(source_words(recipe, name), site).run_name
    return Recipe.model_validate(values)


def source_words(recipe: Recipe, name: str) -> list[str]:
    """Return the command that launches the run of recipe `name` that `recipe` builds on.

    It has the same axes, budget, folders and tasks, and nothing else of `recipe`.
    """
    words = [
        f"recipe={name}",
        f"data={recipe.data.name}",
        f"train={recipe.train}",
        f"seed={recipe.seed}",
        f"preset={recipe.preset}",
        f"batch.budget={recipe.batch.budget}",
        f"cluster={recipe.cluster}",
        f"nodes={recipe.nodes}",
    ]
    operation = (("data.root", recipe.data.root), ("runs", recipe.runs), ("tasks_per_node", recipe.tasks_per_node))
    return words + [f"{key}={value}" for key, value in operation if value is not None]


# ---------------------------------------------------------------------------------------------------------- written out
def _written_out(recipe: Recipe) -> Recipe:
    """Fill in what depends on other fields of a checked recipe; null asks for the preset's choice."""
    values = recipe.model_dump()
    values["runs"] = str(recipe.run_folder.parent)  # a job runs from a copy of the project
    values["data"]["root"] = recipe.data_root
    if recipe.data.workers is None:
        values["data"]["workers"] = 2 if recipe.cluster == "local" else min(max(1, recipe.slurm.cpus_per_task - 1), 64)
    for section, choices in preset_values(recipe.preset).items():
        for key, choice in choices.items() if isinstance(choices, dict) and values[section] else ():
            if values[section][key] is None:
                values[section][key] = choice
    epochs = recipe.schedule.epochs
    if recipe.log.keep is not None:
        values["log"]["keep"] = [epoch_of(kept, epochs) for kept in recipe.log.keep]
    if recipe.ifl:
        values["ifl"]["milestones"] = epochs_of(recipe.ifl.milestones, epochs)
    if recipe.schedule.decay == "steps":
        values["schedule"]["drops"] = epochs_of(recipe.schedule.drops, epochs)
    if recipe.batch.replacement is None:
        # The reference's weighted streams are drawn with replacement, all but the class-aware one.
        is_weighted = recipe.ifl is not None or "class_inverse" in recipe.stream_names
        values["batch"]["replacement"] = recipe.preset == "paper" and is_weighted
    values["method"]["args"] = method_args(recipe)
    return Recipe.model_validate(values)


# --------------------------------------------------------------------------------------------------------------- files
def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; `recipe=THIS/FILE` repeats the run."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def load_resolved(path: Path) -> Recipe:
    """Read the recipe of a run folder.

    Raises:
        RecipeError: the file does not exist, cannot be read or holds a value that is not legal.
    """
    try:
        return as_it_ran(load_yaml(path))
    except ValidationError as error:
        raise RecipeError(f"{path}: {sentence(error, {})}") from None


def as_it_ran(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a run folder holds.

    What is younger than the run, a key of the schema or an argument of the method, has its default.

    Raises:
        ValidationError: a value is not legal.
    """
    recipe = Recipe.model_validate(values)
    usual = declaration(recipe.method.name).args(recipe.preset)
    recipe.method.args = {**usual, **recipe.method.args}
    return recipe
