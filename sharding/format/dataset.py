"""A built data set: its splits, and the bytes of any image in them.

The shards of a remote data set come from a `ShardSource`, which sharding/open.py passes in; there is no network code
here.

Needs only numpy (no torch, no webdataset). Every fault on disk is a `DataError` of one sentence.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from recipes.common.cli import nearest
from recipes.common.errors import DataError, one_line
from recipes.common.files import pread
from recipes.common.json_text import NotJson, parse_json, wrong_kinds
from recipes.common.retries import errno_words, retried
from recipes.dataset_values import wrong_values
from sharding.format.index import FORMAT, Index, load_index

DATASET_FILE = "dataset.json"
_KINDS = {
    "class_names": list,
    "class_groups": list,
    "editions": dict,
    "splits": dict,
    "statistics": dict,
    "build": dict,
    "fingerprint": str,
    "name": str,
    "format": str,
}
"""The keys that every dataset.json has, with the types of their values."""
DIGEST = "digest"
META_KEYS = frozenset({*_KINDS, "notes", "values", "kind", DIGEST})
"""All keys that a build writes."""


class ShardSource(Protocol):
    """The source of a remote data set's index and shards: the node's cache."""

    @property
    def folder(self) -> Path:
        """The folder of the fetched files, which mirrors the data set's."""
        ...

    def index(self, relative: str, fingerprint: str) -> Index:
        """Return the index of the split `relative`, which must have this fingerprint."""
        ...

    def shard(self, relative: str, index: Index, shard: int) -> Path:
        """Return the verified file of a shard of the split `relative`; fetch it if it is not here."""
        ...

    def fetch_ahead(self, relative: str, index: Index, shard: int, ahead: FetchAhead) -> bool:
        """Fetch a shard before it is needed; return False if there was no room for it."""
        ...

    def check_budget(self, index: Index, window: int, draws: int) -> None:
        """Check that the shards which an epoch of one stream needs at the same time fit.

        Raises:
            DataError: they do not fit.
        """
        ...

    def counts(self) -> dict[str, float]:
        """Return how many shards and bytes this node has fetched, and how many seconds readers waited."""
        ...


@dataclass(frozen=True)
class FetchAhead:
    """Which shards may be evicted for a shard that is fetched before it is needed.

    Attributes:
        turns: for each shard that this epoch still needs, its place in the order. Shards of its split that are not
            needed any more may be evicted, and all others without a place or with a later one that were not touched
            since `began`: what other runs read stays, unless nothing else is there.
        began: when the epoch began, in seconds since 1970.
        granted: called once there is room, before the fetch; or before waiting for another process that fetches it.
    """

    turns: Mapping[Path, int]
    began: float
    granted: Callable[[], object]


@dataclass(frozen=True)
class RemoteShards:
    """The source of a remote split's shards.

    Attributes:
        source: the node's cache of the data set.
        relative: the split's folder, relative to the data set's.
    """

    source: ShardSource
    relative: str


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set.

    Attributes:
        folder: holds the shards; those of a remote split are fetched into it when they are needed.
        index: where each image is in the shards.
        remote: the source of a remote split's shards; None for a split in a folder.
    """

    folder: Path
    index: Index
    remote: RemoteShards | None = None
    _files: dict[int, dict[int, int]] = field(default_factory=dict, init=False, repr=False)  # pid -> shard -> fd

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.index)

    @property
    def files(self) -> int:
        """How many files a process keeps open that reads all of it: its shards, but for those of a remote split."""
        return 0 if self.remote else len(self.index.shard_name)

    def read(self, i: int) -> bytes:
        """Return the JPEG bytes of sample `i` (0 <= i < N), checked against their sha256.

        Safe after fork, in threads and when pickled to another process.

        Raises:
            IndexError: `i` is out of range.
            DataError: the bytes are not the recorded ones, or could not be read for a minute; the sentence names shard,
                byte offset, and the key or the error.
        """
        index = self.index
        if not 0 <= i < len(index):
            raise IndexError(f"sample {i} of {self.folder} does not exist; 0 to {len(index) - 1} do")
        shard, offset, size = int(index.shard[i]), int(index.offset[i]), int(index.size[i])
        recorded = index.sha256[i].tobytes()
        data = self._bytes(shard, size, offset)
        if self.remote is not None and hashlib.sha256(data).digest() != recorded:
            # The node's copy is damaged. Fetch the shard again; it is then verified as a whole.
            (self.folder / str(index.shard_name[shard])).unlink(missing_ok=True)
            data = self._bytes(shard, size, offset)
        if hashlib.sha256(data).digest() != recorded:
            raise DataError(
                f"shard {self.folder / str(index.shard_name[shard])}: the image of key {str(index.key[i])!r} at "
                f"byte offset {offset} is damaged (its {size} bytes do not have the recorded sha256)"
            )
        return data

    def check_shards(self) -> None:
        """Check that every shard is there with its recorded size.

        Raises:
            DataError: a shard is missing or has another size; the sentence names it.
        """
        for name, size in zip(self.index.shard_name.tolist(), self.index.shard_size.tolist(), strict=True):
            path = self.folder / name
            try:
                found = retried(path.stat, f"shard {path}").st_size
            except FileNotFoundError:
                raise DataError(f"shard {path} is missing") from None
            except OSError as error:
                raise DataError(f"shard {path} cannot be read: {errno_words(error)}") from None
            if found != size:
                what = "truncated" if found < size else "too long"
                raise DataError(f"shard {path} is {what}: it has {found} bytes, the index records {size}")

    def close(self) -> None:
        """Close this process's file descriptors; a later read opens them again."""
        for fd in self._files.pop(os.getpid(), {}).values():
            os.close(fd)

    def _bytes(self, shard: int, size: int, offset: int) -> bytes:
        """Return the `size` bytes at `offset` of a shard; if they cannot be read, try again for a while."""
        path, tries = f"{self.folder}/{self.index.shard_name[shard]}", itertools.count()  # Path's `/` costs half a read

        def read() -> bytes:
            if self.remote is not None:
                return self._read_remote(self.remote, shard, size, offset)
            return pread(self._open(shard, reopen=next(tries) > 0), size, offset)

        try:
            return retried(read, f"shard {path}", was_there=True)  # it was there when the split was opened
        except OSError as error:
            what = "is missing" if error.errno == errno.ENOENT else "cannot be read"
            raise DataError(f"shard {path} {what}: {errno_words(error)} at byte offset {offset}") from None

    def _open(self, shard: int, reopen: bool) -> int:
        files = self._files.get(os.getpid())
        if files is None:  # a new process: descriptors inherited by a fork belong to the parent
            files = self._files.setdefault(os.getpid(), {})
        if shard not in files:
            fd = self._opened(shard)
            if files.setdefault(shard, fd) != fd:  # another thread was first
                os.close(fd)
        elif reopen:  # keep the old number, which other threads may be using
            fd = self._opened(shard)
            os.dup2(fd, files[shard], inheritable=False)
            os.close(fd)
        return files[shard]

    def _opened(self, shard: int) -> int:
        return os.open(self.folder / str(self.index.shard_name[shard]), os.O_RDONLY | os.O_CLOEXEC)

    def _read_remote(self, remote: RemoteShards, shard: int, size: int, offset: int) -> bytes:
        # Opened for each sample: an evicted file takes disk space as long as a process has it open.
        path = f"{self.folder}/{self.index.shard_name[shard]}"
        while True:
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                remote.source.shard(remote.relative, self.index, shard)  # may be evicted again before it is opened
                continue
            try:
                os.utime(file)  # shards that were read longest ago are evicted first
                return pread(file, size, offset)
            finally:
                os.close(file)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "index": self.index, "remote": self.remote}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_files": {}}.items():
            object.__setattr__(self, name, value)

    def __del__(self) -> None:
        if getattr(self, "_files", None) and os is not None:
            self.close()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A built data set.

    Attributes:
        root: DATA_ROOT, a folder or an address; the data are in `root/name`.
        name: the data set's.
        meta: the parsed dataset.json.
        rebuild: the command that builds it, for messages.
        source: for a remote data set, a function that makes the node's cache.
    """

    root: Path | str
    name: str
    meta: dict[str, Any]
    rebuild: str = ""
    source: Callable[[], ShardSource] | None = None

    @property
    def folder(self) -> Path:
        """`root/name`, or its mirror in the node's cache."""
        return Path(self.root) / self.name if self.cache is None else self.cache.folder

    @cached_property
    def cache(self) -> ShardSource | None:
        """The node's cache of a remote data set, None for a data set in a folder.

        Raises:
            DataError: the cache's folder cannot be used.
        """
        return None if self.source is None else self.source()

    @property
    def class_names(self) -> list[str]:
        """Name of each class, by class id [K]."""
        return list(self.meta["class_names"])

    @property
    def class_groups(self) -> list[int]:
        """Frequency group of each class, by class id [K]: 0 many, 1 medium, 2 few."""
        return list(self.meta["class_groups"])

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.meta["class_names"])

    @property
    def fingerprint(self) -> str:
        """Hex sha256 over all splits and the classes: equal if and only if the data are equal."""
        return str(self.meta["fingerprint"])

    @property
    def editions(self) -> dict[str, dict[str, str]]:
        """edition -> split -> folder relative to `root/name`."""
        return {edition: dict(splits) for edition, splits in self.meta["editions"].items()}

    def split(self, edition: str, split: str) -> Split:
        """Open a split, after checking that its index and the sizes of its shards are the recorded ones.

        Raises:
            DataError: an unknown edition or split, a missing or truncated shard, a foreign or damaged index.
        """
        relative = self._relative(edition, split)
        recorded = self.meta["splits"][relative]["fingerprint"]
        if self.cache is None:
            opened = Split(self.folder / relative, load_index(self.folder / relative))
        else:
            index, remote = self.cache.index(relative, recorded), RemoteShards(self.cache, relative)
            opened = Split(self.folder / relative, index, remote)
        if opened.index.fingerprint != recorded:
            raise DataError(
                f"the index of {opened.folder} has fingerprint {opened.index.fingerprint[:12]}, "
                f"{DATASET_FILE} records {recorded[:12]}; run: {self.rebuild}"
            )
        if self.cache is None:
            opened.check_shards()  # remote shards are checked when they are fetched
        return opened

    def samples(self, edition: str, split: str) -> int:
        """Return the recorded number of samples of a split, without opening its index."""
        return int(self.meta["splits"][self._relative(edition, split)]["samples"])

    def fingerprint_of(self, edition: str, splits: Iterable[str]) -> str:
        """Return the hex sha256 over the named splits' indices and the classes; the order of the names does not count.

        It reads only dataset.json. `split` checks that an index is the recorded one.
        """
        names = sorted(set(splits))
        used = {name: self.meta["splits"][self._relative(edition, name)]["fingerprint"] for name in names}
        return digest_of({"name": self.name, "classes": self.class_names, "groups": self.class_groups, "splits": used})

    def _relative(self, edition: str, split: str) -> str:
        editions: dict[str, dict[str, str]] = self.meta["editions"]
        splits = editions[_known(edition, editions, f"{self.name} has no edition")]
        return splits[_known(split, splits, f"edition {edition} of {self.name} has no split")]


def read_dataset(root: Path, name: str, rebuild: str = "") -> Dataset:
    """Open the data set `name` in the folder `root`.

    Args:
        root: DATA_ROOT.
        name: the data set's.
        rebuild: the command that builds it, for messages.

    Raises:
        DataError: it is missing or damaged; the sentence names `rebuild`.
    """
    path = root / name / DATASET_FILE
    try:
        data = retried(path.read_bytes, str(path))
    except FileNotFoundError:
        state = "is not finished" if path.parent.exists() else "is not there"
        raise DataError(f"data set {name!r} {state} under {root} (no {path}); run: {rebuild}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {errno_words(error)}") from None
    return Dataset(root, name, parse_meta(data, path, rebuild), rebuild)


def parse_meta(data: bytes, path: Path | str, rebuild: str) -> dict[str, Any]:
    """Return the contents of a dataset.json.

    Args:
        data: the bytes of the file.
        path: the file, for messages.
        rebuild: the command that builds the data set, for messages.

    Raises:
        DataError: something is missing, has a wrong type or is not what was written.
    """
    try:
        meta: dict[str, Any] = parse_json(data)
    except NotJson as error:
        raise DataError(one_line(f"{path} is damaged ({error}); run: {rebuild}")) from None
    if wrong := misshapen(meta) or changed(meta):
        raise DataError(one_line(f"{path} is damaged ({wrong}); run: {rebuild}"))
    return meta


def misshapen(meta: Any) -> str:
    """Return why `meta` cannot be the contents of a dataset.json; empty if it can."""
    if wrong := wrong_kinds(meta, _KINDS) or _wrong_notes(meta.get("notes", {})) or wrong_values(meta):
        return wrong
    names, groups = meta["class_names"], meta["class_groups"]
    if meta["format"] != FORMAT:
        return f"format is {meta['format']!r}; {FORMAT!r} would be legal"
    if not all(isinstance(name, str) for name in names) or not all(type(g) is int and 0 <= g <= 2 for g in groups):
        return "class_names are texts and class_groups 0, 1 or 2"
    if len(names) != len(groups):
        return f"it has {len(names)} class_names and {len(groups)} class_groups"
    if not all(isinstance(entry, dict) for entry in meta["splits"].values()):
        return "splits does not map folders to objects"
    if not meta["editions"]:
        return "it names no edition"
    for edition, splits in meta["editions"].items():
        for name in (splits if isinstance(splits, dict) else {}) or [""]:
            folder = splits[name] if name else None
            recorded = meta["splits"].get(folder, {}) if isinstance(folder, str) else {}
            if not isinstance(recorded.get("fingerprint"), str) or type(recorded.get("samples")) is not int:
                return f"it records no samples and fingerprint of the split {edition}/{name}"
    return ""


def _wrong_notes(notes: Any) -> str:
    if not isinstance(notes, dict):
        return f"notes is {type(notes).__name__}, not dict"
    named = notes.get("attribute_names", [])
    return "" if isinstance(named, list) else f"notes.attribute_names is {type(named).__name__}, not list"


def changed(meta: Mapping[str, Any]) -> str:
    """Return a sentence if the contents of a dataset.json do not match their recorded digest; empty if they do."""
    if DIGEST not in meta or meta[DIGEST] == digest_of({key: meta[key] for key in meta if key != DIGEST}):
        return ""
    return "it does not have its own digest: something in it was changed"


def digest_of(value: Any) -> str:
    """Return the hex sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _known(name: str, legal: Iterable[str], complaint: str) -> str:
    names = list(legal)
    if name in names:
        return name
    raise DataError(f"{complaint} {name!r}; {nearest(name, names)}")
