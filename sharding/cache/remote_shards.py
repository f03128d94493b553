"""What a node keeps of a data set from afar: whole shards, each fetched once for all the node's processes and verified before its use.

Whoever needs a shard that is not there takes its lock, looks again, fetches it beside its place, compares its sha256 with the index's, and moves it there.
A lock ends with its process: a kill at any moment leaves a part that the next one writes over. sharding/cache/prefetcher.py does the same before the readers ask, in the order of
the epoch's plan. Shards that were read or fetched longest ago make room for others. numpy and the standard library only.
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

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import FULL, replacing
from recipes.common.locks import is_free, locked
from sharding.cache import remote_files
from sharding.cache.disk_budget import SHARDS, bytes_of_a_node
from sharding.format.index import INDEX_FILE, Index, load_index

LOOK_S = 0.02
"""Between two looks for room, of who needs a shard now."""


@dataclass(frozen=True)
class NodeCache:
    """A data set's part of a node's cache folder.

    Attributes:
        root: where the data set comes from; see sharding/cache/remote_files.py.
        name: the data set's.
        folder: mirrors what lies under `root/name`.
        most_bytes: of shards of all data sets that the node keeps, those on their way included.
    """

    root: str
    name: str
    folder: Path
    most_bytes: int

    @classmethod
    def made(
        cls, root: str, name: str, fingerprint: str, folder: Path, most_bytes: float | None, share: float = 1.0
    ) -> NodeCache:
        """The cache of the data set of this fingerprint; other data have another place.

        Args:
            folder: the node's cache folder.
            most_bytes, share: as for `bytes_of_a_node`.

        Raises:
            DataError: it cannot be made there.
        """
        mine = folder / "shards" / f"{remote_files.plain(name)}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"
        try:
            mine.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(root, name, mine, bytes_of_a_node(folder, SHARDS, most_bytes, share))
        except OSError as error:
            raise DataError(
                f"data.cache_folder={folder} cannot hold what is fetched ({error.strerror}): another folder is legal"
            ) from None

    # ------------------------------------------------------------------------------------------------------------ a file
    def index(self, relative: str, fingerprint: str) -> Index:
        """The index of the split `relative`, which must have this fingerprint. Raises DataError where none of five tries brings it."""
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
                        f"{folder} does not take the index of {self.name}/{relative} ({error.strerror}): another data.cache_folder is legal"
                    ) from None
        index = load_index(folder)
        if other := next(
            (name for name in index.shard_name.tolist() if not remote_files.plain(name).endswith(".tar")), None
        ):
            raise DataError(
                f"the shard {other} of {self.name}/{relative} is not called NAME.tar, and only such are kept"
            )
        return index

    def _fetch_index(self, relative: str, folder: Path, fingerprint: str) -> None:
        part = folder / f"{INDEX_FILE}.new"

        def wrong(data: bytes) -> str:
            part.write_bytes(data)
            return _what_is_wrong(part, fingerprint)

        remote_files.fetch_small(self.root, f"{self.name}/{relative}/{INDEX_FILE}", wrong)
        os.replace(part, folder / INDEX_FILE)

    def shard(
        self,
        relative: str,
        index: Index,
        shard: int,
        turns: Mapping[Path, int] | None = None,
        began: float = 0.0,
        granted: Callable[[], object] = lambda: None,
    ) -> Path | None:
        """The verified file of a shard of the split `relative`.

        Args:
            turns: for who fetches ahead: when each shard's turn comes, of those that are still needed. Only shards that are not needed, or later and not
                read or fetched since `began`, make room, and where that is not enough the answer is None. Without, what was read longest ago makes room.
            began: when the epoch did, in seconds since 1970.
            granted: called once there is room, before anything is fetched; or before a wait for somebody else who fetches it.

        Raises:
            DataError: it cannot be fetched, or is another file than the index records.
        """
        path = self.folder / relative / str(index.shard_name[shard])
        if not path.exists():
            asked, size, failed = time.time(), int(index.shard_size[shard]), path.with_suffix(".failed")
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock"), busy=granted):
                if not path.exists():
                    if failed.exists() and failed.stat().st_mtime >= asked:
                        raise DataError(failed.read_text())  # while this one waited for its turn
                    while not self._make_room(size, path, turns, began):
                        if turns is not None:
                            return None
                        time.sleep(LOOK_S)  # for what is on its way
                    granted()
                    try:
                        self._fetch(relative, path, size, index.shard_sha256[shard].tobytes())
                    except DataError as error:
                        with contextlib.suppress(OSError):
                            failed.write_text(str(error))
                        raise
                    failed.unlink(missing_ok=True)
                    self._note(shards=1, bytes=size)
            if turns is None:
                self._note(waited_s=time.time() - asked)
        _touch(path)
        return path

    def _fetch(self, relative: str, path: Path, size: int, sha256: bytes) -> None:
        part = path.with_suffix(".part")
        with open(part, "r+b") as file:
            state = {}

            def begin():
                file.seek(0)
                state.update(digest=hashlib.sha256(), got=0)

                def take(piece: bytes) -> None:
                    state["got"] += len(piece)
                    if state["got"] > size:
                        raise remote_files.Failed(f"it has more than the {size} bytes that the index records")
                    state["digest"].update(piece)
                    file.write(piece)

                return take

            def wrong() -> str:
                if state["got"] != size:
                    return f"it has {state['got']} bytes and the index records {size}"
                return "" if state["digest"].digest() == sha256 else "its bytes do not have the recorded sha256"

            remote_files.fetch(self.root, f"{self.name}/{relative}/{path.name}", begin, wrong)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    # -------------------------------------------------------------------------------------------------------------- room
    def _make_room(self, size: int, path: Path, turns: Mapping[Path, int] | None, began: float) -> bool:
        """Take `size` bytes for a shard on its way, evicting others as `shard` says; whether there is room."""
        if size > self.most_bytes:
            raise DataError(
                f"data.cache_gb leaves {self.most_bytes / 1e9:.3g} GB for shards, which do not even hold {path.stem} ({size / 1e9:.3g} GB): more is legal"
            )
        part, all_sets = path.with_suffix(".part"), self.folder.parent
        with locked(all_sets / "room.lock"):
            part.unlink(missing_ok=True)
            on_their_way = 0
            for other in all_sets.rglob(
                "*.part"
            ):  # before those that are there: one that arrives now counts twice, not never
                if is_free(other.with_suffix(".lock")):  # it has arrived, or its process was killed
                    other.unlink(missing_ok=True)
                else:
                    on_their_way += _size(other)
            there = {shard: stat for shard in all_sets.rglob("*.tar") if (stat := _stat(shard))}
            used = on_their_way + sum(stat.st_size for stat in there.values())
            turn = {shard: (turns or {}).get(shard, math.inf) for shard in there}  # inf: never
            free = [
                shard
                for shard in there
                if turns is None
                or turn[shard] == math.inf
                or (turn[shard] > turns[path] and there[shard].st_mtime < began)
            ]
            victims = sorted(free, key=lambda shard: (-turn[shard], there[shard].st_mtime_ns))
            while used + size > self.most_bytes or not self._allocated(
                part, size, patient=bool(turns is not None or victims or on_their_way)
            ):
                if not victims:
                    return False
                victim = victims.pop(0)
                victim.unlink(missing_ok=True)
                used -= there[victim].st_size
            return True

    def _allocated(self, part: Path, size: int, patient: bool) -> bool:
        """Take `size` bytes of the disk, of which less may be left than when the run began; where there are none, whether to wait for some is `patient`."""
        try:
            with open(part, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
            return True
        except OSError as error:
            part.unlink(missing_ok=True)
            if patient and error.errno in FULL:
                return False
            raise DataError(
                f"{self.folder} does not take the {size / 1e9:.3g} GB of the shard {part.stem} ({error.strerror}): another data.cache_folder or a smaller data.cache_gb is legal"
            ) from None

    def _evict_one(self) -> bool:
        """Give the disk the bytes of the shard that was read longest ago; whether there was one."""
        with locked(self.folder.parent / "room.lock"):
            there = {shard: stat.st_mtime_ns for shard in self.folder.parent.rglob("*.tar") if (stat := _stat(shard))}
            if there:
                min(there, key=there.__getitem__).unlink(missing_ok=True)
            return bool(there)

    # ------------------------------------------------------------------------------------------------------------ counts
    def _note(self, **more: float) -> None:
        with (
            contextlib.suppress(OSError),
            locked(self.folder / "counts.lock"),
        ):  # a disk that is full loses counts, and no run
            path = self.folder / "counts.json"
            counts = json.loads(path.read_text()) if path.exists() else {}
            with replacing(path) as whole:
                whole.write_text(
                    json.dumps({key: counts.get(key, 0) + more.get(key, 0) for key in ("shards", "bytes", "waited_s")})
                )

    def counts(self) -> dict[str, float]:
        """Of this node, since the cache was made: shards and bytes fetched, and the seconds for which readers waited, all processes added up."""
        with contextlib.suppress(OSError), locked(self.folder / "counts.lock"):  # whoever tidies up ends no run
            return json.loads((self.folder / "counts.json").read_text())
        return {"shards": 0, "bytes": 0, "waited_s": 0.0}

    def check_budget(self, index: Index, window: int, draws: int) -> None:
        """Raises DataError where the shards that an epoch of one stream needs at the same time do not fit. (Streams of other weights are in the same windows but for
        their ends; what does not fit is fetched more than once.)

        Args:
            draws: of a stream in a global batch, which the node's ranks read at the same time.
        """
        sizes, windows = np.sort(index.shard_size)[::-1], 0
        if window:  # those of a step and the next one, and to the last step the first one: a last batch that is not full is completed from it
            windows = 2 + math.ceil(draws / (window * len(index) / len(sizes)))
        needed = int(sizes[: windows * window or None].sum())
        if needed > self.most_bytes:
            what = (
                f"{windows} windows of data.shuffle_window={window} shards"
                if window
                else "the whole training set, which data.shuffle_window=0 needs at once"
            )
            raise DataError(
                f"data.cache_gb leaves {self.most_bytes / 1e9:.3g} GB for shards, which do not hold {what} ({needed / 1e9:.3g} GB): more is legal, or a {'smaller' if window else 'positive'} data.shuffle_window"
            )


def _what_is_wrong(file: Path, fingerprint: str) -> str:
    """With an index, or nothing."""
    try:
        return (
            ""
            if load_index(file.parent, file.name).fingerprint == fingerprint
            else "it is not the index that dataset.json records"
        )
    except DataError:
        return "it is damaged"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None  # it has arrived in this moment, made room, or is given up


def _size(path: Path) -> int:
    return stat.st_size if (stat := _stat(path)) else 0


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except FileNotFoundError:
        pass  # evicted in this moment; who opens it asks again
