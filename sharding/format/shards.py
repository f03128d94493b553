"""Writes the splits of a data set: shards that plain webdataset reads, and their index.

The bytes depend only on the samples: tar times, owners and modes are fixed, JSON is canonical. What a killed build
leaves behind cannot be opened: a split's folder appears by one rename when it is whole, and dataset.json is written
last.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import file_digest, is_unfinished, sync_folder
from sharding.format.index import INDEX_FILE, Index, save_index

LEGAL_KEY = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")
LEGAL_KEYS = "letters, digits, '_', '-' and single '/' inside"
_FILES = re.compile(rf"shard-[0-9]{{6,}}\.tar|{re.escape(INDEX_FILE)}")
FIELDS = {
    "id": ("sc:Integer", "number of the sample in its split, from 0"),
    "source": ("sc:Text", "what the image was made from; one source never occurs in two splits of an edition"),
    "label": ("sc:Integer", "class id"),
    "group": ("sc:Integer", "frequency group of the class: 0 many, 1 medium, 2 few"),
    "attribute": ("sc:Integer", "frequency group of the attribute inside the class: 0 many, 1 medium, 2 few; -1 none"),
}
"""Entries of KEY.json that every sample has -> type (schema.org's) and meaning."""


@dataclass(frozen=True)
class Sample:
    """One image to be written: its JPEG bytes and what is known about it.

    Attributes:
        key: unique in the split; letters, digits, `_`, `-` and single `/` inside.
        source: what the image was made from.
        jpg: the bytes of a JPEG file.
        label: class id.
        group: the class's frequency group, 0 to 2.
        attribute: the attribute's frequency group inside the class, 0 to 2, or -1 for none.
        extra: goes into KEY.json beside these (`look` or `cluster`, an attribute list); JSON values only.
    """

    key: str
    source: str
    jpg: bytes
    label: int
    group: int
    attribute: int = -1
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_split(folder: Path, samples: Iterable[Sample], shard_samples: int = 1000) -> Index:
    """Write `samples` in their order as shards of `shard_samples` images, with index.npz, and return the index.

    It holds one sample in memory at a time, and all keys and sources. The folder is built beside its place and renamed
    when it is whole; an older folder of that name is replaced, and what others put there is taken over.

    Raises:
        DataError: an illegal or repeated key, an image that is not a JPEG, an `extra` entry that would hide a fixed
            one, or no samples at all; `folder` is then unchanged.
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
        names: list[str] = []
        rest = _unique(samples)
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
        for path in old.glob("*"):
            if not is_own(path.name):
                os.rename(path, folder / path.name)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return index


def _unique(samples: Iterable[Sample]) -> Iterator[Sample]:
    sources: dict[str, str] = {}
    for sample in samples:
        if sample.key in sources:
            raise DataError(
                f"key {sample.key!r} occurs twice, for {sources[sample.key]} and {sample.source}; keys are unique in a "
                "split"
            )
        sources[sample.key] = sample.source
        yield sample


def shard_name(number: int) -> str:
    """Return the file name of a split's shard, counted from 0."""
    return f"shard-{number:06d}.tar"


def is_own(name: str) -> bool:
    """Say whether a file of a split's folder is one that builds write, whole or unfinished; others may have theirs."""
    return _FILES.fullmatch(name) is not None or is_unfinished(name, _FILES.pattern)


def write_shard(path: Path, samples: Iterable[Sample], first: int) -> None:
    """Write one shard; it is durable on the disk when this returns.

    Args:
        path: the tar.
        samples: in the order in which the shard holds them.
        first: id, in the split, of the shard's first sample.

    Raises:
        DataError: an illegal key, an image that is not a JPEG, or an `extra` entry that would hide a fixed one.
    """
    # The standard library's tarfile writes what webdataset's TarWriter would, byte for byte, and loads no torch in
    # each of many worker processes.
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
                    member = tarfile.TarInfo(f"{sample.key}.{extension}")  # with tarfile's time 0 and mode 0644
                    member.size = len(data)
                    member.uname = member.gname = "glt"
                    tar.addfile(member, io.BytesIO(data))
        file.flush()
        os.fsync(file.fileno())


def _check(sample: Sample) -> None:
    if not LEGAL_KEY.fullmatch(sample.key):  # webdataset cuts names at the first dot, so a key may not contain any
        raise DataError(f"key {sample.key!r} is not legal; {LEGAL_KEYS} are")
    if sample.jpg[:2] != b"\xff\xd8":
        raise DataError(f"the image of key {sample.key!r} is not a JPEG; its first bytes are {sample.jpg[:2]!r}")
    hidden = [name for name in FIELDS if name in sample.extra]
    if hidden:
        raise DataError(f"extra entry {hidden[0]!r} of key {sample.key!r} would hide the sample's own; rename it")


def index_of_shards(folder: Path, names: Sequence[str]) -> Index:
    """Return the index of finished shards `folder/names`, read from the tars themselves.

    Raises:
        DataError: a sample lacks one of KEY.jpg, KEY.cls, KEY.json, or they disagree; the sentence names shard and key.
    """
    return joined([index_of_shard(Path(folder) / name) for name in names])


class Tar(tarfile.TarFile):
    """A tar whose `members` can be cleared while it is read."""

    members: list[tarfile.TarInfo]
    """The members read so far; missing from the standard library's types."""


def index_of_shard(path: Path) -> Index:
    """Return the index of a split that consists of this shard.

    Raises:
        DataError: as for `index_of_shards`.
    """
    parts: dict[str, dict[str, Any]] = {}
    with Tar.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            file = tar.extractfile(member)
            if file is None:
                raise DataError(f"shard {path}: {member.name!r} is not a file")
            data = file.read()
            if extension == "jpg":
                parts.setdefault(key, {})["jpg"] = (member.offset_data, len(data), hashlib.sha256(data).digest())
            elif extension in ("cls", "json"):
                parts.setdefault(key, {})[extension] = json.loads(data)
            tar.members.clear()  # else tarfile keeps every member in memory
    rows: list[tuple[Any, ...]] = []
    for key, part in parts.items():
        entry = part.get("json", {})
        if set(part) != {"jpg", "cls", "json"} or entry.get("label") != part["cls"]:
            raise DataError(f"shard {path}: key {key!r} needs .jpg, .cls and .json that agree")
        rows.append((key, entry["source"], *part["jpg"], entry["label"], entry["group"], entry["attribute"]))
    columns = list(zip(*rows, strict=True))
    digests = np.frombuffer(b"".join(columns[4]), dtype=np.uint8).reshape(-1, 32)
    return Index.of_columns(
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
        shard_sha256=np.frombuffer(bytes.fromhex(file_digest(path)), np.uint8)[None],
    )


def joined(shards: Sequence[Index]) -> Index:
    """Join the indices of a split's shards, in their order, into the split's index."""
    first = np.cumsum([0, *(len(index.shard_name) for index in shards)])
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(index, field.name) for index in shards]) for field in fields(Index)
    }
    columns["shard"] = np.concatenate([index.shard + before for index, before in zip(shards, first[:-1], strict=True)])
    return Index.of_columns(**columns)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
