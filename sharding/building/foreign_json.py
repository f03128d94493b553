"""JSON that others wrote: every value is checked where it is read, and errors name the file and the place in it.

A place is written as in `annotations[17]`, counted from 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from recipes.common.errors import DataError, one_line
from recipes.common.json_text import NotJson, parse_json

Value = TypeVar("Value")
LARGEST = 2**63 - 1
"""The largest id: ids are kept as int64."""
LARGEST_REAL = 1e9
"""The largest magnitude of a coordinate or score."""


def read_foreign(path: Path, legal: str, each: Callable[[dict[str, Any]], Any] = lambda entry: entry) -> Any:
    """Return the value of a JSON file.

    Args:
        path: the file.
        legal: which file would be legal; ends the sentence of an error.
        each: called with every object of the file; returns what to keep of it.

    Raises:
        DataError: it cannot be read, is not whole, or an object in it has a key twice.
    """
    try:
        return parse_json(path.read_bytes(), each)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {legal}") from None
    except NotJson as error:
        raise DataError(one_line(f"{path} is no whole JSON file: {error}")) from None


def whole_number(value: Any, low: int = 0, high: int = LARGEST) -> int:
    """Return a whole number; 640.0 and the text "640" mean 640, as some programs write it.

    Raises:
        ValueError: it is not a whole number from `low` to `high`.
    """
    digits = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= len(str(LARGEST))
    number = int(value) if digits or (isinstance(value, float) and value.is_integer()) else value
    if type(number) is not int or not low <= number <= high:
        raise ValueError(f"{_shown(value)}, not a whole number from {low} to {high}")
    return number


def real_number(value: Any, low: float = -LARGEST_REAL, high: float = LARGEST_REAL) -> float:
    """Return a number.

    Raises:
        ValueError: it is not a number from `low` to `high`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{_shown(value)}, not a number")
    if not low <= value <= high:  # false for nan, too
        raise ValueError(f"{_shown(value)}, not a number from {low:g} to {high:g}")
    return float(value)


def text(value: Any) -> str:
    """Return a text that is not empty.

    Raises:
        ValueError: it is not a text, or is empty.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{_shown(value)}, not a text")
    return value


def listed(value: Any) -> list[Any]:
    """Return a list.

    Raises:
        ValueError: it is not a list.
    """
    if not isinstance(value, list):
        raise ValueError(f"{_shown(value)}, not a list")
    return value


def mapping(value: Any) -> dict[str, Any]:
    """Return an object.

    Raises:
        ValueError: it is not an object.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{_shown(value)}, not an object")
    return value


def _shown(value: Any) -> str:
    """Return a value as messages show it: containers only by their kind."""
    return type(value).__name__ if isinstance(value, dict | list) else repr(value)


class Entry:
    """One object of a JSON file, whose values are read by key, checked by one of the functions above."""

    __slots__ = ("_content", "path", "place")

    def __init__(self, path: Path, place: str, content: Any) -> None:
        if not isinstance(content, dict):
            raise DataError(one_line(f"{path}: {place} is {_shown(content)}, not an object"))
        self.path, self.place, self._content = path, place, content

    def __str__(self) -> str:
        return f"{self.place} of {self.path}"

    def get(self, key: str, check: Callable[[Any], Value]) -> Value:
        """Return the checked value of a key.

        Raises:
            DataError: the key is missing, or its value is not legal.
        """
        if key not in self._content:
            raise DataError(one_line(f"{self.path}: {self.place} lacks {key}"))
        try:
            return check(self._content[key])
        except ValueError as error:
            raise DataError(one_line(f"{self.path}: {self.place} has the {key} {error}")) from None
