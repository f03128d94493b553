"""pydantic's complaints as one sentence for the user."""

from __future__ import annotations

import math
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from recipes.common.cli import nearest
from recipes.identity import section_in
from recipes.schema import Recipe


def sentence(error: ValidationError, origins: dict[str, str]) -> str:
    """Return pydantic's first complaint as one sentence with the key, its origin and the nearest legal word."""
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if part != "[key]"]
    if parts[:2] == ["method", "args"]:  # pydantic goes on with the types that an argument may have
        parts = parts[:3]
    index = next((place for place, part in enumerate(parts) if part.isdecimal()), len(parts))
    is_of_several_kinds = len(parts) > index + 1  # the item's place is followed by the kind that it was compared with
    parts = parts[: index + 1]
    given = _shown(first["input"])
    dotted = ".".join(parts)
    origin = next(
        (origins[key] for key in (".".join(parts[:n]) for n in range(len(parts), 0, -1)) if key in origins),
        "the schema",
    )
    message = first["msg"].removeprefix("Value error, ")
    if [str(part) for part in first["loc"]][-1:] == ["[key]"]:  # of a mapping the key itself
        return f"{dotted} ({origin}) is not legal: {message[0].lower()}{message[1:]}"
    if first["type"] == "extra_forbidden":
        above = ".".join(parts[:-1])
        if dotted == "slurm.setup":
            return (
                f"slurm.setup ({origin}) is not legal: shell lines stand in the site file alone, under `setup:` in "
                "slurm/site.yaml or in the file that GLT_SITE names"
            )
        legal = [f"{above}.{key}".lstrip(".") for key in _section(parts[:-1]).model_fields]
        # the right word without its section
        elsewhere = [leaf for leaf in _leaves(Recipe) if leaf.rpartition(".")[2] == parts[-1]]
        hint = f"did you mean {elsewhere[0]}? legal: {', '.join(legal)}" if elsewhere else nearest(dotted, legal)
        return f"unknown key {dotted} ({origin}): {hint}"
    if first["type"] == "literal_error":
        field = _section(parts[:-1]).model_fields.get(parts[-1])
        legal = [value for value in _literals(field.annotation)] if field else []
        return f"{dotted}={given} ({origin}) is not legal: {nearest(first['input'], legal)}"
    if first["type"] in ("list_type", "tuple_type"):
        return f"{dotted}={given} ({origin}) is not legal: a list is, such as {dotted}={_example(parts)}"
    if first["type"] in ("missing", "too_long") and isinstance(first["input"], list | tuple):
        of_list = parts[:index]  # a missing item has its place
        return (
            f"{'.'.join(of_list)}={given} ({origin}) is not legal: as many values as in "
            f"{'.'.join(of_list)}={_example(of_list)} are"
        )
    if first["type"] == "model_type":
        section = _section(parts)
        off = ", or null to switch it off" if parts == ["ifl"] else ""
        return (
            f"{dotted}={given} ({origin}) is not legal: {dotted} is a section, such as "
            f"{dotted}.{next(iter(section.model_fields))}=...{off}"
        )
    message = "a number is legal" if is_of_several_kinds else message
    message = message[0].lower() + message[1:]
    return (
        f"{dotted}={given} ({origin}): {message}"
        if first["type"] != "value_error" or not isinstance(first["input"], dict | BaseModel) or len(parts) > 2
        else f"{message} ({origin})"
    )


def _example(parts: list[str]) -> str:
    """Return a legal list for the field of a key: its default, where that is one."""
    field = _section(parts[:-1]).model_fields[parts[-1]]
    texts = "str" in str(field.annotation)
    examples = [field.default, *(field.examples or []), ["NAME"] if texts else [0.5]]
    usual = next(value for value in examples if isinstance(value, list | tuple) and value)
    return f"[{','.join(map(str, usual))}]"


def _shown(value: Any) -> Any:
    """Return a value as users write it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(str(_shown(item)) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or value is True or value is False
        else value
    )


def _leaves(section: type[BaseModel], path: str = "") -> list[str]:
    """Return all keys with their dots."""
    leaves: list[str] = []
    for key, field in section.model_fields.items():
        inner = section_in(field.annotation)
        leaves += _leaves(inner, f"{path}{key}.") if inner else [f"{path}{key}"]
    return leaves


def _section(parts: list[str]) -> type[BaseModel]:
    section: type[BaseModel] = Recipe
    for part in parts:
        section = section_in(section.model_fields[part].annotation) or section
    return section


def _literals(annotation: Any) -> list[Any]:
    values: list[Any] = []
    for argument in get_args(annotation):
        values += _literals(argument) if get_args(argument) else ([] if argument is type(None) else [argument])
    return values
