"""The words of `long_tail=`: none, a ratio, a curve's name with a ratio, or a file of counts."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sharding.building.samples_words import curve_of
from sharding.datasets.samples import tails
from sharding.datasets.samples.class_lists import counts_in


@dataclass(frozen=True)
class LongTail:
    """The class tail of Train-GLT.

    Attributes:
        word: what the user wrote, for messages.
        curve: name of a file in tails/; empty: the counts below.
        ratio: largest class / smallest class of the curve.
        counts: images of each class by its name, from a file; None: each class gives all that it has.
    """

    word: str = "none"
    curve: str = ""
    ratio: float = 1.0
    counts: dict[str, int] | None = None

    def of(self, largest: int, classes: int) -> list[int]:
        """Return the curve's counts, the most frequent class first."""
        found: list[int] = curve_named(self.curve).counts(largest, classes, self.ratio)
        return found


def curve_named(name: str) -> ModuleType:
    """Return a curve's module."""
    return importlib.import_module(f"{tails.__name__}.{name}")


def parsed(word: str, names: Sequence[str]) -> LongTail:
    """Read `long_tail=WORD`.

    Args:
        word: checked: none, RATIO, CURVE:RATIO, or a file of counts (see `class_lists`).
        names: the classes' names.

    Raises:
        DataError: the file is not legal; one sentence.
    """
    if word == "none":
        return LongTail()
    if (found := curve_of(word)) is not None:
        return LongTail(word, *found)
    return LongTail(word, counts=counts_in(Path(word), names, "long_tail"))
