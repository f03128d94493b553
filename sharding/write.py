"""Writes a data set to disk: shards that plain webdataset reads, their index, and dataset.json.

The bytes depend on the samples alone: tar times, owners and modes are fixed, JSON is canonical. Nothing that a killed
build leaves behind opens: a split's folder appears by one rename when it is whole, dataset.json is written last.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import socket
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sharding.dataset import DATASET_FILE, DataError, digest_of, open_dataset
from sharding.index import FORMAT, Index, load_index, save_index

_KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
_OWN = ("id", "source", "label", "group", "attribute")


@dataclass(frozen=True)
class Sample:
    """One image to be written: its JPEG bytes and what is known about it (see `Index` for the fields).

    `extra` goes into KEY.json beside the fixed entries (`look` or `cluster`, an attribute list); JSON values only.
    """

    key: str
    source: str
    jpg: bytes
    label: int
    group: int
    attribute: int = -1
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_split(folder: Path, samples: Iterable[Sample], shard_samples: int = 1000) -> Index:
    """Writes `samples` in their order as shards of `shard_samples` images, with index.npz, and returns the index.

    Holds one sample at a time (and the keys). The folder is built beside its place and moved there when it is whole;
    an older folder of that name is replaced. Raises DataError for an illegal or repeated key, an image that is not a
    JPEG, an `extra` entry that would hide a fixed one, or no samples at all; then `folder` is as it was.
    """
    if shard_samples < 1:
        raise DataError(f"shard_samples is {shard_samples}; at least 1 would be legal")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = folder.with_name(f".{folder.name}.building"), folder.with_name(f".{folder.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        names, rest = [], _unique(samples)
        while first := list(itertools.islice(rest, 1)):
            shard = itertools.chain(first, itertools.islice(rest, shard_samples - 1))
            write_shard(temporary / shard_name(len(names)), shard, shard_samples * len(names))
            names.append(shard_name(len(names)))
        if not names:
            raise DataError(f"split {folder.name!r} has no samples; at least one is needed")
        index = index_of_shards(temporary, names)
        save_index(temporary, index)
        sync_folder(temporary)
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return index


def _unique(samples: Iterable[Sample]) -> Iterator[Sample]:
    seen: set[str] = set()
    for sample in samples:
        if sample.key in seen:
            raise DataError(f"key {sample.key!r} occurs twice; keys are unique in a split")
        seen.add(sample.key)
        yield sample


def shard_name(number: int) -> str:
    """File name of a split's shard, counted from 0."""
    return f"shard-{number:06d}.tar"


def write_shard(path: Path, samples: Iterable[Sample], first: int) -> None:
    """Writes one shard to `path`, on the disk when this returns. `first`: id of its first sample in the split.

    Raises DataError for an illegal key, an image that is not a JPEG, or an `extra` entry that would hide a fixed one.
    """
    # The standard library's tarfile writes what webdataset's TarWriter would, byte for byte, and loads no torch in each of
    # many worker processes.
    with open(path, "wb") as file:
        with tarfile.open(fileobj=file, mode="w|") as tar:
            for number, sample in enumerate(samples, first):
                _check(sample)
                entry = {
                    **sample.extra,
                    "id": number,
                    "source": sample.source,
                    "label": sample.label,
                    "group": sample.group,
                    "attribute": sample.attribute,
                }
                for extension, data in (
                    ("cls", str(sample.label).encode()),
                    ("jpg", sample.jpg),
                    ("json", _canonical(entry)),
                ):
                    member = tarfile.TarInfo(f"{sample.key}.{extension}")
                    member.size, member.uname, member.gname = (
                        len(data),
                        "glt",
                        "glt",
                    )  # time 0, mode 0644: tarfile's own values
                    tar.addfile(member, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())


def _check(sample: Sample) -> None:
    if not _KEY.fullmatch(sample.key):  # webdataset cuts names at the first dot, so a key may not contain any
        raise DataError(f"key {sample.key!r} is not legal; letters, digits, '_', '-' and single '/' inside are")
    if sample.jpg[:2] != b"\xff\xd8":
        raise DataError(f"the image of key {sample.key!r} is not a JPEG; its first bytes are {sample.jpg[:2]!r}")
    hidden = [name for name in _OWN if name in sample.extra]
    if hidden:
        raise DataError(f"extra entry {hidden[0]!r} of key {sample.key!r} would hide the sample's own; rename it")


def index_of_shards(folder: Path, names: Sequence[str]) -> Index:
    """The index of finished shards `folder/names`, read from the tars themselves.

    Raises DataError, naming shard and key, where a sample lacks one of KEY.jpg, KEY.cls, KEY.json or they disagree.
    """
    return joined([index_of_shard(Path(folder) / name) for name in names])


def index_of_shard(path: Path) -> Index:
    """The index of a split that has this shard alone (see `index_of_shards`)."""
    parts: dict[str, dict[str, Any]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            data = tar.extractfile(member).read()
            if extension == "jpg":
                parts.setdefault(key, {})["jpg"] = (member.offset_data, len(data), hashlib.sha256(data).digest())
            elif extension in ("cls", "json"):
                parts.setdefault(key, {})[extension] = json.loads(data)
            tar.members.clear()  # tarfile remembers every member, and nobody asks
    rows: list[tuple[Any, ...]] = []
    for key, part in parts.items():
        entry = part.get("json", {})
        if set(part) != {"jpg", "cls", "json"} or entry.get("label") != part["cls"]:
            raise DataError(f"shard {path}: key {key!r} needs .jpg, .cls and .json that agree")
        rows.append((key, entry["source"], *part["jpg"], entry["label"], entry["group"], entry["attribute"]))
    columns = list(zip(*rows))
    digests = np.frombuffer(b"".join(columns[4]), dtype=np.uint8).reshape(-1, 32)
    return Index(
        key=columns[0],
        source=columns[1],
        shard=np.zeros(len(rows)),
        offset=columns[2],
        size=columns[3],
        sha256=digests,
        label=columns[5],
        group=columns[6],
        attribute=columns[7],
        shard_name=[path.name],
        shard_size=[path.stat().st_size],
        shard_sha256=np.frombuffer(file_digest(path), np.uint8)[None],
    )


def joined(shards: Sequence[Index]) -> Index:
    """The index of a split from those of its shards, in their order."""
    first = np.cumsum([0, *(len(index.shard_name) for index in shards)])
    columns = {field.name: np.concatenate([getattr(index, field.name) for index in shards]) for field in fields(Index)}
    columns["shard"] = np.concatenate([index.shard + before for index, before in zip(shards, first)])
    return Index(**columns)


def begin_dataset(root: Path, name: str) -> Path:
    """Makes `root/name` ready for a (re)build and returns it; from now on it does not open until `finish_dataset`."""
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATASET_FILE).unlink(missing_ok=True)  # an old one would vouch for a mixture of old and new splits
    return folder


def finish_dataset(
    root: Path,
    name: str,
    *,
    class_names: Sequence[str],
    class_groups: Sequence[int],
    editions: Mapping[str, Mapping[str, str]],
    statistics: Mapping[str, Mapping[str, Sequence[float]]],
    options: Mapping[str, Any],
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Checks the written splits against each other and writes `root/name/dataset.json`, atomically; returns it.

    `editions`: edition -> split -> folder relative to `root/name`. `statistics`: edition -> {"mean": [3], "std": [3]}
    of RGB in 0 to 1. `options`: what the build depends on (builder, version, seed ...). `notes`: what it found out, for people and
    for pictures of the data; JSON values, not part of the fingerprint.
    Raises DataError where a source occurs in two splits of an edition, or labels or groups do not fit the classes.
    """
    folder, count = Path(root) / name, len(class_names)
    relatives = sorted({relative for splits in editions.values() for relative in splits.values()})
    indices = {relative: load_index(folder / relative) for relative in relatives}
    _check_splits(editions, indices, class_groups, count)
    splits = {}
    for relative, index in indices.items():
        table = np.zeros((count, 4), np.int64)  # the last column: no attribute
        np.add.at(table, (index.label, index.attribute), 1)
        splits[relative] = {
            "samples": len(index),
            "shards": len(index.shard_name),
            "fingerprint": index.fingerprint,
            "per_class": table.sum(1).tolist(),
            "per_class_attribute": table[:, :3].tolist(),
        }
    meta: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "class_names": list(class_names),
        "class_groups": [int(g) for g in class_groups],
        "editions": {edition: dict(named) for edition, named in editions.items()},
        "splits": splits,
        "statistics": {edition: {k: list(v) for k, v in entry.items()} for edition, entry in statistics.items()},
        "build": dict(options),
        "notes": dict(notes or {}),
    }
    meta["fingerprint"] = digest_of(
        {
            **{key: meta[key] for key in ("name", "class_names", "class_groups", "editions")},
            "splits": {key: entry["fingerprint"] for key, entry in splits.items()},
        }
    )
    meta["digest"] = digest_of(meta)  # of all that stands above: a damaged byte of this very file is seen
    with whole_file(folder / DATASET_FILE) as file:
        file.write((json.dumps(meta, indent=1, sort_keys=True) + "\n").encode())
    sync_folder(folder)
    return meta


def _check_splits(
    editions: Mapping[str, Mapping[str, str]], indices: Mapping[str, Index], class_groups: Sequence[int], count: int
) -> None:
    groups = np.asarray(class_groups)
    if groups.shape != (count,):
        raise DataError(f"class_groups has {len(groups)} entries for {count} classes; one for each would be legal")
    for relative, index in indices.items():
        if index.label.max() >= count or (groups[index.label] != index.group).any():
            raise DataError(f"split {relative} has labels or groups that do not fit the {count} classes")
    for edition, splits in editions.items():
        owner: dict[str, str] = {}
        for split, relative in splits.items():
            for source in np.unique(indices[relative].source).tolist():
                if owner.setdefault(source, split) != split:
                    raise DataError(
                        f"source {source!r} occurs in {owner[source]} and {split} of edition {edition}; "
                        f"one source may lie in one split only"
                    )


def is_built(root: Path, name: str, options: Mapping[str, Any]) -> bool:
    """Whether `root/name` is a finished build with these options, every file there in its recorded size."""
    try:
        dataset = open_dataset(root, name)
        if dataset.meta["build"] != dict(options):
            return False
        for edition, splits in dataset.editions.items():
            for split in splits:
                dataset.split(edition, split).close()
    except DataError:
        return False
    return True


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new binary file that stands under its name when it is whole and durable, and not at all where something fails."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> bytes:
    """sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
