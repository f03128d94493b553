"""From the words of a command to a resolved recipe, in which every value is written out.

Merge order (later wins): schema < data/NAME.yaml < presets/PRESET.yaml < site file (`slurm.` alone) < recipe < the recipe's
`on:` blocks (PRESET < NAME < NAME/EDITION) < command line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from recipes.common.addresses import PIPE, is_afar
from recipes.common.cli import nearest, split_word
from recipes.common.errors import RecipeError
from recipes.messages import sentence
from recipes.rules import check_method, check_streams, epoch_of, epochs_of, method_args
from recipes.schema import PROJECT, Recipe
from recipes.yaml_io import read_yaml

RECIPES = PROJECT / "recipes"


# ---------------------------------------------------------------------------------------------------- words and files
def parse_words(words: Iterable[str]) -> dict[str, Any]:
    """`a.b=1 c=x` -> {"a": {"b": 1}, "c": "x"}; values are read as YAML, and of a key given twice the last one
    counts. `data=NAME` means `data.name=NAME`."""
    tree: dict[str, Any] = {}
    for word in words:
        key, text = split_word(word)
        if "=" not in word or not all(key.split(".")):
            raise RecipeError(f"{word!r} is not of the form key=value, such as seed=1 or optim.lr=0.2")
        try:
            value = read_yaml(text)
        except (ValueError, yaml.YAMLError):
            raise RecipeError(f"{key}={text!r} is not a YAML value") from None
        merge(tree, _nest("data.name" if key == "data" and isinstance(value, str) else key, value), {}, "")
    return tree


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def load_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} must hold `key: value` lines")
    return {"on" if key is True else key: value for key, value in tree.items()}  # YAML 1.1 reads the word `on` as true


def named(folder: Path, name: Any, what: str, suffix: str = ".yaml") -> Path:
    """The file `folder/name.suffix`, or an error that names the nearest one there is."""
    legal = sorted(path.stem for path in folder.glob(f"*{suffix}") if not path.stem.startswith("_"))
    if name not in legal:
        raise RecipeError(f"{what}={name} does not exist; {nearest(name, legal)}")
    return folder / f"{name}{suffix}"


def merge(base: dict[str, Any], layer: dict[str, Any], origins: dict[str, str], origin: str, path: str = "") -> None:
    """Lay `layer` over `base` in place, noting in `origins` which layer set each dotted key last."""
    for key, value in layer.items():
        dotted = f"{path}{key}"
        if isinstance(value, dict):
            if not isinstance(base.get(key), dict):
                base[key] = {}
            merge(base[key], value, origins, origin, f"{dotted}.")
        else:
            base[key] = value
        origins[dotted] = origin


# ------------------------------------------------------------------------------------------------------------ resolve
def resolve(words: Iterable[str], site: Mapping[str, Any] | None = None, site_name: str = "the site file") -> Recipe:
    """The recipe that a command means. `site` holds values of the `slurm.` section, and under `data` of that one; `site_name` names it in messages.

    Raises:
        RecipeError: one sentence that names the key, the value, where it came from and what would be legal.
    """
    command = parse_words(words)
    name = command.get("recipe", "glt_baseline")
    if isinstance(name, str) and os.path.isdir(name):  # Path's own raises for a name that is too long
        name = f"{name.rstrip('/')}/recipe.yaml"  # a run folder means its recipe
    is_path = isinstance(name, str) and ("/" in name or name.endswith((".yaml", ".yml")))
    recipe_file = Path(name) if is_path else named(RECIPES, name, "recipe")
    recipe = load_yaml(recipe_file)
    if not is_path:
        recipe["recipe"] = name
    elif "recipe" not in recipe:
        recipe["recipe"] = recipe_file.stem
    command.pop("recipe", None)

    def chosen(section: str, key: str | None, default: Any) -> Any:
        """An axis' value, looked up before merging because it selects which files are merged."""
        for layer in (command, recipe):
            value = layer.get(section)
            if key and isinstance(value, dict):
                value = value.get(key)
            if value is not None and not isinstance(value, dict):
                return value
        return default

    data, train, preset = (
        chosen("data", "name", "imagenet_glt"),
        chosen("train", None, "glt"),
        chosen("preset", None, "paper"),
    )
    if set(Recipe.model_fields) <= set(
        recipe
    ):  # a run's, written out: another data set's or preset's values would not come in
        if not isinstance(recipe["data"], dict) or "name" not in recipe["data"]:
            raise RecipeError(
                f"{recipe_file}: data={recipe['data']!r} is not legal: a recipe that is written out tells its data set's name and values"
            )
        for key, value, own in (("data", data, recipe["data"]["name"]), ("preset", preset, recipe["preset"])):
            if value != own:
                raise RecipeError(
                    f"{key}={value} cannot change {recipe_file}, which is written out for {key}={own}: start from recipe=NAME instead"
                )
        _refuse_half_changes(command, recipe, recipe_file)
        for key in (site or {}).get("data", {}):
            if recipe["data"].get(key) is None:  # left open
                recipe["data"].pop(key, None)
    specific = recipe.pop("on", None) or {}
    _check_blocks(specific, recipe_file)
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in (
        (f"recipes/data/{data}.yaml", load_yaml(named(RECIPES / "data", data, "data"))),
        (f"recipes/presets/{preset}.yaml", load_yaml(named(RECIPES / "presets", preset, "preset"))),
        (
            site_name,
            {"slurm": {key: value for key, value in site.items() if key != "data"}, "data": site.get("data", {})}
            if site
            else {},
        ),
        (str(recipe_file if is_path else recipe_file.relative_to(PROJECT)), recipe),
        (f"on: {preset}", specific.get(preset, {})),
        (f"on: {data}", specific.get(data, {})),
        (f"on: {data}/{train}", specific.get(f"{data}/{train}", {})),
        ("the command line", command),
    ):
        if isinstance(layer.get("data"), str):
            layer = {**layer, "data": {"name": layer["data"]}}
        merge(tree, layer, origins, origin)
    if not _is_on(recipe, *(specific.get(block, {}) for block in (preset, data, f"{data}/{train}")), command):
        tree["ifl"] = None
    for folder in ("runs", "data.root", "data.cache_folder"):
        _absolute(tree, folder)
    root, own = (tree.get("data") or {}).get("root"), (site or {}).get("data", {}).get("root")
    if isinstance(root, str) and root.startswith(PIPE):
        if root not in (PIPE, own) or not str(own).startswith(PIPE):
            raise RecipeError(
                f"data.root={root} ({origins['data.root']}) is not legal: only the site file may bring a command, under `data:`, as `root: {PIPE}COMMAND`; elsewhere `{PIPE}` alone means it"
            )
        tree["data"]["root"] = PIPE  # no recipe tells a command, which may be nobody else's business
    try:
        result = Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(" ".join(sentence(error, origins).split())) from None
    return _written_out(_with_source(result, site))


def source_of(recipe: Recipe) -> str | None:
    """The name of the finished run that a second stage or a later judgement needs, in the same folder of runs; or None."""
    return recipe.method.init_from or recipe.method.eval_of


def _with_source(recipe: Recipe, site: Mapping[str, Any] | None) -> Recipe:
    """`init_from` and `eval_of` as the name of a run: a recipe means its run on the same data, edition, seed and preset."""
    values = recipe.model_dump()
    for key in ("init_from", "eval_of"):
        name = getattr(recipe.method, key)
        if name is None or "-" in name:  # a recipe's name has no dash, a run's has
            continue
        named(RECIPES, name, f"method.{key}")
        if name == recipe.recipe:
            raise RecipeError(f"method.{key}={name} names the recipe itself")
        values["method"][key] = resolve(source_words(recipe, name), site).run_name
    return Recipe.model_validate(values)


def source_words(recipe: Recipe, name: str) -> list[str]:
    """The command that launches the run of recipe `name` that `recipe` builds on: the same axes, budget, folders and tasks, and nothing else of it."""
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
    words += [
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in operation if value is not None
    ]  # quoted: a folder's name may be no plain YAML
    return words


def _refuse_half_changes(command: dict[str, Any], recipe: dict[str, Any], recipe_file: Path) -> None:
    """In a written-out recipe some values follow from others; changing one alone would leave the other as it was."""
    changed = command.get("ifl", {})
    if "epochs" in command.get("schedule", {}) and recipe["ifl"] and "milestones" not in (changed or {}):
        raise RecipeError(
            f"schedule.epochs alone cannot change {recipe_file}, whose ifl.milestones are written out: give both, or start from recipe=NAME"
        )
    if (
        "ifl" in command
        and bool(recipe["ifl"]) != (changed is not None)
        and "replacement" not in command.get("batch", {})
    ):
        raise RecipeError(
            f"ifl cannot be switched in {recipe_file}, whose batch.replacement is written out: give both, or start from recipe=NAME"
        )


def _check_blocks(specific: Any, recipe_file: Path) -> None:
    """`on:` holds blocks by preset, by data set, or by data set and edition; a block holds sections and moves no axis."""
    presets, sets = ([path.stem for path in (RECIPES / folder).glob("*.yaml")] for folder in ("presets", "data"))
    if not isinstance(specific, dict):
        raise RecipeError(f"{recipe_file}: `on:` must hold blocks such as corrected, digits_glt or digits_glt/cbl")
    for block, values in specific.items():
        name, _, edition = str(block).partition("/")
        if name not in presets + sets:
            raise RecipeError(f"on={name} does not exist; {nearest(name, sorted(presets + sets))}")
        axes = {"train", "preset", "recipe", "on"} & set(values) if isinstance(values, dict) else {str(values)}
        if isinstance(values, dict) and (
            "name" in values["data"] if isinstance(values.get("data"), dict) else "data" in values
        ):
            axes.add("data")
        if edition not in (("", "glt", "cbl") if name in sets else ("",)) or axes:
            raise RecipeError(
                f"{recipe_file}: block {block} of `on:` must be named PRESET, NAME, NAME/glt or NAME/cbl and hold sections, not {', '.join(sorted(axes)) or edition}"
            )


def _is_on(*layers: dict[str, Any]) -> bool:
    """IFL is on if the last of the recipe, its `on:` blocks and the command that speaks of `ifl` does not say null.
    The file of a data set or preset may hold values for the block, and never switches it."""
    on = False
    for layer in layers:
        if "ifl" in layer:
            on = layer["ifl"] is not None
    return on


def _absolute(tree: dict[str, Any], dotted: str) -> None:
    """Paths are the user's, so they count from the folder of the command and not from that of the job."""
    *sections, key = dotted.split(".")
    for section in sections:
        tree = tree.get(section) or {}
    if isinstance(tree.get(key), str):
        if not tree[key].isprintable():
            raise RecipeError(f"{dotted}={tree[key]!r} holds control characters")
        if len(tree[key]) > 2000:
            raise RecipeError(f"{dotted}={tree[key]} is too long for a folder's name: up to 2000 characters are legal")
        if dotted == "runs" and set("%\\") & set(tree[key]):
            raise RecipeError(
                f"runs={tree[key]} holds % or \\, which SLURM replaces in the names of logs: another folder is legal"
            )
        if dotted == "data.root" and is_afar(tree[key]):
            return
        if "://" in tree[key]:
            raise RecipeError(
                f"{dotted}={tree[key]} is not legal: "
                + (
                    "an http:// or https:// address, a folder, or a command of the site file (pipe:) is"
                    if dotted == "data.root"
                    else "a folder is"
                )
            )
        if dotted == "data.cache_folder" and "$" in tree[key]:
            raise RecipeError(
                f"{dotted}={tree[key]} holds $, and nothing replaces variables there: null, each node's temporary folder (TMPDIR), is legal, or a whole name"
            )
        try:
            path = Path(tree[key]).expanduser()
        except RuntimeError:
            raise RecipeError(
                f"{dotted}={tree[key]} begins with the home folder of a user who is not here: the folder's whole name is legal"
            ) from None
        tree[key] = str(
            path.absolute() if dotted == "data.cache_folder" else path.resolve()
        )  # a link of this machine says nothing of the nodes' own disks


def _written_out(recipe: Recipe) -> Recipe:
    """Fill in what depends on other fields, and check what spans sections. Null asks for the preset's choice."""
    values = recipe.model_dump()
    values["runs"], values["data"]["root"] = (
        str(recipe.run_folder.parent),
        recipe.data_root,
    )  # a job runs from a copy of the project
    if recipe.data.workers is None:
        values["data"]["workers"] = 2 if recipe.cluster == "local" else min(max(1, recipe.slurm.cpus_per_task - 1), 64)
    for section, choices in load_yaml(named(RECIPES / "presets", recipe.preset, "preset")).items():
        for key, choice in choices.items() if isinstance(choices, dict) and values[section] else ():
            if values[section][key] is None:
                values[section][key] = choice
    if recipe.log.keep is not None:
        values["log"]["keep"] = kept = [epoch_of(m, recipe.schedule.epochs) for m in recipe.log.keep]
        if any(not 0 <= epoch < recipe.schedule.epochs for epoch in kept):
            raise RecipeError(
                f"log.keep={recipe.log.keep} are the epochs {kept}: whole epochs from 0 to {recipe.schedule.epochs - 1} or fractions of schedule.epochs={recipe.schedule.epochs} are legal"
            )
    for section, name in (("models", recipe.model.name), ("methods", recipe.method.name)):
        named(PROJECT / "ifl" / section, name, f"{section[:-1]}.name", ".py")
    check_method(recipe)
    if recipe.ifl:
        values["ifl"]["milestones"] = epochs_of("ifl.milestones", recipe.ifl.milestones, recipe.schedule.epochs)
        if recipe.ifl.center_init == "class_means" and values["ifl"]["milestones"][:1] in ([], [0]):
            raise RecipeError(
                f"ifl.center_init=class_means needs an epoch before the first of ifl.milestones={recipe.ifl.milestones}"
            )
    if recipe.schedule.decay == "steps":
        values["schedule"]["drops"] = epochs_of(
            "schedule.drops", recipe.schedule.drops, recipe.schedule.epochs, apart=False
        )
    if (
        recipe.batch.replacement is None
    ):  # the reference's weighted streams are drawn with replacement, all but the class-aware one
        values["batch"]["replacement"] = recipe.preset == "paper" and (
            recipe.ifl is not None or "class_inverse" in recipe.stream_names
        )
    values["method"]["args"] = method_args(recipe)
    check_streams(recipe)
    return Recipe.model_validate(values)


# --------------------------------------------------------------------------------------------------------------- files
def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `recipe=THIS/FILE` repeats the run."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def load_resolved(path: Path) -> Recipe:
    """The recipe of a run folder."""
    try:
        return Recipe.model_validate(load_yaml(path))
    except ValidationError as error:
        raise RecipeError(f"{path}: {sentence(error, {})}") from None
