"""Lists a folder or a tar: each plain file with its place, and everything else by name and reason.

A source is listed before it is used, and nothing in it may be overlooked. A tar is followed from its first header to
the two blocks of zeros that end it; a damaged, truncated, compressed or sparse tar is refused. The caller decides for
each file whether to take it; `Notices` count the rest.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from recipes.common.errors import DataError
from recipes.common.files import pread
from sharding.format.shards import Tar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = tarfile.BLOCKSIZE
FOLDERS = "folders inside folders"
DEAD_LINKS = "links that lead to nothing"
NOT_PLAIN = "pipes, sockets, devices and other things that are no plain files"
MOST_ZEROS = (1 << 20) + BLOCK
"""The longest stretch of zeros at a tar's end; more are a download that was given its room and not finished. Programs
fill the last record, which has 10 KiB and with the largest `-b` in use, 2048 blocks, 1 MiB: one block of the end mark
may lie before it."""
PASSED_OVER = (b"V", b"D")
"""Kinds of members that hold no file: a volume's label, and a folder of an incremental backup."""
REST = b"M"
"""The kind of a member that began in an earlier volume."""
COMPRESSED = re.compile(
    rb"(?P<gzip>\x1f\x8b)|(?P<xz>\xfd7zXZ\0)|(?P<bzip2>BZh[1-9]1AY&SY)|(?P<zip>PK\x03\x04)|(?P<zstd>\x28\xb5\x2f\xfd)"
)
"""How compressed files begin."""


class File(NamedTuple):
    """A plain file, or a link to one.

    Attributes:
        name: its name in the folder, or its path in the tar; bytes that are not UTF-8 are surrogates.
        offset: in a tar, where its data begin, in bytes from the start of the file that is read.
        size: in a tar, its bytes; -1 in a folder, where files are not opened.
    """

    name: str
    offset: int = 0
    size: int = -1


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
        files: plain files, in the order of their names.
        others: name and reason of everything else, in the order of their names.
    """

    files: list[File] = field(default_factory=list)
    others: list[tuple[str, str]] = field(default_factory=list)

    def sorted(self) -> Listing:
        """Return a copy in the order of the names."""
        return Listing(sorted(self.files), sorted(self.others))


def shown(name: str) -> str:
    """Return a file's name for messages and JSON: bytes that are not UTF-8 or not printable are escaped."""
    return name if name.isprintable() else "".join(map(_printable, name))


def _printable(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python keeps a byte that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:x}"
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def is_utf8(name: str) -> bool:
    """Return whether a file's name is UTF-8, which the index, the JSON and the tar headers of a data set need."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


# ------------------------------------------------------------------------------------------------------------- folders
def list_folder(path: Path | str) -> Listing:
    """List one folder without its subfolders; links count as what they point to.

    Raises:
        DataError: it cannot be read.
    """
    found = Listing()
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if reason := _reason(entry):
                    found.others.append((entry.name, reason))
                else:
                    found.files.append(File(entry.name))
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror})") from None
    return found.sorted()


def _reason(entry: os.DirEntry[str]) -> str:
    """Return why an entry of a folder is not a plain file; empty if it is one."""
    try:
        if entry.is_file():
            return ""
        if entry.is_dir():
            return FOLDERS
    except OSError as error:
        if error.errno != errno.ELOOP:  # a circle of links leads to nothing, too
            raise
    return DEAD_LINKS if entry.is_symlink() and not os.path.exists(entry.path) else NOT_PLAIN


# ---------------------------------------------------------------------------------------------------------------- tars
def list_tar(path: Path | str, what: str, offset: int = 0, size: int | None = None) -> Listing:
    """List an uncompressed tar; hard and symbolic links count as the files they point to, folders are skipped.

    Args:
        path: the file that holds it.
        what: the tar's name, for messages.
        offset: where the tar begins in that file, in bytes.
        size: the tar's bytes; None: all to the end of the file.

    Raises:
        DataError: it is not a tar, is damaged, ends early, continues after its end mark, is one volume of several or
            has a sparse member; the sentence names the byte of the file.
    """
    found = Listing()
    for file, reason in each_in_tar(path, what, offset, size):
        if not reason:
            found.files.append(file)
        elif reason != FOLDERS:
            found.others.append((file.name, reason))
    return found.sorted()


def each_in_tar(path: Path | str, what: str, offset: int = 0, size: int | None = None) -> Iterator[tuple[File, str]]:
    """Yield what a tar holds, and why it is not a plain file (empty if it is one), in the tar's order; links last.

    Only links are kept in memory. Where there are some, the tar is followed a second time to find what they point to.

    Args:
        path: the file that holds it.
        what: the tar's name, for messages.
        offset: where the tar begins in that file, in bytes.
        size: the tar's bytes; None: all to the end of the file.

    Raises:
        DataError: as of `list_tar`.
    """
    links = list[tuple[str, str]]()
    try:
        with open(path, "rb", buffering=0) as file:
            length = os.fstat(file.fileno()).st_size if size is None else size
            for member in _members(_Stretch(file, offset, length)):
                if member.isfile():
                    yield File(member.name, offset + member.offset_data, member.size), ""
                elif member.issym() or member.islnk():
                    folder = posixpath.dirname(member.name) if member.issym() else ""
                    links.append((member.name, posixpath.join(folder, member.linkname)))
                elif member.isdir():
                    yield File(member.name), FOLDERS
                elif member.type not in PASSED_OVER:
                    yield File(member.name), NOT_PLAIN
            if links:
                yield from _resolved(links, _members(_Stretch(file, offset, length)), offset)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except _Refusal as refusal:
        raise DataError(f"{what} {refusal}") from None


class _Refusal(Exception):
    """Why a tar is not taken, and what would be legal: what a sentence says behind its name."""


class _Damage(_Refusal):
    """What is wrong with its bytes, in a few words."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"is not a tar, or not a whole one ({why}); one of its publisher's size and digest would be legal"
        )


def _members(stretch: _Stretch) -> Iterator[tarfile.TarInfo]:
    """Yield a tar's members, then check that it ends as a tar does.

    Python's tarfile takes any damaged header but the first one for the end. Whether a size below 0 is such damage
    depends on its version: it is here, for the older ones would go round in circles.

    Raises:
        _Refusal: it does not end so, or a member cannot be read as one stretch.
    """
    last, end = "", 0  # the end of the last member, for tarfile may lose its place in a header that it refuses
    try:
        with Tar.open(fileobj=stretch, mode="r:", encoding="utf-8") as tar:
            for member in tar:
                if member.size < 0 or tar.offset < member.offset_data:
                    break
                if not member.name and not member.isdir():  # a long name's block of zeros
                    raise _Damage(f"no name of what is behind {shown(last)}, {stretch.byte(member.offset)}")
                last, end = member.name, tar.offset
                _check_whole(member, stretch)
                yield member
                tar.members.clear()  # else tarfile keeps every member in memory
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        at = stretch.tell()
        stretch.seek(0)
        if not last and (compressed := COMPRESSED.match(stretch.read(BLOCK))):
            raise _Refusal(f"is compressed by {compressed.lastgroup}; unpack it first") from None
        if last and at >= stretch.size:
            raise _Damage(f"unexpected end of data in or behind {shown(last)}, {stretch.byte(stretch.size)}") from None
        raise _Damage(f"{error or type(error).__name__}, {stretch.byte((max(at, 1) - 1) // BLOCK * BLOCK)}") from None
    _check_end(stretch, end, last)


def _check_whole(member: tarfile.TarInfo, stretch: _Stretch) -> None:
    """Check that a member lies in one stretch of this tar."""
    name, byte = shown(member.name), stretch.byte(member.offset)
    if member.sparse is not None:
        raise _Refusal(f"has a sparse member ({name}, {byte}); one made by tar without --sparse would be legal")
    if member.type == REST or "GNU.volume.filename" in member.pax_headers:
        raise _Refusal(
            f"is a volume of several ({name}, {byte}, began in the one before); unpack all by tar --multi-volume and "
            "pack them into one"
        )


def _check_end(stretch: _Stretch, end: int, last: str) -> None:
    """Check that only zeros, at least two blocks, follow from byte `end` on, where tarfile found no header."""
    stretch.seek(end)
    tail, behind = stretch.read(MOST_ZEROS + 1), shown(last) or "its beginning"
    if 0 < len(tail) < BLOCK:
        raise _Damage(f"unexpected end of data in a header behind {behind}, {stretch.byte(stretch.size)}")
    if any(tail[:BLOCK]):
        raise _Damage(f"damaged header behind {behind}, {stretch.byte(end)}")
    if more := tail.lstrip(b"\0"):
        other = end + len(tail) - len(more)
        raise _Damage(f"zeros where a header is due, {stretch.byte(end)}, and more behind them, {stretch.byte(other)}")
    if len(tail) > MOST_ZEROS:
        raise _Refusal(
            f"has more than {MOST_ZEROS} zeros where a header or the end is due, {stretch.byte(end)}, as a download "
            "that was not finished; if size and digest are its publisher's, unpack it and pack it again by tar"
        )
    if len(tail) < 2 * BLOCK:
        raise _Damage(
            f"no end mark, two blocks of zeros, behind {behind}, {stretch.byte(end)}, so that more may be missing"
        )


def _resolved(
    links: Sequence[tuple[str, str]], members: Iterator[tarfile.TarInfo], offset: int
) -> Iterator[tuple[File, str]]:
    """Yield the links of a tar, (name, name of the target), as the files that they finally point to."""
    next_of = {posixpath.normpath(name): posixpath.normpath(target) for name, target in links}
    wanted = {_end(name, next_of) for name in next_of}
    places = {
        name: (offset + member.offset_data, member.size)
        for member in members
        if member.isfile() and (name := posixpath.normpath(member.name)) in wanted
    }
    for name, target in links:
        place = places.get(_end(posixpath.normpath(target), next_of))
        yield (File(name), DEAD_LINKS) if place is None else (File(name, *place), "")


def _end(target: str, next_of: Mapping[str, str]) -> str:
    """Return where a link's target finally leads; of a circle any name in it, which is none of a file."""
    passed = set[str]()
    while target in next_of and target not in passed:
        passed.add(target)
        target = next_of[target]
    return target


class _Stretch(io.RawIOBase):
    """A stretch of an open file, which reads like a file of `size` bytes."""

    def __init__(self, file: io.FileIO, offset: int, size: int) -> None:
        self.size = size
        self._file, self._offset, self._at = file, offset, 0

    def byte(self, at: int) -> str:
        """Return the name of a place in the stretch: its byte in the file."""
        return f"at byte {self._offset + at}"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        self._at = to + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        with memoryview(buffer) as view:
            count = max(0, min(len(view), self.size - self._at))
            data = pread(self._file.fileno(), count, self._offset + self._at)
            view[: len(data)] = data
        self._at += len(data)
        return len(data)
