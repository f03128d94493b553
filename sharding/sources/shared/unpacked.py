"""What is compressed as a whole, unpacked once into the build's own folder, so that images are read by position."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import zlib
from collections.abc import Callable, Collection
from pathlib import Path

from recipes.common.errors import DataError, one_line
from recipes.common.files import disk_refusal, file_digest, whole_file, write_json
from sharding.building.listing import BLOCK, COMPRESSED

OPEN: dict[str, Callable[[Path], io.BufferedIOBase]] = {
    "gzip": gzip.GzipFile,
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
"""What a file may be compressed by -> what opens it."""
DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, ValueError)
"""What these raise for bytes that are cut off or damaged; bzip2 raises an OSError without a number."""
_NOT_READ = "zstd"
_FOLDER, _NOTE = "unpacked", ".json"
_PIECE = 1 << 20


def compression(path: Path) -> str:
    """Return what the file is compressed by as a whole, by its first bytes; empty for a plain file or a zip.

    Raises:
        DataError: it cannot be read.
    """
    found = COMPRESSED.match(_read(path, open, BLOCK))
    kind = str(found.lastgroup) if found else ""
    return kind if kind in OPEN or kind == _NOT_READ else ""


def head_of(path: Path, size: int) -> bytes:
    """Return the first `size` bytes of a file, or of what it holds where it is compressed.

    Raises:
        DataError: it cannot be read, or what it holds is damaged.
    """
    return _read(path, OPEN.get(compression(path), open), size)


def unpacked(path: Path, work: Path, most: int | None = None) -> Path:
    """Return a file with the plain content of `path`: itself if it is not compressed, else one below `work`.

    That one's name holds the digest of the compressed file, so a replaced archive is unpacked again; a file of the size
    and time of the last start is not read for it. The copy is whole or not there.

    Args:
        path: a file, compressed or not.
        work: the build's own folder.
        most: bytes that the content may have; no more are written.

    Raises:
        DataError: the file is compressed by what is not read here, is damaged or cut off, holds more than `most` bytes,
            or the disk has no room.
    """
    kind = compression(path)
    if not kind:
        return path
    if kind == _NOT_READ:
        raise DataError(f"{path}: is compressed by {kind}, which is not read here; unpack it to a plain file first")
    folder = work / _FOLDER
    note = folder / f"{path.name}{_NOTE}"
    found = path.stat()
    stamp = [str(path.absolute()), found.st_size, found.st_mtime_ns]
    known = json.loads(note.read_text()) if note.is_file() else {}
    sha256 = str(known["sha256"]) if known.get("stamp") == stamp else file_digest(path)
    copy = folder / f"{sha256[:16]}-{_plain_name(path.name)}"
    if not copy.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _unpack(path, OPEN[kind], copy, most)
    if known.get("stamp") != stamp:
        write_json(note, {"stamp": stamp, "sha256": sha256})
    return copy


def forget_others(work: Path, used: Collection[str]) -> None:
    """Remove the unpacked copies below `work` that are not among the whole paths `used`, as of a replaced archive.

    No other build may be at work there.
    """
    for path in (work / _FOLDER).absolute().glob("*"):
        if path.suffix != _NOTE and os.path.normpath(path) not in used:
            path.unlink()


def _read(path: Path, opened: Callable[..., io.BufferedIOBase], size: int) -> bytes:
    try:
        with opened(path, "rb") as file:
            return file.read(size)
    except DAMAGE as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if not error.errno:
            raise _damaged(path, error) from None
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _plain_name(name: str) -> str:
    """Return what an archive is called without the end that says its compression; `.tgz` and its like become `.tar`."""
    stem, dot, end = name.rpartition(".")
    return f"{stem}.tar" if end.lower() in ("tgz", "tbz2", "txz") else stem if dot else name


def _unpack(path: Path, opened: Callable[[Path], io.BufferedIOBase], copy: Path, most: int | None) -> None:
    size, free = path.stat().st_size, shutil.disk_usage(copy.parent).free
    if free < size:
        raise DataError(
            f"{path}: unpacked it takes more than its {size / 1e9:.1f} GB, and {copy.parent} has {free / 1e9:.1f} GB "
            "free; make room, or name a plain file"
        )
    written = 0
    try:
        with whole_file(copy) as file, opened(path) as packed:
            while piece := packed.read(_PIECE):
                written += len(piece)
                if most is not None and written > most:
                    raise DataError(f"{path}: holds more than the {most} bytes that are legal for it")
                file.write(piece)
    except DataError:
        raise
    except DAMAGE as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if not error.errno:
            raise _damaged(path, error) from None
        raise DataError(f"{path}: cannot be unpacked to {copy} ({disk_refusal(error)})") from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(one_line(f"{path}: is cut off or damaged ({error}); fetched again it may be whole"))
