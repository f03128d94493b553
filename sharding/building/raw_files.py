"""Where the bytes of a raw image lie: a separate file, or a stretch of an archive that is never unpacked."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from recipes.common.errors import DataError
from recipes.common.files import pread


@dataclass(frozen=True)
class Place:
    """Where the bytes of one raw image are.

    Attributes:
        path: the file.
        offset: where the image begins in it, in bytes.
        size: number of bytes; -1 is the whole file.
        name: the image's name inside an archive, for messages.
    """

    path: str
    offset: int = 0
    size: int = -1
    name: str = ""

    def __str__(self) -> str:
        return f"{self.path}, member {self.name}" if self.name else self.path

    def read(self) -> bytes:
        """Read the raw bytes.

        Raises:
            DataError: the file, which the sentence names, is missing, unreadable, too short or no plain file.
        """
        try:
            with open(self.path, "rb", buffering=0, opener=_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise DataError(f"{self}: is no plain file; an image's bytes are looked for")
                if self.size < 0:
                    return file.read()
                data = pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            raise DataError(f"{self}: cannot be read ({error.strerror})") from None
        if len(data) < self.size:
            raise DataError(f"{self}: the archive ends {self.size - len(data)} bytes before this member does")
        return data


def _without_waiting(path: str, flags: int) -> int:
    """Open a file for `open`; a pipe would make an ordinary open wait for a writer, perhaps for ever."""
    return os.open(path, flags | os.O_NONBLOCK)
