"""What is packed by gzip, unpacked once into the build's own folder, so that images in it are read by position."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from recipes.common.errors import DataError, one_line
from recipes.common.files import file_digest, whole_file

_MAGIC = b"\x1f\x8b"
_PIECE = 1 << 20


def is_packed(path: Path) -> bool:
    """Return whether the file begins as gzip's do.

    Raises:
        DataError: it cannot be read.
    """
    return head_of(path, 2, inflate=False) == _MAGIC


def head_of(path: Path, size: int, inflate: bool = True) -> bytes:
    """Return the first `size` bytes of a file, or of what it holds where it is packed and `inflate` says so.

    Raises:
        DataError: it cannot be read, or what it holds is damaged.
    """
    try:
        if inflate and is_packed(path):
            with gzip.open(path) as packed:
                return packed.read(size)
        with open(path, "rb") as file:
            return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def unpacked(path: Path, work: Path, most: int) -> Path:
    """Return a file with the unpacked content of `path`: itself if it is not packed, else one below `work`.

    That one's name holds the digest of the packed file, so a replaced archive is unpacked again. It is whole or not
    there.

    Args:
        path: a file, packed by gzip or not.
        work: the build's own folder.
        most: bytes that the content may have; no more are written.

    Raises:
        DataError: the packed file is damaged, cut off, or holds more than `most` bytes.
        OSError: the copy cannot be written.
    """
    if not is_packed(path):
        return path
    copy = work / "unpacked" / f"{file_digest(path)[:16]}-{path.name.removesuffix('.gz')}"
    if copy.is_file():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(copy) as file, gzip.open(path) as packed:
        written = 0
        while piece := _piece(packed, path):
            written += len(piece)
            if written > most:
                raise DataError(f"{path}: holds more than the {most} bytes that are legal for it")
            file.write(piece)
    return copy


def _piece(packed: gzip.GzipFile, path: Path) -> bytes:
    try:
        return packed.read(_PIECE)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(one_line(f"{path}: is cut off or damaged (gzip says: {error}); fetched again it may be whole"))
