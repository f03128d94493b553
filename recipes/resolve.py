"""From the words of a command to a resolved recipe, in which every value is written out.

Merge order (later wins): schema < data/NAME.yaml < presets/PRESET.yaml < site file (`slurm.` alone) < recipe < the recipe's
`on:` block < command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from recipes.schema import PROJECT, Recipe, RecipeError
from recipes.words import nearest
from recipes.yaml_text import read_yaml

RECIPES = PROJECT / "recipes"


# ---------------------------------------------------------------------------------------------------- words and files
def parse_words(words: Iterable[str]) -> dict[str, Any]:
    """`a.b=1 c=x` -> {"a": {"b": 1}, "c": "x"}; values are read as YAML, and of a key given twice the last one
    counts. `data=NAME` means `data.name=NAME`."""
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key or any(not part for part in key.split(".")):
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
    """The recipe that a command means. `site` holds values of the `slurm.` section, `site_name` names it in messages.

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

    data, train, preset = chosen("data", "name", "imagenet_glt"), chosen("train", None, "glt"), chosen("preset", None, "paper")
    if set(Recipe.model_fields) <= set(recipe):  # a run's, written out: another data set's or preset's values would not come in
        for key, value, own in (("data", data, recipe["data"]["name"]), ("preset", preset, recipe["preset"])):
            if value != own:
                raise RecipeError(f"{key}={value} cannot change {recipe_file}, which is written out for {key}={own}: start from recipe=NAME instead")
        _refuse_half_changes(command, recipe, recipe_file)
    specific = recipe.pop("on", None) or {}
    _check_blocks(specific, recipe_file)
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in (
        (f"recipes/data/{data}.yaml", load_yaml(named(RECIPES / "data", data, "data"))),
        (f"recipes/presets/{preset}.yaml", load_yaml(named(RECIPES / "presets", preset, "preset"))),
        (site_name, {"slurm": site} if site else {}),
        (str(recipe_file if is_path else recipe_file.relative_to(PROJECT)), recipe),
        (f"on: {data}", specific.get(data, {})),
        (f"on: {data}/{train}", specific.get(f"{data}/{train}", {})),
        ("the command line", command),
    ):
        if isinstance(layer.get("data"), str):
            layer = {**layer, "data": {"name": layer["data"]}}
        merge(tree, layer, origins, origin)
    if not _is_on(recipe, specific, data, train, command):
        tree["ifl"] = None
    for folder in ("runs", "data.root"):
        _absolute(tree, folder)
    try:
        result = Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(" ".join(_sentence(error, origins).split())) from None
    return _written_out(result)


def _refuse_half_changes(command: dict[str, Any], recipe: dict[str, Any], recipe_file: Path) -> None:
    """In a written-out recipe some values follow from others; changing one alone would leave the other as it was."""
    changed = command.get("ifl", {})
    if "epochs" in command.get("schedule", {}) and recipe["ifl"] and "milestones" not in (changed or {}):
        raise RecipeError(f"schedule.epochs alone cannot change {recipe_file}, whose ifl.milestones are written out: give both, or start from recipe=NAME")
    if "ifl" in command and bool(recipe["ifl"]) != (changed is not None) and "replacement" not in command.get("batch", {}):
        raise RecipeError(f"ifl cannot be switched in {recipe_file}, whose batch.replacement is written out: give both, or start from recipe=NAME")


def _check_blocks(specific: Any, recipe_file: Path) -> None:
    """`on:` holds blocks by data set, or by data set and edition; a block holds sections and moves no axis."""
    if not isinstance(specific, dict):
        raise RecipeError(f"{recipe_file}: `on:` must hold blocks such as digits_glt or digits_glt/cbl")
    for block, values in specific.items():
        name, _, edition = str(block).partition("/")
        named(RECIPES / "data", name, "on")
        axes = {"train", "preset", "recipe", "on"} & set(values) if isinstance(values, dict) else {str(values)}
        if isinstance(values, dict) and ("name" in values["data"] if isinstance(values.get("data"), dict) else "data" in values):
            axes.add("data")
        if edition not in ("", "glt", "cbl") or axes:
            raise RecipeError(f"{recipe_file}: block {block} of `on:` must be named NAME, NAME/glt or NAME/cbl and hold sections, not {', '.join(sorted(axes)) or edition}")


def _is_on(recipe: dict, specific: dict, data: str, train: str, command: dict) -> bool:
    """IFL is on if the last of the recipe, its `on:` blocks and the command that speaks of `ifl` does not say null.
    A data set or preset may hold values for the block, and never switches it."""
    on = False
    for layer in (recipe, specific.get(data, {}), specific.get(f"{data}/{train}", {}), command):
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
            raise RecipeError(f"runs={tree[key]} holds % or \\, which SLURM replaces in the names of logs: another folder is legal")
        tree[key] = str(Path(tree[key]).expanduser().resolve())


def _written_out(recipe: Recipe) -> Recipe:
    """Fill in what depends on other fields, and check what spans sections. Null asks for the preset's choice."""
    values = recipe.model_dump()
    values["runs"], values["data"]["root"] = str(recipe.run_folder.parent), str(recipe.data_root)  # a job runs from a copy of the project
    for section, choices in load_yaml(named(RECIPES / "presets", recipe.preset, "preset")).items():
        for key, choice in choices.items() if isinstance(choices, dict) and values[section] else ():
            if values[section][key] is None:
                values[section][key] = choice
    if recipe.ifl:
        epochs = [_epoch(m, recipe.schedule.epochs) for m in recipe.ifl.milestones]
        if epochs != sorted(set(epochs)) or (epochs and epochs[-1] >= recipe.schedule.epochs):
            raise RecipeError(f"ifl.milestones={recipe.ifl.milestones} are the epochs {epochs} of schedule.epochs={recipe.schedule.epochs}: they must differ and lie before the last")
        values["ifl"]["milestones"] = epochs
    if recipe.log.keep is not None:
        values["log"]["keep"] = kept = [_epoch(m, recipe.schedule.epochs) for m in recipe.log.keep]
        if any(not 0 <= epoch < recipe.schedule.epochs for epoch in kept):
            raise RecipeError(f"log.keep={recipe.log.keep} are the epochs {kept}: whole epochs from 0 to {recipe.schedule.epochs - 1} or fractions of schedule.epochs={recipe.schedule.epochs} are legal")
    if recipe.batch.replacement is None:
        values["batch"]["replacement"] = recipe.preset == "paper" and recipe.ifl is not None
    _check_streams(recipe)
    for section, name in (("models", recipe.model.name), ("methods", recipe.method.name)):
        named(PROJECT / "ifl" / section, name, f"{section[:-1]}.name", ".py")
    return Recipe.model_validate(values)


def _check_streams(recipe: Recipe) -> None:
    """A batch and its groups must divide among the environments."""
    batch, streams = recipe.batch, recipe.streams
    if batch.bn_by == "env":
        if not batch.bn or batch.size % (streams * batch.bn):
            raise RecipeError(f"batch.size={batch.size} with batch.bn_by=env is no multiple of {streams} environments x batch.bn={batch.bn}")
    elif (batch.bn or batch.size) % streams:
        key = f"batch.bn={batch.bn}" if batch.bn else f"batch.size={batch.size}"
        raise RecipeError(f"{key} is no multiple of the {streams} environments; for 3 environments batch.size=258 batch.bn=129 is legal")


def _epoch(milestone: float, epochs: int) -> int:
    """A fraction of the epochs, or (from 1 on) an epoch itself."""
    return int(milestone) if milestone >= 1 else int(milestone * epochs + 1e-9)


# ------------------------------------------------------------------------------------------------------------- errors
def _sentence(error: ValidationError, origins: dict[str, str]) -> str:
    """pydantic's first complaint as one sentence with the key, its origin and the nearest legal word."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    dotted = ".".join(parts)
    origin = next((origins[key] for key in (".".join(parts[:n]) for n in range(len(parts), 0, -1)) if key in origins), "the schema")
    if first["type"] == "extra_forbidden":
        section = ".".join(parts[:-1])
        if dotted == "slurm.setup":
            return f"slurm.setup ({origin}) is not legal: shell lines stand in the site file alone, under `setup:` in slurm/site.yaml or in the file that GLT_SITE names"
        legal = [f"{section}.{key}".lstrip(".") for key in _section(parts[:-1]).model_fields]
        elsewhere = [leaf for leaf in _leaves(Recipe) if leaf.rpartition(".")[2] == parts[-1]]  # the right word without its section
        hint = f"did you mean {elsewhere[0]}? legal: {', '.join(legal)}" if elsewhere else nearest(dotted, legal)
        return f"unknown key {dotted} ({origin}): {hint}"
    if first["type"] == "literal_error":
        field = _section(parts[:-1]).model_fields.get(parts[-1])
        legal = [value for value in _literals(field.annotation)] if field else []
        return f"{dotted}={first['input']} ({origin}) is not legal: {nearest(first['input'], legal)}"
    if first["type"] == "model_type":
        section = _section(parts)
        off = ", or null to switch it off" if parts == ["ifl"] else ""
        return f"{dotted}={first['input']} ({origin}) is not legal: {dotted} is a section, such as {dotted}.{next(iter(section.model_fields))}=...{off}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{dotted}={first['input']} ({origin}): {message}" if first["type"] != "value_error" or not isinstance(first["input"], dict | BaseModel) else f"{message} ({origin})"


def _leaves(section: type[BaseModel], path: str = "") -> list[str]:
    """All keys with their dots."""
    leaves = []
    for key, field in section.model_fields.items():
        inner = next((kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        leaves += _leaves(inner, f"{path}{key}.") if inner else [f"{path}{key}"]
    return leaves


def _section(parts: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = Recipe
    for part in parts:
        annotation = section.model_fields[part].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel))
    return section


def _literals(annotation: Any) -> list[Any]:
    values: list[Any] = []
    for argument in get_args(annotation):
        values += _literals(argument) if get_args(argument) else ([] if argument is type(None) else [argument])
    return values


# --------------------------------------------------------------------------------------------------------------- files
def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; `recipe=THIS/FILE` repeats the run."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def load_resolved(path: Path) -> Recipe:
    """The recipe of a run folder."""
    try:
        return Recipe.model_validate(load_yaml(path))
    except ValidationError as error:
        raise RecipeError(f"{path}: {_sentence(error, {})}") from None
