"""The MNIST family: pairs of IDX files, images and labels, packed by gzip or not.

An IDX file is two zero bytes, the numbers' type, the count of dimensions, each dimension's length in 4 bytes (the
highest first), then the numbers. The pairs are recognised by their names, such as train-images-idx3-ubyte.gz beside
train-labels-idx1-ubyte.gz. `train` is the split train; `t10k` and `test` are the split test.

Pixels stay where they are, or in an unpacked copy. A class is called by its number, or by a line of `classes.txt` or
`names` beside the files: the first line names class 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from sharding.building.raw_files import Pixels
from sharding.sources.rows import Asked, Row
from sharding.sources.shared.unpacked import head_of, unpacked

SAYS = "IDX files as of MNIST (train-images-idx3-ubyte.gz and its kin)"
NAMES = ("classes.txt", "names")
"""Files that may give the classes' names."""

_IMAGES = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)(?P<a>[-._])images(?P<b>[-._])idx3(?P<c>[-._])ubyte(\.gz)?"
)
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
_BYTE = 0x08
_INTEGERS: dict[int, np.dtype[Any]] = {
    _BYTE: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
}
_MOST_LABELS = 1 << 30
"""Images of one file, so that a header with a wrong length does not ask for all memory."""


@dataclass(frozen=True)
class _Pair:
    """An images file, the labels file that goes with it, and their split."""

    images: Path
    labels: Path
    split: str


@dataclass(frozen=True)
class _Names:
    """The file that names the classes, and its lines."""

    file: str
    lines: tuple[str, ...]


def recognises(path: Path) -> bool:
    """Return whether the folder has an images file of this family, or the file is one."""
    if path.is_dir():
        return any(_IMAGES.fullmatch(file.name) for file in path.iterdir())
    return _IMAGES.fullmatch(path.name) is not None


def rows(asked: Asked) -> Iterator[Row]:
    """Yield the images, train before test, in the order of the files.

    Raises:
        DataError: a file is missing, is not such an IDX file or does not fit the other, or a label is not legal.
    """
    for path, split in asked.paths:
        for pair in _pairs(path, split):
            yield from _rows(pair, asked.work, str(path))


def _pairs(path: Path, split: str) -> list[_Pair]:
    """Find the pairs of a folder, or the pair of one images file."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if _IMAGES.fullmatch(file.name))
        found = [file for file in found if not (file.suffix == ".gz" and file.with_suffix("") in found)]
    else:
        found = [path] if _IMAGES.fullmatch(path.name) else []
    if not found:
        raise DataError(f"{path}: no images file of the MNIST family is there; train-images-idx3-ubyte.gz is legal")
    names = {file: match for file in found if (match := _IMAGES.fullmatch(file.name))}
    sets = sorted({match["set"] for match in names.values()})
    if len(sets) > 1:
        raise DataError(
            f"{path}: holds {len(sets)} data sets, whose files begin with {', '.join(map(repr, sets))}; one is legal: "
            "name its images files, or make a folder of each"
        )
    by_split: dict[str, _Pair] = {}
    for file, match in names.items():
        plain = f"{match['set']}{match['split']}{match['a']}labels{match['b']}idx1{match['c']}ubyte"
        labels = next((one for name in (plain, f"{plain}.gz") if (one := file.with_name(name)).is_file()), None)
        if labels is None:
            raise DataError(f"{file}: its labels are missing; {plain} or {plain}.gz beside it is legal")
        its = split or _SPLITS[match["split"]]
        if (other := by_split.setdefault(its, _Pair(file, labels, its))).images != file:
            raise DataError(f"{path}: {other.images.name} and {file.name} are both the split {its}; one is legal")
    return sorted(by_split.values(), key=lambda pair: pair.split != "train")


def _rows(pair: _Pair, work: Path, source: str) -> Iterator[Row]:
    (count, *shape), _, begin = _header(pair.images, (3, 4), {_BYTE: _INTEGERS[_BYTE]})
    if len(shape) == 3 and shape[-1] != 3:
        raise DataError(f"{pair.images}: images of shape {'x'.join(map(str, shape))}; H x W and H x W x 3 are legal")
    if min(shape) < 1 or shape[:2] == [1, 1]:
        raise DataError(f"{pair.images}: images of {shape[1]}x{shape[0]} pixels show nothing; larger ones are legal")
    size = int(np.prod(shape))
    names = _names(pair.images.parent)
    labels = _labels(pair, work, count, names)
    path = _checked(pair.images, work, begin + count * size)
    file, root = str(path), source if path == pair.images else ""
    for number, label in enumerate(labels.tolist()):
        name = f"{pair.split}-{number:0{len(str(count - 1))}d}.png"
        place = Pixels(file, begin + number * size, size, name, root, shape=tuple(shape))
        yield Row(name, place, names.lines[label] if names else str(label), split=pair.split)


def _labels(pair: _Pair, work: Path, images: int, names: _Names | None) -> np.ndarray:
    (count,), kind, begin = _header(pair.labels, (1,), _INTEGERS)
    if count != images:
        raise DataError(
            f"{pair.labels}: has {count} labels, and {pair.images.name} has {images} images; a label for each is legal"
        )
    labels = np.fromfile(_checked(pair.labels, work, begin + count * kind.itemsize), kind, count, offset=begin)
    illegal = (labels < 0) | (labels >= len(names.lines) if names else False)
    if illegal.any():
        first = int(illegal.argmax())
        legal = f"0 to {len(names.lines) - 1}, the lines of {names.file}, are" if names else "0 and above is"
        raise DataError(f"{pair.labels}: label {labels[first]} of image {first} is out of range; {legal} legal")
    return labels


def _header(
    path: Path, dimensions: tuple[int, ...], kinds: dict[int, np.dtype[Any]]
) -> tuple[list[int], np.dtype[Any], int]:
    """Read the dimensions of an IDX file, the type of its numbers, and where they begin.

    Raises:
        DataError: it is not an IDX file, or one of other dimensions or types than these.
    """
    head = head_of(path, 4 + 4 * max(dimensions))
    if len(head) < 4 or head[:2] != b"\0\0" or not head[3]:
        raise DataError(f"{path}: is not an IDX file, it begins with {head[:4]!r}")
    if head[2] not in kinds or head[3] not in dimensions:
        legal = " or ".join(map(str, dimensions))
        types = ", ".join(f"{kind:#04x}" for kind in kinds)
        raise DataError(
            f"{path}: holds numbers of type {head[2]:#04x} in {head[3]} dimensions; type {types} in {legal} is legal"
        )
    begin = 4 + 4 * head[3]
    if len(head) < begin:
        raise DataError(f"{path}: ends inside its header")
    lengths = np.frombuffer(head, ">u4", head[3], offset=4).tolist()
    if not 1 <= lengths[0] <= _MOST_LABELS:
        raise DataError(f"{path}: holds {lengths[0]} entries; 1 to {_MOST_LABELS} are legal")
    return lengths, kinds[head[2]], begin


def _checked(path: Path, work: Path, size: int) -> Path:
    """Return the file, or its unpacked copy, after a check of its size in bytes."""
    plain = unpacked(path, work, most=size)
    if (found := plain.stat().st_size) != size:
        what = f"ends {size - found} bytes before" if found < size else f"goes on {found - size} bytes after"
        raise DataError(f"{path}: {what} the last entry that its header names")
    return plain


def _names(folder: Path) -> _Names | None:
    """Read the names of the classes; None where no file has them."""
    path = next((path for name in NAMES if (path := folder / name).is_file()), None)
    if path is None:
        return None
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if not lines or "" in lines or len(set(lines)) < len(lines):
        raise DataError(f"{path}: has an empty line, a name twice or no name; a line for each class is legal")
    return _Names(path.name, tuple(lines))
