"""WebDataset shards: tars in which the files of a sample share their name up to the first dot of its last part.

The source is a folder of tars, or of folders train, val and test of them, one tar, or a pattern such as
`birds-{000..009}.tar`. A sample has an image and its label: the file KEY.cls, a whole number or a name, or the field of
KEY.json that `columns=label:FIELD` names. Further fields are named in the same way; `columns=path:EXTENSION` says which
file is the image where a sample has several. Images stay where they are in the tars.

Where names of shards or of their folders tell splits apart (`birds-train-000.tar` and `birds-val-000.tar`), an image
has its shard's split, unless a column says one; source= has to agree. Writers count the keys of each split from 0:
where two splits have an image of one name, all names begin with the split's.
"""

from __future__ import annotations

import os
import re
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes.common.cli import nearest
from recipes.common.errors import DataError, one_line
from recipes.common.files import pread
from recipes.common.json_text import NotJson, parse_json
from sharding.building.keys import digest64
from sharding.building.listing import File, list_tar, shown
from sharding.building.notices import Notices
from sharding.building.raw_files import Place
from sharding.images.any_image import is_image
from sharding.sources.rows import SPLIT_WORDS, Asked, Row, split_of
from sharding.sources.shared.list_paths import split_of_name

SAYS = "WebDataset shards: tars with KEY.jpg and KEY.cls or KEY.json"
TAKES = ("columns",)
NO_SAMPLES = "files of shards that belong to no sample"

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUMBER = re.compile(r"[-_. ]?\d+([-_]of[-_]\d+)?$")
"""What the name of a shard ends in."""
_META = re.compile(r"__.*__")
"""Names that webdataset passes over."""
_MOST_SHARDS = 100_000
_LOOKED_AT = 64
_LONGEST = 1 << 20
"""Bytes of a KEY.cls or KEY.json."""
_FIELDS = ("label", "attribute", "split", "source")

_Files = dict[str, File]
"""What one sample has: extension -> file."""


class _Shard(NamedTuple):
    """A tar, the source that it is of, and the splits that source= and its name, or its folder's, give it."""

    path: Path
    root: str
    asked: str
    named: str

    @property
    def split(self) -> str:
        return self.asked or self.named


def expanded(pattern: Path) -> list[Path]:
    """Return the paths that a pattern names: `{000..009}` stands for the ten numbers of three digits.

    Raises:
        DataError: the numbers go down, or are too many.
    """
    found = _BRACES.search(pattern.name)
    if not found:
        return [pattern]
    first, last = (int(number) for number in found.groups())
    if not 0 <= last - first < _MOST_SHARDS:
        raise DataError(f"{pattern}: {found[0]} is not legal; {{000..009}}, at most {_MOST_SHARDS:,} upwards, is")
    digits = len(found[1])
    names = (
        f"{pattern.name[: found.start()]}{i:0{digits}d}{pattern.name[found.end() :]}" for i in range(first, last + 1)
    )
    return [path for name in names for path in expanded(pattern.with_name(name))]


def recognises(path: Path) -> bool:
    """Return whether the first tar begins with samples that have an image and a label."""
    try:
        first = next(iter(_shards(path, "")), None)
        return first is not None and _has_samples(first.path)
    except (DataError, OSError):
        return False


def rows(asked: Asked) -> Iterator[Row]:
    """Yield the images, shard by shard, in the order of the keys.

    Raises:
        DataError: a shard is missing or damaged, or a sample lacks its image or label; one sentence with tar and key.
    """
    shards = []
    for path, split in asked.paths:
        if not (found := _shards(path, split)):
            raise DataError(
                f"{path}: holds no .tar files, nor a folder train, val or test with some, as WebDataset shards are"
            )
        if _tells_apart(shard.named for shard in found):
            for shard in found:
                split_of(split, shard.named, shard.path)
        shards += found
    if not _tells_apart(shard.split for shard in shards):
        shards = [shard._replace(named="") for shard in shards]
    is_twice = _is_twice(shards, asked)
    for shard in shards:
        yield from _rows(shard, f"{shard.split}/" if is_twice and shard.split else "", asked)


def _shards(path: Path, split: str) -> list[_Shard]:
    """Return the shards of a path of source=, which goes with a split or with none."""
    root = str(path if path.exists() else path.parent)
    if not path.is_dir():
        tars = [path] if path.exists() else expanded(path)
        if missing := next((tar for tar in tars if not tar.is_file()), None):
            raise DataError(f"{missing} does not exist; every shard of {path.name} is needed")
    elif not (tars := _tars(path)):
        if not any(_tars(folder) for folder in path.iterdir() if folder.name.lower() in SPLIT_WORDS):
            return []
        folders = sorted(folder for folder in path.iterdir() if not folder.name.startswith("."))
        named = ((tar, SPLIT_WORDS.get(folder.name.lower(), "")) for folder in folders for tar in _tars(folder))
        return [_Shard(tar, root, split, name) for tar, name in named]
    return [_Shard(tar, root, split, split_of_name(_NUMBER.sub("", tar.stem))) for tar in tars]


def _tars(folder: Path) -> list[Path]:
    """Return the tars of a folder, in the order of their names; none where it is no folder."""
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix == ".tar" and not file.name.startswith("."))


def _tells_apart(splits: Iterable[str]) -> bool:
    """Return whether splits that shards are of keep images out of training: `train` alone, or `val` alone, does not."""
    found = set(splits)
    return len(found) > 1 and found != {"", "train"}


def _is_twice(shards: Sequence[_Shard], asked: Asked) -> bool:
    """Return whether an image of one split has the name of one of another; 8 bytes an image are kept for it."""
    names: dict[str, array[int]] = {}
    for shard in shards if len({shard.split for shard in shards}) > 1 else ():
        for key, files in _samples(shard.path, Notices()).items():
            image = _image(files, asked.columns.get("path", ""), f"{shard.path}, sample {shown(key)}")
            names.setdefault(shard.split, array("Q")).append(digest64(f"{key}.{image}"))
    return any(len(np.intersect1d(one, other)) for one, other in combinations(names.values(), 2))


def _has_samples(shard: Path) -> bool:
    try:
        with tarfile.open(shard, "r:") as tar:
            names = [member.name for member in islice(tar, _LOOKED_AT) if member.isfile()]
    except tarfile.TarError:
        return False
    kinds: dict[str, set[str]] = {}
    for name in names:
        key, extension = _split(name)
        kinds.setdefault(key, set()).add(extension)
    return any(key and _images(found) and {"cls", "json"} & found for key, found in kinds.items())


def _rows(shard: _Shard, above: str, asked: Asked) -> Iterator[Row]:
    """Yield a shard's images, whose names begin with `above`."""
    samples = _samples(shard.path, asked.notices)
    with open(shard.path, "rb", buffering=0) as file:
        for key, files in samples.items():
            where = f"{shard.path}, sample {shown(key)}"
            image = _image(files, asked.columns.get("path", ""), where)
            said = _said(files, asked.columns, where, file.fileno())
            yield Row(
                f"{above}{key}.{image}",
                Place(str(shard.path), files[image].offset, files[image].size, files[image].name, shard.root),
                said["label"],
                attribute=said.get("attribute", ""),
                split=split_of(shard.asked, said.get("split", ""), where) or shard.named,
                source=said.get("source", ""),
            )


def _samples(shard: Path, notices: Notices) -> dict[str, _Files]:
    """Group a tar's files by sample; both in the order of their names."""
    listing = list_tar(shard, str(shard))
    samples: dict[str, _Files] = {}
    for name, reason in listing.others:
        notices.leave_out(reason, f"{shard.name}/{shown(name)}")
    for file in listing.files:
        key, extension = _split(file.name)
        if not key.rpartition("/")[2] or not extension or any(map(_META.fullmatch, key.split("/"))):
            notices.leave_out(NO_SAMPLES, f"{shard.name}/{shown(file.name)}")
        elif samples.setdefault(key, {}).setdefault(extension, file) is not file:
            raise DataError(f"{shard}, sample {shown(key)}: has two files .{extension}; one is legal")
    return samples


def _split(name: str) -> tuple[str, str]:
    """Split a member's name into its sample's key and its extension: all behind the first dot of its last part."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


# ------------------------------------------------------------------------------------------------------- of one sample
def _images(extensions: set[str] | _Files) -> list[str]:
    return sorted(end for end in extensions if is_image(f"KEY.{end}"))


def _image(files: _Files, wanted: str, where: str) -> str:
    """Return the extension of the sample's image."""
    found = [wanted.lower()] if wanted else _images(files)
    if not found or found[0] not in files:
        raise DataError(one_line(f"{where}: has no image {f'.{wanted} ' * bool(wanted)}beside .{', .'.join(files)}"))
    if len(found) > 1:
        raise DataError(
            f"{where}: has {len(found)} images, .{', .'.join(found)}; columns=path:{found[0]} would take one of them"
        )
    return found[0]


def _said(files: _Files, columns: Mapping[str, str], where: str, shard: int) -> dict[str, str]:
    """Return what the sample says of the fields of `Row`."""
    wanted = {field: columns[field] for field in _FIELDS if field in columns}
    content = _json(files, where, shard) if wanted or "cls" not in files else {}
    said = {field: _value(content, column, where) for field, column in wanted.items()}
    if "label" not in wanted:
        if "cls" not in files:
            has = f"; columns=label:FIELD may name one of {', '.join(content)}" if content else ""
            raise DataError(one_line(f"{where}: has no label: no .cls beside .{', .'.join(files)}{has}"))
        said["label"] = _text(files["cls"], where, shard).strip()
        if not said["label"]:
            raise DataError(f"{where}: has no label: its .cls is empty")
    return said


def _json(files: _Files, where: str, shard: int) -> dict[str, Any]:
    if "json" not in files:
        return {}
    try:
        content = parse_json(_text(files["json"], where, shard).encode(), lambda entry: entry)
    except NotJson as error:
        raise DataError(one_line(f"{where}: its .json is no whole JSON: {error}")) from None
    if not isinstance(content, dict):
        raise DataError(f"{where}: its .json is no object")
    return content


def _value(content: Mapping[str, Any], column: str, where: str) -> str:
    if column not in content:
        raise DataError(one_line(f"{where}: its .json has no {column}; {nearest(column, list(content))}"))
    value = content[column]
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise DataError(one_line(f"{where}: {column} is {value!r}; a text or a whole number is legal"))
    return str(value)


def _text(file: File, where: str, shard: int) -> str:
    if file.size > _LONGEST:
        raise DataError(f"{where}: {shown(os.path.basename(file.name))} has {file.size} bytes; {_LONGEST} are the most")
    try:
        return pread(shard, file.size, file.offset).decode()
    except UnicodeDecodeError:
        raise DataError(f"{where}: {shown(os.path.basename(file.name))} is not UTF-8 text") from None
