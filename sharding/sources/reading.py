"""Reads a source: chooses its format, and gives its images one by one, checked by the rules that hold for all formats.

The images are not kept. Checks that need all of them keep 28 bytes an image (see `row_checks`).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

from recipes.common.cli import nearest
from recipes.common.errors import DataError
from sharding.building.notices import Notices
from sharding.sources.row_checks import RowChecks, is_number
from sharding.sources.rows import WORDS, Asked, Row

_FORMAT = re.compile(r"^def rows\(asked: Asked\) -> Iterator\[Row\]:", re.MULTILINE)


@cache
def formats() -> dict[str, str]:
    """Return the name of every format, and what it reads in a few words."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    names = [path.stem for path in files if _FORMAT.search(path.read_text(encoding="utf-8"))]
    return {name: str(_module(name).SAYS) for name in names}


def rows_of(asked: Asked, format: str | None = None) -> Iterator[Row]:
    """Yield the images of a source in the format's order, which is always the same.

    What concerns one image is refused when it comes; what concerns all of them, such as a name that occurs twice, at
    the end. So nothing that was yielded holds before the iterator has ended.

    Args:
        asked: the source. `asked.notices` has its counts when the iterator has ended.
        format: a name of `formats()`; None takes the one that recognises the source.

    Raises:
        DataError: there is no such source or format, the format does not read a word that was given, or an image or
            class is not as it must be; one sentence, which names the line of a list.
    """
    chosen = format_of(asked, format)  # at the call, not at the first image
    _refuse_unread(asked, chosen)
    return _checked(asked, _module(chosen))


def format_of(asked: Asked, format: str | None = None) -> str:
    """Return the name of the format that reads a source.

    Raises:
        DataError: a file of the source does not exist, `format` is none, or none or several recognise the source.
    """
    if format is not None and format not in formats():
        raise DataError(f"format={format} is none; {nearest(format, formats())}")
    found = [
        name
        for name in ([format] if format else formats())
        if all(_module(name).recognises(path) for path, _ in asked.paths)
    ]
    missing = next((path for path, _ in asked.paths if not path.exists()), None)
    if missing is not None and not found:  # a pattern of shards' names
        raise DataError(f"source={missing} does not exist; a folder or file with labelled images would be legal")
    if format is not None:
        return format
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{_named(asked)} may be {_listed(found)}; format=NAME says which, such as format={found[0]}")
    raise DataError(f"{_named(asked)} is in no format that is known; legal: {_listed(formats())} (format=NAME)")


def _refuse_unread(asked: Asked, format: str) -> None:
    """Refuse what is asked of a source in a format that does not read it."""
    plain = Asked(asked.paths, asked.work)
    for word in WORDS:
        if getattr(asked, word) != getattr(plain, word) and word not in _taken(format):
            able = ", ".join(name for name in formats() if word in _taken(name))
            raise DataError(
                f"{word}= does not go with {_named(asked)}, which is in the format {format} ({formats()[format]}); "
                f"without it would be legal, and {word}= goes with {able}"
            )


def class_order(labels: Collection[str]) -> list[str]:
    """Return class names in their order: as numbers where all are whole numbers, else as text."""
    numbers = all(map(is_number, labels))
    return sorted(labels, key=lambda label: (int(label) if numbers else 0, label))


def _checked(asked: Asked, module: ModuleType) -> Iterator[Row]:
    checks = RowChecks()
    yield from checks.passed(module.rows(asked))
    checks.finish(lambda: module.rows(replace(asked, notices=Notices())), _named(asked), asked.notices)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"sharding.sources.{name}")


def _taken(name: str) -> tuple[str, ...]:
    taken: tuple[str, ...] = getattr(_module(name), "TAKES", ())
    return taken


def _named(asked: Asked) -> str:
    return "source=" + ",".join(str(path) for path, _ in asked.paths)


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"{name} ({formats()[name]})" for name in names)
