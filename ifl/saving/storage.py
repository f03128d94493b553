"""Errors of a run folder's disk as sentences for the user, and arrays written as whole files."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import RunError
from recipes.common.files import FULL, write_whole


class StorageError(RunError):
    """The disk refused."""


def storage_error(error: OSError, folder: Path, lacking: int = 0) -> StorageError:
    """Return the disk's error as a sentence for the user.

    Args:
        error: what the system raised.
        folder: the run folder, or the one inside it that was to be written.
        lacking: bytes that did not fit on the disk, where that is known.
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
    """Turn an error of the run folder's disk inside the block into a `StorageError`."""
    try:
        yield
    except OSError as error:
        ours = isinstance(error.filename, str | os.PathLike) and Path(error.filename).is_relative_to(folder)
        if ours or error.errno in (*FULL, errno.EIO, errno.EROFS, errno.ESTALE):
            raise storage_error(error, folder) from error
        raise


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write an .npz, compressed, without pickles."""
    buffer, entries = io.BytesIO(), dict[str, Any](arrays)  # numpy's types take any keyword for one of its options
    np.savez_compressed(buffer, **entries)
    write_whole(path, buffer.getvalue())
