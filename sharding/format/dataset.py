"""A built data set: which splits there are, where they lie, and the bytes of any image in them.

Shards of a data set from afar come from a `ShardSource`, which sharding/open.py gives it; nothing here knows of networks.

Needs numpy alone (no torch, no webdataset). Everything that is wrong on disk is a `DataError` of one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from recipes.common.cli import nearest
from recipes.common.errors import DataError
from recipes.common.files import pread
from sharding.format.index import Index, load_index

DATASET_FILE = "dataset.json"


class ShardSource(Protocol):
    """Where the index and the shards of a data set from afar come from: the node's cache of it."""

    folder: Path

    def index(self, relative: str, fingerprint: str) -> Index:
        """The index of the split `relative`."""
        ...

    def shard(self, relative: str, index: Index, shard: int) -> Path | None:
        """The verified file of a shard of the split `relative`."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """One split: `folder` holds the shards, `index` says what lies where in them. Of a split from afar, `afar` holds the node's cache and the split's place in the
    data set, and shards come into `folder` when they are needed."""

    folder: Path
    index: Index
    afar: tuple[ShardSource, str] | None = None
    _files: dict[int, dict[int, int]] = field(default_factory=dict, init=False, repr=False)  # pid -> shard -> fd

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self.index)

    def read(self, i: int) -> bytes:
        """The JPEG bytes of sample `i` (0 <= i < N), checked against their sha256.

        Safe after fork, in threads and when pickled to another process.
        Raises DataError naming shard, key and byte offset where the bytes are not the recorded ones.
        """
        index = self.index
        if not 0 <= i < len(index):
            raise IndexError(f"sample {i} of {self.folder} does not exist; 0 to {len(index) - 1} do")
        shard, offset, size = int(index.shard[i]), int(index.offset[i]), int(index.size[i])
        data = pread(self._open(shard), size, offset) if self.afar is None else self._read_afar(shard, size, offset)
        if self.afar and hashlib.sha256(data).digest() != index.sha256[i].tobytes():
            (self.folder / str(index.shard_name[shard])).unlink(
                missing_ok=True
            )  # what a node kept went bad; what comes again is verified as a whole
            data = self._read_afar(shard, size, offset)
        if hashlib.sha256(data).digest() != index.sha256[i].tobytes():
            raise DataError(
                f"shard {self.folder / str(index.shard_name[shard])}: the image of key {str(index.key[i])!r} at "
                f"byte offset {offset} is damaged (its {size} bytes do not have the recorded sha256)"
            )
        return data

    def check_shards(self) -> None:
        """Raises DataError, naming the shard, unless every shard is there with its recorded size."""
        for name, size in zip(self.index.shard_name.tolist(), self.index.shard_size.tolist()):
            path = self.folder / name
            try:
                found = path.stat().st_size
            except FileNotFoundError:
                raise DataError(f"shard {path} is missing") from None
            if found != size:
                what = "truncated" if found < size else "too long"
                raise DataError(f"shard {path} is {what}: it has {found} bytes, the index records {size}")

    def close(self) -> None:
        """Closes this process's file descriptors; a later read opens them again."""
        for fd in self._files.pop(os.getpid(), {}).values():
            os.close(fd)

    def _open(self, shard: int) -> int:
        files = self._files.get(os.getpid())
        if files is None:  # a fresh process: what a fork brought along belongs to the parent
            files = self._files.setdefault(os.getpid(), {})
        if shard not in files:
            fd = self._opened(shard)
            if files.setdefault(shard, fd) != fd:  # another thread was first
                os.close(fd)
        return files[shard]

    def _opened(self, shard: int) -> int:
        path = self.folder / str(self.index.shard_name[shard])
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise DataError(f"shard {path} is missing") from None

    def _read_afar(self, shard: int, size: int, offset: int) -> bytes:
        # Opened for each sample: what a process keeps open takes room on the node's disk after it was evicted.
        path = f"{self.folder}/{self.index.shard_name[shard]}"
        while True:
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                cache, relative = self.afar
                cache.shard(relative, self.index, shard)  # and perhaps evicted before it is opened
                continue
            try:
                os.utime(file)  # what was read longest ago makes room
                return pread(file, size, offset)
            finally:
                os.close(file)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "index": self.index, "afar": self.afar}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_files": {}}.items():
            object.__setattr__(self, name, value)

    def __del__(self) -> None:
        if getattr(self, "_files", None) and os is not None:
            self.close()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A built data set: `root` is DATA_ROOT, the data lie in `root/name`, `meta` is the parsed dataset.json. `rebuild` is
    the command that builds it, for messages. Of one from afar, `root` is an address, and `source` makes the node's cache of it."""

    root: Path | str
    name: str
    meta: dict[str, Any]
    rebuild: str = ""
    source: Callable[[], ShardSource] | None = None

    @property
    def folder(self) -> Path:
        """`root/name`, or its mirror in the node's cache."""
        return self.root / self.name if self.cache is None else self.cache.folder

    @cached_property
    def cache(self) -> ShardSource | None:
        """The node's cache of a data set from afar. Raises DataError where it has no folder."""
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
        """Hex sha256 over all splits and the classes: equal if and only if the data are."""
        return str(self.meta["fingerprint"])

    @property
    def editions(self) -> dict[str, dict[str, str]]:
        """edition -> split -> folder relative to `root/name`."""
        return {edition: dict(splits) for edition, splits in self.meta["editions"].items()}

    def split(self, edition: str, split: str) -> Split:
        """Opens a split, with all its shards present in their recorded sizes and its index the recorded one.

        Raises DataError for an unknown edition or split, a missing or truncated shard, a foreign or damaged index.
        """
        relative = self._relative(edition, split)
        recorded = self.meta["splits"][relative]["fingerprint"]
        if self.cache is None:
            opened = Split(self.folder / relative, load_index(self.folder / relative))
        else:
            opened = Split(self.folder / relative, self.cache.index(relative, recorded), (self.cache, relative))
        if opened.index.fingerprint != recorded:
            raise DataError(
                f"the index of {opened.folder} has fingerprint {opened.index.fingerprint[:12]}, "
                f"{DATASET_FILE} records {recorded[:12]}; run: {self.rebuild}"
            )
        if self.cache is None:
            opened.check_shards()  # what comes from afar is checked as it comes
        return opened

    def samples(self, edition: str, split: str) -> int:
        """Number of samples of a split, as recorded: its index is not opened."""
        return int(self.meta["splits"][self._relative(edition, split)]["samples"])

    def fingerprint_of(self, edition: str, splits: Iterable[str]) -> str:
        """Hex sha256 over the named splits' indices and the classes, whatever the order of the names.

        Reads nothing: `split` proves that an index is the one recorded.
        """
        names = sorted(set(splits))
        used = {name: self.meta["splits"][self._relative(edition, name)]["fingerprint"] for name in names}
        return digest_of({"name": self.name, "classes": self.class_names, "groups": self.class_groups, "splits": used})

    def _relative(self, edition: str, split: str) -> str:
        splits = self.meta["editions"][_known(edition, self.meta["editions"], f"{self.name} has no edition")]
        return splits[_known(split, splits, f"edition {edition} of {self.name} has no split")]


def read_dataset(root: Path, name: str, rebuild: str = "") -> Dataset:
    """Opens the data set `name` in the folder `root`. Raises DataError with `rebuild`, the command that builds it."""
    path = root / name / DATASET_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        state = "is not finished" if path.parent.exists() else "is not there"
        raise DataError(f"data set {name!r} {state} under {root} (no {path}); run: {rebuild}") from None
    return Dataset(root, name, parse_meta(text, path, rebuild), rebuild)


def parse_meta(text: str, path: Path | str, rebuild: str) -> dict[str, Any]:
    """The contents of the dataset.json at `path`. Raises DataError where something is missing or of another kind."""
    try:
        meta = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); run: {rebuild}") from error
    if wrong := _what_is_wrong(meta):
        raise DataError(f"{path} {wrong}; run: {rebuild}")
    return meta


def _what_is_wrong(meta: Any) -> str:
    """With the contents of a dataset.json, or nothing."""
    kinds = {
        "class_names": list,
        "class_groups": list,
        "editions": dict,
        "splits": dict,
        "statistics": dict,
        "build": dict,
        "fingerprint": str,
    }
    if missing := [key for key in kinds if not isinstance(meta, dict) or key not in meta]:
        return f"lacks {', '.join(missing)}"
    if other := next((key for key, kind in kinds.items() if not isinstance(meta[key], kind)), None):
        return f"is damaged ({other} is {type(meta[other]).__name__})"
    for edition, splits in meta["editions"].items():
        for name in splits if isinstance(splits, dict) else [""]:
            recorded = meta["splits"].get(splits[name]) if name and isinstance(splits[name], str) else None
            if (
                not isinstance(recorded, dict)
                or not isinstance(recorded.get("fingerprint"), str)
                or not isinstance(recorded.get("samples"), int)
            ):
                return f"is damaged (it records no samples and fingerprint of the split {edition}/{name})"
    return ""


def digest_of(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _known(name: str, legal: Iterable[str], complaint: str) -> str:
    names = list(legal)
    if name in names:
        return name
    raise DataError(f"{complaint} {name!r}; {nearest(name, names)}")
