"""What a build's results were made from: digests of raw images, and sizes and times of their files.

Sizes and times only say which images to read again. The digest decides whether what was made from an image is still
valid. So a source that was moved, copied or touched is read once, and nothing is made again. None of this is in the
shards, the index or dataset.json.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from recipes.common.errors import DataError
from sharding.building.notices import Damaged

_THREADS = 8
"""Threads that ask for sizes and times: on a shared file system each answer takes a while."""
_FEW = 64
"""Up to so many files are asked for by a single thread."""


@dataclass(frozen=True)
class Origin:
    """One raw image as it was when something was made from it.

    Attributes:
        file: its file, relative to the source; the whole path where no source is given.
        size: number of bytes of that file (of the whole archive, if the image is in one).
        mtime_ns: when that file was last changed, in nanoseconds since 1970.
        sha256: hex, of the image's own bytes.
    """

    file: str
    size: int
    mtime_ns: int
    sha256: str

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of the file."""
        return self.size, self.mtime_ns

    def as_row(self) -> list[Any]:
        """Return the fields as JSON values."""
        return [self.file, self.size, self.mtime_ns, self.sha256]


class Raw(Protocol):
    """Where a raw image is; its `str` names it in messages."""

    @property
    def path(self) -> str:
        """The file that holds it."""
        ...

    @property
    def file(self) -> str:
        """That file as `Origin` names it."""
        ...

    @property
    def short(self) -> str:
        """Its name without the folders above the source."""
        ...

    def traced(self) -> tuple[bytes, Origin]:
        """Read its bytes, and return them with what they come from."""
        ...


def stamps_of(paths: Collection[str]) -> dict[str, tuple[int, int] | None]:
    """Return size and mtime_ns of each file; None for a missing one.

    Raises:
        DataError: the system does not give them for a file, which the sentence names.
    """
    if len(paths) <= _FEW:
        return _stamps(paths)
    every = list(paths)
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(_stamps, (every[start : start + _FEW] for start in range(0, len(every), _FEW)))
        return {path: stamp for part in parts for path, stamp in part.items()}


def _stamps(paths: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    return {path: _stamp(path) for path in paths}


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return found.st_size, found.st_mtime_ns


def refreshed(images: Sequence[Raw], known: Sequence[Origin]) -> list[Origin] | None:
    """Return the origins with today's files, sizes and times; None if the bytes of an image have changed.

    Only images whose file is another than recorded, by its name, size or time, are read. A missing one is unchanged.

    Raises:
        DataError: an image, which the sentence names, cannot be read.
    """
    if len(images) != len(known):
        return None
    stamps = stamps_of({image.path for image in images})
    found = []
    for image, origin in zip(images, known, strict=True):
        stamp = stamps[image.path]
        if stamp is not None and (image.file, stamp) != (origin.file, origin.stamp):
            try:
                before, origin = origin, image.traced()[1]
            except Damaged:
                return None
            if origin.sha256 != before.sha256:
                return None
        found.append(origin)
    return found


def any_changed(source: Path | None, known: Iterable[Origin], elsewhere: Collection[str] = ()) -> bool:
    """Return whether the source has other files than recorded, or one of another size or time; a missing one is none.

    Args:
        source: the folder or archive that the records' files count from; None where there is none.
        known: the records.
        elsewhere: the source's files that are recorded by their whole paths.
    """
    root = "" if source is None else str(source.absolute())
    is_archive = os.path.isfile(root)

    def is_its(file: str) -> bool:
        if os.path.isabs(file):
            return file in elsewhere
        return file == os.curdir if is_archive else bool(root)

    recorded = {(origin.file, origin.stamp) for origin in known}
    paths = {file: os.path.normpath(os.path.join(root, file)) for file, _ in recorded}
    if not all(map(is_its, paths)):
        return True
    stamps = stamps_of(set(paths.values()))
    return any(stamps[paths[file]] not in (None, stamp) for file, stamp in recorded)
