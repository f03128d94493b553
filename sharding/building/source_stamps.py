"""What a build's results were made from: digests of raw images' bytes, and the size and time of the files they lie in.

Size and time only say which images to read again. The digest decides whether what was made from an image still holds,
so a source that was moved, copied or touched costs one reading and makes nothing again. None of this enters the shards,
the index or dataset.json.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from recipes.common.errors import DataError

_THREADS = 8
"""How many files are asked for their size and time at once: on a shared file system each answer takes its time."""
_FEW = 64
"""So many files are asked one after the other, by one thread."""


@dataclass(frozen=True)
class Origin:
    """One raw image as it was when something was made from it.

    Attributes:
        file: the file that it lies in, relative to the source; the whole path where there is no source.
        size: number of bytes of that file: of the archive, where it lies in one.
        mtime_ns: when that file was changed last, in nanoseconds since 1970.
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
        """The file that it lies in."""
        ...

    @property
    def short(self) -> str:
        """Its name without the folders that the source lies in."""
        ...

    def traced(self) -> tuple[bytes, Origin]:
        """Read its bytes, and tell what they come from."""
        ...


def stamps_of(paths: Collection[str]) -> dict[str, tuple[int, int] | None]:
    """Return size and mtime_ns of each file; None for one that is not there.

    Raises:
        DataError: a file, which the sentence names, cannot be asked.
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
    """Return the origins with the sizes and times of today; None where the bytes of an image are others now.

    Only images are read whose file has another size or time than recorded. A file that is gone cannot contradict what
    was made from it.

    Raises:
        DataError: an image, which the sentence names, cannot be read.
    """
    if len(images) != len(known):
        return None
    stamps = stamps_of({image.path for image in images})
    found = []
    for image, origin in zip(images, known, strict=True):
        if stamps[image.path] not in (None, origin.stamp):
            before, origin = origin, image.traced()[1]
            if origin.sha256 != before.sha256:
                return None
        found.append(origin)
    return found


def any_changed(source: Path | None, known: Iterable[Origin]) -> bool:
    """Return whether a file of the source that is still there has another size or time than recorded."""
    root = "" if source is None else str(source.absolute())
    recorded = {(os.path.normpath(os.path.join(root, origin.file)), origin.stamp) for origin in known}
    stamps = stamps_of({path for path, _ in recorded})
    return any(stamps[path] not in (None, stamp) for path, stamp in recorded)
