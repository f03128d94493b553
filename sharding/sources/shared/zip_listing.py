"""Lists a zip from its directory, which lies at its end, member by member; nothing is unpacked.

Python's zipfile keeps an object of half a kilobyte for each member; here none is kept.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from recipes.common.errors import DataError
from sharding.building.listing import FOLDERS, NOT_PLAIN, shown
from sharding.building.raw_files import Place, Zipped

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
"""How a zip begins, and an empty one."""
_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_MEMBER, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_STORED, _DEFLATED = 0, 8
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz", 98: "PPMd"}
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_MANY = 0xFFFFFFFF
_ZIP64, _UNICODE_NAME = 0x1, 0x7075
_LONGEST_END = 22 + 0xFFFF


class Member(NamedTuple):
    """A member of a zip.

    Attributes:
        name: its path; bytes that are not UTF-8 are surrogates.
        header: the byte at which its own header begins.
        packed, size: its bytes in the zip, and unpacked.
        crc32: checksum of the latter.
        method: number of the compression.
        flags: of the zip's format.
        reason: why it is not a plain file; empty if it is one.
    """

    name: str
    header: int
    packed: int
    size: int
    crc32: int
    method: int
    flags: int
    reason: str


class Zip:
    """A zip that is read by position; use it in a `with`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Zip:
        try:
            self._file: BinaryIO = open(self.path, "rb")
            self._locals: BinaryIO = open(self.path, "rb", buffering=0)
            self._length = self._file.seek(0, 2)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._locals.close()

    def members(self) -> Iterator[Member]:
        """Yield the members in the order of the zip's directory.

        Raises:
            DataError: it is not a zip, not a whole one, or one volume of several; one sentence.
        """
        try:
            start, count, shift = self._directory()
            self._file.seek(start)
            for _ in range(count):
                yield self._next(shift)
        except struct.error:
            raise self._damage("its directory ends early") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from None

    def place(self, member: Member) -> Place:
        """Return where a member's bytes lie.

        Raises:
            DataError: it is encrypted, compressed otherwise than by deflate, or damaged; one sentence.
        """
        what = f"{self.path}, member {shown(member.name)}"
        if member.flags & _ENCRYPTED:
            raise DataError(f"{what}: is encrypted; a zip without a password would be legal")
        if member.method not in (_STORED, _DEFLATED):
            named = _METHODS.get(member.method, f"method {member.method}")
            raise DataError(f"{what}: is compressed by {named}; stored or deflated, as zip does, would be legal")
        if member.header + 30 + member.packed > self._length:  # of 64 bits, which no file may be asked for
            raise self._damage(f"{shown(member.name)} ends behind the end of the file")
        self._locals.seek(member.header)
        header = self._locals.read(30)
        if len(header) < 30 or not header.startswith(_LOCAL):
            raise self._damage(f"no header of {shown(member.name)} at byte {member.header}")
        name, extra = struct.unpack_from("<HH", header, 26)
        where = (str(self.path), member.header + 30 + name + extra, member.packed, member.name, str(self.path))
        return Zipped(*where, member.size, member.crc32, member.method == _DEFLATED)

    def _directory(self) -> tuple[int, int, int]:
        """Return where the directory begins, how many members it has, and what to add to the places that it says."""
        length = self._length
        self._file.seek(max(0, length - _LONGEST_END))
        tail = self._file.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < 22:
            raise self._damage("no directory at its end")
        disk, first, _, count, size, start, _ = struct.unpack_from("<4H2IH", tail, at + 4)
        end = length - len(tail) + at
        if at >= 20 and tail.startswith(_LOCATOR, at - 20):
            end -= 20 + 56
            self._file.seek(max(0, end))
            record = self._file.read(56)
            if not record.startswith(_END64):
                raise self._damage("its second directory of the zip64 kind is not where it should be")
            disk, first, _, count, size, start = struct.unpack_from("<2I4Q", record, 16)
        if disk or first:
            raise DataError(f"{self.path}: is one volume of several; one whole zip would be legal")
        if end - size < start:
            raise self._damage("its directory is longer than the bytes before its end")
        return end - size, count, end - size - start

    def _next(self, shift: int) -> Member:
        """Read the directory's next member."""
        fixed = self._file.read(46)
        if not fixed.startswith(_MEMBER):
            raise self._damage("its directory has fewer members than it says")
        made_by, _, flags, method = struct.unpack_from("<4H", fixed, 4)
        crc32, packed, size, name_length, extra_length, comment_length = struct.unpack_from("<3I3H", fixed, 16)
        attributes, header = struct.unpack_from("<2I", fixed, 38)
        raw = self._file.read(name_length)
        extra = _extra(self._file.read(extra_length))
        self._file.seek(comment_length, 1)
        wide = extra.get(_ZIP64, b"")
        values = []
        for value in (size, packed, header):
            if value == _MANY:
                (value,), wide = struct.unpack_from("<Q", wide), wide[8:]
            values.append(value)
        told = extra.get(_UNICODE_NAME, b"")
        if len(told) > 5 and struct.unpack_from("<I", told, 1)[0] == zlib.crc32(raw):
            raw = told[5:]
        name = raw.decode("utf-8", "surrogateescape")
        kind = stat.S_IFMT(attributes >> 16) if made_by >> 8 == 3 else 0  # 3: Unix
        reason = FOLDERS if name.endswith("/") else NOT_PLAIN if kind not in (0, stat.S_IFREG) else ""
        return Member(name, values[2] + shift, values[1], values[0], crc32, method, flags, reason)

    def _damage(self, why: str) -> DataError:
        return DataError(
            f"{self.path}: is not a zip, or not a whole one ({why}); one of its publisher's size and digest would be "
            "legal"
        )


def _extra(data: bytes) -> dict[int, bytes]:
    """Return a member's extra fields by their number."""
    found = {}
    while len(data) >= 4:
        number, length = struct.unpack_from("<HH", data)
        found[number], data = data[4 : 4 + length], data[4 + length :]
    return found
