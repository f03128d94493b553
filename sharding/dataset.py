"""Opens a built data set: which splits there are, where they lie, and the bytes of any image in them.

Needs numpy alone (no torch, no webdataset). Everything that is wrong on disk is a `DataError` of one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.words import nearest
from sharding.index import DataError, Index, load_index

__all__ = ["DATASET_FILE", "DataError", "Dataset", "Index", "Split", "build_command", "open_dataset"]

DATASET_FILE = "dataset.json"


def build_command(root: Path, name: str) -> str:
    """The command that builds data set `name` under `root`, and whether it exists."""
    from sharding.request import builders, declared  # which needs this package's DataError

    if name not in builders():
        return f"python -m sharding.build data={name} out={root} (there is no builder of that name)"
    return f"python -m sharding.build data={name} out={root}" + (" source=RAW_DATA" if "source" in declared(name)[0] else "")


@dataclass(frozen=True, eq=False)
class Split:
    """One split on disk: `folder` holds the shards, `index` says what lies where in them."""

    folder: Path
    index: Index
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
        data = _pread(self._open(shard), size, offset)
        if hashlib.sha256(data).digest() != index.sha256[i].tobytes():
            raise DataError(f"shard {self.folder / str(index.shard_name[shard])}: the image of key {str(index.key[i])!r} at "
                            f"byte offset {offset} is damaged (its {size} bytes do not have the recorded sha256)")
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
            path = self.folder / str(self.index.shard_name[shard])
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise DataError(f"shard {path} is missing") from None
            if files.setdefault(shard, fd) != fd:  # another thread was first
                os.close(fd)
        return files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_files": {}}.items():
            object.__setattr__(self, name, value)

    def __del__(self) -> None:
        if getattr(self, "_files", None) and os is not None:
            self.close()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A built data set: `root` is DATA_ROOT, the data lie in `root/name`, `meta` is the parsed dataset.json."""

    root: Path
    name: str
    meta: dict[str, Any]

    @property
    def folder(self) -> Path:
        """`root/name`."""
        return self.root / self.name

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
        opened = Split(self.folder / relative, load_index(self.folder / relative))
        recorded = self.meta["splits"][relative]["fingerprint"]
        if opened.index.fingerprint != recorded:
            raise DataError(f"the index of {opened.folder} has fingerprint {opened.index.fingerprint[:12]}, "
                            f"{DATASET_FILE} records {recorded[:12]}; run: {build_command(self.root, self.name)}")
        opened.check_shards()
        return opened

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


def open_dataset(root: Path, name: str) -> Dataset:
    """Opens the data set `name` under DATA_ROOT `root`. Raises DataError with the command that builds it."""
    root = Path(root)
    path = root / name / DATASET_FILE
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        state = "is not finished" if path.parent.exists() else "is not there"
        raise DataError(f"data set {name!r} {state} under {root} (no {path}); "
                        f"run: {build_command(root, name)}") from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); run: {build_command(root, name)}") from error
    needed = ("class_names", "class_groups", "editions", "splits", "statistics", "build", "fingerprint")
    missing = [key for key in needed if not isinstance(meta, dict) or key not in meta]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; run: {build_command(root, name)}")
    return Dataset(root, name, meta)


def digest_of(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _pread(fd: int, size: int, offset: int) -> bytes:
    parts, got = [], 0
    while got < size:  # a read may be short, on network file systems above all
        part = os.pread(fd, size - got, offset + got)
        if not part:
            break  # the file ends early; the digest tells
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def _known(name: str, legal: Iterable[str], complaint: str) -> str:
    names = list(legal)
    if name in names:
        return name
    raise DataError(f"{complaint} {name!r}; {nearest(name, names)}")
