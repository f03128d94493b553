"""Values as they are typed: the field's type decides how a text is read, and numbers are decimal."""

from __future__ import annotations

import math
import re
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

WHOLE = re.compile(r"[-+]?[0-9]{1,300}")
REAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def kinds(annotation: Any) -> set[Any]:
    """Return the types of the values that a field takes; without their limits, and a list without its items."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {type(value) for value in arguments}
    if origin is Annotated:
        return kinds(arguments[0])
    if origin in (Union, UnionType):
        return set().union(*map(kinds, arguments))
    return {origin or annotation}


def as_typed(value: Any, annotation: Any) -> Any:
    """Return a value as a field takes it: 030 is 30 for a number and `030` for a text.

    What the field does not take is returned as it is, for the schema to refuse.

    Raises:
        ValueError: a blank text; or true or false, or no finite decimal number, for a number; one sentence.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError("it is blank, and a value is legal")
    wanted = kinds(annotation) - {NoneType}
    if isinstance(value, list) and wanted <= {list, tuple}:
        return [as_typed(item, _item(annotation)) for item in value]
    if wanted <= {int, float}:
        if isinstance(value, bool):
            raise ValueError("true and false are no numbers")
        return _number(value) if isinstance(value, str) else value
    return str(value) if str in wanted and type(value) is int else value


def argument(value: Any, kind: type[bool | int | float | str]) -> Any:
    """Return a method's argument as the kind (bool, int, float or str) that its default has.

    Raises:
        ValueError: it is of another kind.
    """
    if isinstance(value, str) and kind is not str:
        value = TRUTHS.get(value.lower()) if kind is bool else _number(value)
    if type(value) is int and kind in (float, str):
        value = str(value) if kind is str else float(value) if abs(value) < 10**300 else value
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"no {kind.__name__}")
    return value


def _item(annotation: Any) -> Any:
    """Return the type of a list's items; all of a tuple have the same."""
    lists = [annotation, *get_args(annotation)]
    return next(get_args(part)[0] for part in lists if get_origin(part) in (list, tuple))


def _number(text: str) -> int | float | str:
    """Return the decimal number that a text is; the text where it is none.

    Raises:
        ValueError: a text that others would take for a number, such as 1_000, or that is too large for one.
    """
    if WHOLE.fullmatch(text):
        return int(text)
    if REAL.fullmatch(text):
        if math.isinf(number := float(text)):
            raise ValueError(f"{text} is too large, and a finite number is legal")
        return number
    if "_" in text or text != text.strip():
        raise ValueError("a number is legal, in decimal digits alone, such as 1000 or 1e-3")
    return text
