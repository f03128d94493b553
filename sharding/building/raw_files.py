"""Where the bytes of a raw image lie: a separate file, or a stretch of an archive that is never unpacked."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.common.errors import DataError
from recipes.common.files import pread
from recipes.common.retries import retried


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
            DataError: the file, which the sentence names, is missing, unreadable or too short.
        """
        try:
            data = retried(self._bytes, str(self))
        except OSError as error:
            raise DataError(f"{self}: cannot be read ({error.strerror})") from None
        if len(data) < self.size:
            raise DataError(f"{self}: the archive ends {self.size - len(data)} bytes before this member does")
        return data

    def _bytes(self) -> bytes:
        with open(self.path, "rb", buffering=0) as file:
            return file.read() if self.size < 0 else pread(file.fileno(), self.size, self.offset)
