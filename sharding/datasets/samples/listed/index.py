"""What a source holds, as arrays in `.work/index`.

The images are ordered by class, then by a digest of their names without case and extension. So a folder, a list and an
archive of the same images give the same splits. A source whose files and folders have the sizes and times of the last
time is not listed again; a whole build and the stages `index` and `finish` look at those of each image, too. Else it
is, and the digest of what is found says whether anything was made from something else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import whole_file, write_whole
from sharding.building.listing import shown
from sharding.building.raw_files import Pixels, Place, Zipped
from sharding.building.samples_words import Samples
from sharding.building.source_stamps import stamps_of
from sharding.datasets.samples.listed.arrays import DEFLATED, PER_IMAGE, PIXELS, PLAIN, TEXTS, Listed
from sharding.datasets.samples.listed.headers import without_bad
from sharding.datasets.samples.listed.texts import NO_TEXTS, GrowingTexts, Texts
from sharding.sources.reading import class_order, rows_of
from sharding.sources.rows import SPLITS, Asked, Row
from sharding.sources.shared.unpacked import forget_others
from sharding.sources.webdataset import expanded

FOLDER, SAID, NAMES = "index", "said.json", "names.txt"
_HEADER = 128
"""Bytes of an .npy file without numbers, at most."""
_ANY_END = re.compile(r"\.[a-z0-9]{1,5}$")
"""What the order of images leaves out of a name. `keys.loose_name` asks for an image's extension instead; another rule
here would give every data set other splits."""


def listed(asked: Samples, work: Path, workers: int, *, must_be_kept: bool = False, each: bool = False) -> Listed:
    """Return what the source holds; nothing is read where it is as it was the last time.

    Args:
        asked: the source and how it is read.
        work: the build's own folder.
        workers: processes that read headers.
        must_be_kept: it is not listed again: parts of a stage would do so side by side.
        each: look at each image's size and time, too: the time of its folder does not tell that it was replaced.

    Raises:
        DataError: the source is not as it must be; one sentence.
    """
    folder = work / FOLDER
    images = asked.images and asked.images.absolute()
    made = {
        "paths": [[str(source.absolute()), split] for source, split in asked.source],
        "read": [asked.format, [list(pair) for pair in asked.columns], str(images or ""), asked.classes],
    }
    if (kept := _kept(folder)) is not None and kept.said["made"] == made and _unchanged(kept, asked, each):
        return kept
    if must_be_kept:
        raise DataError(f"{folder} is missing, or the source changed since: stage=index comes before parts of a stage")
    paths = tuple((path.absolute(), split) for source, split in asked.source for path in expanded(source))
    stamps = _stamps([path for path, _ in paths])  # before the listing, so that what changes meanwhile is listed again
    request = Asked(paths, work, images, dict(asked.columns), asked.classes)
    gathering = _Gathering()
    for row in rows_of(request, asked.format or None):
        gathering.add(row)
    found, order = gathering.found()
    of_images = stamps_of_images(found)
    taken, sizes = without_bad(found, order, request.notices, workers)
    stamps |= _stamps_of_archives(found)
    no_images = _known(found.place(row).path for row in np.setdiff1d(order, taken).tolist())
    found = found.taken(taken)
    said = {
        "sizes": sizes,
        "digest": _digest(found),
        "notices": request.notices.added_to({}),
        "made": made,
        "stamps": stamps,
        "no_images": no_images,
        "of_images": hashlib.sha256(of_images[taken].tobytes()).hexdigest(),
    }
    _keep(folder, replace(found, said={**found.said, **said}))
    forget_others(work, set(found.files))
    return opened(folder)


def write_names(found: Listed, work: Path) -> None:
    """Write the images' names in their order to `.work/index/names.txt`, a line each, for who brings rows for them.

    Line breaks in a name are escaped, or its image would have two lines.
    """
    with whole_file(work / FOLDER / NAMES) as file:
        file.writelines(_lines(found))


def refuse_other_names(found: Listed, work: Path, features: Path) -> None:
    """Refuse features that were made in the order of a `names.txt` of other images than the source has now.

    Raises:
        DataError: there is one, and its lines are not the images' names.
    """
    path = work / FOLDER / NAMES
    if not path.is_file():
        return
    with open(path, "rb") as lines:
        same = all(line == name for line, name in zip_longest(lines, _lines(found)))
    if not same:
        raise DataError(
            f"features={features}: the source has other images than {path}, in whose order its rows are; stage=index "
            "without features= writes that again, and then an array in its order would be legal"
        )


def _lines(found: Listed) -> Iterator[bytes]:
    return (f"{shown(name)}\n".encode() for name in found.names)


def stamps_of_images(found: Listed) -> np.ndarray:
    """Return today's size and mtime_ns of each image's file, int64 [N, 2]; zeros for a missing one."""
    stamps = np.zeros((len(found), 2), np.int64)
    for first in range(0, len(found), 10_000):
        paths = [found.place(row).path for row in range(first, min(first + 10_000, len(found)))]
        known = stamps_of(set(paths))
        stamps[first : first + len(paths)] = [known[path] or (0, 0) for path in paths]
    return stamps


# ---------------------------------------------------------------------------------------------------------------- kept
def _keep(folder: Path, found: Listed) -> None:
    """Write the arrays, a file each, so that processes map them into their memory; `said.json` comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SAID).unlink(missing_ok=True)
    texts = {f"{name}_{part}": getattr(getattr(found, name), part) for name in TEXTS for part in ("blob", "ends")}
    for name, values in {**texts, **{name: getattr(found, name) for name in (*PER_IMAGE, "whole")}}.items():
        with whole_file(folder / f"{name}.npy") as file:
            np.save(file, values, allow_pickle=False)
    write_whole(folder / SAID, json.dumps(found.said))
    opened.cache_clear()


@cache
def opened(folder: Path) -> Listed:
    """Return what is kept in the folder `.work/index`, for a process that looks at many of its images.

    Raises:
        DataError: it is not whole.
    """
    if (kept := _kept(folder)) is None:
        raise DataError(f"{folder} is missing or damaged; stage=index writes it again")
    return kept


def _kept(folder: Path) -> Listed | None:
    try:
        said = json.loads((folder / SAID).read_bytes())
        arrays = {path.stem: _mapped(path) for path in folder.glob("*.npy")}
        fields: dict[str, Any] = {name: arrays[name] for name in (*PER_IMAGE, "whole")}
        fields |= {name: Texts(arrays[f"{name}_blob"], arrays[f"{name}_ends"]) for name in TEXTS}
        return Listed(**fields, said=said)
    except (OSError, ValueError, EOFError, KeyError):
        return None


def _mapped(path: Path) -> np.ndarray:
    is_empty = path.stat().st_size <= _HEADER  # what has no length cannot be mapped
    array: np.ndarray = np.load(path, mmap_mode=None if is_empty else "r", allow_pickle=False)
    return array.view(np.ndarray)


def _unchanged(kept: Listed, asked: Samples, each: bool) -> bool:
    """Return whether files, folders and `each` image have the sizes and times of the listing, or images are gone."""
    if not any(path.exists() for source, _ in asked.source for path in expanded(source)):
        return True
    known: dict[str, list[int]] = kept.said["stamps"]
    bad: dict[str, list[int]] = kept.said.get("no_images", {})
    if _known(known) != known or any(stamp != bad[path] for path, stamp in _known(bad).items()):
        return False
    if not each:
        return True
    now = stamps_of_images(kept)
    is_missing = not now[:, 0].all()  # which is told where its bytes are needed
    return is_missing or kept.said.get("of_images") == hashlib.sha256(now.tobytes()).hexdigest()


def _stamps(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Return size and time of the source's files, of its folders at any depth, and of the files beside class folders.

    A folder's time changes with the names in it. Files beside class folders may be lists and archives.
    """
    names: list[str] = []
    for top in map(str, paths):
        names += [] if os.path.isdir(top) else [top]
        for folder, files in _folders(top):
            names += [folder, *(os.path.join(folder, file) for file in files if folder == top)]
    return _known(names)


def _folders(top: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder from `top` down and the names of its files; through links, too, but each folder once."""
    known = set()
    for folder, inner, files in os.walk(top, followlinks=True):
        stamp = os.stat(folder)
        if (here := (stamp.st_dev, stamp.st_ino)) in known:
            inner.clear()
        else:
            known.add(here)
            yield folder, files


def _stamps_of_archives(found: Listed) -> dict[str, list[int]]:
    """Return size and time of the files that hold several images."""
    numbers = np.unique(found.file[(found.file >= 0) & (found.size >= 0)]).tolist()
    return _known(str(found.files[number]) for number in numbers)


def _known(paths: Iterable[str]) -> dict[str, list[int]]:
    """Return size and time of the files of these that are there."""
    return {path: list(stamp) for path, stamp in stamps_of(set(paths)).items() if stamp is not None}


def _digest(found: Listed) -> str:
    digest = hashlib.sha256(json.dumps([found.classes, found.kinds]).encode())
    source = (found.source.blob, found.source.ends)
    for values in (found.names.blob, found.names.ends, found.label, found.attribute, found.split, *source):
        digest.update(np.ascontiguousarray(values).data)
        digest.update(b"|")
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ gathered
class _Numbers(dict[str, int]):
    """Numbers texts as they come."""

    def __missing__(self, text: str) -> int:
        self[text] = number = len(self)
        return number

    def in_order(self, names: list[str]) -> np.ndarray:
        """Return the place of each number's text in `names`, int32; a last entry is for none, -1."""
        places = np.full(len(names) + 1, -1, np.int32)
        places[[self[name] for name in names]] = np.arange(len(names))
        return places


class _Gathering:
    """Rows that come one by one, as arrays."""

    def __init__(self) -> None:
        self.names, self.sources, self.files = GrowingTexts(), GrowingTexts(), GrowingTexts()
        self.label, self.attribute, self.file = array("i"), array("i"), array("i")
        self.split, self.kind = array("b"), array("b")
        self.offset, self.size, self.whole = array("q"), array("q"), array("q")
        self.digest = array("Q")
        self.classes, self.kinds, self.shapes = _Numbers(), _Numbers(), _Numbers()
        self.base, self.last = "", ""
        self.has_source, self.has_zipped = False, False

    def add(self, row: Row) -> None:
        """Append a row."""
        where = row.where
        if not len(self.names) and where.root and os.path.isdir(where.root):
            self.base = where.root
        self.names.add(row.name)
        self.sources.add(row.source)
        self.has_source = self.has_source or bool(row.source)
        self.label.append(self.classes[row.label])
        self.attribute.append(self.kinds[row.attribute] if row.attribute else -1)
        self.split.append(SPLITS.index(row.split) + 1 if row.split else 0)
        stem = _ANY_END.sub("", row.name.casefold())
        digest = hashlib.blake2b(stem.encode(), digest_size=16).digest()
        self.digest.extend((int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")))
        self._add_place(row.name, where)

    def _add_place(self, name: str, where: Place) -> None:
        if self.base and where.size < 0 and where.path == os.path.join(self.base, name):
            self.file.append(-1)
        else:
            if not len(self.files) or where.path != self.last:
                self.files.add(os.path.abspath(where.path))
                self.last = where.path
            self.file.append(len(self.files) - 1)
        self.offset.append(where.offset)
        self.size.append(where.size)
        kind, whole = PLAIN, (0, 0)
        if isinstance(where, Zipped):
            if not self.has_zipped:  # the images before it were none
                self.whole.frombytes(bytes(16 * len(self.kind)))
            self.has_zipped = True
            kind, whole = DEFLATED if where.deflated else PLAIN, (where.whole_size, where.crc32)
        elif isinstance(where, Pixels):
            kind = PIXELS + self.shapes[json.dumps(where.shape)]
        self.kind.append(kind)
        if self.has_zipped:
            self.whole.extend(whole)

    def found(self) -> tuple[Listed, np.ndarray]:
        """Return the images as they came, and their order, int64 [N]."""
        classes, kinds = class_order(self.classes), sorted(self.kinds)
        found = Listed(
            names=self.names.texts(),
            source=self.sources.texts() if self.has_source else NO_TEXTS,
            files=self.files.texts(),
            label=self.classes.in_order(classes)[np.frombuffer(self.label, np.int32)],
            attribute=self.kinds.in_order(kinds)[np.frombuffer(self.attribute, np.int32)],
            split=np.frombuffer(self.split, np.int8),
            file=np.frombuffer(self.file, np.int32),
            offset=np.frombuffer(self.offset, np.int64),
            size=np.frombuffer(self.size, np.int64),
            kind=np.frombuffer(self.kind, np.int8),
            whole=np.frombuffer(self.whole, np.int64).reshape(-1, 2),
            said={"base": self.base, "classes": classes, "kinds": kinds, "shapes": list(map(json.loads, self.shapes))},
        )
        high, low = np.frombuffer(self.digest, np.uint64).reshape(-1, 2).T
        return found, _order(found, high, low)


def _order(found: Listed, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Order the images by class and digest; those of one class whose digests are equal, by their names."""
    order = np.lexsort((low, high, found.label))
    same = (np.diff(found.label[order]) == 0) & (np.diff(high[order]) == 0) & (np.diff(low[order]) == 0)
    begins = np.flatnonzero(np.r_[True, ~same])
    ends = np.r_[begins[1:], len(order)]
    for begin, end in zip(begins[ends - begins > 1].tolist(), ends[ends - begins > 1].tolist(), strict=True):
        order[begin:end] = sorted(order[begin:end].tolist(), key=found.names.__getitem__)
    return order
