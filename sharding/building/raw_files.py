"""Where a raw image's bytes are: a separate file, or a stretch of an archive that is never unpacked.

The stretch may hold the file's bytes, those of a zip's member (`Zipped`), or bare pixels (`Pixels`).
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from recipes.common.errors import DataError
from recipes.common.files import pread
from recipes.common.retries import retried
from sharding.building.notices import Damaged
from sharding.building.source_stamps import Origin


@dataclass(frozen=True)
class Place:
    """Where the bytes of one raw image are.

    Attributes:
        path: the file.
        offset: where the image begins in it, in bytes.
        size: number of bytes; -1 is the whole file.
        name: the image's name inside an archive, for messages.
        root: the source of the file: a folder above it, or the file itself; empty without a source.
    """

    path: str
    offset: int = 0
    size: int = -1
    name: str = ""
    root: str = ""

    def __str__(self) -> str:
        return f"{self.path}, member {self.name}" if self.name else self.path

    @property
    def file(self) -> str:
        """The file as it is recorded: relative to the source; the whole path without one."""
        if not self.root:
            return os.path.abspath(self.path)
        below = self.path.removeprefix(self.root + os.sep)
        return below if below != self.path else os.path.relpath(self.path, self.root)  # slow, for millions of images

    @property
    def short(self) -> str:
        """The image's name without the folders above the source."""
        return self.name or (os.path.relpath(self.path, self.root) if self.root else os.path.basename(self.path))

    def read(self) -> bytes:
        """Read the raw bytes.

        Raises:
            DataError: the file, which the sentence names, is missing, unreadable, too short or not a plain file.
        """
        return self.traced()[0]

    def traced(self) -> tuple[bytes, Origin]:
        """Read the raw bytes, and return them with what they come from.

        Raises:
            DataError: as for `read`; `Damaged` where the archive's checksum tells that the bytes are not the image's.
        """
        try:
            data, stamp = retried(self._bytes, str(self))
        except OSError as error:
            raise DataError(f"{self}: cannot be read ({error.strerror})") from None
        if len(data) < self.size:
            raise DataError(f"{self}: the archive ends {self.size - len(data)} bytes before this member does")
        data = self._file_of(data)
        return data, Origin(self.file, stamp.st_size, stamp.st_mtime_ns, hashlib.sha256(data).hexdigest())

    def _file_of(self, stretch: bytes) -> bytes:
        """Return the bytes of an image file from those of the stretch."""
        return stretch

    def _bytes(self) -> tuple[bytes, os.stat_result]:
        with open(self.path, "rb", buffering=0, opener=_without_waiting) as file:
            stamp = os.fstat(file.fileno())  # before the bytes, so that a change during reading is noticed later
            if not stat.S_ISREG(stamp.st_mode):
                raise DataError(f"{self}: is no plain file; an image's bytes are looked for")
            data = file.read() if self.size < 0 else pread(file.fileno(), self.size, self.offset)
        return data, stamp


@dataclass(frozen=True)
class Zipped(Place):
    """The place of a zip's member; offset and size are those of its bytes in the zip.

    Attributes:
        whole_size: number of bytes of the file.
        crc32: checksum of these.
        deflated: whether the zip holds them compressed.
    """

    whole_size: int = 0
    crc32: int = 0
    deflated: bool = False

    def _file_of(self, stretch: bytes) -> bytes:
        data = stretch
        if self.deflated:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflate.decompress(stretch, self.whole_size + 1)  # not more memory than the archive says
            except zlib.error as error:
                raise Damaged({str(self): f"damaged in the archive ({error})"}) from None
        if len(data) != self.whole_size or zlib.crc32(data) != self.crc32:
            raise Damaged({str(self): "damaged in the archive (other size or checksum than it says)"})
        return data


@dataclass(frozen=True)
class Pixels(Place):
    """The place of an image's bare pixels, a byte each; they are read as a PNG file, which loses nothing.

    Attributes:
        shape: (height, width) of a grey image, (height, width, 3), or (3, height, width) where channels come first.
    """

    shape: tuple[int, ...] = ()

    def _file_of(self, stretch: bytes) -> bytes:
        pixels = np.frombuffer(stretch, np.uint8).reshape(self.shape)
        if pixels.ndim == 3 and self.shape[0] == 3 != self.shape[2]:
            pixels = pixels.transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file for `open`. An ordinary open of a pipe would wait for a writer, perhaps for ever."""
    return os.open(path, flags | os.O_NONBLOCK)
