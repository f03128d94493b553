"""Files that are whole or not there, their digests, and what a disk's refusal means. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT)
"""A disk's errors that mean that it has no room."""


def disk_refusal(error: OSError) -> str:
    """Say what ended a build, for the end of a sentence."""
    return (
        "no space left on device, the same command goes on when there is room"
        if error.errno in FULL
        else str(error.strerror or error)
    )


# ------------------------------------------------------------------------------------------------------------- writing
def unfinished(path: Path) -> Path:
    """Return the name beside `path` under which this process makes it."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def is_unfinished(name: str, of: str = ".+") -> bool:
    """Say whether a name is what `unfinished` gives a file or folder; `of` is the pattern of its own name."""
    return re.fullmatch(rf"\.({of})\.[A-Za-z0-9._-]+-[0-9]+\.tmp", name) is not None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to.

    At the end the file is renamed to `path`; where something fails, it is removed.
    """
    temporary = unfinished(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # of a disk that fails, the first error is the one to tell
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new binary file that has its name when it is whole and durable.

    Where something fails, it is not there at all.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a durable file, and its folder if it is not there: a reader sees all of it or the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with named(path), whole_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as `write_whole` does."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a new file and make its content durable."""
    with named(path), open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Make an error of writing inside name the file, which Python's own error does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from None


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------------------------------- reading
def pread(fd: int, size: int, offset: int) -> bytes:
    """Read the `size` bytes at `offset` of an open file; fewer where it ends before."""
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):  # a read may be short, on network file systems above all
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def file_digest(path: Path) -> str:
    """Return the hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # not hashlib.file_digest, which a batch script's Python may be too old for
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
