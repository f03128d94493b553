"""What a run on a data set needs to know of it, for dataset.json, each value with where it comes from.

Images of at most 64 pixels are trained on at their own size with the network, batch and epochs of
recipes/data/digits_glt.yaml; larger ones with those of recipes/data/imagenet_glt.yaml, at 112 of 128 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recipes.yaml_io import load_yaml

SMALL = 64
"""Images whose longest side has at most so many pixels are small."""
IN_MEMORY = 1 << 30
"""Bytes of decoded training images up to which a run reads without worker processes."""
_LEAST = 8  # of data.image_size
_DATA = Path(__file__).resolve().parents[3] / "recipes" / "data"
_LIKE: Mapping[str, str] = {"small": "digits_glt", "large": "imagenet_glt"}


@dataclass(frozen=True)
class Value:
    """A value of a recipe's section, and why it is so in a few words."""

    section: str
    key: str
    value: Any
    why: str

    def __str__(self) -> str:
        return f"{self.section}.{self.key}={self.value}: {self.why}"


@dataclass(frozen=True)
class Suggested:
    """What a data set says to recipes.

    Attributes:
        kind: whether its images are small.
        values: in the order of a recipe's sections.
    """

    kind: Literal["small", "large"]
    values: Sequence[Value]

    def nested(self) -> dict[str, dict[str, Any]]:
        """Return the values as dataset.json has them: section -> key -> value."""
        nested: dict[str, dict[str, Any]] = {}
        for value in self.values:
            nested.setdefault(value.section, {})[value.key] = value.value
        return nested


def suggested(
    sides: Mapping[str, int], statistics: Mapping[str, Sequence[float]], train: int, resize_short: int | None = None
) -> Suggested:
    """Choose what recipes on a data set start from.

    Args:
        sides: pixels of the shorter side of the smallest (`least`) and of the largest image (`most`), and the
            `longest` side of all.
        statistics: `mean` and `std` of the training split, [3] each.
        train: number of training images.
        resize_short: the most pixels that stored images have on their shorter side; None: as many as the source's.
    """
    small = (sides["longest"] if resize_short is None else min(sides["longest"], resize_short)) <= SMALL
    kind: Literal["small", "large"] = "small" if small else "large"
    return Suggested(kind, tuple(_values(kind, sides, statistics, train, resize_short)))


def _values(
    kind: str, sides: Mapping[str, int], statistics: Mapping[str, Sequence[float]], train: int, resize_short: int | None
) -> Iterator[Value]:
    least, most = (
        side if resize_short is None else min(side, resize_short) for side in (sides["least"], sides["most"])
    )
    images = f"images are {least} to {most} pixels" if least < most else f"images are {most} pixels"
    like = load_yaml(_DATA / f"{_LIKE[kind]}.yaml")
    if kind == "small":
        side = max(_LEAST, most)
        yield Value("data", "image_size", side, images)
        yield Value("data", "test_resize", side, images)
        if (size := train * side * side * 3) <= IN_MEMORY:
            yield Value("data", "workers", 0, f"the training images take {max(1, size >> 20)} MiB, decoded")
    else:
        of = "images are larger than 64 pixels" if most > SMALL else f"{images} on their shorter side, some are longer"
        for key in ("image_size", "test_resize"):
            yield Value("data", key, like["data"][key], of)
    yield Value("data", "mean", list(statistics["mean"]), "of the training split of edition glt")
    std = [value or 1.0 for value in statistics["std"]]  # networks divide by it
    constant = "" if std == list(statistics["std"]) else ", and 1 where all pixels of a channel are the same"
    yield Value("data", "std", std, f"of the training split of edition glt{constant}")
    alike = f"as {_LIKE[kind]}, whose images are {kind}"
    yield Value("augment", "crop_scale", like["augment"]["crop_scale"], alike)
    yield Value(
        "augment", "hflip", True, "mirrored images are taken for the same class; augment.hflip=false where they are not"
    )
    for section in ("model", "schedule", "batch", "log"):
        yield from (Value(section, key, value, alike) for key, value in like.get(section, {}).items())
