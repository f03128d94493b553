"""Small files that are whole or not there, the metrics file that survives kills, and what a disk's refusal means."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sharding.room import FULL


class RunError(RuntimeError):
    """The run ends here; the message is one sentence that says why and what to do, so no traceback is wanted."""


class StorageError(RunError):
    """The disk refused."""


def storage_error(error: OSError, folder: Path, lacking: int = 0) -> StorageError:
    """The disk's refusal as a sentence.

    Args:
        folder: the run folder, or the one inside it that was to be written.
        lacking: bytes for which there is no room, where that is known.
    """
    run = folder.parent if folder.name == "ckpt" else folder
    newest = max((manifest.parent.name for manifest in run.glob("ckpt/step-*/MANIFEST.json")), default=None)
    goes_on = f"the newest checkpoint is {newest}" if newest else "there is no checkpoint"
    if error.errno in FULL:
        needs = (
            f"{folder} needs {-(-lacking // 2**20)} MB more"
            if lacking > 0
            else f"{error.filename or folder} cannot be written"
        )
        return StorageError(f"no space left on device: {needs}; {goes_on}, launch again when there is room")
    what = (error.strerror or type(error).__name__).lower()
    return StorageError(f"{what}: {error.filename or folder}; {goes_on}, launch again when the disk can be used")


@contextlib.contextmanager
def disk_of(folder: Path) -> Iterator[None]:
    """Inside, what the disk of a run folder refuses is a `StorageError`."""
    try:
        yield
    except OSError as error:
        ours = isinstance(error.filename, str | os.PathLike) and Path(error.filename).is_relative_to(folder)
        if ours or error.errno in (*FULL, errno.EIO, errno.EROFS, errno.ESTALE):
            raise storage_error(error, folder) from error
        raise


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


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """An .npz, compressed, without pickles."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Metrics:
    """metrics.jsonl: one JSON object a line, appended by rank 0. A checkpoint stores `offset`; resuming cuts off what
    came after, so no step stands there twice."""

    def __init__(self, path: Path, offset: int) -> None:
        path.touch()
        if path.stat().st_size < offset:
            print(
                f"{path} is shorter than the checkpoint knows it: lines were lost, and the run goes on without them",
                flush=True,
            )
        os.truncate(path, min(offset, path.stat().st_size))
        self._file = open(path, "a")  # noqa: SIM115 (open as long as the run)

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def offset(self) -> int:
        """Bytes so far, made durable."""
        os.fsync(self._file.fileno())
        return self._file.tell()
