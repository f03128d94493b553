"""Room on a disk: what a refusal means, and a node's cache folder and the bytes that may be kept in it. Needs numpy (through the index) alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from recipes.common.errors import DataError

SHARDS, PIXELS = "shards/**/*.tar", "pixels-*/pixels"
"""What a node keeps in its cache folder, by sort."""
SHARE_OF_FREE = 0.9


def cache_folder(folder: str | None) -> Path:
    """The node's folder for what was decoded or fetched: `folder`, or glt-cache-UID in the temporary folder; made if it is not there.

    Raises:
        DataError: it cannot be made, or is somebody else's.
    """
    path = Path(folder) if folder else Path(tempfile.gettempdir()) / f"glt-cache-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
    except OSError as error:
        raise DataError(
            f"data.cache_folder={path} cannot be made ({error.strerror}); name a folder on the node's own disk or in its memory"
        ) from None
    if owner != os.getuid():
        raise DataError(f"data.cache_folder={path} belongs to another user; name a folder of your own")
    return path


def bytes_of_a_node(folder: Path, sort: str, most_bytes: float | None, share: float) -> int:
    """What a node may keep of one sort (`SHARDS`, `PIXELS`) in its cache folder: `share` of `most_bytes`, or where that is None of nine tenths of what is free or was until
    this sort was kept; both sorts, where they share it."""
    if most_bytes is not None:
        return round(share * most_bytes)
    kept = 0
    for path in (path for each in ((sort,) if share == 1 else (SHARDS, PIXELS)) for path in folder.glob(each)):
        with suppress(FileNotFoundError):  # another run's may make room in this moment
            kept += path.stat().st_blocks * 512
    return round(share * SHARE_OF_FREE * (kept + shutil.disk_usage(folder).free))
