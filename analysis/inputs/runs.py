"""Run folders as training leaves them, read without ever trusting that a run ended well."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from ifl.metrics import GROUPS, ScoredPredictions
from recipes.common.cli import take_words
from recipes.common.errors import RecipeError, one_line
from recipes.common.json_text import parse_json, whole_lines
from recipes.folders import DIGESTS, is_run_name
from recipes.identity import departures, science_values
from recipes.noted import NOTHING, Noted, noted_in
from recipes.resolve import as_it_ran, resolve, source_of
from recipes.schema import Recipe
from recipes.table_layout import known_data
from recipes.yaml_io import load_yaml

ARRAYS = ("label", "prediction", "group", "attribute")
"""What predictions must hold."""

MORE_ARRAYS = ("id", "source", "confidence")
"""What they hold besides, which runs of an early date may lack."""

GROUPINGS = ("thirds", "shots")
"""By what `groups=` groups classes: by thirds of the classes; by training images, more than 100, 20 to 100, fewer."""

DEEPEST = 100
"""Levels of a recipe.yaml; there are four."""
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast


class ClassFacts(NamedTuple):
    """What meta.json says of a class: its name, its group (0 many, 1 medium, 2 few), and its training images."""

    name: str
    group: int
    images: int


@dataclass(frozen=True)
class Run:
    """What one run folder says about itself; predictions and metric lines are read on demand."""

    path: Path
    recipe: str
    data: str
    train: str
    seed: int
    preset: str
    budget: str
    hash: str
    fingerprint: str
    commit: str
    finished: bool
    classes: tuple[ClassFacts, ...] = ()
    """In the order of labels; empty where meta.json lacks them."""
    code: tuple[tuple[str, str], ...] = ()
    """Digests of the method's and model's code, by `method` and `model`; empty where meta.json lacks them."""
    splits: frozenset[tuple[str, str]] = frozenset()
    """The (edition, split) that its data set has; empty where meta.json lacks them."""
    grouping: str = ""
    """By what its classes are grouped (`groups=` of the command), where that is not its data set's own way."""
    noted: Noted = field(default=NOTHING, compare=False)
    """Values that its recipe took from outside of the project."""
    grid: str = field(default="", compare=False)
    """The `grid=` of the command that launched it; empty where it had none."""

    @property
    def name(self) -> str:
        return self.path.name

    def has(self, edition: str, split: str) -> bool:
        """Say whether its data set has a split; where meta.json does not say, it counts as there."""
        return not self.splits or (edition, split) in self.splits

    @cached_property
    def builds_on(self) -> str:
        """The name of the run whose weights this one starts from or judges; empty where it needs none."""
        method = self.stored("recipe.yaml").get("method")
        named = [method.get(key) for key in ("init_from", "eval_of")] if isinstance(method, Mapping) else []
        return next((name for name in named if isinstance(name, str)), "")

    @cached_property
    def has_ifl(self) -> bool:
        """Whether it, or the run that it builds on, trains with IFL; of one that is not beside it its recipe tells."""
        own = is_ifl(self.stored("recipe.yaml").get("ifl"))
        if own or not self.builds_on:
            return own
        try:
            return load_run(self.path.parent / self.builds_on).has_ifl
        except ValueError:
            first = self.builds_on.partition("-")[0]  # a recipe's name has no dash, a run's has
        words = (f"recipe={first}", f"data={self.data}", f"train={self.train}", f"preset={self.preset}")
        try:
            return is_ifl(_current_recipe(words, self.noted.text).model_dump()["ifl"])
        except (RecipeError, ValidationError):
            return False

    @property
    def has_attributes(self) -> bool:
        """Whether its images have attributes: a data set without has no Test-GBL."""
        return not self.splits or any(split == "test_gbl" for _, split in self.splits)

    def lacks_classes(self, subset: str) -> bool:
        """Say whether a subset is a class group that none of its classes is in."""
        return subset in GROUPS and bool(self.classes) and GROUPS.index(subset) not in {c.group for c in self.classes}

    def is_of(self, words: Sequence[str], values: Mapping[str, Any]) -> bool:
        """Say whether it is a run of a recipe with some values of its own.

        Args:
            words: the command that launches such a run.
            values: those of its own, which decide where the recipe cannot be resolved here.
        """
        hash8 = self._hash_of(words)
        if hash8:
            return self.hash == hash8
        own = dict(self._science)
        return all(own.get(key) == value for key, value in values.items())

    def is_current(self, words: Sequence[str]) -> bool:
        """Say whether it is a run of what a command means today; no where that cannot be resolved here."""
        return self.hash == self._hash_of(words)

    def builds_on_that_of(self, words: Sequence[str]) -> bool:
        """Say whether it builds on the same run, of its own seed, as a run that a command launches.

        No where that command cannot be resolved here.
        """
        try:
            other = source_of(self._now(words))
        except (RecipeError, ValidationError):
            return False
        return self.builds_on == other

    def has_files_of(self, words: Sequence[str]) -> bool:
        """Say whether its files, by their digests, are those of a run that a command launches.

        No where that command cannot be resolved here.
        """
        try:
            other = science_values(_current_recipe(tuple(words), self.noted.text))
        except (RecipeError, ValidationError):
            return False
        return all(self.values.get(digest) == other[digest] for digest in DIGESTS.values())

    def _hash_of(self, words: Sequence[str]) -> str:
        try:
            return self._now(words).hash8
        except (RecipeError, ValidationError):
            return ""

    def _now(self, words: Sequence[str]) -> Recipe:
        """Resolve what a command means today, of the run's seed and with what the run notes.

        Raises:
            RecipeError: it cannot be resolved here.
        """
        recipe = _current_recipe(tuple(words), self.noted.text)
        if source_of(recipe) is None:
            return recipe.model_copy(update={"seed": self.seed})
        return _current_recipe((*words, f"seed={self.seed}"), self.noted.text)  # for it builds on a run of that seed

    @property
    def values(self) -> dict[str, Any]:
        """Its science values by their dotted keys, alike for all seeds of a recipe; none where they cannot be read."""
        own = f"-{self.data}-{self.train}-s{self.seed}-"  # in the name of the run that it builds on
        return {key: value.replace(own, "-", 1) if isinstance(value, str) else value for key, value in self._science}

    @cached_property
    def _science(self) -> tuple[tuple[str, Any], ...]:
        try:
            return tuple(science_values(as_it_ran(load_yaml(self.path / "recipe.yaml"))).items())
        except (RecipeError, ValidationError):
            return ()

    def scored_predictions(self, select: str, split: str) -> ScoredPredictions:
        """Read the stored predictions, ready to be scored.

        Raises:
            ValueError: as `predictions`; or a value in them is not possible.
        """
        return scored_predictions(self.predictions(select, split))

    def ended(self) -> str:
        """Say how an unfinished run last ended, as `log/events.jsonl` and `metrics.jsonl` tell.

        Returns:
            Such as `in epoch 3: failed, rank 1: RuntimeError: ...`; only the epoch where it may still be running, empty
            where the files say nothing.
        """
        lines, _ = self.metrics()
        said = [f"in epoch {max(line['epoch'] for line in lines)}"] if lines else []
        event: dict[str, Any] = next(
            (event for event in reversed(self.events()) if event.get("event") not in ("new", "start", "submitted")), {}
        )
        kind = event.get("verdict", event.get("event"))
        if event.get("event") == "failed":
            said.append(f"failed, rank {event.get('rank', '?')}: {' '.join(str(event.get('error', '')).split())}")
        elif kind:
            said.append(str(kind))
        return one_line(": ".join(said))

    def events(self) -> list[dict[str, Any]]:
        """Read the whole lines of `log/events.jsonl`, oldest first; none where it cannot be read."""
        return self._lines("events.jsonl")

    def energy_lines(self) -> list[dict[str, Any]]:
        """Read what `log/energy.jsonl` recorded of energy; none where it is not there."""
        return self._lines("energy.jsonl")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            return list(whole_lines((self.path / "log" / name).read_bytes()))
        except OSError:
            return []

    def stored(self, name: str) -> Mapping[str, Any]:
        """Read `recipe.yaml`, `meta.json` or `done` as it stands; empty where it cannot be read."""
        try:
            return _mapping(self.path / name, _yaml if name.endswith(".yaml") else parse_json)
        except ValueError:
            return {}

    def has_predictions(self, select: str, split: str) -> bool:
        """Say whether it keeps its predictions of a split, readable or not."""
        return (self.path / "preds" / select / f"{split}.npz").exists()

    def predictions(self, select: str, split: str) -> dict[str, NDArray[Any]]:
        """Read the arrays of `preds/<select>/<split>.npz`, each [M].

        Returns:
            `label, prediction, group, attribute`, and where they are stored `id, source, confidence`.

        Raises:
            ValueError: the file is missing, cannot be read or lacks an array.
        """
        file = self.path / "preds" / select / f"{split}.npz"
        where = file.relative_to(self.path)
        arrays = arrays_of(file, str(where), (*ARRAYS, *MORE_ARRAYS))
        lacking = [key for key in ARRAYS if key not in arrays]
        if lacking:
            raise ValueError(f"{where} lacks {', '.join(lacking)}; needed are {', '.join(ARRAYS)}")
        if self.grouping:
            groups = np.array([known.group for known in self.classes], np.int64)
            if not ((arrays["label"] >= 0) & (arrays["label"] < len(groups))).all():
                raise ValueError(f"{where} has labels that are no classes of meta.json")
            arrays["group"] = groups[arrays["label"]]
        return arrays

    def departures(self) -> list[str]:
        """List the science values in which the run differs from its recipe as the project has it now.

        Returns:
            Such as `schedule.epochs=5 (24)`; none where either cannot be read in full.
        """
        return list(self._departures)

    @cached_property  # a run may be in several tables
    def _departures(self) -> tuple[str, ...]:
        try:
            stored = load_yaml(self.path / "recipe.yaml")
            if not set(Recipe.model_fields) <= set(stored):
                return ()
            axes = f"recipe={self.recipe}", f"data={self.data}", f"train={self.train}", f"preset={self.preset}"
            return tuple(departures(as_it_ran(stored), self._now((*axes, f"batch.budget={self.budget}"))))
        except (RecipeError, ValidationError):
            return ()

    def metrics(self) -> tuple[list[dict[str, Any]], int]:
        """Read the lines of `metrics.jsonl` in the order of steps, and count those that are unreadable.

        The last line of a (kind, step, split) wins, since a resumed run writes steps again. A torn last line is what a
        kill leaves behind, and does not count as unreadable.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return [], 0
        lines: dict[tuple[int, str, str], dict[str, Any]] = {}
        bad: list[int] = []
        text = file.read_bytes().split(b"\n")
        text = text[:-1] if text[-1] == b"" else text
        for number, line in enumerate(text):
            try:
                entry = parse_json(line)
                key = int(entry["step"]), str(entry["kind"]), str(entry.get("split", ""))
                lines[key] = {**entry, "epoch": int(entry["epoch"])}
            except (ValueError, TypeError, KeyError, OverflowError):
                bad.append(number)
        if bad and bad[-1] == len(text) - 1:
            bad.pop()
        return [lines[key] for key in sorted(lines)], len(bad)


def is_ifl(section: Any) -> bool:
    """Say whether the section `ifl` of a resolved recipe is IFL; IRM has its environments alone, and no milestone."""
    return isinstance(section, Mapping) and section.get("milestones") != []


def arrays_of(file: Path, where: str, keys: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz.

    Args:
        file: the .npz.
        where: its name for messages.
        keys: those that are wanted, of which some may not be there; None for all.

    Raises:
        ValueError: it is missing or cannot be read.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if keys is None or key in keys}
    except FileNotFoundError:
        raise ValueError(f"{where} is missing") from None
    except Exception as error:  # numpy, zipfile and the tokenizer raise some ten unrelated types for damaged bytes
        raise ValueError(f"{where} cannot be read ({type(error).__name__})") from None


def scored_predictions(arrays: Mapping[str, NDArray[Any]]) -> ScoredPredictions:
    """Make stored predictions ready to be scored.

    Args:
        arrays: those of `ARRAYS`, and `confidence` where it is stored, each [M].
    """
    return ScoredPredictions(
        label=arrays["label"],
        prediction=arrays["prediction"],
        group=arrays["group"],
        attribute=arrays["attribute"],
        confidence=arrays.get("confidence"),
    )


@cache
def _current_recipe(words: tuple[str, ...], noted: str) -> Recipe:
    """Resolve a recipe with what a run notes (`Noted.text`); runs that need the same share it.

    Raises:
        RecipeError: it cannot be resolved here.
    """
    said = Noted.read(noted)
    data = next(word.removeprefix("data=") for word in words if word.startswith("data="))
    if said.values is None and data not in known_data():
        raise RecipeError(f"nobody knows the values of data={data}")
    return resolve(words, said=said)


def load_runs(folder: Path, groups: str | None = None) -> tuple[list[Run], dict[str, str]]:
    """Read all runs directly under `folder`, but for those that `again=yes` set aside.

    Args:
        folder: that of the run folders.
        groups: as for `load_run`.

    Returns:
        The runs, sorted by name, and {folder name: why it cannot be read}.

    Raises:
        ValueError: `folder` is not a directory.
    """
    if not folder.is_dir():
        raise ValueError(f"runs={folder}: no such directory; legal is the directory that holds the run folders")
    runs: list[Run] = []
    unreadable: dict[str, str] = {}
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir() and is_run_name(entry.name)):
        try:
            runs.append(load_run(path, groups))
        except ValueError as error:
            unreadable[path.name] = str(error)
    return runs, unreadable


def load_run(path: Path, groups: str | None = None) -> Run:
    """Read the run in one folder.

    Args:
        path: the run folder.
        groups: by what classes are grouped into many, medium and few, one of `GROUPINGS`; None means its data set's
            own way.

    Raises:
        ValueError: recipe.yaml or meta.json is missing, cannot be read or lacks a value.
    """
    recipe = _mapping(path / "recipe.yaml", _yaml)
    meta = _mapping(path / "meta.json", parse_json)
    classes = _classes(meta)
    chosen = classes if groups is None else _regrouped(classes, meta, groups)
    return Run(
        path=path,
        recipe=_get(recipe, "recipe", str, "recipe.yaml"),
        data=_get(recipe, "data.name", str, "recipe.yaml"),
        train=_get(recipe, "train", str, "recipe.yaml"),
        seed=_get(recipe, "seed", int, "recipe.yaml"),
        preset=_get(recipe, "preset", str, "recipe.yaml"),
        budget=_get(recipe, "batch.budget", str, "recipe.yaml"),
        hash=_get(meta, "hash", str, "meta.json"),
        fingerprint=_get(meta, "data_fingerprint", str, "meta.json"),
        commit=_get(meta, "commit", str, "meta.json"),
        finished=(path / "done").exists(),
        classes=chosen,
        code=_code(meta),
        splits=_splits(meta),
        grouping="" if chosen == classes else groups or "",
        noted=noted_in(meta, recipe),
        grid=_grid(meta),
    )


def _classes(meta: Mapping[str, Any]) -> tuple[ClassFacts, ...]:
    """Return `Run.classes`; empty unless the three lists fit together, since no number depends on them."""
    found = [meta.get(f"class_{what}") for what in ("names", "groups", "counts")]
    lists = [part for part in found if isinstance(part, list)]
    if len(lists) < len(found) or len({len(part) for part in lists}) > 1:
        return ()
    names, groups, counts = lists
    if not all(type(number) is int for number in (*groups, *counts)):
        return ()
    return tuple(map(ClassFacts, map(str, names), groups, counts))


def _regrouped(classes: tuple[ClassFacts, ...], meta: Mapping[str, Any], groups: str) -> tuple[ClassFacts, ...]:
    """Return the classes in the groups of another grouping.

    Raises:
        ValueError: meta.json has none of that name, or not one group for each class.
    """
    stored = meta.get("groups")
    known = stored if isinstance(stored, dict) else {}
    found = known.get(groups)
    if found is None:
        raise ValueError(
            f"meta.json has no class groups by {groups}, but {', '.join(map(str, known)) or 'those of its data alone'}"
        )
    if not isinstance(found, list) or len(found) != len(classes) or any(group not in (0, 1, 2) for group in found):
        raise ValueError(f"meta.json: groups.{groups} is not 0, 1 or 2 for each class")
    return tuple(known._replace(group=group) for known, group in zip(classes, found, strict=True))


def _splits(meta: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return `Run.splits`."""
    stored = meta.get("editions")
    if not isinstance(stored, dict) or not all(isinstance(splits, list) for splits in stored.values()):
        return frozenset()
    return frozenset((edition, str(split)) for edition, splits in stored.items() for split in splits)


def _code(meta: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return `Run.code`."""
    stored = meta.get("code")
    known = stored if isinstance(stored, dict) else {}
    return tuple((word, str(known[word])) for word in ("method", "model") if word in known)


def _grid(meta: Mapping[str, Any]) -> str:
    """Return `Run.grid`."""
    stored = meta.get("argv")
    words = [word for word in stored if isinstance(word, str)] if isinstance(stored, list) else []
    return take_words(words, ("grid",))[0].get("grid", "")


def _yaml(data: bytes) -> Any:
    depth = 0
    for event in yaml.parse(data, Loader=_YAML):  # without this look the C loader crashes on what is nested deeply
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
    return yaml.load(data, Loader=_YAML)


def _mapping(file: Path, parse: Callable[[bytes], Any]) -> Mapping[str, Any]:
    try:
        content = parse(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{file.name} is missing") from None
    except (OSError, ValueError, RecursionError, LookupError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{file.name} cannot be read ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} holds no mapping")
    return content


def _get(content: Mapping[str, Any], key: str, kind: type, file: str) -> Any:
    """Return the value at a dotted key; refuse one that is missing or of another type, with file and key."""
    value: Any = content
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if type(value) is not kind:
        raise ValueError(f"{file}: {key} is {value!r}; legal is a value of type {kind.__name__}")
    return value
