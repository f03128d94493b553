"""Files that say something of each class by its name: an order, or counts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from recipes.common.errors import DataError


def names_in(path: Path, names: Sequence[str], word: str) -> list[int]:
    """Read a file of class names, one a line: the numbers of the classes in the file's order.

    Args:
        path: UTF-8, with or without a byte order mark; empty lines and lines that begin with # say nothing.
        names: the classes' names; the file has each once.
        word: the word of the command that names the file, for messages.

    Raises:
        DataError: the file cannot be read, has a name that is no class, has one twice, or lacks one.
    """
    return [
        number for number, _ in _entries(path, [(line, name, "") for line, name in _lines(path, word)], names, word)
    ]


def counts_in(path: Path, names: Sequence[str], word: str) -> dict[str, int]:
    """Read a file of class names and counts: `name,count`, `name<TAB>count` or `name count` on each line.

    The last of these separators in a line counts, so that names may hold spaces and commas. Else as `names_in`.

    Raises:
        DataError: as `names_in`, or a count is not a whole number above 0.
    """
    entries = []
    for line, text in _lines(path, word):
        name, count = _parted(text)
        if not (count.isascii() and count.isdigit() and len(count) < 19 and int(count) > 0):
            raise DataError(
                f"{word}={path}, line {line}: {count!r} is not a number of images; `class name,count` with a whole "
                "count from 1 on, of 18 digits at most, would be legal"
            )
        entries.append((line, name, count))
    return {names[number]: int(count) for number, count in _entries(path, entries, names, word)}


def _near(name: str, names: Sequence[str]) -> str:
    """Ask for the nearest class; there may be too many to list all."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the classes are {names[0]!r} to {names[-1]!r}"


def _parted(text: str) -> tuple[str, str]:
    at = max(text.rfind(separator) for separator in ",\t ")
    return (text[:at].rstrip(), text[at + 1 :]) if at >= 0 else (text, "")


def _lines(path: Path, word: str) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"{word}={path} cannot be read: {reason}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield number, stripped


def _entries(
    path: Path, entries: Sequence[tuple[int, str, str]], names: Sequence[str], word: str
) -> list[tuple[int, str]]:
    number_of = {name: number for number, name in enumerate(names)}
    found: dict[int, str] = {}
    for line, name, value in entries:
        if name not in number_of:
            raise DataError(f"{word}={path}, line {line}: there is no class {name!r}{_near(name, names)}")
        if number_of[name] in found:
            raise DataError(f"{word}={path}, line {line}: class {name!r} stands there twice; once would be legal")
        found[number_of[name]] = value
    missing = [name for number, name in enumerate(names) if number not in found]
    if missing:
        raise DataError(
            f"{word}={path} lacks {len(missing)} of {len(names)} classes, {missing[0]!r} the first; all must be there"
        )
    return list(found.items())
