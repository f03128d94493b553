"""The layers of values that a recipe is made of, from the data set's file to the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes.common.addresses import path_fault
from recipes.common.cli import nearest, split_word
from recipes.common.errors import RecipeError
from recipes.dataset_values import Described
from recipes.identity import section_in
from recipes.noted import Noted
from recipes.schema import PROJECT, Recipe
from recipes.values import kinds
from recipes.yaml_io import load_yaml, named, read_texts

RECIPES = PROJECT / "recipes"


# ---------------------------------------------------------------------------------------------------------- the words
def parse_words(words: Iterable[str]) -> dict[str, Any]:
    """Read `a.b=1 c=x` as {"a": {"b": 1}, "c": "x"}.

    A value is the whole word as typed, which the key's field reads. `null`, and lists and mappings where the field
    holds such, are YAML. Of a key given twice the last one counts. `data=NAME` means `data.name=NAME`.

    Raises:
        RecipeError: a word is not of the form key=value, has no value, or is no list or mapping where it must be one.
    """
    tree: dict[str, Any] = {}
    for word in words:
        key, text = split_word(word)
        if "=" not in word or not all(key.split(".")):
            raise RecipeError(f"{word!r} is not of the form key=value, such as seed=1 or optim.lr=0.2")
        value = _value(key, text)
        _merge(tree, _nest("data.name" if key == "data" and isinstance(value, str) else key, value), {}, "")
    return tree


def _value(key: str, text: str) -> Any:
    if not text:
        raise RecipeError(
            f"{key}= has no value, as where a shell's variable is not set: {key}=VALUE is legal, or {key}=null where "
            "the key may be left open"
        )
    if text == "null":
        return None
    holds = kinds(_annotation(key))
    if text[0] not in "[{" or not any(kind in (list, tuple, dict) or section_in(kind) for kind in holds):
        return text
    try:
        return read_texts(text)
    except (ValueError, yaml.YAMLError):
        raise RecipeError(
            f"{key}={text} is not legal: lists and mappings are written [0.5, 0.8] and {{key: value}}"
        ) from None


def _annotation(dotted: str) -> Any:
    """Return the type of the field that a key names; None where the schema has none."""
    kind: Any = Recipe
    for part in dotted.split("."):
        section = section_in(kind)
        kind = section.model_fields[part].annotation if section and part in section.model_fields else None
    return kind


def _nest(dotted: str, value: Any) -> dict[str, Any]:
    *sections, key = dotted.split(".")
    tree = {key: value}
    for section in reversed(sections):
        tree = {section: tree}
    return tree


# ----------------------------------------------------------------------------------------------------- the recipe file
@dataclass(frozen=True)
class RecipeFile:
    """A recipe as its file says it.

    Attributes:
        path: the file.
        origin: its name in sentences for the user.
        values: its values, nested as the recipe's sections are, `on:` among them.
    """

    path: Path
    origin: str
    values: dict[str, Any]

    @property
    def is_written_out(self) -> bool:
        """Whether it is the recipe of a run, which says every value."""
        return set(Recipe.model_fields) <= set(self.values)


def recipe_file(name: Any, said: Described | None = None) -> RecipeFile:
    """Read the recipe that `recipe=` names: a file of recipes/, a path, or a run folder, which means its recipe.

    A recipe that a run noted (`said`) is that one.

    Raises:
        RecipeError: there is no such recipe, or its file cannot be read.
    """
    if fault := path_fault(name):
        raise RecipeError(f"recipe={name} is not legal: {fault}")
    if isinstance(name, str) and os.path.isdir(name):  # Path's own raises for a name that is too long
        name = f"{name.rstrip('/')}/recipe.yaml"
    if isinstance(name, str) and ("/" in name or name.endswith((".yaml", ".yml"))):
        path = Path(name)
        return RecipeFile(path, str(path), {"recipe": path.stem, **load_yaml(path)})
    if isinstance(said, Noted) and isinstance(name, str) and name in said.recipes:
        return RecipeFile(Path(f"{name}.yaml"), f"the run's {name}.yaml", {**said.recipes[name], "recipe": name})
    path = find_recipe(name, "recipe")
    return RecipeFile(path, str(path.relative_to(PROJECT)), {**load_yaml(path), "recipe": name})


def find_recipe(name: Any, key: str) -> Path:
    """Return the file of the recipe that was typed for `key`.

    Raises:
        RecipeError: there is none of that name.
    """
    return named(RECIPES, name, key)


def preset_values(name: Any) -> dict[str, Any]:
    """Read what a preset sets, nested as the recipe's sections are.

    Raises:
        RecipeError: there is no such preset, or its file cannot be read.
    """
    return load_yaml(named(RECIPES / "presets", name, "preset"))


@dataclass(frozen=True)
class Axes:
    """The values that select which files and `on:` blocks are merged; not checked yet, so of any kind."""

    data: Any
    train: Any
    preset: Any

    @property
    def blocks(self) -> tuple[Any, ...]:
        """The names of the `on:` blocks that count, the later ones over the earlier."""
        return self.preset, self.data, f"{self.data}/{self.train}"


def axes_of(command: Mapping[str, Any], values: Mapping[str, Any]) -> Axes:
    """Look the axes up before anything is merged: the command's, else the recipe file's, else the defaults."""

    def chosen(section: str, key: str, default: str) -> Any:
        for layer in (command, values):
            value = layer.get(section)
            if key and isinstance(value, dict):
                value = value.get(key)
            if value is not None and not isinstance(value, dict):
                return value
        return default

    return Axes(chosen("data", "name", "imagenet_glt"), chosen("train", "", "glt"), chosen("preset", "", "paper"))


def refuse_changes(command: Mapping[str, Any], file: RecipeFile, axes: Axes) -> None:
    """Refuse what cannot be changed in a written-out recipe.

    Another data set's or preset's values would not come in, and some values follow from others: changing only one
    would leave the other as it was.

    Raises:
        RecipeError: the command changes such a value, or the file does not say its data set's values.
    """
    recipe, path = file.values, file.path
    if not isinstance(recipe["data"], dict) or "name" not in recipe["data"]:
        raise RecipeError(
            f"{path}: data={recipe['data']!r} is not legal: a recipe that is written out tells its data set's name "
            "and values"
        )
    for key, value, own in (
        ("data", axes.data, recipe["data"]["name"]),
        ("preset", axes.preset, recipe["preset"]),
    ):
        if value != own:
            raise RecipeError(
                f"{key}={value} cannot change {path}, which is written out for {key}={own}: start from recipe=NAME "
                "instead"
            )
    changed, schedule, batch = (command.get(section, {}) for section in ("ifl", "schedule", "batch"))
    if "epochs" in (schedule or {}) and recipe["ifl"] and "milestones" not in (changed or {}):
        raise RecipeError(
            f"schedule.epochs alone cannot change {path}, whose ifl.milestones are written out: give both, or start "
            "from recipe=NAME"
        )
    is_switched = "ifl" in command and bool(recipe["ifl"]) != (changed is not None)
    if is_switched and "replacement" not in (batch or {}):
        raise RecipeError(
            f"ifl cannot be switched in {path}, whose batch.replacement is written out: give both, or start from "
            "recipe=NAME"
        )


def blocks_of(file: RecipeFile) -> dict[Any, Any]:
    """Return the recipe's `on:` blocks: by preset, by data set, or by data set and edition.

    Raises:
        RecipeError: a block has another name, or holds an axis beside its sections.
    """
    blocks = file.values.get("on") or {}
    if not isinstance(blocks, dict):
        raise RecipeError(f"{file.path}: `on:` must hold blocks such as corrected, digits_glt or digits_glt/cbl")
    presets, sets = ([path.stem for path in (RECIPES / folder).glob("*.yaml")] for folder in ("presets", "data"))
    for block, values in blocks.items():
        name, _, edition = str(block).partition("/")
        if name not in presets + sets:
            raise RecipeError(f"on={name} does not exist; {nearest(name, sorted(presets + sets))}")
        axes = _axes_in(values)
        if edition not in (("", "glt", "cbl") if name in sets else ("",)) or axes:
            raise RecipeError(
                f"{file.path}: block {block} of `on:` must be named PRESET, NAME, NAME/glt or NAME/cbl and hold "
                f"sections, not {', '.join(sorted(axes)) or edition}"
            )
    return blocks


def _axes_in(block: Any) -> set[str]:
    """List what a block of `on:` holds and must not hold; a block that is not a mapping is listed as a whole."""
    if not isinstance(block, dict):
        return {str(block)}
    data = block.get("data")
    names_data = "name" in data if isinstance(data, dict) else "data" in block
    return ({"train", "preset", "recipe", "on"} & set(block)) | ({"data"} if names_data else set())


# ----------------------------------------------------------------------------------------------------------- the layers
@dataclass(frozen=True)
class Layer:
    """Values of one origin, nested as the recipe's sections are; later layers win.

    Attributes:
        origin: the name of a file, block or command in sentences for the user.
        values: what it sets.
        switches_ifl: whether it says if IFL is on. The files of data sets and presets may hold values for the block,
            and never switch it.
    """

    origin: str
    values: Mapping[str, Any]
    switches_ifl: bool = False


def layers_of(
    command: Mapping[str, Any], file: RecipeFile, axes: Axes, site: Layer, said: Described | None = None
) -> list[Layer]:
    """List all layers, the weakest first; `said` is what a run noted of its data set.

    Raises:
        RecipeError: the data set or preset does not exist, or an `on:` block is not legal.
    """
    blocks = blocks_of(file)
    own = {key: value for key, value in file.values.items() if key != "on"}
    if file.is_written_out and isinstance(data := own["data"], dict):  # what it left open is the site file's to say
        left_open = {key for key in site.values.get("data", {}) if data.get(key) is None}
        own["data"] = {key: value for key, value in data.items() if key not in left_open}
    return [
        *_data_layers(axes.data, said),
        Layer(f"recipes/presets/{axes.preset}.yaml", preset_values(axes.preset)),
        site,
        Layer(file.origin, own, switches_ifl=True),
        *(Layer(f"on: {block}", blocks.get(block, {}), switches_ifl=True) for block in axes.blocks),
        Layer("the command line", command, switches_ifl=True),
    ]


def _data_layers(name: Any, said: Described | None) -> list[Layer]:
    """Return the data set's own values and those of its file, which it needs where it has no own ones."""
    own = [Layer(said.origin, said.values)] if said is not None and said.values is not None else []
    if own and not (RECIPES / "data" / f"{name}.yaml").is_file():
        return own
    return [*own, Layer(f"recipes/data/{name}.yaml", load_yaml(named(RECIPES / "data", name, "data")))]


def noted(name: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's meta.json notes of its data set's values, so that they are known where the data are not."""
    return {"data_values": meta["values"], "data_kind": meta.get("kind")} if "values" in meta else {}


def merged(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Lay the layers over each other.

    IFL is on if the last layer that may switch it and speaks of `ifl` does not say null.

    Returns:
        The values as one tree, and for each dotted key the origin of the layer that set it last.
    """
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        values = dict(layer.values)
        if isinstance(values.get("data"), str):
            values["data"] = {"name": values["data"]}
        _merge(tree, values, origins, layer.origin)
    switches = [layer.values["ifl"] for layer in layers if layer.switches_ifl and "ifl" in layer.values]
    if not switches or switches[-1] is None:
        tree["ifl"] = None
    return tree, origins


def _merge(
    base: dict[str, Any], values: Mapping[str, Any], origins: dict[str, str], origin: str, path: str = ""
) -> None:
    """Lay `values` over `base` in place, noting in `origins` which layer set each dotted key last."""
    for key, value in values.items():
        dotted = f"{path}{key}"
        if isinstance(value, dict):
            if not isinstance(base.get(key), dict):
                base[key] = {}
            _merge(base[key], value, origins, origin, f"{dotted}.")
        else:
            base[key] = value
        origins[dotted] = origin
