"""The layers of values that a recipe is made of, from the data set's file to the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from pydantic import ValidationError

from recipes.backbones.facts import SMALL_PIXELS, Facts, facts_of, library_of
from recipes.common import search_path
from recipes.common.addresses import PIPE, is_remote, path_fault
from recipes.common.cli import nearest, split_word
from recipes.common.errors import RecipeError
from recipes.dataset_values import FILE, FILE_ALONE, KINDS, SMALL, Described, described, is_name, sets_in
from recipes.declarations import PRESETS, declaration
from recipes.folders import make_absolute
from recipes.identity import science_keys, section_in
from recipes.noted import Noted
from recipes.sbatch.options import spelled
from recipes.schema import PROJECT, Model, Recipe
from recipes.values import as_typed, kinds
from recipes.yaml_io import load_yaml, read_texts


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
    holds = kinds(annotation_of(key))
    if not text.strip():
        null = f", and so is {key}=null" if NoneType in holds else ""
        raise RecipeError(
            f"{key}={text and repr(text)} has no value, as where a shell's variable is not set: {key}=VALUE is "
            f"legal{null}"
        )
    if text == "null":
        return None
    if text[0] not in "[{" or not any(kind in (list, tuple, dict) or section_in(kind) for kind in holds):
        return text
    try:
        return read_texts(text)
    except (ValueError, yaml.YAMLError):
        raise RecipeError(
            f"{key}={text} is not legal: lists and mappings are written [0.5, 0.8] and {{key: value}}"
        ) from None


def annotation_of(dotted: str) -> Any:
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
EDITIONS = ("glt", "cbl")
RESERVED = (*PRESETS, *EDITIONS, *KINDS)
"""What no data set may be called: in `on:` these words mean something else."""


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
    return RecipeFile(path, search_path.shown(path), {**load_yaml(path), "recipe": name})


def find_recipe(name: Any, key: str) -> Path:
    """Return the file of the recipe that was typed for `key`.

    Raises:
        RecipeError: there is none of that name.
    """
    return search_path.named(search_path.RECIPES, name, key)


def preset_values(name: Any) -> dict[str, Any]:
    """Read what a preset sets, nested as the recipe's sections are.

    Raises:
        RecipeError: there is no such preset, or its file cannot be read.
    """
    return load_yaml(search_path.named(search_path.PRESETS, name, "preset"))


def preset_origin(name: Any) -> str:
    """Name a preset in sentences for the user."""
    return f"recipes/presets/{name}.yaml"


@dataclass(frozen=True)
class Axes:
    """The values that select which files and `on:` blocks are merged; not checked yet, so of any kind."""

    data: Any
    train: Any
    preset: Any

    def blocks(self, kind: str | None) -> tuple[Any, ...]:
        """Name the `on:` blocks that count for a data set of a kind, the later ones over the earlier."""
        return self.preset, self.train, *([SMALL] if kind == SMALL else []), self.data, f"{self.data}/{self.train}"


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

    Another data set's, edition's or preset's values would not come in, and some values follow from others: changing
    only one would leave the other as it was.

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
        ("train", axes.train, recipe["train"]),
        ("preset", axes.preset, recipe["preset"]),
    ):
        if value != own:
            raise RecipeError(
                f"{key}={value} cannot change {path}, which is written out for {key}={own}: start from recipe=NAME "
                "instead"
            )
    wanted = overlaid([Layer(file.origin, recipe), Layer(COMMAND, command)])
    for key, follows in _written_from(recipe, wanted).items():
        for other in follows:
            if _is_changed(command, recipe, key) and value_at(command, other, _ABSENT) is _ABSENT:
                raise RecipeError(
                    f"{key} alone cannot change {path}, whose {other} is written out: give both, or start from "
                    "recipe=NAME"
                )
    own, now = (_is_weighted(values) for values in (recipe, wanted))
    if axes.preset == "paper" and own != now and value_at(command, "batch.replacement", _ABSENT) is _ABSENT:
        key = "method.name" if (recipe["ifl"] is None) == (wanted["ifl"] is None) else "ifl"
        raise RecipeError(
            f"{key} alone cannot change {path}, whose batch.replacement is written out: give both, or start from "
            "recipe=NAME"
        )


def _is_weighted(values: Mapping[str, Any]) -> bool:
    """Say whether values of a recipe have streams that the paper preset draws with replacement."""
    return values["ifl"] is not None or "class_inverse" in declaration(str(value_at(values, "method.name"))).STREAMS


def _written_from(recipe: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the keys of a written-out recipe from which others follow, and for each those that do so.

    Args:
        recipe: its values.
        wanted: those with the command's over them.
    """
    steps = {value_at(values, "schedule.decay") for values in (recipe, wanted)} == {"steps"}
    by_epochs = {
        "ifl.milestones": recipe["ifl"] and wanted["ifl"],
        "schedule.drops": steps and value_at(recipe, "schedule.by") == "epoch" and value_at(recipe, "schedule.drops"),
        "log.keep": value_at(recipe, "log.keep"),
    }
    # A first stage has the same seed, network and data; one that was named with another seed stays what it is.
    own = f"-{recipe['data']['name']}-{recipe['train']}-s{recipe['seed']}-"
    sources = [key for key in ("method.init_from", "method.eval_of") if own in str(value_at(recipe, key))]
    shared = [key for key in science_keys(Recipe) if key.startswith(("model.", "data."))]
    is_said = any(library_of(value_at(values, "model.name")) for values in (recipe, wanted))
    pixels = [f"data.{key}" for key in ("image_size", "test_resize", "mean", "std")]
    of_network = pixels if is_said and not _is_small(value_at(recipe, "data.image_size")) else []
    return {
        "schedule.epochs": [key for key, follows in by_epochs.items() if follows],
        **dict.fromkeys(["seed", "batch.budget", "optim.precision", *shared], sources),
        "model.name": [*sources, *of_network],
    }


_ABSENT = object()


def value_at(values: Any, dotted: str, absent: Any = None) -> Any:
    """Return the value of a dotted key in nested values, or what stands for none."""
    for part in dotted.split("."):
        values = values.get(part, absent) if isinstance(values, Mapping) else absent
    return values


def _is_changed(command: Mapping[str, Any], recipe: Mapping[str, Any], key: str) -> bool:
    """Say whether a command gives a key another value than a written-out recipe; of what is not legal it says no."""
    given = value_at(command, key)
    try:
        return given is not None and as_typed(given, annotation_of(key)) != value_at(recipe, key)
    except ValueError:
        return False  # the schema says why


def blocks_of(file: RecipeFile, sets: Sequence[str] | None) -> dict[Any, Any]:
    """Return the recipe's `on:` blocks: by preset, edition, kind of data set, data set, or data set and edition.

    Args:
        file: the recipe.
        sets: the data sets that there are; None where nobody knows, so that any name is legal.

    Raises:
        RecipeError: a block has another name, or holds an axis beside its sections.
    """
    blocks = file.values.get("on") or {}
    if not isinstance(blocks, dict):
        raise RecipeError(f"{file.path}: `on:` must hold blocks such as corrected, digits_glt or digits_glt/cbl")
    others = [*search_path.files(search_path.PRESETS), *EDITIONS, SMALL]
    for block, values in blocks.items():
        name, _, edition = str(block).partition("/")
        if sets is not None and name not in (*others, *sets):
            raise RecipeError(f"{file.path}: on={name} does not exist; {nearest(name, sorted({*others, *sets}))}")
        axes = _axes_in(values)
        if edition not in (("",) if name in others else ("", *EDITIONS)) or axes:
            raise RecipeError(
                f"{file.path}: block {block} of `on:` must be named PRESET, glt, cbl, {SMALL}, NAME, NAME/glt or "
                f"NAME/cbl and hold sections, not {', '.join(sorted(axes)) or edition}"
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
COMMAND = "the command line"
"""The origin of what was typed."""


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


class SiteValues(Mapping[str, Any]):
    """What a site file says of runs: values of the `slurm.` section, and `data` and `runs`.

    As a mapping it holds what is true of every run.

    Attributes:
        layers: where that comes from, the weakest first.
        blocks: `data/NAME` or `recipe/NAME` -> what holds for runs on that data set or of that recipe alone.
    """

    def __init__(self, layers: Sequence[Layer], blocks: Mapping[str, Sequence[Layer]] | None = None) -> None:
        self.layers, self.blocks = layers, blocks or {}
        self._values = overlaid(layers)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def of_run(self, recipe: Any, data: Any) -> list[Layer]:
        """Return the layers that hold for a recipe on a data set, the weakest first."""
        names = blocks_of_run(recipe, data)
        return [*self.layers, *(layer for name in names for layer in self.blocks.get(name, ()))]


def blocks_of_run(recipe: Any, data: Any) -> tuple[str, str]:
    """Name the blocks of a site file's `for:` that hold for a run, the later over the earlier."""
    return f"data/{data}", f"recipe/{recipe}"


def overlaid(layers: Sequence[Layer]) -> dict[str, Any]:
    """Return what layers say together: of each key the last one counts, and mappings are laid over each other."""
    values: dict[str, Any] = {}
    for layer in layers:
        _merge(values, layer.values, {}, layer.origin)
    return values


def site_layers(site: Mapping[str, Any], name: str, recipe: Any, data: Any) -> list[Layer]:
    """Return a site file's layers for a run, nested as a recipe's sections are.

    Args:
        site: values of the `slurm.` section, and `data` and `runs`, perhaps as `SiteValues`.
        name: names the file in sentences, where `site` does not.
        recipe: the run's recipe.
        data: its data set.
    """
    found = site.of_run(recipe, data) if isinstance(site, SiteValues) else [Layer(name, site)] if site else []
    own = ("data", "runs")
    return [
        Layer(
            layer.origin,
            {
                "slurm": {key: value for key, value in layer.values.items() if key not in own},
                **{key: layer.values[key] for key in own if key in layer.values},
            },
        )
        for layer in found
    ]


@dataclass(frozen=True)
class Data:
    """What is known of the data set that a recipe is for.

    Attributes:
        said: what it says of itself.
        file: what its file in recipes/data holds, its values and `FILE_ALONE`; None where there is no such file.
        path: that file, for sentences.
        sets: the data sets that there are; None where nobody knows.
    """

    said: Described
    file: Mapping[str, Any] | None
    path: str
    sets: Sequence[str] | None

    @property
    def kind(self) -> str | None:
        """The kind that the file says, else the data set itself.

        Raises:
            RecipeError: the file says none that is legal.
        """
        kind: Any = (self.file or {}).get("kind", self.said.kind)
        if kind not in (*KINDS, None):
            raise RecipeError(f"{self.path}: kind={kind} is not legal: {nearest(kind, KINDS)}")
        return None if kind is None else str(kind)

    @property
    def layers(self) -> list[Layer]:
        """The values of both, the data set's own first."""
        file = {key: value for key, value in (self.file or {}).items() if key not in FILE_ALONE}
        return [Layer(self.said.origin, self.said.values or {}), Layer(self.path, file)]


def data_of(
    command: Mapping[str, Any], file: RecipeFile, axes: Axes, site: Sequence[Layer], said: Described | None = None
) -> Data:
    """Find out what is known of the data set: in its dataset.json, in the data root that the layers name, and its file.

    Args:
        command: the values of the command.
        file: the recipe.
        axes: which data set, edition and preset it is.
        site: the layers of the site file.
        said: what a run noted of its data set, so that no data root is looked at.

    Raises:
        RecipeError: there is neither, or one of them is not legal.
    """
    files = search_path.files(search_path.DATA)
    own = files.get(axes.data) if isinstance(axes.data, str) else None
    values, path = (load_yaml(own), search_path.shown(own)) if own else (None, "")
    if said is not None or file.is_written_out:  # which says every value
        return Data(said or Described(), values, path, None)
    blocks = file.values.get("on")
    named = [blocks.get(block) for block in axes.blocks(None)] if isinstance(blocks, dict) else []
    root = _root_in([values, preset_values(axes.preset), overlaid(site), file.values, *named, command])
    sets = sorted({*files, *([] if is_remote(root) else sets_in(root))})
    return Data(_looked_up(axes.data, root, own is not None, sets), values, path, sets)


def noted(name: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's meta.json notes of its data set's values, so that they are known where the data are not.

    They are those of its dataset.json (`meta`) and, where the user's folders have one, of its data file, which wins;
    nothing where neither is there.
    """
    own = search_path.find_own(search_path.DATA, name)
    data = Data(Described("", meta.get("values"), meta.get("kind")), load_yaml(own) if own else None, str(own), None)
    values: dict[str, Any] = {}
    for layer in data.layers:
        _merge(values, layer.values, {}, layer.origin)
    return {"data_values": values, "data_kind": data.kind} if own or data.said.values is not None else {}


def _root_in(layers: Sequence[Any]) -> str:
    """Return the data root that the last of some layers' values names, else the default."""
    for values in reversed(layers):
        data = values.get("data") if isinstance(values, Mapping) else None
        if isinstance(data, dict) and "root" in data:
            make_absolute(tree := {"data": {"root": data["root"]}})
            root = tree["data"]["root"]
            return root if isinstance(root, str) else str(PROJECT / "data")
    return str(PROJECT / "data")


def _looked_up(name: Any, root: str, has_file: bool, sets: Sequence[str]) -> Described:
    """Return what the data set `root/name` says of itself; without a file in recipes/data it must say its values."""
    wanted = f"{search_path.DATA}/{name}.yaml{' in the project or in GLT_PATH' if search_path.folders() else ''}"
    if name in RESERVED:
        raise RecipeError(f"data={name} is not legal: blocks of `on:` mean something else by {name}")
    absent = f"data={name} does not exist; {nearest(name, sets)}"
    if is_remote(root):
        if has_file:
            return Described()
        raise RecipeError(
            f"{absent}; {wanted} is not there, and the dataset.json of a data root that is an address "
            f"({PIPE if root.startswith(PIPE) else root}) is not read before a run: a copy of its `values` in such a "
            "file is legal"
        )
    found = described(root, name) if is_name(name) else None
    if has_file or (found and found.values is not None):
        return found or Described()
    if found:
        raise RecipeError(
            f"data={name}: {found.origin} holds no `values` for recipes, and {wanted} is not there: one of the two "
            "must say them"
        )
    raise RecipeError(f"{absent}; neither {Path(root) / str(name) / FILE} nor {wanted} is there")


def layers_of(
    command: Mapping[str, Any], file: RecipeFile, axes: Axes, site: Sequence[Layer], data: Data
) -> list[Layer]:
    """List all layers, the weakest first.

    Raises:
        RecipeError: the preset does not exist, or an `on:` block is not legal.
    """
    blocks = blocks_of(file, None if data.sets is None else [*data.sets, axes.data])
    own = {key: value for key, value in file.values.items() if key != "on"}
    if file.is_written_out and isinstance(section := own["data"], dict):  # what it left open the site file says
        left_open = {key for key in overlaid(site).get("data", {}) if section.get(key) is None}
        own["data"] = {key: value for key, value in section.items() if key not in left_open}
    return [
        *data.layers,
        Layer(preset_origin(axes.preset), preset_values(axes.preset)),
        *site,
        Layer(file.origin, own, switches_ifl=True),
        *(Layer(f"on: {block}", blocks.get(block, {}), switches_ifl=True) for block in axes.blocks(data.kind)),
        Layer(COMMAND, command, switches_ifl=True),
    ]


def with_network(layers: Sequence[Layer], data: Data) -> tuple[list[Layer], Facts | None]:
    """Add what a network of timm or torchvision says of itself: its image size, and its mean and std of pixels.

    It is the weakest layer for small images, where the data set's own values win, and otherwise stands above the data
    set's two. A network from a file of ifl/models says nothing.

    Args:
        layers: all others, the data set's two first.
        data: what is known of the data set.

    Returns:
        All layers, and what the library said; None where there is nothing to ask.

    Raises:
        RecipeError: there is no such network, or `model.args` are not its own.
    """
    model = overlaid(layers).get("model")
    if not isinstance(model, dict) or not library_of(model.get("name")):
        return list(layers), None
    try:
        checked = Model.model_validate({"name": model["name"], "args": model.get("args") or {}})
    except ValidationError:
        return list(layers), None  # the schema says what is wrong with them
    facts = facts_of(checked.name, checked.args)
    said = overlaid(data.layers).get("data", {})
    place = 0 if _is_small(value_at(said, "image_size")) else len(data.layers)
    own = Layer(network_origin(checked.name, facts), facts.values)
    return [*layers[:place], own, *layers[place:]], facts


def _is_small(size: Any) -> bool:
    """Say whether a data set's own image size, mean and std win over a network's."""
    return str(size).isdecimal() and int(size) <= SMALL_PIXELS


def network_origin(name: str, facts: Facts) -> str:
    """Name a library's configuration of a network, for sentences."""
    library, _, own = name.partition(":")
    return f"the configuration of {own} in {library} {facts.version}"


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
        slurm = values.get("slurm")
        if isinstance(slurm, dict) and isinstance(slurm.get("options"), dict):
            values["slurm"] = {**slurm, "options": spelled(slurm["options"])}
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
