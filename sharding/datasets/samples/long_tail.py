"""The words of `long_tail=`: none, a ratio, a curve's name with a ratio, or a file of counts."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from recipes.common.cli import nearest
from recipes.common.errors import DataError
from sharding.datasets.samples import tails
from sharding.datasets.samples.class_lists import counts_in

DEFAULT = "exponential"
"""The curve of a bare ratio."""


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


def curves() -> list[str]:
    """Return the names of the curves."""
    return sorted(path.stem for path in Path(tails.__path__[0]).glob("[!_]*.py"))


def curve_named(name: str) -> ModuleType:
    """Return a curve's module."""
    return importlib.import_module(f"{tails.__name__}.{name}")


def legal() -> str:
    """Say what `long_tail=` may be, for help and messages."""
    return f"none, a RATIO such as 100, {', '.join(f'{name}:RATIO' for name in curves())}, or a FILE of counts by class"


def parsed(word: str, names: Sequence[str]) -> LongTail:
    """Read `long_tail=WORD`.

    Args:
        word: none, RATIO, CURVE:RATIO, or a file of counts (see `class_lists`).
        names: the classes' names.

    Raises:
        DataError: it is none of these; the sentence says what is legal.
    """
    if word == "none":
        return LongTail()
    curve, colon, number = word.rpartition(":")
    curve = curve if colon else DEFAULT
    ratio = _number(number)
    if curve in curves() and ratio is not None:
        if not (math.isfinite(ratio) and ratio >= 1):
            raise DataError(f"long_tail={word}: {number} is not legal as largest / smallest class; 1 or more would be")
        return LongTail(word, curve, ratio)
    if Path(word).is_file():
        return LongTail(word, counts=counts_in(Path(word), names, "long_tail"))
    if colon and ratio is not None:
        raise DataError(f"long_tail={word}: there is no curve {curve}; {nearest(curve, curves())}")
    raise DataError(f"long_tail={word} is neither a ratio nor a file that exists; legal: {legal()}")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
