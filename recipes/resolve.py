"""From the words of a command to a resolved recipe, in which every value is written out.

Merge order (later wins): schema < the data set's dataset.json < data/NAME.yaml < the configuration of a network of timm
or torchvision (for images of up to 64 pixels below these two) < presets/PRESET.yaml < site file (`slurm.` and what it
says of data and runs; in it what holds for all < cluster < `for:`) < recipe < the recipe's `on:` blocks (PRESET <
EDITION < small < NAME < NAME/EDITION) < command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recipes.backbones.facts import remember
from recipes.common.errors import RecipeError
from recipes.dataset_values import CLASS_AWARE, Described, class_aware_draws
from recipes.declarations import declaration
from recipes.folders import hide_command, make_absolute, with_digests
from recipes.identity import departures, science_values
from recipes.layers import (
    COMMAND,
    Axes,
    Layer,
    axes_of,
    data_of,
    find_recipe,
    layers_of,
    merged,
    overlaid,
    parse_words,
    preset_origin,
    preset_values,
    recipe_file,
    refuse_changes,
    site_layers,
    value_at,
    with_network,
)
from recipes.messages import sentence
from recipes.noted import Noted
from recipes.rules import OPTIMISERS, OPTIMISERS_OF, check, epoch_of, epochs_of, method_args
from recipes.schema import BETAS, EPS, Batch, Optim, Recipe
from recipes.yaml_io import load_yaml

FIRST = "first."
"""Words with this beginning are for the first stage."""
OF_THE_FIRST = ("schedule", "optim", "augment", "batch", "ifl")
"""Its sections that a command sets by `first.KEY=VALUE`; what both stages must agree on it takes over."""


# ------------------------------------------------------------------------------------------------------------ resolve
def resolve(
    words: Iterable[str],
    site: Mapping[str, Any] | None = None,
    site_name: str = "the site file",
    said: Described | None = None,
) -> Recipe:
    """Return the recipe that a command means.

    Args:
        words: the command's, key=value; those that begin with `first.` say what its first stage is.
        site: values of the `slurm.` section, and under `data` and `runs` of those; as `SiteValues` also what holds for
            some runs alone.
        site_name: names `site` in messages.
        said: what a run noted of its data set; None looks it up in the data root.

    Raises:
        RecipeError: one sentence that names the key, the value, where it came from and what would be legal.
    """
    words = list(words)
    first = first_words(words)
    tree, origins = merge(words, site, site_name, said)
    recipe, sources = _with_source(_validated(tree, origins), first, site, said)
    check(recipe)
    for key, source in sources.items():
        _refuse_misfit(recipe, key, source)
    return with_digests(_written_out(recipe), said.files if isinstance(said, Noted) else None)


def merge(
    words: Iterable[str],
    site: Mapping[str, Any] | None = None,
    site_name: str = "the site file",
    said: Described | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values that a command means, not checked yet, and the origin of each by its dotted key.

    For the arguments see `resolve`.

    Raises:
        RecipeError: there is no such recipe, data set or preset, or what they hold cannot be merged.
    """
    if isinstance(said, Noted):
        remember(said.networks)
    command = parse_words(word for word in words if not word.startswith(FIRST))
    file = recipe_file(command.pop("recipe", "glt_baseline"), said)
    axes = axes_of(command, file.values)
    if file.is_written_out:
        refuse_changes(command, file, axes)
    of_site = site_layers(site or {}, site_name, file.values.get("recipe"), axes.data)
    data = data_of(command, file, axes, of_site, said)
    layers, network = layers_of(command, file, axes, of_site, data), None
    if not file.is_written_out:  # which says every value
        layers, network = with_network(layers, data)
    tree, origins = merged(layers)
    _follow_optimiser(tree, origins, layers, preset_origin(axes.preset))
    if network and not network.normalises:
        _free_groups(tree, origins)
    make_absolute(tree)
    hide_command(tree, origins.get("data.root", ""), overlaid(of_site).get("data", {}).get("root"))
    _count_draws(tree, origins, data.said, axes)
    return tree, origins


def _count_draws(tree: dict[str, Any], origins: dict[str, str], said: Described, axes: Axes) -> None:
    """Replace `batch.draws_per_epoch: class_aware` by the number that the data set's counts make of it."""
    batch, key = tree.get("batch"), "batch.draws_per_epoch"
    if not isinstance(batch, dict) or batch.get("draws_per_epoch") != CLASS_AWARE:
        return
    counts = said.counts.get(axes.train) if isinstance(axes.train, str) else None
    if not counts or not sum(counts):
        raise RecipeError(
            f"{key}={CLASS_AWARE} ({origins[key]}) is computed from the counts in dataset.json, and "
            f"{said.origin or f'that of data={axes.data}'} tells none of the edition {axes.train}: a number is legal, "
            f"such as {key}=4.0"
        )
    batch["draws_per_epoch"] = class_aware_draws(counts)
    origins[key] = f"the counts in {said.origin}"


def _follow_optimiser(
    tree: dict[str, Any], origins: Mapping[str, str], layers: Sequence[Layer], of_preset: str
) -> None:
    """Take out what layers say for another optimiser than the one that is named last; a preset's is for SGD.

    Args:
        tree: the merged values.
        origins: the origin of each, by its dotted key.
        layers: what was merged, the weakest first.
        of_preset: the origin of the preset's layer.

    Raises:
        RecipeError: the optimiser has no learning rate that was meant for it.
    """
    optim = tree.get("optim")
    name = optim.get("name") if isinstance(optim, dict) else None
    if not isinstance(optim, dict) or name not in OPTIMISERS:
        return
    order = [layer.origin for layer in layers]

    def is_for_another(key: str) -> bool:
        origin = origins.get(f"optim.{key}")
        below = [] if origin in (None, of_preset) else layers[: order.index(origin) + 1]
        return bool(value_at(overlaid(below), "optim.name", "sgd") != name)

    optim |= {key: None for key, names in OPTIMISERS_OF.items() if name not in names and is_for_another(key)}
    if is_for_another("lr"):
        raise RecipeError(
            f"optim.name={name} ({origins['optim.name']}) needs an optim.lr beside it, for "
            f"{optim.get('lr', Optim().lr)} ({origins.get('optim.lr', 'the schema')}) is not meant for it: give both, "
            f"such as optim.lr={Optim().lr if name == 'sgd' else 0.001}"
        )


def _free_groups(tree: dict[str, Any], origins: dict[str, str]) -> None:
    """Make groups of batch normalisation plain micro batches, where the network has none and the command asks for none.

    A micro batch is then as large as the groups were, so that mixup and IRM form groups as on other networks; where the
    batch is no multiple of that, it is a rank's share.
    """
    batch, key = tree.setdefault("batch", {}), "batch.bn"
    if not isinstance(batch, dict) or origins.get(key) == COMMAND or str(batch.get("bn")) == "0":
        return
    group, origin = batch.pop("bn", None), "the network, which has no batch normalisation"
    sizes = [str(size) for size in (batch.get("size", Batch.model_fields["size"].default), group)]
    divides = all(map(str.isdecimal, sizes)) and int(sizes[1]) > 0 and int(sizes[0]) % int(sizes[1]) == 0
    if divides and batch.get("micro") is None:
        batch["micro"], origins["batch.micro"] = group, f"batch.bn of {origins[key]}, for {origin}"
    batch["bn"], origins[key] = 0, origin


def _validated(tree: dict[str, Any], origins: dict[str, str]) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(" ".join(sentence(error, origins).split())) from None


# ---------------------------------------------------------------------------------------------------- runs it builds on
def source_of(recipe: Recipe) -> str | None:
    """Name the finished run, in the same folder of runs, that a second stage or a later evaluation needs; or None."""
    return recipe.method.init_from or recipe.method.eval_of


def has_first_stage(name: Any) -> bool:
    """Say whether the file of a recipe names another that its runs build on.

    Raises:
        RecipeError: there is no such recipe, or its file cannot be read.
    """
    method = recipe_file(name).values.get("method")
    named = (method.get("init_from"), method.get("eval_of")) if isinstance(method, dict) else ()
    return any(source and "-" not in str(source) for source in named)  # a recipe's name has no dash, a run's has


def is_of_the_first(key: str) -> bool:
    """Say whether a command sets a first stage's key apart from the second's, which has its own."""
    return key.partition(".")[0] in OF_THE_FIRST and key != "optim.precision"


def first_words(words: Iterable[str]) -> list[str]:
    """Return the words of a command that are for its first stage, as that one's command has them.

    Raises:
        RecipeError: one sets something else than the first stage's own way to train.
    """
    own = [word.removeprefix(FIRST) for word in words if word.startswith(FIRST)]
    for word in own:
        if not is_of_the_first(word.partition("=")[0].removeprefix(FIRST)):
            raise RecipeError(
                f"{FIRST}{word} is not legal: of a first stage {', '.join(OF_THE_FIRST)} can be set, such as "
                f"{FIRST}schedule.epochs=3; model, data and optim.precision it takes over from the second"
            )
    return own


def without_first(key: str) -> str:
    """Return a dotted key without the `first.` before it, of however many stages."""
    while key.startswith(FIRST):
        key = key.removeprefix(FIRST)
    return key


def _with_source(
    recipe: Recipe, first: Sequence[str], site: Mapping[str, Any] | None, said: Described | None
) -> tuple[Recipe, dict[str, Recipe]]:
    """Write `init_from` and `eval_of` as the name of a run.

    A recipe's name means its run on the same data, edition, seed and preset, with the words `first` of its own.

    Returns:
        The recipe, and by the key the recipes of the runs that were named by theirs.
    """
    sources: dict[str, Recipe] = {}
    values = recipe.model_dump()
    named = [name for name in (recipe.method.init_from, recipe.method.eval_of) if name and "-" not in name]
    if first and not named:
        raise RecipeError(
            f"{FIRST}{first[0]} is not legal: "
            + (
                f"the first stage is the run {source_of(recipe)}, which is what it is"
                if source_of(recipe)
                else f"the recipe {recipe.recipe} has no first stage"
            )
        )
    for key in ("init_from", "eval_of"):
        name = getattr(recipe.method, key)
        if name is None or "-" in name:  # a recipe's name has no dash, a run's has
            continue
        if not isinstance(said, Noted) or name not in said.recipes:
            find_recipe(name, f"method.{key}")
        if name == recipe.recipe:
            raise RecipeError(f"method.{key}={name} names the recipe itself")
        try:
            sources[key] = resolve([*source_words(recipe, name), *first], site, said=said)
            values["method"][key] = sources[key].run_name
        except RecipeError as error:
            raise type(error)(of_the_first(str(error)) if first else str(error)) from None
    return Recipe.model_validate(values), sources


def _refuse_misfit(recipe: Recipe, key: str, source: Recipe) -> None:
    """Refuse to build on a run that has no weights, or on those of another kind of network or classifier.

    Raises:
        RecipeError: `source` is such a run.
    """
    named, mine, its = f"method.{key}={source.recipe}", declaration(recipe.method.name), declaration(source.method.name)
    if source.method.eval_of:
        raise RecipeError(
            f"{named} has no weights: it judges those of {source.method.eval_of}, and that run is legal here"
        )
    for what, wanted, found in (
        ("network of the form", mine.FORM, its.FORM),
        ("classifier of the kind", mine.HEAD, its.HEAD),
    ):
        if wanted and found and wanted != found:
            raise RecipeError(
                f"{named} does not fit: its method {source.method.name} trains a {what} {found}, and "
                f"{recipe.method.name} takes over a {what} {wanted}: a recipe of a method with such a one is legal"
            )


def of_the_first(sentence: str) -> str:
    """Return what is said of a first stage with the keys as a command gives them, `first.KEY`."""
    return re.sub(rf"(?<![\w./])(?=({'|'.join(OF_THE_FIRST)})(\.[a-z]|=))", FIRST, sentence)


def source_words(recipe: Recipe, name: str) -> list[str]:
    """Return the command that launches the run of recipe `name` that `recipe` builds on.

    It has the same axes, budget, folders and tasks, takes over what both must agree on, and nothing else of `recipe`.
    """
    return [*_axis_words(recipe, name), *taken_over(recipe)]


def taken_over(recipe: Recipe) -> list[str]:
    """Return what a first stage takes over from a second, whatever its own recipe says, as words of a command.

    Both train one network on one kind of picture, so these are the science values of model and data, and the precision.
    """
    shared = {
        key: value
        for key, value in science_values(recipe).items()
        if key.startswith(("model.", "data.")) or key == "optim.precision"
    }
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in shared.items()]


def differences(recipe: Recipe, name: str, first: Sequence[str], site: Mapping[str, Any] | None) -> list[str]:
    """List in what the first stage `name` of a recipe is not what its own recipe says: `key=value (own value)`."""
    axes = _axis_words(recipe, name)
    return departures(resolve([*axes, *taken_over(recipe), *first], site), resolve(axes, site))


def _axis_words(recipe: Recipe, name: str) -> list[str]:
    """Return the command of another recipe's run with the axes, budget, folders and tasks of `recipe`."""
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
    operation = (
        ("data.root", recipe.data.root),
        ("runs", recipe.runs),
        ("tasks_per_node", recipe.tasks_per_node),
        ("model.weights", recipe.model.weights),
    )
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
            if values[section][key] is None and (key != "momentum" or recipe.optim.name in OPTIMISERS_OF[key]):
                values[section][key] = choice
    if recipe.optim.name == "adamw":
        values["optim"]["betas"], values["optim"]["eps"] = recipe.optim.betas or BETAS, recipe.optim.eps or EPS
    epochs = recipe.schedule.epochs
    if recipe.log.keep is not None:
        values["log"]["keep"] = [epoch_of(kept, epochs) for kept in recipe.log.keep]
    if recipe.ifl:
        values["ifl"]["milestones"] = epochs_of(recipe.ifl.milestones, epochs)
    if recipe.schedule.decay == "steps" and recipe.schedule.by == "epoch":
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
