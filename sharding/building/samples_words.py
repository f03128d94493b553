"""The words of a build of any labelled images, `builder=samples`, read and checked. Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from recipes.common.cli import nearest
from recipes.values import argument

FIELDS = ("path", "label", "attribute", "split", "source")
"""What a column of a list may say of an image."""
SPLITS = ("train", "val", "test")
TAILS = Path(__file__).resolve().parent.parent / "datasets" / "samples" / "tails"
"""The folder of the curves of a long tail, a file each."""
_USUAL_CURVE = "exponential"
"""The curve of a bare ratio."""
_HEADS = ("frequency", "seed")


@dataclass(frozen=True)
class Samples:
    """What is asked of the builder of any labelled images; each field is the word of the same name, with its default.

    Attributes:
        source: files or folders, each with the split that it is ("" for none).
        format: a file of sharding/sources; empty: the one that recognises the source.
        columns: field of an image -> column of the list, as pairs.
        images: where the paths of a list start.
        classes: which folder on an image's path is its class.
        long_tail: the classes' tail: none, RATIO, CURVE:RATIO or a file of counts.
        head: which classes are frequent: `frequency`, `seed`, or a file of names.
        groups: how Many, Medium and Few classes are told apart.
        attributes: where attributes come from.
        features: what clusters are made of: `pixels`, a backbone's name, or an .npy file.
        clusters: number of clusters in each class.
        attribute_tail: proportion of a training split's three attribute groups, in lowest terms; None: as the data are.
        val: images of each class, a share below 1 or a count.
        test_cbl: as val.
        test_gbl: as val.
    """

    source: tuple[tuple[Path, str], ...] = ()
    format: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    images: Path | None = None
    classes: Literal["top", "leaf"] = "top"
    long_tail: str = "none"
    head: str = "frequency"
    groups: Literal["thirds", "shots"] = "thirds"
    attributes: Literal["none", "column", "clusters"] = "none"
    features: str = "pixels"
    clusters: int = 6
    attribute_tail: tuple[int, int, int] | None = None
    val: float | int | None = None
    test_cbl: float | int | None = None
    test_gbl: float | int | None = None


HELP = {
    "format": ("NAME", "how the source is read (default: recognised)"),
    "columns": ("path:A,label:B", "the columns of a list: path, label, attribute, split, source"),
    "images": ("FOLDER", "where the paths of a list start (default: the list's folder)"),
    "classes": ("top|leaf", "which folder on an image's path is its class (default top)"),
    "long_tail": ("none|RATIO|pareto:RATIO|FILE", "the classes' tail: as the data are (default), a curve, or counts"),
    "head": ("frequency|seed|FILE", "which classes are frequent (default frequency); a file names one a line"),
    "groups": ("thirds|shots", "Many, Medium, Few: thirds of the classes (default), or over 100, 20 to 100, under 20"),
    "features": (
        "pixels|NAME|LIBRARY:NAME|FILE.npy",
        "what clusters are made of: pixels (default), a backbone (LIBRARY: timm, torchvision, open_clip), an array",
    ),
    "clusters": ("N", "clusters of each class, 2 to 127 (default 6), which make three attribute groups"),
    "attribute_tail": ("natural|A:B:C", "the attribute groups in training: as they are (default), or such as 7:2:1"),
    "val": ("X", "images of each class: a share below 1, or a count"),
    "test_cbl": ("X", "as val=, of Test-CBL"),
    "test_gbl": ("X", "as val=, of Test-GBL"),
}
"""Words that no other builder takes; `source` and `attributes` are words of others, too."""


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(nearest(text, words))
        return text

    return read


def _source(text: str) -> tuple[tuple[Path, str], ...]:
    """Read FILE, FILE,FILE or train:FILE,val:FILE,test:FILE. A file whose name has a comma stands alone."""
    if Path(text).exists():
        return ((Path(text), ""),)
    found = []
    for part in text.split(","):
        split, colon, path = part.partition(":")
        named = bool(colon) and split in SPLITS and bool(path)
        found.append((Path(path if named else part), split if named else ""))
    if "" in map(str, (path for path, _ in found)) or not all(text.split(",")):
        raise ValueError("PATH, or PATH,PATH, or train:PATH,val:PATH,test:PATH is")
    if len({path for path, _ in found}) < len(found):
        raise ValueError("a file is named twice; once is")
    return tuple(found)


def _columns(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [pair.partition(":") for pair in text.split(",")]
    for field, colon, column in pairs:
        if field in FIELDS and not column:
            raise ValueError(f"{field} lacks its column, and {field}:COLUMN is; the others go on behind a comma")
        if field not in FIELDS or not colon:
            raise ValueError(f"FIELD:COLUMN is, such as columns=path:file,label:species; {nearest(field, FIELDS)}")
    if len({field for field, _, _ in pairs}) < len(pairs):
        raise ValueError("a field is named twice; once is")
    return tuple((field, column) for field, _, column in pairs)


def curves() -> list[str]:
    """List the curves that there are, by the names of their files."""
    return sorted(path.stem for path in TAILS.glob("[!_]*.py"))


def curve_of(text: str) -> tuple[str, float] | None:
    """Return the curve and the ratio that `long_tail=` names; None where it names none that there is.

    They come before a file that is called like them, which is `./100`.
    """
    found = _curve_and_ratio(text)
    return found if found and found[0] in curves() else None


def _curve_and_ratio(text: str) -> tuple[str, float] | None:
    curve, colon, number = text.rpartition(":")
    try:
        return (curve if colon else _USUAL_CURVE), argument(number, float)
    except ValueError:
        return None


def file_of(word: str, value: Any) -> Path | None:
    """Return the file that a word of a build names by its value; None where the value says something else."""
    if word == "long_tail":
        return None if value == "none" or curve_of(value) else Path(value)
    if word == "head":
        return None if value in _HEADS else Path(value)
    return Path(value) if word == "features" and value.endswith(".npy") else None


def _tail(text: str) -> str:
    path, found, legal = file_of("long_tail", text), _curve_and_ratio(text), ", ".join(curves())
    if path is not None and not path.is_file():
        if found:
            raise ValueError(f"there is no curve {found[0]}; {nearest(found[0], curves())}")
        raise ValueError(f"none, a ratio such as 100, CURVE:RATIO with CURVE one of {legal}, or a file of counts is")
    if path is None and found and found[1] < 1:
        raise ValueError("a ratio from 1 on is: images of the most frequent class over those of the rarest")
    return text


def _proportion(text: str) -> tuple[int, int, int] | None:
    if text == "natural":
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3}):([1-9][0-9]{0,3})", text)
    many, medium, few = map(int, found.groups()) if found else (0, 0, 0)
    if not many >= medium >= few > 0:
        raise ValueError("natural, or three whole numbers from large to small is, such as 7:2:1")
    whole = math.gcd(many, medium, few)
    return many // whole, medium // whole, few // whole


def _amount(text: str) -> float | int:
    """Read a share, 0 < X < 1, or a count of images, 1 or more."""
    try:
        value: float = argument(text, float)
    except ValueError:
        value = 0.0
    if not (0 < value < 1 or (value >= 1 and value == int(value) and value < 2**31)):
        raise ValueError("a share of each class above 0 and below 1, or a whole number of images of each class is")
    return value if value < 1 else int(value)


def _clusters(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 2 <= int(text) <= 127:
        raise ValueError("a whole number from 2 to 127 is")
    return int(text)


def _features(text: str) -> str:
    if (path := file_of("features", text)) is not None and not path.is_file():
        raise ValueError("there is no such file; an .npy file with a row for each image is")
    return text


def _head(text: str) -> str:
    if (path := file_of("head", text)) is not None and not path.is_file():
        raise ValueError("frequency, seed, or a file with the name of a class on each line, from head to tail, is")
    return text


READ: Mapping[str, Callable[[str], Any]] = {
    "source": _source,
    "format": str,
    "columns": _columns,
    "images": Path,
    "classes": _one_of("top", "leaf"),
    "long_tail": _tail,
    "head": _head,
    "groups": _one_of("thirds", "shots"),
    "attributes": _one_of("none", "column", "clusters"),
    "features": _features,
    "clusters": _clusters,
    "attribute_tail": _proportion,
    "val": _amount,
    "test_cbl": _amount,
    "test_gbl": _amount,
}
_OF_CLUSTERS = ("features", "clusters")
_OF_ATTRIBUTES = ("attribute_tail", "test_gbl")


def fault(samples: Samples, given: Collection[str]) -> str:
    """Return which of the given words do not go together, and why; empty where all do."""
    if not samples.source:
        return "source= is missing; a folder of class folders, an archive or a list of labelled images would be legal"
    if samples.attributes != "clusters" and (word := next((word for word in _OF_CLUSTERS if word in given), None)):
        return f"{word}= says how clusters are made: it needs attributes=clusters"
    if samples.attributes == "none" and (word := next((word for word in _OF_ATTRIBUTES if word in given), None)):
        return f"{word}= needs attributes=column or attributes=clusters: without attributes there are no groups of them"
    columns = dict(samples.columns)
    if samples.attributes == "column" and columns and "attribute" not in columns:
        return "attributes=column needs the column's name, columns=...,attribute:NAME"
    if samples.attributes != "column" and "attribute" in columns:
        return f"columns=...,attribute:{columns['attribute']} names a column that attributes=column alone reads"
    return ""


assert set(READ) == {field.name for field in fields(Samples)} == {*HELP, "source", "attributes"}, "words differ"


def absolute(key: str, text: str) -> str:
    """Return the value of a word with its paths made absolute, for a process that starts in another folder."""
    if key == "source":
        return ",".join(
            f"{split}:{path.absolute()}" if split else str(path.absolute()) for path, split in _source(text)
        )
    if key == "images" or file_of(key, text) is not None:
        return str(Path(text).absolute())
    return text
