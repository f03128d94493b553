"""`grid=optim.lr:.05,.1,.2+optim.momentum:0,.9`: the product of some keys' values, each for a run of its own.

The launcher makes the runs, and analysis chooses among them: both read a grid here.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

from recipes.common.errors import RecipeError
from recipes.layers import annotation_of, parse_words
from recipes.resolve import OF_THE_FIRST, first_words, of_the_first, without_first
from recipes.table_layout import key_fault, value_fault
from recipes.values import as_typed

KEY = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*"
MOST = 10_000
"""The most points of a grid: more are a slip, and would be listed one by one."""
HANDED_ON = ("optim.precision", "batch.budget")
"""What of the sections on training a run hands on to the run that it judges (`recipes.resolve.source_words`)."""


OF_THE_COMMAND = {
    "recipe": "recipe=NAME",
    "data": "data=NAME",
    "data.name": "data=NAME",
    "train": "train=glt or train=cbl",
    "seed": "seeds=0,1,2",
    "seeds": "seeds=0,1,2",
    "table": "table=NAME",
}
"""What a command says beside its grid, and how."""


def of_training(key: str) -> bool:
    """Say whether a science key says how a run trains, and nothing of the runs that it judges or starts from."""
    return key.partition(".")[0] in OF_THE_FIRST and key not in HANDED_ON


@dataclass(frozen=True)
class Point:
    """One point of a grid.

    Attributes:
        words: its values as words of a command, as they were typed.
        values: them by their dotted keys, as the recipe's fields read them.
    """

    words: tuple[str, ...]
    values: dict[str, Any]

    def __str__(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class Grid:
    """A grid.

    Attributes:
        text: as it was typed.
        axes: the keys, and how many values each has.
        points: the product of the values; those of the last key change fastest.
    """

    text: str
    axes: tuple[tuple[str, int], ...]
    points: tuple[Point, ...]

    @property
    def is_of_training(self) -> bool:
        """Whether all of its values say how a run trains: they change no number of one that trains nothing."""
        return all(map(of_training, (key for key, _ in self.axes)))

    def __str__(self) -> str:
        axes = " x ".join(f"{key} ({count})" for key, count in self.axes)
        return f"{axes}, {len(self.points)} point{'s' * (len(self.points) > 1)}"


def read_grid(text: str) -> Grid:
    """Read what stands behind `grid=`.

    Raises:
        RecipeError: it has another form, a key is no science key of a recipe, nor `first.` and one that can be set of
            a first stage, a key or a value is there twice, a value is not legal, or there are too many points.
    """
    axes: dict[str, list[tuple[str, Any]]] = {}
    for part in re.split(rf"\+(?={KEY}:)", text):
        key, colon, values = part.partition(":")
        if not (colon and re.fullmatch(KEY, key)):
            raise RecipeError(
                f"grid={text} is not legal: keys with their values are, with + between keys, such as "
                "grid=optim.lr:.05,.1,.2+optim.momentum:0,.9"
            )
        if fault := _key_fault(key):
            raise RecipeError(f"grid={text}: {fault}")
        if key in axes:
            raise RecipeError(f"grid={text}: {key} is there twice; once, with all its values, is legal")
        axes[key] = [(value, _read(text, key, value)) for value in _split(values)]
        for place, (typed, value) in enumerate(axes[key]):
            if same := [other for other, before in axes[key][:place] if before == value]:
                raise RecipeError(f"grid={text}: {same[0]} and {typed} are one value of {key}; each once is legal")
    if (count := math.prod(map(len, axes.values()))) > MOST:
        raise RecipeError(f"grid={text} has {count:,} points; at most {MOST:,} are legal")
    points = [
        Point(
            tuple(f"{key}={typed}" for key, (typed, _) in zip(axes, point, strict=True)),
            {key: value for key, (_, value) in zip(axes, point, strict=True)},
        )
        for point in itertools.product(*axes.values())
    ]
    return Grid(text, tuple((key, len(values)) for key, values in axes.items()), tuple(points))


def _split(values: str) -> list[str]:
    """Split values at the commas that are not inside of a list or mapping."""
    parts, depth = [""], 0
    for sign in values:
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _read(grid: str, key: str, text: str) -> Any:
    """Return a value as its field reads it.

    Raises:
        RecipeError: it is not legal there.
    """
    own = without_first(key)
    value: Any = parse_words([f"{own}={text}"])
    for part in own.split("."):
        value = value[part]
    if fault := value_fault(own, value, f"grid={grid}"):
        raise RecipeError(" ".join((fault if own == key else of_the_first(fault)).split()))
    return as_typed(value, annotation_of(own))


def _key_fault(key: str) -> str:
    """Say that a key is none that a grid may have; empty where it is one."""
    if key in OF_THE_COMMAND:
        return f"{key} is no key of a grid: the command says it beside, as {OF_THE_COMMAND[key]}"
    own = without_first(key)
    if fault := key_fault(own):
        return fault if own == key else of_the_first(fault)
    try:
        first_words([f"{key}="])
    except RecipeError as error:
        return str(error)
    return ""
