"""Arrays of features on the disk: computed in parts, by all who need them at the same time, and joined.

An array is an ordinary .npy file, float32 [N, D], with the sha256 of its content as 32 more bytes at its end, which
`numpy.load` passes over. While it is computed its parts lie beside it in `NAME.parts/`. Every file has its name when it
is whole, and whoever computes a part gets the same bits, so several ranks and runs may work on one array without
locks, and one that was killed leaves only what the next need not do. numpy only.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import disk_refusal, sync_folder, whole_file

PART = 1024
"""Rows of a part."""
_SHA256 = 32
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class FeatureArray:
    """The features of all samples of a split in one view.

    Attributes:
        path: of the .npy file.
        samples: N.
        dim: D.
    """

    path: Path
    samples: int
    dim: int

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.samples // PART)

    def ids(self, part: int) -> np.ndarray:
        """Return int64 [M]: the samples of a part."""
        return np.arange(part * PART, min(self.samples, (part + 1) * PART), dtype=np.int64)

    def is_whole(self) -> bool:
        """Say whether the array is here and what was written; one that is damaged is removed, with a word."""
        return _is_whole(self.path, (self.samples, self.dim))

    def has_part(self, part: int) -> bool:
        """Say whether a part, or the whole array, is here, without reading it."""
        return self.path.exists() or self._part(part).exists()

    def put_part(self, part: int, features: np.ndarray) -> None:
        """Keep a part, float32 [M, D].

        Raises:
            DataError: the disk refuses.
        """
        with _refusals_told(self.path):
            self._part(part).parent.mkdir(parents=True, exist_ok=True)
            _write(self._part(part), features.shape, [features])

    def lacking(self) -> list[int]:
        """List the parts that must be computed before the array can be joined; a damaged one is removed."""
        if self.path.exists():
            return []
        shapes = ((part, (len(self.ids(part)), self.dim)) for part in range(self.parts))
        return [part for part, shape in shapes if not _is_whole(self._part(part), shape)]

    def join(self) -> None:
        """Make the array of its parts, unless somebody else has, and remove them.

        Raises:
            DataError: the disk refuses.
        """
        with _refusals_told(self.path):
            if not self.path.exists():
                parts = (np.load(self._part(part)) for part in range(self.parts))
                _write(self.path, (self.samples, self.dim), parts)
        shutil.rmtree(self._part(0).parent, ignore_errors=True)

    def open(self) -> np.ndarray:
        """Return float32 [N, D], mapped from the file and read-only."""
        array: np.ndarray = np.load(self.path, mmap_mode="r")
        return array

    def _part(self, part: int) -> Path:
        return self.path.with_suffix(".parts") / f"{part:05d}.npy"


def can_write(folder: Path) -> bool:
    """Make a folder, and say whether files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@contextlib.contextmanager
def _refusals_told(path: Path) -> Iterator[None]:
    """Turn a disk's refusal into a sentence. A part that is gone is none: another process has joined the array."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DataError(f"features cannot be kept as {path}: {disk_refusal(error)}") from None


def _write(path: Path, shape: tuple[int, ...], rows: Iterable[np.ndarray]) -> None:
    """Write float32 rows one after the other, with the digest at the end."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    digest = hashlib.sha256(head.getvalue())
    with whole_file(path) as file:
        file.write(head.getvalue())
        for array in rows:
            data = np.ascontiguousarray(array, "<f4").data
            digest.update(data)
            file.write(data)
        file.write(digest.digest())
    sync_folder(path.parent)


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    """Say whether a file is there, of this shape, and what was written; otherwise there is none afterwards."""
    try:
        with open(path, "rb") as file:
            left, digest = os.fstat(file.fileno()).st_size - _SHA256, hashlib.sha256()
            while left > 0 and (data := file.read(min(left, _AT_ONCE))):
                digest.update(data)
                left -= len(data)
            if file.read() == digest.digest() and np.load(path, mmap_mode="r").shape == shape:
                return True
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        print(f"{path} cannot be read ({error}) and is computed again", flush=True)
    else:
        print(f"{path} is not what was written and is computed again", flush=True)
    with contextlib.suppress(OSError):  # where nothing can be written, another folder is taken
        path.unlink()
    return False
