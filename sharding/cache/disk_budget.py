"""A node's cache folder, and the bytes that may be kept in it. Standard library only."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from recipes.common.errors import DataError

SHARDS, PIXELS = "shards/**/*.tar", "pixels-*/pixels"
"""The two sorts of files in a node's cache folder, as patterns."""
SHARE_OF_FREE = 0.9
"""The share of the free disk that is used when no number of bytes is given."""


def cache_folder(folder: str | None) -> Path:
    """Return the node's folder for decoded images and fetched shards; make it if it does not exist.

    Args:
        folder: the user's choice; None: glt-cache-UID in the temporary folder.

    Raises:
        DataError: it cannot be made, or belongs to another user.
    """
    path = Path(folder) if folder else Path(tempfile.gettempdir()) / f"glt-cache-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
    except OSError as error:
        raise DataError(
            f"data.cache_folder={path} cannot be made ({error.strerror}); "
            "name a folder on the node's own disk or in its memory"
        ) from None
    if owner != os.getuid():
        raise DataError(f"data.cache_folder={path} belongs to another user; name a folder of your own")
    return path


def bytes_of_a_node(folder: Path, sort: str, most_bytes: float | None, share: float) -> int:
    """Return how many bytes of one sort a node may keep in its cache folder.

    Args:
        folder: the node's cache folder.
        sort: `SHARDS` or `PIXELS`.
        most_bytes: of both sorts together; None: nine tenths of the disk that is free or taken by them.
        share: the share of these bytes for this sort; 1 if the other sort is not kept.
    """
    if most_bytes is not None:
        return round(share * most_bytes)
    kept = 0
    for path in (path for each in ((sort,) if share == 1 else (SHARDS, PIXELS)) for path in folder.glob(each)):
        with suppress(FileNotFoundError):  # another run may remove it at this moment
            kept += path.stat().st_blocks * 512
    return round(share * SHARE_OF_FREE * (kept + shutil.disk_usage(folder).free))
