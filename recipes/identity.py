"""What makes a recipe the recipe it is: the science fields, their hash, and how two recipes differ."""

from __future__ import annotations

import hashlib
import json
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from recipes.declarations import declaration


def hash8(recipe: Any) -> str:
    """Return 8 hex digits of the sha256 of the science fields of a `Recipe` that differ from the schema's defaults."""
    changes = _science_changes(recipe)
    usual = declaration(recipe.method.name).args(recipe.preset)  # only the arguments that differ count
    if args := {key: value for key, value in recipe.method.args.items() if key not in usual or value != usual[key]}:
        changes["method"]["args"] = args
    elif "args" in changes.get("method", {}):
        del changes["method"]["args"]
    # A first stage on the same axes counts without what the run's name says already, so that seeds share a hash.
    for key in {"init_from", "eval_of"} & changes.get("method", {}).keys():
        changes["method"][key] = changes["method"][key].replace(
            f"-{recipe.data.name}-{recipe.train}-s{recipe.seed}-", "-", 1
        )
    canonical = json.dumps(
        {key: value for key, value in changes.items() if value or key == "ifl"},
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def science(recipe: BaseModel) -> dict[str, Any]:
    """Return all science fields of a recipe and their values, as JSON has them, nested as its sections are."""
    return _marked(recipe.model_dump(mode="json"), _marks(type(recipe)))


def _marked(values: dict[str, Any], marks: dict[str, Any]) -> dict[str, Any]:
    """Return the values whose mark is true; sections that hold none are left out."""
    kept = {}
    for key, value in values.items():
        if isinstance(marks[key], dict) and isinstance(value, dict):
            value = _marked(value, marks[key])
            if value:
                kept[key] = value
        elif marks[key]:
            kept[key] = value
    return kept


def departures(recipe: BaseModel, other: BaseModel) -> list[str]:
    """List the science fields in which a recipe differs from another, as `key=value (other value)`."""
    mine, others = _flat(recipe.model_dump()), _flat(other.model_dump())
    science = _flat(_marks(type(recipe)))
    return [
        f"{key}={mine.get(key)} ({others.get(key)})"
        for key in sorted({*mine, *others})
        if mine.get(key) != others.get(key) and _counts(science, key)
    ]


def science_values(recipe: BaseModel) -> dict[str, Any]:
    """Return the recipe's science fields, by their dotted keys."""
    science = _flat(_marks(type(recipe)))
    return {key: value for key, value in _flat(recipe.model_dump(mode="json")).items() if _counts(science, key)}


def _counts(science: dict[str, Any], key: str) -> bool:
    """Say whether a dotted key is science; one inside a mapping, such as slurm.options.hold, is what that field is."""
    return bool(science.get(key, science.get(key.rpartition(".")[0], True)))


def science_keys(section: type[BaseModel]) -> list[str]:
    """List the keys of a recipe that are science, dotted, in the order of its fields."""
    return [key for key, marked in _flat(_marks(section)).items() if marked]


def _flat(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat


def _marks(section: type[BaseModel]) -> dict[str, Any]:
    """Say whether each field is science, nested as the fields are."""
    marks: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        inner = section_in(field.annotation)
        marks[key] = _marks(inner) if inner else _is_science(field)
    return marks


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section of a recipe that a field holds, which may be null; None for a field that holds a value."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _is_science(field: FieldInfo) -> bool:
    """Say whether a field may change a number in the table."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("science"))


def _science_changes(section: BaseModel) -> dict[str, Any]:
    """Collect the science fields, nested, whose values differ from their defaults; an `ifl` block counts as a whole."""
    changes: dict[str, Any] = {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            inner = _science_changes(value)
            if inner or key == "ifl":
                changes[key] = inner
        elif _is_science(field) and value != field.default:
            changes[key] = value
    return changes
