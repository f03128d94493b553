"""From the words of a command to a resolved recipe, in which every value is written out.

Merge order (later wins): schema < data/NAME.yaml < presets/PRESET.yaml < site file (`slurm.` alone) < recipe < the recipe's
`on:` blocks (PRESET < NAME < NAME/EDITION) < command line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from recipes.methods import declaration, model_forms
from recipes.schema import PROJECT, Recipe, RecipeError, TooManyTasks
from recipes.words import PIPE, is_afar, nearest
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
        raise RecipeError(" ".join(_sentence(error, origins).split())) from None
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
        values["log"]["keep"] = kept = [_epoch(m, recipe.schedule.epochs) for m in recipe.log.keep]
        if any(not 0 <= epoch < recipe.schedule.epochs for epoch in kept):
            raise RecipeError(
                f"log.keep={recipe.log.keep} are the epochs {kept}: whole epochs from 0 to {recipe.schedule.epochs - 1} or fractions of schedule.epochs={recipe.schedule.epochs} are legal"
            )
    for section, name in (("models", recipe.model.name), ("methods", recipe.method.name)):
        named(PROJECT / "ifl" / section, name, f"{section[:-1]}.name", ".py")
    _check_method(recipe)
    if recipe.ifl:
        values["ifl"]["milestones"] = _epochs("ifl.milestones", recipe.ifl.milestones, recipe.schedule.epochs)
        if recipe.ifl.center_init == "class_means" and values["ifl"]["milestones"][:1] in ([], [0]):
            raise RecipeError(
                f"ifl.center_init=class_means needs an epoch before the first of ifl.milestones={recipe.ifl.milestones}"
            )
    if recipe.schedule.decay == "steps":
        values["schedule"]["drops"] = _epochs(
            "schedule.drops", recipe.schedule.drops, recipe.schedule.epochs, apart=False
        )
    if (
        recipe.batch.replacement is None
    ):  # the reference's weighted streams are drawn with replacement, all but the class-aware one
        values["batch"]["replacement"] = recipe.preset == "paper" and (
            recipe.ifl is not None or "class_inverse" in recipe.stream_names
        )
    values["method"]["args"] = _method_args(recipe)
    _check_streams(recipe)
    return Recipe.model_validate(values)


def _epochs(key: str, milestones: list[int | float], epochs: int, apart: bool = True) -> list[int]:
    """Fractions of the epochs as epochs; in a short run several may fall on one, unless they must stay `apart`."""
    found = [_epoch(m, epochs) for m in milestones]
    if found != sorted(set(found) if apart else found) or (found and found[-1] >= epochs):
        raise RecipeError(
            f"{key}={milestones} are the epochs {found} of schedule.epochs={epochs}: they must {'differ' if apart else 'rise'} and lie before the last"
        )
    return found


def _method_args(recipe: Recipe) -> dict[str, Any]:
    """All arguments of the method, written out: the recipe's, and its file's defaults for the rest."""
    name, usual = recipe.method.name, declaration(recipe.method.name).args(recipe.preset)
    for key, value in recipe.method.args.items():
        if key not in usual:
            raise RecipeError(
                f"unknown key method.args.{key}: {nearest(key, list(usual)) if usual else f'the method {name} has no arguments'}"
            )
        wanted = type(usual[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise RecipeError(
                f"method.args.{key}={value} is not legal: {name} takes a {wanted.__name__} there, such as {usual[key]}"
            )
    return {key: type(default)(recipe.method.args.get(key, default)) for key, default in usual.items()}


def _check_method(recipe: Recipe) -> None:
    """What a method refuses or needs, with its reason; and a second stage needs a first."""
    method, declared = recipe.method, declaration(recipe.method.name)
    if declared.FORM not in model_forms(recipe.model.name):
        raise RecipeError(
            f"the method {method.name} needs a network of {declared.FORM}, and model.name={recipe.model.name} comes as {', '.join(model_forms(recipe.model.name))}"
        )
    for key, on in (
        ("ifl", recipe.ifl),
        ("mixup", recipe.augment.mixup),
        ("legacy_count_order", method.legacy_count_order),
    ):
        if on and key in declared.REFUSES:
            raise RecipeError(f"the method {method.name} cannot be combined with {key}: {declared.REFUSES[key]}")
    if method.legacy_count_order and not declared.COUNTS:
        raise RecipeError(
            f"method.legacy_count_order=true would change nothing in the method {method.name}, which reads no class counts: leave it out"
        )
    if "environments" in declared.NEEDS and not (recipe.ifl and recipe.ifl.environments > 1):
        raise RecipeError(
            f"the method {method.name} needs ifl.environments=2 or more: {declared.NEEDS['environments']}"
        )
    groups = recipe.batch.size // recipe.batch.bn if recipe.batch.bn else 1
    if "whole_groups" in declared.NEEDS and recipe.tasks > groups:
        raise TooManyTasks(
            f"the method {method.name} cannot share a batch-normalisation group among ranks: {declared.NEEDS['whole_groups']}; at most {groups} tasks are legal here"
        )
    if recipe.augment.mixup and not recipe.batch.bn:
        raise RecipeError(
            "mixup forms pairs inside a batch-normalisation group, so that a step is the same on any number of ranks, and batch.bn=0 leaves none"
        )
    if (
        recipe.augment.mixup
        and recipe.tasks > groups
        and (recipe.tasks % groups or recipe.mixup_blocks % (recipe.tasks // groups))
    ):
        legal = [ranks for ranks in range(1, groups) if groups % ranks == 0] + [
            groups * sharing for sharing in range(1, recipe.mixup_blocks + 1) if recipe.mixup_blocks % sharing == 0
        ]
        raise TooManyTasks(
            f"mixup draws partners inside blocks, {recipe.mixup_blocks} in each of the {groups} batch-normalisation groups, which {recipe.tasks} tasks cannot share whole: {', '.join(map(str, legal))} tasks are legal here"
        )
    if recipe.augment.mixup and recipe.ifl and recipe.batch.bn_by == "env":
        raise RecipeError(
            "mixup forms pairs across environments inside a batch-normalisation group, and batch.bn_by=env leaves one environment to a group: batch.bn_by=mix is legal"
        )
    if declared.FORM == "branches" and recipe.batch.bn_by == "env":
        raise RecipeError(
            f"the method {method.name} pairs rows of its two streams, and batch.bn_by=env leaves one stream to a group: batch.bn_by=mix is legal"
        )
    if declared.TRAINS == "head" and not method.init_from:
        raise RecipeError(
            f"the method {method.name} trains the classifier alone: method.init_from must name the recipe of its first stage, such as glt_baseline"
        )
    if method.init_from and method.eval_of:
        raise RecipeError(
            "method.init_from and method.eval_of exclude each other: the one is trained further, the other judged as it is"
        )
    if method.eval_of:
        for key, on, trained in (
            ("ifl", recipe.ifl, "glt_ifl"),
            ("augment.mixup", recipe.augment.mixup, "glt_mixup"),
            ("augment.randaug", recipe.augment.randaug, "glt_randaug"),
        ):
            if on:
                raise RecipeError(
                    f"{key} cannot be combined with method.eval_of={method.eval_of}: nothing is trained; name {trained} in method.eval_of instead"
                )
    if recipe.ifl and "uniform" not in declared.STREAMS:
        raise RecipeError(
            f"the method {method.name} cannot be combined with ifl: it draws no uniform stream that environments could replace; give ifl to its first stage"
        )


def _check_streams(recipe: Recipe) -> None:
    """A batch and its groups must divide among the environments."""
    batch, streams = recipe.batch, recipe.streams
    if batch.bn_by == "env":
        if not batch.bn or batch.size % (streams * batch.bn):
            raise RecipeError(
                f"batch.size={batch.size} with batch.bn_by=env is no multiple of {streams} environments x batch.bn={batch.bn}"
            )
    elif (batch.bn or batch.size) % streams:
        key = f"batch.bn={batch.bn}" if batch.bn else f"batch.size={batch.size}"
        raise RecipeError(
            f"{key} is no multiple of the {streams} environments; for 3 environments batch.size=258 batch.bn=129 is legal"
        )


def _epoch(milestone: float, epochs: int) -> int:
    """A fraction of the epochs, or (from 1 on) an epoch itself."""
    return int(milestone) if milestone >= 1 else int(milestone * epochs + 1e-9)


# ------------------------------------------------------------------------------------------------------------- errors
def _sentence(error: ValidationError, origins: dict[str, str]) -> str:
    """pydantic's first complaint as one sentence with the key, its origin and the nearest legal word."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"]]
    dotted = ".".join(parts)
    origin = next(
        (origins[key] for key in (".".join(parts[:n]) for n in range(len(parts), 0, -1)) if key in origins),
        "the schema",
    )
    if first["type"] == "extra_forbidden":
        section = ".".join(parts[:-1])
        if dotted == "slurm.setup":
            return f"slurm.setup ({origin}) is not legal: shell lines stand in the site file alone, under `setup:` in slurm/site.yaml or in the file that GLT_SITE names"
        legal = [f"{section}.{key}".lstrip(".") for key in _section(parts[:-1]).model_fields]
        elsewhere = [
            leaf for leaf in _leaves(Recipe) if leaf.rpartition(".")[2] == parts[-1]
        ]  # the right word without its section
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
    return (
        f"{dotted}={first['input']} ({origin}): {message}"
        if first["type"] != "value_error" or not isinstance(first["input"], dict | BaseModel)
        else f"{message} ({origin})"
    )


def _leaves(section: type[BaseModel], path: str = "") -> list[str]:
    """All keys with their dots."""
    leaves = []
    for key, field in section.model_fields.items():
        inner = next(
            (
                kind
                for kind in (field.annotation, *get_args(field.annotation))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ),
            None,
        )
        leaves += _leaves(inner, f"{path}{key}.") if inner else [f"{path}{key}"]
    return leaves


def _section(parts: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = Recipe
    for part in parts:
        annotation = section.model_fields[part].annotation
        section = next(
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
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
