"""Decoded images that a node keeps: memory-mapped, shared by all its processes, filled as they are first read.

A folder holds `pixels` (uint8 [H, W, 3] images one after the other, in the order in which they came), `entries` (for each sample where its
pixels begin, their height and width) and `end` (how much of `pixels` is given away). A process reserves a place under a lock, writes the pixels,
then the entry; so whatever has an entry is whole, and a process killed in between leaves a gap and no more. What the machine wrote before it was
last started is not trusted: its pages may not have reached the disk.

Once the bytes that it may hold are used up, or its disk is full, the rest is decoded each time. numpy only.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sharding.index import DataError

_ENTRY = np.dtype([("place", "<i8"), ("height", "<i4"), ("width", "<i4")])  # place is the first byte's number plus 1; 0: not there
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
        raise DataError(f"data.cache_folder={path} cannot be made ({error.strerror}); name a folder on the node's own disk or in its memory") from None
    if owner != os.getuid():
        raise DataError(f"data.cache_folder={path} belongs to another user; name a folder of your own")
    return path


class PixelCache:
    """The pixels of one split's samples, as one `kind` of view.

    Args:
        folder: the node's cache folder; `kind`'s own is made in it.
        kind: says what the pixels are made from and how; other pixels have another kind.
        samples: N, the split's size.
        most_bytes: of pixels; None: nine tenths of what is free there.

    Raises:
        DataError: the folder's file system does not do for it.
    """

    def __init__(self, folder: Path, kind: str, samples: int, most_bytes: float | None = None) -> None:
        mine = f"pixels-{_digest(kind)}-{_digest(platform.node())}-"
        self.folder = folder / (mine + _digest(Path("/proc/sys/kernel/random/boot_id").read_text()))
        for older in set(folder.glob(mine + "*")) - {self.folder}:
            shutil.rmtree(older, ignore_errors=True)
        self._full, self._files = False, {}
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in ("pixels", "entries", "end"):
                self._files[part] = os.open(self.folder / part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with self._locked():
                used = os.fstat(self._files["pixels"]).st_blocks * 512
                self.most_bytes = int(used + SHARE_OF_FREE * shutil.disk_usage(self.folder).free if most_bytes is None else most_bytes)
                # Longer than what is in it: the pages in between take no room until they are written.
                self._grow("pixels", max(self.most_bytes, mmap.PAGESIZE))
                self._grow("entries", max(samples, 1) * _ENTRY.itemsize)
            self._entries = np.frombuffer(mmap.mmap(self._files["entries"], 0, prot=mmap.PROT_READ), dtype=_ENTRY)
            self._pixels = np.frombuffer(mmap.mmap(self._files["pixels"], 0, prot=mmap.PROT_READ), dtype=np.uint8)
        except OSError as error:
            raise DataError(f"data.cache_folder={folder} cannot hold a cache of decoded images ({error.strerror}): another folder, a smaller data.cache_gb or data.cache=none is legal") from None

    @property
    def takes_more(self) -> bool:
        """Whether this process has not found it full yet."""
        return not self._full

    def get(self, sample: int) -> np.ndarray | None:
        """uint8 [H, W, 3] of a sample, read-only and not copied; None if it is not here (yet)."""
        place, height, width = self._entries[sample].item()
        end = place - 1 + height * width * 3
        if not place or end > len(self._pixels):  # another process, allowed more, has put it where this one does not look
            return None
        return self._pixels[place - 1 : end].reshape(height, width, 3)

    def put(self, sample: int, pixels: np.ndarray) -> None:
        """Keep uint8 [H, W, 3] for a sample, if there is room."""
        if self._full:
            return
        with self._locked():
            begin = int.from_bytes(os.pread(self._files["end"], 8, 0), "little")
            self._full = begin + pixels.nbytes > self.most_bytes
            if self._full:
                return
            os.pwrite(self._files["end"], (begin + pixels.nbytes).to_bytes(8, "little"), 0)
        try:
            _write(self._files["pixels"], np.ascontiguousarray(pixels), begin)
        except OSError as error:
            self._full = True
            print(f"{self.folder} takes no more ({error.strerror}): the rest is decoded each time", file=sys.stderr, flush=True)
            return
        entry = np.array((begin + 1, *pixels.shape[:2]), dtype=_ENTRY)
        os.pwrite(self._files["entries"], entry.tobytes(), sample * _ENTRY.itemsize)

    def __len__(self) -> int:
        """How many samples are here."""
        return int(np.count_nonzero(self._entries["place"]))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A record lock is the process's own, which a lock that forked workers inherit together is not.
        fcntl.lockf(self._files["end"], fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._files["end"], fcntl.LOCK_UN)

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def _grow(self, part: str, size: int) -> None:
        if os.fstat(self._files[part]).st_size < size:
            os.ftruncate(self._files[part], size)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _write(file: int, pixels: np.ndarray, place: int) -> None:
    data = memoryview(pixels).cast("B")
    while data:
        done = os.pwrite(file, data, place)
        data, place = data[done:], place + done
