"""Checks that hold for the images of every format, made while they stream by.

What concerns one image is checked when it comes. Of all images 28 bytes each are kept, in arrays: hashes of the name,
of the name without case and extension and of the file that it leads to, and the number of the class. At the end they
are sorted, one array at a time, which takes up to 24 bytes an image more. What they find is looked up by reading the
source once more. Besides, each class is kept by its name.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from recipes.common.errors import DataError
from sharding.building.keys import loose_name
from sharding.building.listing import is_utf8, shown
from sharding.building.notices import ALIKE, Notices
from sharding.sources.rows import SPLITS, Row

ACCENTS = "images that share their name with another but for the way that accents are encoded (NFC and NFD)"
SAME_FILE = "images whose file has another name, too"
CLASSES_ALIKE = "classes whose names differ in case or in the way that accents are encoded alone"
GAPS = "gaps between the numbers of classes"
MOST_CLASSES = 1 << 20
_THREADS = 8
"""Threads that ask for files: on a shared file system each answer takes a while."""
_AT_ONCE = 1024

_Again = Callable[[], Iterable[Row]]
"""Reads the source once more."""


def is_number(label: str) -> bool:
    """Return whether a label is a whole number, as lists count classes; one of 20 digits is a name."""
    return label.isascii() and len(label) < 20 and label.removeprefix("-").isdigit()


def is_line(text: str) -> bool:
    """Return whether a text is one line of UTF-8, as a class or an attribute must be."""
    return is_utf8(text) and not any(letter < " " for letter in text)


def at(row: Row) -> str:
    """Return where an image comes from, for the beginning of a sentence."""
    return f"{row.listed_in}, line {row.line}" if row.line else shown(str(row.where))


class RowChecks:
    """The checks of one pass over a source.

    Attributes:
        classes: the classes by name, numbered as they came.
    """

    def __init__(self) -> None:
        self.classes: dict[str, int] = {}
        self._names, self._loose, self._files, self._decomposed = (array("q") for _ in range(4))
        self._labels = array("i")
        self._trained: set[int] = set()
        self._tested: set[int] = set()
        self._is_list = False

    # ---------------------------------------------------------------------------------------------------- one by one
    def passed(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows, each checked by itself.

        Raises:
            DataError: a row is not as it must be; one sentence.
        """
        every = iter(rows)
        with ThreadPoolExecutor(_THREADS) as pool:
            while batch := list(islice(every, _AT_ONCE)):
                paths = list({row.where.path for row in batch})
                asked = pool.map(_stamp, paths, chunksize=32) if len(paths) > 2 * _THREADS else map(_stamp, paths)
                stamps = dict(zip(paths, asked, strict=True))
                for row in batch:
                    self._check(row)
                    self._keep(row, _stamp_of(row, stamps))
                    yield row

    def _check(self, row: Row) -> None:
        texts = (("path", row.name), ("label", row.label), ("source", row.source))
        for what, text in texts:
            if not is_utf8(text):
                raise DataError(f"{at(row)}: the {what} {shown(text)} is not UTF-8, which a data set's files are")
        if row.name.startswith("/") or ".." in row.name.split("/"):
            raise DataError(f"{at(row)}: {shown(row.name)} leaves the source; a path inside of it would be legal")
        if not row.label.strip():
            raise DataError(f"{at(row)}: has no label; every image needs one")
        if not is_line(row.label):
            raise DataError(f"{at(row)}: label {shown(row.label)} is not one line")
        if row.split and row.split not in SPLITS:
            raise DataError(f"{at(row)}: split {shown(row.split)} is none; legal: {', '.join(SPLITS)}, or nothing")

    def _keep(self, row: Row, stamp: os.stat_result) -> None:
        number = self.classes.setdefault(row.label, len(self.classes))
        if number >= MOST_CLASSES:
            raise DataError(
                f"{at(row)}: label {shown(row.label)} is class number {number + 1:,}, and {MOST_CLASSES:,} are the "
                "most; is this the label's column?"
            )
        self._labels.append(number)
        self._names.append(hash(row.name))
        self._loose.append(hash(loose_name(row.name)))
        self._files.append(hash((stamp.st_dev, stamp.st_ino, row.where.offset)))
        if not row.name.isascii() and (composed := unicodedata.normalize("NFC", row.name)) != row.name:
            self._decomposed.append(hash(composed))
        self._is_list |= row.line > 0
        (self._tested if row.split in ("val", "test") else self._trained).add(number)

    # ---------------------------------------------------------------------------------------------------- all of them
    def finish(self, again: _Again, source: str, notices: Notices) -> None:
        """Check what only all images together show.

        Args:
            again: reads the source once more, in the same order.
            source: its name for messages.
            notices: counts what is doubtful.

        Raises:
            DataError: there are no images, fewer than two classes, a name occurs twice, a file has two labels, or a
                class cannot be; one sentence.
        """
        if not self._labels:
            why = "; ".join(notices.lines())
            raise DataError(f"{source} holds no labelled image" + (f": {why}" if why else ""))
        self._check_names(again)
        self._check_classes(again, source, notices)
        self._check_files(again, notices)
        self._count_alike(again, notices)

    def _check_names(self, again: _Again) -> None:
        earlier, later = _repeats(self._names)
        for one, other in _pairs(again, earlier, later):
            if one.name == other.name:
                raise DataError(
                    f"{at(other)}: {shown(other.name)} is there twice, first at {at(one)}; once would be legal"
                )

    def _check_files(self, again: _Again, notices: Notices) -> None:
        earlier, later = _repeats(self._files)
        labels = np.frombuffer(self._labels, np.int32)
        two = labels[earlier] != labels[later]
        for one, other in _pairs(again, earlier[two], later[two]):
            raise DataError(
                f"{at(other)}: the image {shown(other.name)} has label {shown(other.label)}, and at {at(one)} as "
                f"{shown(one.name)} label {shown(one.label)}; one label an image would be legal"
            )
        for row in _marked(again, later):
            notices.doubt(SAME_FILE, shown(row.name))

    def _count_alike(self, again: _Again, notices: Notices) -> None:
        earlier, later = _repeats(self._loose)
        for row in _marked(again, np.union1d(earlier, later)):
            notices.doubt(ALIKE, shown(row.name))
        composed = np.frombuffer(self._decomposed, np.int64)
        twins = set(np.intersect1d(composed, self._names).tolist() if len(composed) else ())
        for row in again() if twins else ():
            if hash(name := unicodedata.normalize("NFC", row.name)) in twins and name != row.name:
                notices.doubt(ACCENTS, shown(row.name))

    def _check_classes(self, again: _Again, source: str, notices: Notices) -> None:
        names = list(self.classes)
        if len(names) == 1:
            raise DataError(f"{source} has one class alone, {shown(names[0])}; two or more would be legal")
        if untrained := sorted(names[number] for number in self._tested - self._trained):
            row = self._first(again, untrained[0])
            more = f", as {len(untrained) - 1} other classes" if untrained[1:] else ""
            raise DataError(
                f"{at(row)}: class {shown(row.label)} has images of {row.split} alone{more}; a class needs some to "
                "train on"
            )
        if all(map(is_number, names)):
            numbers = sorted(map(int, names))
            if numbers[0] < 0:
                row = self._first(again, str(numbers[0]))
                raise DataError(f"{at(row)}: label {row.label} is negative; classes are counted from 0")
            if self._is_list:
                notices.leave_out(GAPS, *_gaps(numbers))
        alike: dict[str, list[str]] = {}
        for name in names:
            alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(shown(name))
        for group in alike.values():
            notices.doubt(CLASSES_ALIKE, *(group if len(group) > 1 else ()))

    def _first(self, again: _Again, label: str) -> Row:
        """Return the first image of a class."""
        return next(row for row in again() if row.label == label)


def _gaps(numbers: Sequence[int]) -> Iterator[str]:
    """Yield the stretches from 0 on that sorted numbers leave out."""
    for before, after in zip((-1, *numbers), numbers, strict=False):
        if after - before > 1:
            yield str(before + 1) if after - before == 2 else f"{before + 1} to {after - 1}"


# ------------------------------------------------------------------------------------------------------------ repeats
def _repeats(values: array[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the places, int64, of values that came before, and of the ones before them, in the order of the former."""
    found = np.frombuffer(values, np.int64)
    order = np.argsort(found, kind="stable")
    in_order = found[order]
    same = np.flatnonzero(in_order[1:] == in_order[:-1])
    earlier, later = order[same], order[same + 1]
    by_place = np.argsort(later)
    return earlier[by_place], later[by_place]


def _pairs(again: _Again, earlier: np.ndarray, later: np.ndarray) -> Iterator[tuple[Row, Row]]:
    """Yield the rows at two lists of places, pair by pair; of many the first, to name one."""
    earlier, later = earlier[:_AT_ONCE], later[:_AT_ONCE]
    if len(later):
        wanted = {*earlier.tolist(), *later.tolist()}
        rows = {place: row for place, row in enumerate(islice(again(), int(later[-1]) + 1)) if place in wanted}
        yield from ((rows[one], rows[other]) for one, other in zip(earlier.tolist(), later.tolist(), strict=True))


def _marked(again: _Again, places: np.ndarray) -> Iterator[Row]:
    """Yield the rows at sorted places."""
    wanted = iter(places.tolist())
    following = next(wanted, None)
    for place, row in enumerate(again() if len(places) else ()):
        if place == following:
            yield row
            following = next(wanted, None)


# -------------------------------------------------------------------------------------------------------------- files
def _stamp(path: str) -> os.stat_result | OSError:
    try:
        return os.stat(path)
    except (OSError, ValueError) as error:
        return error if isinstance(error, OSError) else FileNotFoundError(0, str(error))


def _stamp_of(row: Row, stamps: dict[str, os.stat_result | OSError]) -> os.stat_result:
    stamp = stamps[row.where.path]
    if isinstance(stamp, (FileNotFoundError, NotADirectoryError)):
        below = f"; its paths start from {row.where.root}" if row.line and row.where.root else ""
        raise DataError(f"{at(row)}: {shown(row.where.path)} does not exist{below}")
    if isinstance(stamp, OSError):
        raise DataError(f"{at(row)}: {shown(row.where.path)} cannot be read ({stamp.strerror})")
    if not stat.S_ISREG(stamp.st_mode):
        raise DataError(f"{at(row)}: {shown(row.where.path)} is no plain file; an image file would be legal")
    return stamp
