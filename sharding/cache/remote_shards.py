"""A node's cache of a remote data set: whole shards, fetched once for all processes and verified before use.

A process that needs a missing shard takes its lock, looks again, fetches it to a file beside its place, compares its
sha256 with the index's, and renames it. A lock ends with its process, so after a kill at any moment the next process
overwrites the incomplete file. sharding/cache/prefetcher.py does the same ahead of the readers, in the order of the
epoch's plan. Shards that were not used for longest are evicted first. numpy and the standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import FULL, replacing
from recipes.common.json_text import read_object
from recipes.common.locks import is_free, locked
from sharding.cache import remote_files
from sharding.cache.disk_budget import SHARDS, bytes_of_a_node
from sharding.cache.remote_files import RemoteOrigin
from sharding.format.dataset import FetchAhead
from sharding.format.index import INDEX_FILE, Index, load_index

LOOK_S = 0.02
"""Seconds between two checks for room, for a reader that needs a shard now."""
_NOTHING: dict[str, float] = {"shards": 0, "bytes": 0, "waited_s": 0.0}


@dataclass(frozen=True)
class NodeCache:
    """A data set's part of a node's cache folder: a `ShardSource`.

    Attributes:
        origin: where the data set comes from.
        name: the data set's.
        folder: mirrors the data set's folder at the origin.
        most_bytes: limit for the shards of all data sets on the node, including those being fetched.
    """

    origin: RemoteOrigin
    name: str
    folder: Path
    most_bytes: int

    @classmethod
    def made(
        cls,
        origin: RemoteOrigin,
        name: str,
        fingerprint: str,
        folder: Path,
        most_bytes: float | None,
        share: float = 1.0,
    ) -> NodeCache:
        """Return the cache of the data set with this fingerprint; each fingerprint has a separate folder.

        Args:
            origin: where the data set comes from.
            name: the data set's.
            fingerprint: the data set's, hex.
            folder: the node's cache folder.
            most_bytes: as for `bytes_of_a_node`.
            share: as for `bytes_of_a_node`.

        Raises:
            DataError: it cannot be made there.
        """
        digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:12]
        own_folder = folder / "shards" / f"{remote_files.plain(name)}-{digest}"
        try:
            own_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(origin, name, own_folder, bytes_of_a_node(folder, SHARDS, most_bytes, share))
        except OSError as error:
            raise DataError(
                f"data.cache_folder={folder} cannot hold what is fetched ({error.strerror}): another folder is legal"
            ) from None

    # ----------------------------------------------------------------------------------------------------------- a file
    def index(self, relative: str, fingerprint: str) -> Index:
        """Return the index of the split `relative`, which must have this fingerprint.

        Raises:
            DataError: five tries have failed, or the disk cannot take it.
        """
        folder = self.folder / remote_files.plain(relative)
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with locked(folder / "index.lock"):
                    if _what_is_wrong(folder / INDEX_FILE, fingerprint):
                        self._fetch_index(relative, folder, fingerprint)
                break
            except OSError as error:
                if error.errno not in FULL or not self._evict_one():
                    raise DataError(
                        f"{folder} does not take the index of {self.name}/{relative} ({error.strerror}): "
                        "another data.cache_folder is legal"
                    ) from None
        index = load_index(folder)
        for name in index.shard_name.tolist():
            if not remote_files.plain(name).endswith(".tar"):
                raise DataError(
                    f"the shard {name} of {self.name}/{relative} is not called NAME.tar, and only such are kept"
                )
        return index

    def _fetch_index(self, relative: str, folder: Path, fingerprint: str) -> None:
        part = folder / f"{INDEX_FILE}.new"

        def wrong(data: bytes) -> str:
            part.write_bytes(data)
            return _what_is_wrong(part, fingerprint)

        remote_files.fetch_small(self.origin, f"{self.name}/{relative}/{INDEX_FILE}", wrong)
        os.replace(part, folder / INDEX_FILE)

    def shard(self, relative: str, index: Index, shard: int) -> Path:
        """Return the verified file of a shard of the split `relative`; fetch it if it is not here.

        Raises:
            DataError: it cannot be fetched, or is not the file that the index records.
        """
        path = self._path(relative, index, shard)
        if not path.exists():
            asked = time.time()
            self._ensure(relative, index, shard, None)
            self._note(waited_s=time.time() - asked)
        _touch(path)
        return path

    def fetch_ahead(self, relative: str, index: Index, shard: int, ahead: FetchAhead) -> bool:
        """Fetch a shard of the split `relative` before it is needed; return False if there was no room for it.

        Raises:
            DataError: as for `shard`.
        """
        path = self._path(relative, index, shard)
        if not path.exists() and not self._ensure(relative, index, shard, ahead):
            return False
        _touch(path)
        return True

    def _path(self, relative: str, index: Index, shard: int) -> Path:
        return self.folder / relative / str(index.shard_name[shard])

    def _ensure(self, relative: str, index: Index, shard: int, ahead: FetchAhead | None) -> bool:
        """Fetch a shard; return whether it is here now. Without `ahead`, it is needed at once: wait for room."""
        path, granted = self._path(relative, index, shard), ahead.granted if ahead else lambda: None
        asked, size, failed = time.time(), int(index.shard_size[shard]), path.with_suffix(".failed")
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock"), busy=granted):
            if path.exists():
                return True
            if failed.exists() and failed.stat().st_mtime >= asked:
                raise DataError(failed.read_text())  # another process failed while this one waited
            while not self._make_room(size, path, ahead):
                if ahead:
                    return False
                time.sleep(LOOK_S)  # for shards that are being fetched
            granted()
            try:
                self._fetch(relative, path, size, index.shard_sha256[shard].tobytes())
            except DataError as error:
                with contextlib.suppress(OSError):
                    failed.write_text(str(error))
                raise
            failed.unlink(missing_ok=True)
            self._note(shards=1, bytes=size)
        return True

    def _fetch(self, relative: str, path: Path, size: int, sha256: bytes) -> None:
        part = path.with_suffix(".part")
        with open(part, "r+b") as file:
            download = _Download(file, size, sha256)
            remote_files.fetch(self.origin, f"{self.name}/{relative}/{path.name}", download.begin, download.problem)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    # ------------------------------------------------------------------------------------------------------------- room
    def _make_room(self, size: int, path: Path, ahead: FetchAhead | None) -> bool:
        """Reserve `size` bytes for a shard, evicting others if needed; return whether there is room.

        Without `ahead` the shards that were read longest ago are evicted, else those that `FetchAhead` names.
        """
        if size > self.most_bytes:
            raise DataError(
                f"data.cache_gb leaves {self.most_bytes / 1e9:.3g} GB for shards, "
                f"which do not even hold {path.stem} ({size / 1e9:.3g} GB): more is legal"
            )
        part, all_sets = path.with_suffix(".part"), self.folder.parent
        with locked(all_sets / "room.lock"):
            part.unlink(missing_ok=True)
            on_their_way = 0
            # Counted before the finished shards: one that arrives meanwhile counts twice, which is safe.
            for other in all_sets.rglob("*.part"):
                if is_free(other.with_suffix(".lock")):  # it has arrived, or its process was killed
                    other.unlink(missing_ok=True)
                else:
                    on_their_way += _size(other)
            there = {shard: stat for shard in all_sets.rglob("*.tar") if (stat := _stat(shard))}
            used = on_their_way + sum(stat.st_size for stat in there.values())
            victims = _evictable(there, path, ahead)
            while used + size > self.most_bytes or not self._allocate(
                part, size, patient=bool(ahead or victims or on_their_way)
            ):
                if not victims:
                    return False
                victim = victims.pop(0)
                victim.unlink(missing_ok=True)
                used -= there[victim].st_size
            return True

    def _allocate(self, part: Path, size: int, patient: bool) -> bool:
        """Allocate `size` bytes on the disk, which may be fuller than when the run began; return whether it worked.

        Args:
            part: the file that gets them.
            size: in bytes.
            patient: whether to return False when the disk is full; else that is an error.
        """
        try:
            with open(part, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
            return True
        except OSError as error:
            part.unlink(missing_ok=True)
            if patient and error.errno in FULL:
                return False
            raise DataError(
                f"{self.folder} does not take the {size / 1e9:.3g} GB of the shard {part.stem} ({error.strerror}): "
                "another data.cache_folder or a smaller data.cache_gb is legal"
            ) from None

    def _evict_one(self) -> bool:
        """Delete the shard that was read longest ago; return whether there was one."""
        with locked(self.folder.parent / "room.lock"):
            there = {shard: stat.st_mtime_ns for shard in self.folder.parent.rglob("*.tar") if (stat := _stat(shard))}
            if there:
                min(there, key=there.__getitem__).unlink(missing_ok=True)
            return bool(there)

    # ----------------------------------------------------------------------------------------------------------- counts
    def _note(self, **more: float) -> None:
        # A full disk loses counts, but does not end the run.
        with contextlib.suppress(OSError), locked(self.folder / "counts.lock"):
            path = self.folder / "counts.json"
            counts = _counts(path)
            with replacing(path) as whole:
                whole.write_text(
                    json.dumps({key: counts.get(key, 0) + more.get(key, 0) for key in ("shards", "bytes", "waited_s")})
                )

    def counts(self) -> dict[str, float]:
        """Return what this node has fetched since the cache was made: `shards`, `bytes`, and `waited_s`.

        `waited_s` is how long readers waited, in seconds, summed over all processes.
        """
        with contextlib.suppress(OSError), locked(self.folder / "counts.lock"):  # the folder may have been deleted
            return _counts(self.folder / "counts.json")
        return dict(_NOTHING)

    def check_budget(self, index: Index, window: int, draws: int) -> None:
        """Check that the shards which an epoch of one stream needs at the same time fit.

        Streams with other weights use the same windows, except near the windows' ends. A shard that does not fit is
        fetched more than once.

        Args:
            index: the split's.
            window: shards in a window of the shuffle; 0 where the epoch is shuffled as a whole.
            draws: the stream's rows in a global batch, which the node's ranks read at the same time.

        Raises:
            DataError: they do not fit; the sentence says what would be legal.
        """
        sizes, windows = np.sort(index.shard_size)[::-1], 0
        if window:
            # The shards of a step and of the next one, and at the last step also the first window: an incomplete last
            # batch is filled from it.
            windows = 2 + math.ceil(draws / (window * len(index) / len(sizes)))
        needed = int(sizes[: windows * window or None].sum())
        if needed > self.most_bytes:
            what = (
                f"{windows} windows of data.shuffle_window={window} shards"
                if window
                else "the whole training set, which data.shuffle_window=0 needs at once"
            )
            raise DataError(
                f"data.cache_gb leaves {self.most_bytes / 1e9:.3g} GB for shards, which do not hold {what} "
                f"({needed / 1e9:.3g} GB): more is legal, "
                f"or a {'smaller' if window else 'positive'} data.shuffle_window"
            )


class _Download:
    """Writes a shard into a file while it is fetched; begins again with each try."""

    def __init__(self, file: BinaryIO, size: int, sha256: bytes) -> None:
        self._file, self._size, self._sha256 = file, size, sha256
        self._digest, self._got = hashlib.sha256(), 0

    def begin(self) -> Callable[[bytes], None]:
        """Begin a try, and return the function that takes the pieces."""
        self._file.seek(0)
        self._digest, self._got = hashlib.sha256(), 0
        return self._take

    def _take(self, piece: bytes) -> None:
        self._got += len(piece)
        if self._got > self._size:
            raise remote_files.Failed(f"it has more than the {self._size} bytes that the index records")
        self._digest.update(piece)
        self._file.write(piece)

    def problem(self) -> str:
        """Return what is wrong with the fetched file; empty if nothing is."""
        if self._got != self._size:
            return f"it has {self._got} bytes and the index records {self._size}"
        return "" if self._digest.digest() == self._sha256 else "its bytes do not have the recorded sha256"


def _evictable(there: Mapping[Path, os.stat_result], path: Path, ahead: FetchAhead | None) -> list[Path]:
    """Return the shards that may be evicted for the shard `path`, in the order in which to evict them."""
    if ahead is None:
        return sorted(there, key=lambda shard: there[shard].st_mtime_ns)
    turn = {shard: ahead.turns.get(shard, math.inf) for shard in there}  # inf: not needed by this epoch, any more
    later = [shard for shard in there if turn[shard] > ahead.turns[path]]
    free = [
        shard
        for shard in later
        if there[shard].st_mtime < ahead.began or (turn[shard] == math.inf and shard.parent == path.parent)
    ]
    if not free and len(later) == len(there):  # others read all that is here: without room this run would never begin
        free = [shard for shard in later if turn[shard] == math.inf]
    return sorted(free, key=lambda shard: (-turn[shard], there[shard].st_mtime_ns))


def _counts(path: Path) -> dict[str, float]:
    """Return the counts in a file; empty if it is missing or damaged."""
    with contextlib.suppress(DataError):
        found = read_object(path, {})
        return {key: found[key] if isinstance(found.get(key), int | float) else no for key, no in _NOTHING.items()}
    return dict(_NOTHING)


def _what_is_wrong(file: Path, fingerprint: str) -> str:
    """Return what is wrong with the index in `file`; empty if nothing is."""
    try:
        index = load_index(file.parent, file.name)
    except DataError:
        return "it is damaged"
    return "" if index.fingerprint == fingerprint else "it is not the index that dataset.json records"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None  # it arrived at this moment, was evicted, or was given up


def _size(path: Path) -> int:
    return stat.st_size if (stat := _stat(path)) else 0


def _touch(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # evicted at this moment; the reader that opens it fetches it again
        os.utime(path)
