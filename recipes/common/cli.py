"""The words of a command: key=value, -h and --help, and the nearest legal word. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recipes.common.addresses import path_fault
from recipes.common.errors import DataError


def asks_help(words: Sequence[str]) -> bool:
    """Say whether a command asks for its help text."""
    return any(word in ("-h", "--help", "help") for word in words)


def nearest(word: Any, legal: Iterable[Any]) -> str:
    """Return the end of a sentence about an illegal word: `did you mean X? legal: X, Y, Z`.

    The question is asked only where one is near.
    """
    words = [str(value) for value in legal]
    close = difflib.get_close_matches(str(word), words, n=1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + f"legal: {', '.join(words)}"


def split_word(word: str) -> tuple[str, str]:
    """Split `key=value` into (key, value); the value is empty where there is none."""
    key, _, value = word.partition("=")
    return key, value


def take_words(words: Sequence[str], keys: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return the words of some keys as {key: value}, of which the last one counts, and the others in their order."""
    taken = dict(split_word(word) for word in words if split_word(word)[0] in keys)
    return taken, [word for word in words if split_word(word)[0] not in keys]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a word of a command."""

    kind: Literal["unknown", "empty", "twice", "address"]
    word: str
    legal: Collection[str]
    before: str = ""
    """The value that the key had before, of one given twice."""

    @property
    def refusal(self) -> str:
        """The sentence about an address, which all commands tell alike."""
        return f"{self.word} is not legal: {path_fault(self.value)}"

    @property
    def key(self) -> str:
        return split_word(self.word)[0]

    @property
    def value(self) -> str:
        return split_word(self.word)[1]


def sentence(fault: Fault) -> DataError:
    """Return the fault as the commands of sharding/ tell it."""
    return DataError(
        {
            "unknown": f"unknown key {fault.key!r}; {nearest(fault.key, fault.legal)}",
            "empty": f"{fault.word!r} has no value; {fault.key}=VALUE would be legal",
            "twice": f"key {fault.key!r} is given twice ({fault.before!r} and {fault.value!r}); once would be legal",
            "address": fault.refusal,
        }[fault.kind]
    )


def key_values(
    words: Iterable[str],
    keys: Collection[str],
    error: Callable[[Fault], Exception] = sentence,
    legal: Collection[Literal["empty", "twice"]] = (),
    texts: Collection[str] = (),
) -> dict[str, str]:
    """Return the words of a command as {key: value}. No command reads an address: what looks like one is refused.

    Args:
        words: each `key=value`.
        keys: those that there are.
        error: makes the exception of a word that is not legal.
        legal: `empty` values, or keys given `twice`, of which the last one counts.
        texts: keys whose value may hold anything.

    Raises:
        Exception: what `error` makes, for the first unknown, empty or repeated key, or address.
    """
    values: dict[str, str] = {}
    for word in words:
        key, value = split_word(word)
        if key not in keys:
            raise error(Fault("unknown", word, keys))
        if not value.strip() and "empty" not in legal:
            raise error(Fault("empty", word, keys))
        if key in values and "twice" not in legal:
            raise error(Fault("twice", word, keys, values[key]))
        if key not in texts and path_fault(value):
            raise error(Fault("address", word, keys))
        values[key] = value
    return values


def folder_and_options(words: Sequence[str], keys: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the one folder that a command names, and its other words as {key: value}.

    Raises:
        DataError: there is no folder or a second one, or a word is not legal.
    """
    folders = [word for word in words if "=" not in word]
    if len(folders) != 1:
        raise DataError(
            f"{len(folders)} folders are given{''.join(f' {name!r}' for name in folders)}; exactly one would be legal "
            "(--help says more)"
        )
    if fault := path_fault(folders[0]):
        raise DataError(f"{folders[0]} is not legal: {fault}")
    return folders[0], key_values((word for word in words if "=" in word), keys)


def whole_number(options: dict[str, str], key: str, default: int, low: int) -> int:
    """Return the option as an integer of at least `low`.

    Raises:
        DataError: it is not such a number.
    """
    text = options.get(key, str(default))
    if not (text.isascii() and text.isdigit() and int(text) >= low):
        raise DataError(f"{key}={text} is not legal; a whole number from {low} is")
    return int(text)
