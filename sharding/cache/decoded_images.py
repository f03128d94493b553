"""A node's cache of decoded images: memory-mapped, shared by all processes, filled as images are first read.

Each kind of view has a folder with four files: `pixels` (uint8 [H, W, 3] images one after the other, in the order in
which they came), `entries` (for each sample where its pixels begin, their height and width), `end` (bytes of `pixels`
that are reserved) and `allowed` (bytes that may be). A process claims a sample, reserves a place, writes the pixels,
then the entry. So an image with an entry is whole, and a process killed in between only leaves a gap. Files from before
the machine's last start are removed, since some of their pages may not have reached the disk.

All kinds of a node share the bytes that it may keep. A kind is allowed more in steps, and kinds that no process has
open make room. When the bytes are used up, or the disk is full, the rest is decoded each time. numpy only.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import FULL
from recipes.common.locks import acquire, is_free, locked
from sharding.cache.disk_budget import PIXELS, bytes_of_a_node

# The place is the first byte's number plus 1; 0: the sample is not here.
_ENTRY = np.dtype([("place", "<i8"), ("height", "<i4"), ("width", "<i4")])
STEP = 1 << 26
"""Bytes by which a kind's allowance grows."""
FILES_OF_A_CACHE = 6
"""Open files of one kind: its four, two of them once more as they are mapped."""


class PixelCache:
    """The pixels of one split's samples, as one `kind` of view.

    Args:
        folder: the node's cache folder; a folder for `kind` is made in it.
        kind: says what the pixels are made from and how.
        samples: N, the split's size.
        most_bytes: limit for the pixels of all kinds in `folder`; see `bytes_of_a_node`.
        share: the part of these bytes that is for pixels.
        set_aside: bytes that are reserved for this kind.

    Raises:
        DataError: the folder's file system cannot hold such a cache.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        samples: int,
        most_bytes: float | None = None,
        *,
        share: float = 1.0,
        set_aside: int = 0,
    ) -> None:
        node, boot = _digest(platform.node()), _digest(Path("/proc/sys/kernel/random/boot_id").read_text())
        self.folder, self._ours = folder / f"pixels-{_digest(kind)}-{node}-{boot}", f"pixels-*-{node}-{boot}"
        self._lock = folder / f"pixels-{node}.lock"
        self._full = False
        self._files: dict[str, int] = {}
        try:
            with locked(self._lock):
                for older in set(folder.glob(f"pixels-*-{node}-*")) - set(folder.glob(self._ours)):
                    shutil.rmtree(older, ignore_errors=True)
                if (
                    most_bytes is not None
                    and self._allowed(self.folder) > share * most_bytes
                    and is_free(self.folder / "allowed")
                ):
                    shutil.rmtree(self.folder)  # it was allowed more
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                for part in ("pixels", "entries", "end", "allowed"):
                    self._files[part] = os.open(self.folder / part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                # Shared with forked workers too, for as long as one of them lives.
                acquire(self._files["allowed"], shared=True)
                os.utime(self._files["allowed"])
                self.most_bytes = bytes_of_a_node(folder, PIXELS, most_bytes, share)
                # Allocate all of `entries`: on a full disk, reading a page that is not allocated would fail.
                os.posix_fallocate(self._files["entries"], 0, max(samples, 1) * _ENTRY.itemsize)
                with self._locked():  # a file system without record locks is refused now, and not in the midst of a run
                    pass
                if os.fstat(self._files["pixels"]).st_size < (most := max(self.most_bytes, mmap.PAGESIZE)):
                    # The file is longer than its content: pages take room only once they are written.
                    os.ftruncate(self._files["pixels"], most)
            self._allow(set_aside)
            self._entries = np.frombuffer(mmap.mmap(self._files["entries"], 0, prot=mmap.PROT_READ), dtype=_ENTRY)
            self._pixels = np.frombuffer(mmap.mmap(self._files["pixels"], 0, prot=mmap.PROT_READ), dtype=np.uint8)
        except OSError as error:
            if error.errno in FULL:
                self._entries, self._pixels = np.zeros(samples, _ENTRY), np.empty(0, np.uint8)
                self._stop(error)
                return
            raise DataError(
                f"data.cache_folder={folder} cannot hold a cache of decoded images ({error.strerror}): "
                "another folder, a smaller data.cache_gb or data.cache=none is legal"
            ) from None

    @property
    def takes_more(self) -> bool:
        """False once this process has found the cache full."""
        return not self._full

    def get(self, sample: int) -> np.ndarray | None:
        """Return uint8 [H, W, 3] of a sample, read-only and not copied; None if it is not here (yet)."""
        place, height, width = self._entries[sample].item()
        size = height * width * 3
        # No size: its entry is being written. Beyond the end: another process was allowed more bytes and has put the
        # sample outside of this process's map.
        if not place or not size or place - 1 + size > len(self._pixels):
            return None
        return self._pixels[place - 1 : place - 1 + size].reshape(height, width, 3)

    def put(self, sample: int, pixels: np.ndarray) -> None:
        """Keep uint8 [H, W, 3] for a sample, unless the cache is full or another process is doing it."""
        if self._full:
            return
        try:
            with self._claimed(sample) as mine:
                if mine and (begin := self._reserve(pixels.nbytes)) is not None:
                    _write(self._files["pixels"], np.ascontiguousarray(pixels).data, begin)
                    entry = np.array((begin + 1, *pixels.shape[:2]), dtype=_ENTRY).tobytes()
                    for first, last in ((8, 16), (0, 8)):  # the place last: it makes the entry valid
                        os.pwrite(self._files["entries"], entry[first:last], sample * _ENTRY.itemsize + first)
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self._full = True
        print(
            f"{self.folder} takes no more ({error.strerror}): the rest is decoded each time",
            file=sys.stderr,
            flush=True,
        )

    def __len__(self) -> int:
        """Return how many samples are here."""
        return int(np.count_nonzero(self._entries["place"]))

    # ------------------------------------------------------------------------------------------------------------- room
    def _reserve(self, size: int) -> int | None:
        """Return where the next `size` bytes may be written; None when the cache is full."""
        with self._locked():
            begin = _number(self._files["end"])
            self._full = not self._allow(begin + size)
            if self._full:
                return None
            _write(self._files["end"], _bytes(begin + size), 0)
        return begin

    def _allow(self, needed: int) -> bool:
        """Return whether this kind may use so many bytes, after other kinds have made room.

        Only kinds that no process has open are removed, first the one that was opened longest ago.
        """
        if needed <= _number(self._files["allowed"]):
            return True
        with locked(self._lock):
            allowed = {kind: self._allowed(kind) for kind in self._lock.parent.glob(self._ours)}
            mine = allowed.pop(self.folder, None)
            if mine is None or needed <= mine:  # removed by somebody; or allowed meanwhile
                return mine is not None
            left = self.most_bytes - mine - sum(allowed.values())
            idle = [kind for kind in allowed if left < needed - mine and is_free(kind / "allowed")]
            if left + sum(allowed[kind] for kind in idle) < needed - mine:
                return False
            for kind in sorted(idle, key=lambda kind: (kind / "allowed").stat().st_mtime_ns):
                if left < needed - mine:
                    shutil.rmtree(kind, ignore_errors=True)
                    left += allowed[kind]
            _write(self._files["allowed"], _bytes(mine + min(left, max(needed - mine, STEP))), 0)
            return True

    @staticmethod
    def _allowed(kind: Path) -> int:
        """Return the bytes that a kind may use."""
        # `allowed` may be read by its path, `end` may not: closing a file drops this process's record locks on it.
        try:
            return int.from_bytes((kind / "allowed").read_bytes(), "little")
        except FileNotFoundError:
            return 0

    @contextmanager
    def _claimed(self, sample: int) -> Iterator[bool]:
        """Yield whether this process may write a sample: it is not here, and no other process is writing it."""
        span = (_ENTRY.itemsize, sample * _ENTRY.itemsize)
        try:
            fcntl.lockf(self._files["entries"], fcntl.LOCK_EX | fcntl.LOCK_NB, *span)
        except (BlockingIOError, PermissionError):
            yield False
            return
        try:
            yield not self._entries[sample]["place"]
        finally:
            fcntl.lockf(self._files["entries"], fcntl.LOCK_UN, *span)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # A record lock belongs to one process. Forked workers would share any other kind of lock.
        fcntl.lockf(self._files["end"], fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._files["end"], fcntl.LOCK_UN)

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)


def _bytes(number: int) -> memoryview:
    return memoryview(number.to_bytes(8, "little"))


def _number(file: int) -> int:
    return int.from_bytes(os.pread(file, 8, 0), "little")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _write(file: int, values: memoryview, place: int) -> None:
    data = values.cast("B")
    while data:
        done = os.pwrite(file, data, place)
        data, place = data[done:], place + done
