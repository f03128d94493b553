"""Files that are whole or not there, their digests, and what a disk's refusal means. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

FULL = (errno.ENOSPC, errno.EDQUOT)
"""A disk's errors that mean that it has no room."""


def why(error: OSError) -> str:
    """What ended a build, for the end of a sentence."""
    return (
        "no space left on device, the same command goes on when there is room"
        if error.errno in FULL
        else str(error.strerror or error)
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new binary file that stands under its name when it is whole and durable, and not at all where something fails."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> bytes:
    """sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file under another name, make it durable, and rename it: a reader sees all of it or the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # half a file on a full disk
        raise
    sync_folder(path.parent)


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a new file and make its content durable."""
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # a write's own error does not name the file


def write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=1) + "\n")


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
