"""Small files that are whole or not there, and the metrics file that survives kills."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np


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
    with open(temporary, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


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
        os.truncate(path, min(offset, path.stat().st_size))
        self._file = open(path, "a")  # noqa: SIM115 (open as long as the run)

    def write(self, **values: Any) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def offset(self) -> int:
        """Bytes so far, made durable."""
        os.fsync(self._file.fileno())
        return self._file.tell()
