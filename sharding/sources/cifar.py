"""CIFAR-10 and CIFAR-100 as their authors published them: the python and the binary version.

The source is the archive as it was downloaded (.tar.gz, or the .tar in it), or the folder that it unpacks to. A packed
archive is unpacked once, as a tar. Pixels are read from where they lie in the batches. Pickled batches are read without
running anything of them.

Classes are called as the files name them. CIFAR-100 has two labels an image: `fine`, its 100 classes, is taken unless
`columns=label:coarse` asks for its 20.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recipes.common.errors import DataError, one_line
from sharding.building.listing import list_tar
from sharding.building.plain_pickle import PLAIN, ArrayClass, Kind, Names, PlainUnpickler, Refused
from sharding.building.raw_files import Pixels, Place
from sharding.sources.rows import Asked, Row
from sharding.sources.shared.unpacked import unpacked

SAYS = "CIFAR-10 or CIFAR-100, python or binary version: the .tar.gz, or the folder that it unpacks to"
TAKES = ("columns",)

_SHAPE = (3, 32, 32)
_SIZE = 3 * 32 * 32
_MOST = 1 << 30
"""Bytes of an unpacked archive, so that a packed one of zeros does not fill the disk."""


@dataclass(frozen=True)
class _Version:
    """One of the four published forms.

    Attributes:
        folder: the archive's folder.
        train: its training batches, in their order.
        test: its test batch.
        names: kind of label -> file with the classes' names, and the key of the list in it where it is a pickle.
        labels: kind of label -> key of the labels in a pickled batch, or their byte in a binary record.
    """

    folder: str
    train: tuple[str, ...]
    test: str
    names: Mapping[str, tuple[str, str]]
    labels: Mapping[str, str | int]

    @property
    def files(self) -> set[str]:
        """All files that it needs."""
        return {*self.train, self.test, *(file for file, _ in self.names.values())}

    @property
    def pickled(self) -> bool:
        """Whether it is the python version."""
        return not self.test.endswith(".bin")


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
VERSIONS = (
    _Version(
        "cifar-10-batches-py", _BATCHES, "test_batch", {"fine": ("batches.meta", "label_names")}, {"fine": "labels"}
    ),
    _Version(
        "cifar-10-batches-bin",
        tuple(f"{name}.bin" for name in _BATCHES),
        "test_batch.bin",
        {"fine": ("batches.meta.txt", "")},
        {"fine": 0},
    ),
    _Version(
        "cifar-100-python",
        ("train",),
        "test",
        {"fine": ("meta", "fine_label_names"), "coarse": ("meta", "coarse_label_names")},
        {"fine": "fine_labels", "coarse": "coarse_labels"},
    ),
    _Version(
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        {"fine": ("fine_label_names.txt", ""), "coarse": ("coarse_label_names.txt", "")},
        {"coarse": 0, "fine": 1},
    ),
)


@dataclass(frozen=True)
class _Batch:
    """Images of one file: where each one's pixels begin in that file, and its label; int64 [N] both."""

    begins: np.ndarray
    labels: np.ndarray


def recognises(path: Path) -> bool:
    """Return whether the folder has the files of a version, or the archive begins with the folder of one."""
    if path.is_dir():
        names = {file.name for file in path.iterdir()}
        return any(version.files <= names for version in VERSIONS)
    if not path.name.endswith((".tar", ".tar.gz", ".tgz")):
        return False
    try:
        with tarfile.open(path, "r:*") as tar:
            first = tar.next()
    except (tarfile.TarError, EOFError, OSError):
        return False
    return first is not None and first.name.split("/")[0] in {version.folder for version in VERSIONS}


def rows(asked: Asked) -> Iterator[Row]:
    """Yield the images, train before test, in the order of the batches.

    Raises:
        DataError: a file is missing, damaged or not of its form, or something else than a label is asked for.
    """
    for path, split in asked.paths:
        if split:
            raise DataError(f"{path}: CIFAR's files say which image is train and which is test; no {split}= is legal")
        yield from _rows(path, asked)


def _rows(path: Path, asked: Asked) -> Iterator[Row]:
    files = _files(path, asked.work)
    version = next((one for one in VERSIONS if one.files <= set(files)), None)
    if version is None:
        raise DataError(
            f"{path}: is no whole version of CIFAR; legal are the files of "
            f"{', '.join(version.folder for version in VERSIONS)}, and a batch or a file of names is missing"
        )
    kind = _kind_of_label(asked.columns, version, path)
    names = _class_names(files, version, kind)
    for split, batches in (("train", version.train), ("test", (version.test,))):
        read = [_batch(files[name], version, kind, len(names)) for name in batches]
        digits, number = len(str(sum(len(batch.labels) for batch in read) - 1)), 0
        for file, batch in zip((files[name] for name in batches), read, strict=True):
            for begin, label in zip(batch.begins.tolist(), batch.labels.tolist(), strict=True):
                name = f"{split}-{number:0{digits}d}.png"
                yield Row(
                    name,
                    Pixels(file.path, file.offset + begin, _SIZE, name, file.root, shape=_SHAPE),
                    names[label],
                    split=split,
                )
                number += 1


def _files(path: Path, work: Path) -> dict[str, Place]:
    """Return where each file of a folder or an archive is, by the last part of its name."""
    if path.is_dir():
        return {
            file.name: Place(str(file), 0, file.stat().st_size, "", str(path))
            for file in path.iterdir()
            if file.is_file()
        }
    tar = unpacked(path, work, most=_MOST)
    root = str(path) if tar == path else ""
    return {
        file.name.rpartition("/")[2]: Place(str(tar), file.offset, file.size, file.name, root)
        for file in list_tar(tar, str(path)).files
    }


def _kind_of_label(columns: Mapping[str, str], version: _Version, path: Path) -> str:
    kind = columns.get("label", "fine")
    if set(columns) - {"label"} or kind not in version.labels:
        words = ",".join(f"{field}:{name}" for field, name in columns.items())
        legal = " or ".join(f"label:{kind}" for kind in version.labels)
        raise DataError(f"columns={words} is not legal for {path}: {version.folder} has {legal} alone")
    return kind


def _class_names(files: Mapping[str, Place], version: _Version, kind: str) -> list[str]:
    name, key = version.names[kind]
    place = files[name]
    if version.pickled:
        found = _content(place).get(key)
        names = list(found) if isinstance(found, list) and all(isinstance(one, str) for one in found) else []
    else:
        names = place.read().decode("latin-1").split()
    if not names or len(set(names)) < len(names):
        raise DataError(f"{place}: holds no names of classes, or one twice; a name for each class is legal")
    return names


def _batch(place: Place, version: _Version, kind: str, classes: int) -> _Batch:
    found = _pickled(place, str(version.labels[kind])) if version.pickled else _binary(place, version, kind)
    wrong = (found.labels < 0) | (found.labels >= classes)
    if not len(wrong) or wrong.any():
        first = int(wrong.argmax()) if len(wrong) else 0
        said = f"image {first} has label {found.labels[first]}" if len(wrong) else "it has no images"
        raise DataError(f"{place}: {said}; images with labels from 0 to {classes - 1} are legal")
    return found


# ------------------------------------------------------------------------------------------------------ binary batches
def _binary(place: Place, version: _Version, kind: str) -> _Batch:
    before = len(version.labels)
    if place.size % (record := before + _SIZE):
        raise DataError(f"{place}: has {place.size} bytes, which are no whole number of records of {record} bytes")
    records = np.frombuffer(place.read(), np.uint8).reshape(-1, record)
    return _Batch(np.arange(len(records)) * record + before, records[:, int(version.labels[kind])].astype(np.int64))


# ------------------------------------------------------------------------------------------------------ python batches
class _Array:
    """Stands in for an array until its state is read."""


def _reconstruct(kind: Any, *_: Any) -> _Array:
    """Make an array, in place of numpy's constructor; its content is read later."""
    if kind is not ArrayClass:
        raise Refused("an array of a class of its own")
    return _Array()


class _Unpickler(PlainUnpickler):
    """Reads numpy's own pickles of arrays, too."""

    admitted: ClassVar[Names] = {
        **PLAIN,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    }

    def built(self, top: Any, state: Any) -> Any:
        if type(top) is not _Array:
            return super().built(top, state)
        if not isinstance(state, tuple) or len(state) != 5:
            raise Refused("an array of another form")
        _, shape, kind, by_columns, content = state
        if not (isinstance(shape, tuple) and all(type(side) is int for side in shape)) or type(kind) is not Kind:
            raise Refused("an array of another form")
        data = content.encode("latin-1") if isinstance(content, str) else content  # Python 2 wrote its bytes as text
        return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if by_columns else "C")


def _content(place: Place) -> dict[str, Any]:
    """Read a pickled batch.

    Raises:
        DataError: it is damaged, or asks for more than plain data.
    """
    try:
        content = _Unpickler(io.BytesIO(place.read()), encoding="latin-1").load()
    except Refused as error:
        raise DataError(
            one_line(
                f"{place} is refused: its pickle asks for {error}, which plain data do not need; nothing of it was run"
            )
        ) from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # pickle raises some ten unrelated types for damaged bytes
        raise DataError(one_line(f"{place}: is damaged or no pickle ({type(error).__name__}: {error})")) from None
    if not isinstance(content, dict):
        raise DataError(f"{place}: holds a {type(content).__name__}, not CIFAR's dictionary")
    return content


def _pickled(place: Place, key: str) -> _Batch:
    content = _content(place)
    pixels, labels = content.get("data"), content.get(key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_SIZE,):
        raise DataError(f"{place}: its `data` is no array of N x {_SIZE} bytes, as CIFAR's is")
    if not isinstance(labels, Sequence) or len(labels) != len(pixels) or not all(type(one) is int for one in labels):
        raise DataError(f"{place}: its `{key}` is no list of {len(pixels)} whole numbers, one for each image")
    begin = _where(pixels, place)
    return _Batch(begin + np.arange(len(pixels)) * _SIZE, np.array(labels, np.int64))


def _where(pixels: np.ndarray, place: Place) -> int:
    """Return the byte of the file at which the pixels begin, one image after the other."""
    data, wanted = place.read(), pixels.tobytes()
    at = data.find(wanted[:_SIZE]) if len(pixels) else 0
    while at >= 0 and data[at : at + len(wanted)] != wanted:
        at = data.find(wanted[:_SIZE], at + 1)
    if at < 0:
        raise DataError(
            f"{place}: its pixels do not lie in the file as bytes, so another program wrote it; the published file is "
            "legal"
        )
    return at
