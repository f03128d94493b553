"""The site file: what is true of a cluster and of no recipe, written once.

`slurm/site.yaml`, or the file that the environment variable GLT_SITE names (empty: none). It holds values of the
recipe's `slurm.` section, `setup:`, shell lines that the batch script runs before the ranks start, `data:`, where data
lie and what nodes keep of them, `runs:`, and further keys, such as `container:` or `look:`. slurm/site.example.yaml
shows all.

Under `clusters:` the same keys stand once more for each cluster, of which `site=NAME` or `default:` chooses one, and
under `for:` for a data set, a recipe, evaluators, builds or a stage of them. The file's own values are below the
cluster's, and these below those of `for:`; what is special comes last.

Only this file may hold shell: a recipe comes from others too, and must not be able to run any. Local runs do not use
`setup`. `recipe=RUN_FOLDER` repeats a run with the `slurm.` values and the data root that are written out in its
recipe; from this file come `setup` and what the run left open under `data:`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from recipes.common import search_path
from recipes.common.addresses import COMMAND, PIPE, is_remote
from recipes.common.cli import nearest
from recipes.common.errors import RecipeError
from recipes.dataset_values import sets_in
from recipes.layers import Layer, SiteValues, blocks_of_run, merged, overlaid
from recipes.messages import sentence
from recipes.sbatch.options import OF_ALL_VERSIONS, OF_SOME_VERSIONS, OWN, SHORT, checked_value, refused, shown
from recipes.schema import PROJECT, Recipe, Slurm
from recipes.yaml_io import load_yaml
from sharding.building.request import stage_names
from slurm.after_run.settings import archive_of, notify_of
from slurm.nodes import site_limits
from slurm.starting.container import read_container
from slurm.starting.interpreter import read_python

DATA = ("root", "cache_folder", "cache_gb")
"""Keys of the data section that are true of a cluster."""
READERS: Mapping[str, Callable[[object, Path], Any]] = {
    "notify": notify_of,
    "archive": archive_of,
    "container": read_container,
    "python": read_python,
    "look": site_limits.read,
}
"""Keys of the file that are neither the recipe's nor shell: each with what turns its value into `Site.own[KEY]`.

A reader gets the value and the file's path, and raises a RecipeError that names both. Where the file, its cluster and
its `for:` blocks give several mappings, the value is these laid over each other; null takes a key away.
"""
OF_ALL = ("runs", "notify", "archive")
"""Keys that do not stand in `for:`, since runs that are launched together share them."""
FOR = ("data/NAME", "recipe/NAME", "evaluator", "build", "build/STAGE")
"""What `for:` blocks are for."""
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Site:
    """What a site file says: `slurm`, with `data` and `runs` in it, is checked with the recipe that it is merged into.

    `setup` and `own` are those of every run; `for_run` and `for_build` tell those of one.

    Attributes:
        path: the file; None where there is none.
        slurm: values of the recipe's section, and `data` and `runs`.
        setup: shell lines of the batch script.
        own: values of further keys, each as its reader returns it.
        cluster: the one that was chosen.
        clusters: all that the file names.
        layers: the file's own values and the cluster's, as they stand there.
        blocks: those of `for:`.
    """

    path: Path | None = None
    slurm: Mapping[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)
    cluster: str | None = None
    clusters: tuple[str, ...] = ()
    layers: Sequence[Layer] = field(default=(), compare=False)
    blocks: Mapping[str, Sequence[Layer]] = field(default_factory=dict, compare=False)

    @property
    def pipe(self) -> str | None:
        """The one command by which data may come (`data: root: pipe:COMMAND`)."""
        root = self.slurm.get("data", {}).get("root")
        return root.removeprefix(PIPE) if isinstance(root, str) and root.startswith(PIPE) else None

    @property
    def runs(self) -> Path | None:
        """The folder of run folders; None where the file says none."""
        runs = self.slurm.get("runs")
        return Path(runs) if runs else None

    def for_run(self, recipe: Recipe) -> Site:
        """Return what holds for a run."""
        return self._with(*blocks_of_run(recipe.recipe, recipe.data.name))

    def for_evaluator(self, recipe: Recipe) -> Site:
        """Return what holds for a run's evaluator (`log.eval=job`)."""
        return self._with(*blocks_of_run(recipe.recipe, recipe.data.name), "evaluator")

    def asked_of_evaluator(self, slurm: Slurm) -> Slurm:
        """Return what an evaluator's job asks for: this, and what the file says for evaluators over it.

        Raises:
            RecipeError: a value is not legal.
        """
        from recipes.resolve import resolve

        blocks = [_of_runs(layer) for layer in self.blocks.get("evaluator", ())]
        if not blocks:
            return slurm
        values = overlaid([Layer("the run", slurm.model_dump()), *blocks])
        asked = {key: value for key, value in values.items() if key in Slurm.model_fields}
        return resolve(["recipe=glt_baseline"], asked, blocks[-1].origin).slurm

    def for_build(self, stage: str | None = None) -> Site:
        """Return what holds for a build, or for a stage of one."""
        return self._with("build", *([f"build/{stage}"] if stage else []))

    def named(self, recipes: Iterable[Recipe]) -> str:
        """Name the file, and what of it holds for some runs beside what holds for all."""
        chosen = [f"clusters.{self.cluster}"] if self.cluster else []
        blocks = dict.fromkeys(name for recipe in recipes for name in blocks_of_run(recipe.recipe, recipe.data.name))
        chosen += [f"for.{name}" for name in blocks if name in self.blocks]
        return ", ".join([str(self.path or "none"), *chosen])

    def unmet(self, recipes: Collection[Recipe]) -> list[str]:
        """Say which blocks of `for:` name neither a recipe nor a data set that is here, for that may be a slip."""
        known = {
            "recipe": {*search_path.files(search_path.RECIPES), *(recipe.recipe for recipe in recipes)},
            "data": {*search_path.files(search_path.DATA), *(recipe.data.name for recipe in recipes)},
        }
        for root in {recipe.data_root for recipe in recipes}:
            known["data"] |= set() if is_remote(root) else set(sets_in(root))
        asked = (name.partition("/")[::2] for name in self.blocks if "/" in name and not name.startswith("build"))
        return [
            f"{self.path}: for.{kind}/{name} holds for nothing that is here; {nearest(name, sorted(known[kind]))}"
            for kind, name in asked
            if name not in known[kind]
        ]

    def _with(self, *names: str) -> Site:
        """Return the file with some blocks of `for:` laid over it, and no others."""
        more = [layer for name in names for layer in self.blocks.get(name, ())]
        if self.path is None or not self.blocks:
            return self
        return _site(self.path, [*self.layers, *more], {}, self.cluster, self.clusters)

    def refuse_no_cluster(self) -> None:
        """Refuse a job where the file describes several clusters and nothing chose one.

        Raises:
            RecipeError: it is so.
        """
        if self.clusters and self.cluster is None:
            raise RecipeError(
                f"site= is missing: {self.path} describes the clusters {', '.join(self.clusters)}, and no `default:` "
                f"says which; site={self.clusters[0]} is legal"
            )


def place() -> Path:
    """Return where this machine's site file is, or would be."""
    chosen = os.environ.get("GLT_SITE")
    return (PROJECT / "slurm" / "site.yaml" if chosen is None else Path(chosen)).expanduser().absolute()


def load(cluster: str | None = None) -> Site:
    """Read this machine's site file; an empty one where there is none.

    Args:
        cluster: the one that a command chooses; None: the file's default.

    Raises:
        RecipeError: one sentence that names the file and what is wrong with it.
    """
    chosen, path = os.environ.get("GLT_SITE"), place()
    if chosen == "" or (chosen is None and not path.exists()):
        if cluster is not None:
            raise RecipeError(f"site={cluster} is not legal: there is no site file, which would describe clusters")
        return Site()
    if not path.exists():
        raise RecipeError(f"GLT_SITE={chosen} names a file that does not exist")
    values = _values(path)
    described, usual = _mapping(str(path), values, "clusters"), values.pop("default", None)
    name = _chosen(path, cluster, usual, described)
    whole = _part(values, str(path))
    parts = {one: _part(part, f"{path}, clusters.{one}") for one, part in described.items()}
    for part in (_Part(Layer("", {}), {}), *parts.values()):  # those that are not chosen are checked, too
        layers, blocks = _together([whole, part])
        for more in ((), *blocks.values()):
            _read_own(path, overlaid([*layers, *more]))
    layers, blocks = _together([whole, *([parts[name]] if name else [])])
    return _site(path, layers, blocks, name, tuple(described))


def _values(path: Path) -> dict[str, Any]:
    """Read the file; it may hold nothing but comments."""
    if path.is_file() and all(line.lstrip()[:1] in (b"", b"#") for line in path.read_bytes().splitlines()):
        return {}
    values = load_yaml(path)
    if "slurm" in values:
        raise RecipeError(
            f"{path}: leave out `slurm:`, the file holds the values of that section without its name, such as "
            "`partition: gpu`"
        )
    return values


def _chosen(path: Path, cluster: str | None, usual: Any, described: Mapping[str, Any]) -> str | None:
    """Return the cluster that a command or the file chooses; None where neither does."""
    for name in described:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise RecipeError(f"{path}: clusters.{name} is not legal: a name has letters, digits and _ . - only")
    for key, chosen in (("site", cluster), ("default", usual)):
        if chosen is not None and chosen not in list(described):
            known = nearest(chosen, described) if described else "the file has no `clusters:`"
            raise RecipeError(f"{key}={chosen} is not legal ({path}): {known}")
    return cluster or usual


def _mapping(where: str, values: dict[str, Any], key: str) -> dict[str, Any]:
    """Take a mapping of mappings out of the file.

    Raises:
        RecipeError: it is none; the sentence quotes no value, for `notify:` may stand there by a slip.
    """
    found = {} if values.get(key) is None else values[key]
    values.pop(key, None)
    named = {f"{key}.{name}": value for name, value in found.items()} if isinstance(found, dict) else {key: found}
    if wrong := next((name for name, value in named.items() if not isinstance(value, dict)), None):
        of_each = "for each name " if wrong == key else ""
        raise RecipeError(f"{where}: {wrong} is not legal: it holds {of_each}a mapping of keys, such as {{time: 60}}")
    return found


class _Part(NamedTuple):
    """The file without its clusters, or a cluster.

    Attributes:
        own: what holds for all.
        blocks: those of `for:`.
    """

    own: Layer
    blocks: dict[str, Layer]


def _together(parts: Sequence[_Part]) -> tuple[list[Layer], dict[str, list[Layer]]]:
    """Return the layers of several parts, and those of each of their blocks; the weakest first."""
    names = dict.fromkeys(name for part in parts for name in part.blocks)
    blocks = {name: [part.blocks[name] for part in parts if name in part.blocks] for name in names}
    return [part.own for part in parts], blocks


def _part(part: Mapping[str, Any], origin: str) -> _Part:
    """Read the keys of the file or of a cluster, and its blocks of `for:`.

    Raises:
        RecipeError: a key, a block or a value is not legal; what a key of several layers holds is read in `_read_own`.
    """
    values = dict(part)
    blocks = _mapping(origin, values, "for")
    for name in blocks:
        kind, slash, rest = str(name).partition("/")
        alone = kind == "evaluator" or (kind == "build" and not slash)
        if kind not in ("data", "recipe", "evaluator", "build") or bool(rest) == alone or (alone and slash):
            raise RecipeError(f"{origin}: for.{name} is not legal: {nearest(name, FOR)}")
        if kind == "build" and rest and rest not in (stages := stage_names()):
            raise RecipeError(f"{origin}: for.{name} is not legal: {nearest(name, [f'build/{one}' for one in stages])}")
    for where, held in (("", values), *((f"for.{name}.", block) for name, block in blocks.items())):
        legal_keys = (*Slurm.model_fields, "setup", "data", "runs", *READERS)
        if wrong := [key for key in held if key not in legal_keys]:
            raise RecipeError(f"{origin}: {where}{wrong[0]} is not legal: {nearest(wrong[0], legal_keys)}")
        if where and (wrong := [key for key in OF_ALL if key in held]):
            raise RecipeError(
                f"{origin}: {where}{wrong[0]} is not legal: {wrong[0]} holds for all runs of a folder, so it stands in "
                "the file or in one of its clusters"
            )
        _check_data(held, f"{origin}: {where}")
        _check_setup(held, f"{origin}: {where}")
    layers = {name: Layer(f"{origin}, for.{name}", block) for name, block in blocks.items()}
    for layer in (own := Layer(origin, values), *layers.values()):
        _check_asked(layer)
    return _Part(own, layers)


def _check_asked(layer: Layer) -> None:
    """Refuse values of the recipe's section; whether they go together is checked with the recipe."""
    asked = {key: value for key, value in layer.values.items() if key in Slurm.model_fields and value is not None}
    tree, origins = merged([Layer(layer.origin, {"slurm": asked})])
    try:
        _Asked.model_validate({"slurm": tree["slurm"]})
    except ValidationError as error:
        if any(len(one["loc"]) > 1 for one in error.errors()):
            raise RecipeError(sentence(error, origins)) from None


class _Asked(BaseModel):
    """What of a recipe a site file may say."""

    slurm: Slurm


def _check_data(held: Mapping[str, Any], where: str) -> None:
    data = held.get("data", {})
    if not isinstance(data, dict):
        raise RecipeError(f"{where}data={data!r} is not legal: {', '.join(DATA)} are its keys")
    if wrong := [key for key in data if key not in DATA]:
        raise RecipeError(f"{where}data.{wrong[0]} is not legal: {nearest(str(wrong[0]), DATA)}")
    root = data.get("root")
    if isinstance(root, str) and root.startswith(PIPE) and "{path}" not in root:
        raise RecipeError(
            f"{where}data.root={root} is a command without {{path}}, which stands for the file that it is to print"
        )


def _check_setup(held: Mapping[str, Any], where: str) -> None:
    setup = held.get("setup") or []
    if not isinstance(setup, list) or not all(isinstance(line, str) and not {*"\n\0"} & {*line} for line in setup):
        raise RecipeError(f"{where}setup={setup!r} is not a list of shell lines (quote a line that holds `: ` or ` #`)")
    if hidden := next((line for line in setup if line.lstrip().startswith("#SBATCH")), None):
        raise RecipeError(
            f"{where}setup: {hidden!r} would mean nothing, for sbatch reads no such line behind the first command; "
            f"{_instead(hidden)}"
        )


def _instead(line: str) -> str:
    """Say how the site file asks for what a line of a batch file asks for."""
    try:
        words = shlex.split(line.strip().removeprefix("#SBATCH"), comments=True)
    except ValueError:  # a quote without its end
        words = []
    found: list[tuple[str, str]] = []
    for word in words:
        if asked := re.fullmatch(r"--([A-Za-z][\w-]*)(?:=(.*))?|-([A-Za-z])=?(.*)", word):
            found.append((asked[1] or SHORT.get(asked[3], asked[3]), asked[2] or asked[4] or ""))
        elif found and not found[-1][1]:
            found[-1] = found[-1][0], word
    said = [_instead_of(name, value) for name, value in found]
    return "; ".join(said) or "`options:` holds sbatch's options by their long names"


def _instead_of(name: str, value: str) -> str:
    """Say how the site file asks for one option of sbatch; what is advised is legal as it is written."""
    if name in OWN:
        text = value.rpartition("@")[2] if name == "signal" else value
        try:
            Slurm.model_validate({OWN[name]: text})
        except ValidationError:
            return f"`{OWN[name]}` is the key of --{name}"
        return f"`{OWN[name]}: {text}` says it"
    if reason := refused(name):
        return f"--{name} is not to be set: {reason}"
    if name not in (known := [*OF_ALL_VERSIONS.split(), *OF_SOME_VERSIONS.split()]):
        return f"sbatch has no option --{name}: {nearest(name, known)}"
    try:
        checked_value(value or True)
    except ValueError as error:
        return f"`options:` holds --{name}, but not with this value: {error}"
    return f"`options: {shown({name: value or True})}` says it"


def _folder(runs: Any, origin: str) -> str:
    """Return the folder of run folders, with the variables of this shell in it replaced.

    Raises:
        RecipeError: it is no whole name of a folder.
    """
    if not isinstance(runs, str) or not runs.strip():
        raise RecipeError(f"{origin}: runs={runs!r} is not legal: a folder is")
    path = os.path.expanduser(os.path.expandvars(runs))
    if "$" in path or not os.path.isabs(path):
        raise RecipeError(
            f"{origin}: runs={runs} is not legal: a whole folder name is, from / or ~ on, with variables that this "
            "shell has"
        )
    return path


def _site(
    path: Path,
    layers: Sequence[Layer],
    blocks: Mapping[str, Sequence[Layer]],
    cluster: str | None,
    clusters: tuple[str, ...],
) -> Site:
    """Return what layers say together."""
    values = overlaid(layers)
    own = _read_own(path, values)
    setup = (*(values.get("setup") or ()), *site_limits.exported(own.get("look")))
    slurm = SiteValues([_of_runs(layer) for layer in layers], {key: [*map(_of_runs, blocks[key])] for key in blocks})
    site = Site(path, slurm, setup, own, cluster, clusters, layers, blocks)
    if site.pipe is None:
        return site
    return replace(site, setup=(*setup, f"export {COMMAND}={shlex.quote(site.pipe)}"))


def _read_own(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of further keys as their readers do.

    Raises:
        RecipeError: one is not legal.
    """
    given = {key: values[key] for key in READERS if values.get(key) is not None}
    return {key: READERS[key](_without_nulls(value), path) for key, value in given.items()}


def _without_nulls(value: Any) -> Any:
    """Return a mapping without the keys that a null takes away; another value as it is."""
    return {key: held for key, held in value.items() if held is not None} if isinstance(value, dict) else value


def _of_runs(layer: Layer) -> Layer:
    """Return what of a layer is the recipe's to merge; a cluster that is not this one may have other variables."""
    values = {key: value for key, value in layer.values.items() if key not in ("setup", *READERS)}
    return Layer(layer.origin, values | ({"runs": _folder(values["runs"], layer.origin)} if "runs" in values else {}))
