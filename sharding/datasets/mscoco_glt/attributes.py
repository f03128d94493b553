"""COCO-Attributes as plain arrays: `python -m sharding.datasets.mscoco_glt.attributes FILE.jbl ARRAYS.npz`.

The data set comes as cocottributes_py3.jbl (1.26 GB), a joblib pickle, and unpickling runs any code in a file. So it is
read once, here, in a separate process, and becomes an .npz without objects, which every later step loads instead.

What is trusted stands in sharding/building/plain_pickle.py. joblib itself is not used: arrays are read from its format
here, and arrays of objects, which would hold a pickle of their own, are refused. An array may not claim more bytes than
the file has, and the process may not take more memory than `MEMORY` times the file (4 GiB at least).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from recipes.common.errors import DataError, one_line
from sharding.building.plain_pickle import PLAIN, Kind, Names, PlainUnpickler, Refused
from sharding.format.index import load_npz, save_npz

ORIGINAL = "5604b2a9bf14cf3d73b64e6fe602267a628ebe09f9fe0a94641b2745fdfeefbd"
"""Hex sha256 of the published cocottributes_py3.jbl, 1,261,766,525 bytes."""

MEMORY = 8
"""Address space of the reading process, in units of the file's size: Python's objects take several times their
bytes on disk.
"""

_PACKED = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "lzma": b"\x5d\0\0",
    "lz4": b"\x04\x22\x4d\x18",
    "zip": b"PK\x03\x04",
    "an old joblib": b"ZF",
    "zlib": b"\x78",
}
"""First bytes of files compressed by joblib or by a person; a pickle never begins like this."""

_FIELDS = ("patch", "annotation", "present", "name", "sha256")


@dataclass(frozen=True, eq=False)
class Attributes:
    """N annotated patches in the order of the file, A attributes.

    Attributes:
        patch: ids, unique, int64 [N].
        annotation: id of the COCO instance that the patch shows, int64 [N]; -1 if the file does not name it.
        present: whether annotators agreed on the attribute (its value is > 0.5), bool [N, A].
        name: the attributes' names, text [A].
        sha256: hex, of the file that they were read from.
    """

    patch: np.ndarray
    annotation: np.ndarray
    present: np.ndarray
    name: np.ndarray
    sha256: str

    def __len__(self) -> int:
        """Return the number of patches N."""
        return len(self.patch)


# --------------------------------------------------------------------------------------------------- the plain arrays
def load_arrays(path: Path) -> Attributes:
    """Read an .npz of `save_arrays`.

    Raises:
        DataError: the file, which the sentence names, is missing, damaged or not such an .npz.
    """
    try:
        arrays = load_npz(path)
        missing = [name for name in _FIELDS if name not in arrays]
        if missing:
            raise DataError(f"it lacks {', '.join(missing)}")
        found = Attributes(
            patch=arrays["patch"],
            annotation=arrays["annotation"],
            present=arrays["present"],
            name=arrays["name"],
            sha256=str(arrays["sha256"]),
        )
    except FileNotFoundError:
        raise DataError(
            f"{path} is not there; attributes= names cocottributes_py3.jbl, or the .npz made from it"
        ) from None
    except DataError as error:
        raise DataError(one_line(f"{path} cannot be used as arrays of COCO-Attributes: {error}")) from None
    count, width = found.patch.size, found.name.size
    legal = {
        "patch": ("i", (count,)),
        "annotation": ("i", (count,)),
        "present": ("b", (count, width)),
        "name": ("U", (width,)),
    }
    for field, (kind, shape) in legal.items():
        array = getattr(found, field)
        if array.dtype.kind != kind or array.shape != shape or not count or not width:
            raise DataError(
                f"{path} cannot be used as arrays of COCO-Attributes: {field} has shape {array.shape} of {array.dtype}"
            )
    if len(np.unique(found.patch)) != count:
        raise DataError(f"{path} cannot be used as arrays of COCO-Attributes: a patch id occurs twice")
    return found


def save_arrays(path: Path, attributes: Attributes) -> None:
    """Write `attributes` as an .npz: atomically, the same bytes for the same arrays."""
    save_npz(path, {name: np.asarray(getattr(attributes, name)) for name in _FIELDS})


def plain_arrays(path: Path, arrays: Path) -> Attributes:
    """Load the attributes in `path`.

    An .npz is loaded directly. Any other file is read as the joblib pickle, by a separate process that writes `arrays`,
    unless `arrays` were already made from this file.

    Raises:
        DataError: the file is missing, cut off, asks for code to be run, or holds something else; one sentence.
    """
    if path.suffix == ".npz":
        return load_arrays(path)
    digest = _digest(path)
    try:
        found = load_arrays(arrays)
        if found.sha256 == digest:
            return found
    except DataError:
        pass  # missing, or in an old format
    print(f"attributes: reading {path.name} once, in a process of its own, to {arrays}")
    if digest != ORIGINAL:
        print(
            f"attributes: {path.name} is not the published file (its sha256 begins with {digest[:12]}, not "
            f"{ORIGINAL[:12]}): "
            f"counts may differ from the paper's"
        )
    # -I: do not import from the current folder or PYTHONPATH. One BLAS thread: each reserves address space.
    project = str(Path(__file__).resolve().parents[3])
    start = (
        f"import sys; sys.path.insert(0, {project!r}); from sharding.datasets.mscoco_glt.attributes import "
        "alone; sys.exit(alone(sys.argv[1:]))"
    )
    environment = {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", ""),
    }
    result = subprocess.run(
        [sys.executable, "-I", "-c", start, str(path.absolute()), str(arrays.absolute()), digest],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if result.returncode:
        last = (result.stderr.strip().splitlines() or [""])[-1]
        raise DataError(
            last
            if result.returncode == 2 and last
            else one_line(
                f"{path} could not be read: the process that reads it ended with status {result.returncode} {last}"
            )
        )
    return load_arrays(arrays)


def _digest(path: Path) -> str:
    """Return the file's sha256, hex.

    Raises:
        DataError: the file is missing, or is only the pointer that git leaves for a large file.
    """
    try:
        with open(path, "rb") as file:
            if file.read(64).startswith(b"version https://git-lfs"):
                raise DataError(
                    f"{path} is git's stand-in for a large file, not the file itself; `git lfs pull` in its "
                    "repository fetches that"
                )
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); attributes= names cocottributes_py3.jbl, or the .npz made "
            "from it"
        ) from None


# ------------------------------------------------------------------------------------------------ the restricted reader
class _Header:
    """Stands in for joblib's NumpyArrayWrapper, the header before the raw bytes of an array."""


class _Unpickler(PlainUnpickler):
    """Reads joblib's format, in which the raw bytes of an array follow its header."""

    admitted: ClassVar[Names] = {
        **PLAIN,
        ("joblib.numpy_pickle", "NumpyArrayWrapper"): _Header,
        ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"): _Header,  # joblib's former place
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._file, self._size = file, os.fstat(file.fileno()).st_size

    def built(self, top: Any, state: Any) -> Any:
        if type(top) is _Header and isinstance(state, dict):
            return self._array(state)
        return super().built(top, state)

    def _array(self, header: dict[str, Any]) -> np.ndarray:
        """Read the array whose raw bytes follow in the file."""
        shape, kind = header["shape"], header["dtype"]
        if type(kind) is not Kind or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise Refused(f"an array of shape {shape!r}")
        if header.get("numpy_array_alignment_bytes") is not None:
            self._file.read(self._file.read(1)[0])
        count = 1
        for n in shape:
            count *= n
        if count * kind.dtype.itemsize > self._size - self._file.tell():
            raise EOFError(
                f"an array of {count * kind.dtype.itemsize} bytes at byte {self._file.tell()} is longer than the "
                "rest of the file"
            )
        array = np.frombuffer(self._file.read(count * kind.dtype.itemsize), kind.dtype, count)
        return array.reshape(shape, order="F" if header["order"] == "F" else "C")


def read_pickle(path: Path) -> Any:
    """Read a joblib pickle of plain data: numbers, text, bytes, builtin containers, arrays.

    Raises:
        DataError: it is truncated, compressed, not such a pickle, or contains a name that is not admitted;
            nothing in it has run then.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
            if packed := next((name for name, start in _PACKED.items() if magic.startswith(start)), None):
                raise DataError(
                    f"{path} is packed by {packed}, and only the unpacked file is read: joblib.dump(joblib.load(FILE), "
                    "OTHER, compress=0) writes it, where you trust the file"
                )
            file.seek(0)
            return _Unpickler(file).load()
    except Refused as error:
        raise DataError(
            one_line(
                f"{path} is refused: its pickle asks for {error}, which plain data do not need; nothing of it was run"
            )
        ) from None
    except DataError:
        raise
    except MemoryError:
        raise DataError(
            f"{path} needs more memory than {MEMORY} times its size, so that it is not COCO-Attributes' file"
        ) from None
    except Exception as error:  # pickle raises some ten unrelated types for damaged bytes
        why = f"{type(error).__name__}: {error}"
        raise DataError(
            one_line(f"{path} is cut off, damaged or no joblib pickle ({why}); the published file has 1261766525 bytes")
        ) from None


def attributes_of(content: Any, path: Path, digest: str) -> Attributes:
    """Turn COCO-Attributes' dictionary into arrays; `path` is for messages, `digest` the file's sha256.

    Raises:
        DataError: something is missing or illegal.
    """
    needed = ("ann_vecs", "patch_id_to_ann_id", "attributes")
    missing = [key for key in needed if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(f"{path} is not COCO-Attributes' file: it lacks {', '.join(missing)}")
    vectors, instances, listed = (content[key] for key in needed)
    if not isinstance(vectors, dict) or not isinstance(instances, dict) or not vectors or not listed:
        raise DataError(
            f"{path} is not COCO-Attributes' file: ann_vecs and patch_id_to_ann_id must be dictionaries, ann_vecs "
            "and attributes not empty"
        )
    try:
        names = np.array([str(entry["name"]) for entry in listed])
        "".join(names.tolist()).encode()  # half of a character cannot be, and dataset.json would not be read again
        patch = np.array(_ids("ann_vecs", vectors), dtype=np.int64)
        named = _ids("patch_id_to_ann_id", instances)
        instance = dict(zip(named, (_id(value) for value in instances.values()), strict=True))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise DataError(
            one_line(f"{path} is not COCO-Attributes' file: an id or an attribute's name is not legal ({error})")
        ) from None
    present = np.zeros((len(vectors), len(names)), bool)
    for row, (key, vector) in enumerate(vectors.items()):
        try:
            values = np.asarray(vector, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != names.shape or not (values >= 0).all() or not (values <= 1).all():
            raise DataError(
                f"{path} is not COCO-Attributes' file: ann_vecs of patch {key} is not a vector of {len(names)} "
                "numbers in 0 to 1"
            )
        present[row] = values > 0.5
    return Attributes(
        patch, np.array([instance.get(p, -1) for p in patch.tolist()], dtype=np.int64), present, names, digest
    )


def _ids(name: str, table: Mapping[Any, Any]) -> list[int]:
    """Return a table's keys as whole numbers.

    Raises:
        ValueError: one is not a whole number, or two are equal.
    """
    first: dict[int, int] = {}
    for number, key in enumerate(table):
        if first.setdefault(_id(key), number) < number:
            raise ValueError(f"{name} has id {_id(key)} twice, as its entries {first[_id(key)]} and {number}")
    return list(first)


def _id(value: Any) -> int:
    """Return an id as a whole number: JSON made some of them text."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    raise ValueError(f"id {value!r}")


def main(arguments: list[str]) -> int:
    """Read the pickle and write the arrays, in this process.

    Returns the exit status: 2, after one sentence, for a bad file.
    """
    if len(arguments) not in (2, 3):
        print(__doc__.strip().splitlines()[0], file=sys.stderr)
        return 2
    path, arrays = Path(arguments[0]), Path(arguments[1])
    try:
        digest = arguments[2] if len(arguments) == 3 else _digest(path)
        save_arrays(arrays, attributes_of(read_pickle(path), path, digest))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    except MemoryError:
        print(
            f"{path} needs more memory than {MEMORY} times its size, so that it is not COCO-Attributes' file",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        print(f"{error.filename or arrays}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def alone(arguments: list[str]) -> int:
    """Run `main` as a whole process, with its memory limited by the size of the file that it reads."""
    with contextlib.suppress(OSError, IndexError):  # `main` reports what is wrong with it
        limit = max(4 << 30, MEMORY * Path(arguments[0]).stat().st_size)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return main(arguments)
