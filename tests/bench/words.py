"""The words of a bench's command, `key=value`; what is not legal is one sentence, before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from recipes.common.cli import key_values, nearest
from recipes.common.errors import DataError


def values_of(words: Sequence[str], usual: Mapping[str, Any], zero: Collection[str] = ()) -> dict[str, Any]:
    """Return the usual values with those of the words in their place.

    Args:
        words: of the command.
        usual: by key; a word's value is read as what the usual one is, and a tuple lists all that is legal, the usual
            one first.
        zero: numbers that may be 0; the others are above it.

    Raises:
        SystemExit: a word is not legal.
    """
    try:
        given = {key: _read(key, text, usual[key], key in zero) for key, text in key_values(words, [*usual]).items()}
    except DataError as error:
        raise SystemExit(str(error)) from None
    return {key: value[0] if isinstance(value, tuple) else value for key, value in usual.items()} | given


def some_of(key: str, text: str, legal: Collection[str], between: str = ",") -> list[str]:
    """Return the names that a value lists; an empty value stands for all that are legal.

    Raises:
        SystemExit: one is not legal.
    """
    names = text.split(between) if text else [*legal]
    for name in names:
        if name not in legal:
            raise SystemExit(f"{key}={text} is not legal: {name!r} is unknown; {nearest(name, legal)}")
    return names


def _read(key: str, text: str, usual: Any, zero: bool) -> Any:
    if isinstance(usual, tuple):
        if text not in usual:
            raise DataError(f"{key}={text} is not legal; {nearest(text, usual)}")
        return text
    if isinstance(usual, str):
        return text
    try:
        number = type(usual)(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and (number > 0 or (zero and number == 0))):
        what = "a whole number" if isinstance(usual, int) else "a number"
        raise DataError(f"{key}={text} is not legal; {what} {'from 0' if zero else 'above 0'} is")
    return number
