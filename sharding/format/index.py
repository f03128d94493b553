"""The index of a split: where each image lies in the split's tar shards, and what is known about it.

`index.npz` is beside the shards. With it a reader gets any image by one positioned read in an ordinary tar, in any
order, and checks the bytes by their digest. Needs only numpy (no torch, no webdataset).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import InitVar, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from recipes.common.errors import DataError, one_line
from recipes.common.files import whole_file
from recipes.common.retries import retried

INDEX_FILE = "index.npz"
FORMAT = "glt-index-1"
CHUNK = 1 << 16
"""Entries whose text is looked at together; as Python's strings all of them would take several times the index."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold: the file's bytes must not depend on the clock

# field -> (little-endian dtype, "U" = text; length: N samples or S shards; bytes per entry, None = one value)
_LAYOUT: dict[str, tuple[str, str, int | None]] = {
    "key": ("U", "N", None),
    "source": ("U", "N", None),
    "shard": ("<i4", "N", None),
    "offset": ("<i8", "N", None),
    "size": ("<i8", "N", None),
    "sha256": ("|u1", "N", 32),
    "label": ("<i8", "N", None),
    "group": ("<i8", "N", None),
    "attribute": ("<i8", "N", None),
    "shard_name": ("U", "S", None),
    "shard_size": ("<i8", "S", None),
    "shard_sha256": ("|u1", "S", 32),
}


def by_class_and_group(label: ArrayLike, attribute: ArrayLike, classes: int) -> np.ndarray:
    """Count N images by class and attribute group.

    Args:
        label: class ids, whole numbers [N].
        attribute: attribute groups 0 to 2, or -1 for none [N].
        classes: their number K.

    Returns:
        int64 [K, 4]; the last column: no attribute.
    """
    table = np.zeros((classes, 4), np.int64)
    np.add.at(table, (np.asarray(label, np.int64), np.asarray(attribute, np.int64)), 1)
    return table


@dataclass(frozen=True, eq=False)
class Index:
    """N samples in S shards, in the order in which the shards hold them. All arrays are read-only.

    Attributes:
        key: text [N], unique in the split.
        source: text [N], what the image was made from.
        shard: int32 [N], the row in the shard arrays.
        offset: int64 [N], the byte in that tar at which the data of KEY.jpg start.
        size: int64 [N], bytes of the image.
        sha256: uint8 [N, 32], the digest of these bytes.
        label: int64 [N], class id.
        group: int64 [N], the class's frequency group: 0 many, 1 medium, 2 few.
        attribute: int64 [N], the attribute's frequency group inside the class: 0 to 2, or -1 for none.
        shard_name: text [S].
        shard_size: int64 [S], bytes of the tar.
        shard_sha256: uint8 [S, 32].
        copied: whether the arrays are copied, or handed over.

    Raises:
        DataError: shapes or ranges do not fit together.
    """

    key: np.ndarray
    source: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    sha256: np.ndarray
    label: np.ndarray
    group: np.ndarray
    attribute: np.ndarray
    shard_name: np.ndarray
    shard_size: np.ndarray
    shard_sha256: np.ndarray
    copied: InitVar[bool] = True

    def __post_init__(self, copied: bool) -> None:
        lengths = {"N": len(self.key), "S": len(self.shard_name)}
        for name, (_, axis, width) in _LAYOUT.items():
            array = _column(name, getattr(self, name), copied)
            shape = (lengths[axis],) if width is None else (lengths[axis], width)
            if array.shape != shape:
                raise DataError(f"index field {name!r} has shape {array.shape}; {shape} would be legal")
            array.setflags(write=False)  # the cached fingerprint must stay true
            object.__setattr__(self, name, array)
        for name, low, high in (
            ("shard", 0, lengths["S"] - 1),
            ("offset", 0, None),
            ("size", 1, None),
            ("label", 0, None),
            ("group", 0, 2),
            ("attribute", -1, 2),
        ):
            array = getattr(self, name)
            if len(array) and (array.min() < low or (high is not None and array.max() > high)):
                legal = f"{low} to {high}" if high is not None else f"at least {low}"
                raise DataError(f"index field {name!r} runs from {array.min()} to {array.max()}; legal is {legal}")

    def counts(self, classes: int) -> dict[str, Any]:
        """Return what dataset.json says of a split of K classes, but for its fingerprint; other labels are skipped."""
        inside = self.label < classes
        table = by_class_and_group(self.label[inside], self.attribute[inside], classes)
        return {
            "samples": len(self),
            "shards": len(self.shard_name),
            "per_class": table.sum(1).tolist(),
            "per_class_attribute": table[:, :3].tolist(),
        }

    @classmethod
    def of_columns(cls, **columns: ArrayLike) -> Index:
        """Make an index from columns that are arrays or other sequences.

        Args:
            **columns: each attribute by its name.

        Raises:
            DataError: shapes or ranges do not fit together.
        """
        return cls(**{name: _column(name, values) for name, values in columns.items()}, copied=False)

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.key)

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of the arrays' contents (names, shapes, values), independent of the file format."""
        digest = hashlib.sha256(FORMAT.encode())
        for name, (dtype, _, _) in _LAYOUT.items():
            array = getattr(self, name)
            parts = [_bytes_of(array[first : first + CHUNK]) for first in range(0, len(array), CHUNK)]
            digest.update(f"|{name} {dtype} {array.shape} {sum(map(len, parts))}|".encode())
            for part in parts:
                digest.update(part)
        return digest.hexdigest()


def _bytes_of(array: np.ndarray) -> bytes:
    """Return values as bytes, text as UTF-8 after its length: numpy's bytes would depend on the longest entry."""
    if array.dtype.kind != "U":
        return array.tobytes()
    return b"".join(b"%d:%s" % (len(text), text) for text in (one.encode() for one in array.tolist()))


def _column(name: str, values: ArrayLike, copied: bool = True) -> np.ndarray:
    dtype = _LAYOUT[name][0]
    return np.array(values, dtype=np.str_ if dtype == "U" else dtype, copy=True if copied else None)


def save_index(folder: Path, index: Index) -> Path:
    """Write `folder/index.npz`, atomically and with the same bytes for the same index, and return its path."""
    path = Path(folder) / INDEX_FILE
    save_npz(path, {field.name: getattr(index, field.name) for field in fields(index)})
    return path


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` as an .npz that numpy loads without pickle: atomically, the same bytes for the same arrays."""
    # stored, not deflated: compressed bytes would depend on the version of zlib
    with whole_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def load_index(folder: Path, name: str = INDEX_FILE) -> Index:
    """Read the index in `folder/name`.

    Raises:
        DataError: the file, which the sentence names, is missing, damaged or incomplete.
    """
    path = Path(folder) / name
    try:
        arrays = load_npz(path)
        missing = [name for name in _LAYOUT if name not in arrays]
        if missing:
            raise DataError(f"it lacks {', '.join(missing)}")
        return Index(**{name: arrays[name] for name in _LAYOUT}, copied=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing, so {Path(folder)} is not a finished split") from None
    except (ValueError, TypeError, OverflowError) as error:  # DataErrors, and values that numpy cannot make an array of
        raise DataError(one_line(f"{path} cannot be used as an index: {error}")) from error


def kept_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read some arrays that an earlier start of a build kept; empty unless all are there and whole."""
    try:
        found = load_npz(path, names)
    except (FileNotFoundError, DataError):
        return {}
    return found if len(found) == len(names) else {}


def load_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz, none of which may be of objects.

    Args:
        path: the file.
        names: read these alone, as far as they are there; None: all.

    Raises:
        FileNotFoundError: it does not exist.
        DataError: it is damaged or not such a file; the sentence says how, but does not name the file.
    """
    try:
        return retried(lambda: _arrays_of(path, names), str(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(error.strerror or str(error)) from None
    except Exception as error:  # numpy, zipfile and the tokenizer raise some ten unrelated types for damaged bytes
        raise DataError(f"{type(error).__name__}: {error}") from None


def _arrays_of(path: Path, names: Collection[str] | None) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if names is None or name in names}
