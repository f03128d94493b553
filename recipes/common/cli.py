"""The words of a command that takes one folder and key=value options."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from recipes.common.errors import DataError


def folder_and_options(arguments: Sequence[str], keys: Sequence[str]) -> tuple[str, dict[str, str]]:
    """(the one folder, option -> text). Raises DataError for no or a second folder, an unknown, repeated or empty option."""
    folders = [argument for argument in arguments if "=" not in argument]
    if len(folders) != 1:
        raise DataError(
            f"{len(folders)} folders are given{''.join(f' {name!r}' for name in folders)}; exactly one would be legal (--help says more)"
        )
    options: dict[str, str] = {}
    for argument in (argument for argument in arguments if "=" in argument):
        key, _, value = argument.partition("=")
        if key not in keys:
            raise DataError(f"unknown key {key!r}; {nearest(key, keys)}")
        if not value:
            raise DataError(f"{argument!r} has no value; {key}=VALUE would be legal")
        if key in options:
            raise DataError(f"key {key!r} is given twice ({options[key]!r} and {value!r}); once would be legal")
        options[key] = value
    return folders[0], options


def whole_number(options: dict[str, str], key: str, default: int, low: int) -> int:
    """The option as an integer of at least `low`. Raises DataError, naming it."""
    text = options.get(key, str(default))
    if not (text.isascii() and text.isdigit() and int(text) >= low):
        raise DataError(f"{key}={text} is not legal; a whole number from {low} is")
    return int(text)


def nearest(word: Any, legal: Iterable[Any]) -> str:
    """The end of a sentence about an illegal word: `did you mean X? legal: X, Y, Z`, the question only where one is near."""
    words = [str(value) for value in legal]
    close = difflib.get_close_matches(str(word), words, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + f"legal: {', '.join(words)}"
