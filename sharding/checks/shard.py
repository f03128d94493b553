"""Checks one shard, byte by byte, against the index: the part of `python -m sharding.verify` that runs in parallel.

Every byte of a shard is checked. Image bytes have a digest in the index. The content of tar headers, KEY.cls, KEY.json
and padding follows from the index, so damage there is named to the byte. Only the entries of KEY.json beyond the index
(a look, an attribute list) are not recorded twice. There the shard's digest shows that something changed, and unusual
values are named as suspects.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from recipes.common.files import pread
from sharding.checks.near_duplicates import SIDE, thumbnail
from sharding.checks.report import Finding, Findings, first_difference
from sharding.format.index import Index
from sharding.format.shards import FIELDS
from sharding.images.damage import pixels_and_doubts
from sharding.images.decoders import decode

PARTS = ("cls", "jpg", "json")
BLOCK = tarfile.BLOCKSIZE
_OCTAL = re.compile(rb"[0-7]{11}")
_PAX_PATH = re.compile(rb"\d+ path=([^\n]*)\n")


@dataclass(frozen=True)
class Task:
    """A shard to check.

    Attributes:
        path: the shard.
        place: its name in messages.
        ids: int64 [n], the samples' numbers in the split.
        rows: the index of only these n samples.
        limit: how many findings to keep.
    """

    path: Path
    place: str
    ids: np.ndarray
    rows: Index
    limit: int


@dataclass(frozen=True)
class Report:
    """What the check of a shard of n samples found.

    Attributes:
        found: the first findings, at most the task's limit.
        count: how many findings there were.
        doubts: the first images that look damaged although their bytes are as recorded, at most the task's limit.
        doubtful: how many such images there were.
        images: number of images decoded.
        size: number of bytes read.
        thumbs: uint8 [n, SIDE, SIDE, 3], thumbnails for the search for look-alikes.
        decoded: bool [n], which samples have a thumbnail.
    """

    found: list[Finding]
    count: int
    doubts: list[Finding]
    doubtful: int
    images: int
    size: int
    thumbs: np.ndarray
    decoded: np.ndarray


class Header(NamedTuple):
    """A tar header: the name and size of what follows, and its own bytes."""

    name: str
    size: int
    block: bytes


class Member(NamedTuple):
    """A file of the tar: its name, the byte at which its data start, and how many there are."""

    name: str
    start: int
    size: int


def check_shard(task: Task) -> Report:
    """Find everything that is wrong with one shard. Holds one sample's bytes at a time."""
    found, doubts, rows = Findings(task.limit), Findings(task.limit), task.rows
    thumbs, decoded = np.zeros((len(rows), SIDE, SIDE, 3), np.uint8), np.zeros(len(rows), bool)
    size = 0
    try:
        with open(task.path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            recorded = int(rows.shard_size[0])
            if size != recorded:
                what = "truncated" if size < recorded else "too long"
                found.add(task.place, f"the shard is {what}: it has {size} bytes, the index records {recorded}")
            # read the file once in order: later reads find it in the page cache
            digest = hashlib.file_digest(file, "sha256").digest()
            check = _Check(task, file.fileno(), size, _Results(found, doubts, thumbs, decoded))
            check.run(digest == rows.shard_sha256[0].tobytes())
        _read_plainly(task, found)
    except FileNotFoundError:
        found.add(task.place, f"the shard is missing, with its {len(rows)} samples")
    except OSError as error:
        found.add(task.place, f"the shard cannot be read: {error.strerror or error}")
    images = int(decoded.sum())
    return Report(found.first(), found.count, doubts.first(), doubts.count, images, size, thumbs, decoded)


class _Extra(NamedTuple):
    """A KEY.json's entries beyond the index, with its sample's number, its offset and its text."""

    number: int
    start: int
    text: str
    entries: dict[str, Any]


class _Results(NamedTuple):
    """Where the walk puts what it finds; see `Report`."""

    found: Findings
    doubts: Findings
    thumbs: np.ndarray
    decoded: np.ndarray


class _Check:
    """The walk through one shard."""

    def __init__(self, task: Task, fd: int, end: int, results: _Results) -> None:
        self.task, self.rows = task, task.rows
        self.fd, self.end = fd, end
        self.found, self.doubts, self.thumbs, self.decoded = results
        self.keys = self.rows.key.tolist()
        self.row = {key: number for number, key in enumerate(self.keys)}
        self.by_digest = {self.rows.sha256[number].tobytes(): key for number, key in enumerate(self.keys)}
        self.extras: list[_Extra] = []

    def run(self, digest_holds: bool) -> None:
        """Walk the members, sample by sample, then say what is missing."""
        whole: set[str] = set()
        for key, members in itertools.groupby(self._members(), lambda member: member.name.partition(".")[0]):
            parts = self._parts(key, members)
            start = next((member.start for member in parts.values()), None)
            if start is None:
                continue
            if key in whole:
                self._say(key, start, "occurs twice")
            elif key in self.row:
                whole.add(key)
                self._sample(self.row[key], parts)
            else:
                self._say(key, start, "is not in the index")
        self._missing(whole)
        if not digest_holds:
            self.found.add(
                self.task.place,
                "the shard's bytes do not have the recorded sha256" + ("" if self.found.count else self._suspects()),
            )

    def _parts(self, key: str, members: Iterator[Member]) -> dict[str, Member]:
        """Map each of `PARTS` to the first of a sample's members that is one."""
        parts: dict[str, Member] = {}
        for member in members:
            part = member.name.partition(".")[2]
            if part in parts or part not in PARTS:
                what = "a second" if part in parts else "an unknown"
                self._say(key, member.start, f"has {what} part {member.name!r}")
            else:
                parts[part] = member
        return parts

    def _members(self) -> Iterator[Member]:
        """Yield the tar's files in order.

        After a damaged header the walk continues at the next good one; the index says what was in between.
        """
        expected = [f"{key}.{part}" for key in self.keys for part in PARTS]
        place_of = {name: number for number, name in enumerate(expected)}
        position = cursor = 0
        model: bytes | None = None
        long_name: str | None = None
        while position + BLOCK <= self.end:
            block = pread(self.fd, BLOCK, position)
            info = _header(block, model)
            if info is None and self._is_end(position, cursor >= len(expected)):
                return
            if info is None:
                following = self._next_header(position + BLOCK, model)
                name = expected[cursor] if cursor < len(expected) else None
                info = self._inferred(name, position, following, model)
                if info is None:
                    self.found.add(self.task.place, f"the tar header at byte offset {position} is damaged", position)
                    position = following
                    continue
                where = position + first_difference(block, info.block)
                self._say(info.name.partition(".")[0], where, f"has a damaged tar header before {info.name}")
            position += BLOCK
            if position + info.size > self.end:
                self._say(
                    info.name.partition(".")[0],
                    position,
                    f"has its {info.name} cut off: {info.size} bytes should follow, {self.end - position} do",
                )
                return
            padded = position + -(-info.size // BLOCK) * BLOCK
            padding = pread(self.fd, padded - position - info.size, position + info.size)
            if padding.strip(b"\0"):
                self._say(
                    info.name.partition(".")[0],
                    position + info.size + first_difference(padding, bytes(len(padding))),
                    f"has damaged padding behind {info.name}",
                )
            if info.block[156:157] == tarfile.XHDTYPE:  # the long name of the next member
                match = _PAX_PATH.search(pread(self.fd, info.size, position))
                long_name = match[1].decode("utf-8", "replace") if match else None
            else:
                model = info.block
                name, long_name = long_name or info.name, None
                cursor = place_of.get(name, cursor) + 1
                yield Member(name, position, info.size)
            position = padded
        self.found.add(self.task.place, f"the shard ends at byte {self.end} without the mark of a tar's end", self.end)

    def _is_end(self, position: int, complete: bool) -> bool:
        """Return whether the end mark (zeros to the file's end, two blocks or more) begins here, damaged or not."""
        damage = self._first_nonzero(position)
        if damage is None:
            if self.end - position < 2 * BLOCK:
                self.found.add(
                    self.task.place,
                    f"the mark of the tar's end at byte offset {position} has {self.end - position} bytes; "
                    f"{2 * BLOCK} at least are needed",
                    position,
                )
            return True
        following = pread(self.fd, BLOCK, self._next_header(position + BLOCK, None))
        if complete and not following.strip(b"\0"):  # no file follows
            self.found.add(self.task.place, f"the padding at the tar's end is damaged at byte offset {damage}", damage)
            return True
        return False

    def _first_nonzero(self, position: int) -> int | None:
        while position < self.end:
            part = pread(self.fd, min(1 << 20, self.end - position), position)
            if part.strip(b"\0"):
                return position + first_difference(part, bytes(len(part)))
            position += len(part)
        return None

    def _next_header(self, position: int, model: bytes | None) -> int:
        """Return the offset of the next good header, of the end mark, or of the file's end."""
        while position + BLOCK <= self.end:
            block = pread(self.fd, BLOCK, position)
            if (block[257:262] == b"ustar" and _header(block, model)) or (
                not block.strip(b"\0") and self._first_nonzero(position) is None
            ):
                return position
            position += BLOCK
        return self.end

    def _inferred(self, name: str | None, position: int, following: int, model: bytes | None) -> Header | None:
        """Return the header that must have been at `position`, where the index expects the file `name`.

        None if that file would not fill the bytes up to the next good header, `following`.
        """
        after = pread(self.fd, BLOCK, following)
        model = model or (after if _header(after, None) else None)
        if name is None or len(name) > 100 or model is None:
            return None
        key, _, part = name.partition(".")
        number, room = self.row[key], following - position - BLOCK
        if part == "json":
            size = len(pread(self.fd, min(room, 1 << 20), position + BLOCK).rstrip(b"\0"))
        else:
            size = int(self.rows.size[number]) if part == "jpg" else len(str(self.rows.label[number]))
        if -(-size // BLOCK) * BLOCK != room or (part == "jpg" and position + BLOCK != self.rows.offset[number]):
            return None
        return Header(name, size, _rendered(model, name.encode(), size))

    def _sample(self, number: int, parts: Mapping[str, Member]) -> None:
        rows, key = self.rows, self.keys[number]
        lacking = [f".{part}" for part in PARTS if part not in parts]
        if lacking:
            self._say(key, next(iter(parts.values())).start, f"lacks its {' and '.join(lacking)}")
        if "jpg" in parts:
            self._image(number, parts["jpg"])
        if "cls" in parts:
            written, meant = pread(self.fd, parts["cls"].size, parts["cls"].start), str(rows.label[number]).encode()
            if written != meant:
                self._say(
                    key,
                    parts["cls"].start + first_difference(written, meant),
                    f"has {_shown(written)} in its .cls; the index says {meant.decode()}",
                )
        if "json" in parts:
            self._json(number, parts["json"])

    def _image(self, number: int, member: Member) -> None:
        rows, key = self.rows, self.keys[number]
        offset, size = int(rows.offset[number]), int(rows.size[number])
        if (member.start, member.size) != (offset, size):
            self._say(
                key,
                member.start,
                f"has its image in {member.size} bytes there; the index says {size} bytes at {offset}",
            )
        data = pread(self.fd, member.size, member.start)
        digest = hashlib.sha256(data).digest()
        if digest != rows.sha256[number].tobytes():
            other = self.by_digest.get(digest)
            what = (
                f"holds the image of key {other!r}"
                if other
                else f"has a damaged image: its {member.size} bytes do not have the recorded sha256"
            )
            self._say(key, member.start, what)
            return
        try:
            pixels, doubts = pixels_and_doubts(data)
            self.thumbs[number] = thumbnail(decode(data) if pixels is None else Image.fromarray(pixels))
            self.decoded[number] = True
        except ValueError as error:
            self._say(key, member.start, f"has an image that does not decode, as it was recorded: {error}")
            return
        for words in doubts:
            self.doubts.add(
                self.task.place, f"key {key!r} at byte offset {member.start} is among the {words}", member.start
            )

    def _json(self, number: int, member: Member) -> None:
        rows, key, data = self.rows, self.keys[number], pread(self.fd, member.size, member.start)
        known = {
            name: int(self.task.ids[number]) if name == "id" else getattr(rows, name)[number].item() for name in FIELDS
        }
        try:
            entry = json.loads(data)
            if not isinstance(entry, dict):
                raise ValueError("it is not an object")
        except (ValueError, RecursionError) as error:
            position = _torn(data, known) or _position(error)
            self._say(key, member.start + position, f"has a .json that cannot be read: {' '.join(str(error).split())}")
            return
        meant = json.dumps({**entry, **known}, sort_keys=True, separators=(",", ":")).encode()
        if data != meant:
            wrong = [
                f"{name} {entry[name]!r} instead of {value!r}" if name in entry else f"no {name}"
                for name, value in known.items()
                if name not in entry or entry[name] != value or type(entry[name]) is not type(value)
            ]
            self._say(
                key,
                member.start + first_difference(data, meant),
                f"has a .json with {', '.join(wrong) or 'bytes that its canonical form has not'}",
            )
        beyond = {name: value for name, value in entry.items() if name not in known}
        self.extras.append(_Extra(number, member.start, data.decode("utf-8", "replace"), beyond))

    def _missing(self, whole: set[str]) -> None:
        """Add one finding for each run of samples that the tar does not hold."""
        absent = [number for number, key in enumerate(self.keys) if key not in whole]
        for position, number in enumerate(absent):
            if position and absent[position - 1] == number - 1:
                continue
            run = next(
                (step for step in range(1, len(absent) - position) if absent[position + step] != number + step),
                len(absent) - position,
            )
            last = f" to {self.keys[number + run - 1]!r} ({run} samples) are" if run > 1 else " is"
            self._say(self.keys[number], int(self.rows.offset[number]), last.strip() + " not in the tar", recorded=True)

    def _suspects(self) -> str:
        """Return which entries beyond the index differ from the other samples', as the end of a sentence."""
        shapes = Counter(_shape(extra.entries) for extra in self.extras)
        usual = shapes.most_common(1)[0][0] if shapes else None
        words = Counter(
            (name, value) for extra in self.extras for name, value in extra.entries.items() if isinstance(value, str)
        )
        kinds = Counter(name for name, _ in words)
        odd = []
        for number, start, text, entries in self.extras:
            strange = [
                name
                for name, value in entries.items()
                if isinstance(value, str) and words[name, value] == 1 and 4 * kinds[name] <= len(self.extras)
            ]
            if _shape(entries) != usual or strange:
                name = strange[0] if strange else next(iter(entries), "")
                odd.append(
                    f"key {self.keys[number]!r} at byte offset "
                    f"{start + max(0, len(text[: text.find(json.dumps(name))].encode()))} ({name!r})"
                )
        where = f"; unlike the others is {', '.join(odd[:3])}" if odd else ""
        return (
            ", and all that the index records is as it should be: what changed is in what some .json says beyond "
            f"it{where}"
        )

    def _say(self, key: str, offset: int, what: str, recorded: bool = False) -> None:
        self.found.add(
            self.task.place, f"key {key!r} at {'recorded ' if recorded else ''}byte offset {offset} {what}", offset
        )


def _header(block: bytes, model: bytes | None) -> Header | None:
    """Parse a tar header of 512 bytes; None unless they are exactly what a writer makes of name, size and so on.

    `model`: a good header of the same tar. Nearly all headers equal it except for name and size, and comparing takes a
    tenth of a parser's time.
    """
    name, digits = block[:100].rstrip(b"\0"), block[124:135]
    if (
        model is not None
        and name
        and b"\0" not in name
        and _OCTAL.fullmatch(digits)
        and block == _rendered(model, name, int(digits, 8))
    ):
        return Header(name.decode("utf-8", "replace"), int(digits, 8), block)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return Header(info.name, info.size, block) if info.tobuf(tarfile.USTAR_FORMAT) == block else None
    except (tarfile.HeaderError, ValueError):
        return None


def _rendered(model: bytes, name: bytes, size: int) -> bytes:
    """Return the header `model` with another name (100 bytes at most) and size."""
    block = name.ljust(100, b"\0") + model[100:124] + b"%011o" % size + model[135:148] + b" " * 8 + model[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _read_plainly(task: Task, found: Findings) -> None:
    """Read the shard with a plain `webdataset.WebDataset`, and compare the samples with the index."""
    import webdataset  # slow to import

    keys, sizes = task.rows.key.tolist(), task.rows.size.tolist()
    number = 0
    try:
        # read the whole shard; by default webdataset refuses to do so in a job of several nodes
        samples = webdataset.WebDataset(
            [str(task.path)], shardshuffle=False, nodesplitter=lambda shards: shards, empty_check=False
        )
        for number, sample in enumerate(samples, 1):
            key = sample["__key__"]
            parts = sorted(name for name in sample if not name.startswith("__"))
            if number > len(keys) or (key, parts, len(sample.get("jpg", b""))) != (
                keys[number - 1],
                list(PARTS),
                sizes[number - 1],
            ):
                found.add(
                    task.place,
                    f"plain webdataset reads key {key!r} with {', '.join(parts) or 'nothing'} as sample {number}, "
                    "unlike the index",
                )
                return
    except Exception as error:  # webdataset passes on exceptions of any type
        found.add(
            task.place,
            f"plain webdataset stops behind sample {number} of {len(keys)}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}",
        )
        return
    if number != len(keys):
        found.add(task.place, f"plain webdataset reads {number} samples of {len(keys)}, without an error")


def _shape(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (
            name,
            type(value).__name__,
            repr({type(item).__name__ for item in value}) if isinstance(value, list) and value else "",
        )
        for name, value in sorted(entry.items())
    )


def _position(error: Exception) -> int:
    """Return the position of a JSON error; 0 if the error does not say it."""
    if isinstance(error, UnicodeDecodeError):
        return error.start
    return error.pos if isinstance(error, json.JSONDecodeError) else 0


def _torn(data: bytes, known: Mapping[str, Any]) -> int | None:
    """Find the first wrong byte of a known entry in an unreadable .json; None if all known entries are right."""
    for name, value in known.items():
        entry = json.dumps({name: value}, separators=(",", ":"))[1:-1].encode()
        start = data.find(f'"{name}":'.encode())
        if start >= 0 and entry not in data:
            return start + first_difference(data[start:], entry)
    return None


def _shown(data: bytes) -> str:
    return repr(data[:20].decode("ascii", "backslashreplace")) + (" ..." if len(data) > 20 else "")
