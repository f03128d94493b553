"""Cuts a pool of labelled images into editions and splits: a pure function of the pool, the wishes and a seed.

In each class Test-GBL comes first (equal parts of the attribute groups), then Test-CBL, then val, as many of each class
and in training's proportion of the attribute groups; all three are for both editions. What is left is training's, used
twice: Train-GLT has the class tail, Train-CBL as many of each class as the smallest can give. The two share images.
Without attributes there is the edition glt alone, without Test-GBL.

Given splits are kept. Images of a given test list are never trained on. Val, if no list gives it, is cut from the test
list; Test-GBL, too. What then remains is Test-CBL: all of it without attributes, else as much as is even over classes
and in proportion. Where there is no test list, val and tests are cut from the images without a split, if there are
some, else from the training list.

Images of one source go into one split. A split takes its sources one after the other, and what it does not need of the
last one is left out.

10^7 images of 1,000 classes with attributes take 6 s and 0.5 GB at the peak, of which 0.2 GB are the pool (one core of
an AMD EPYC; with images of two or so to a source 7 s and 0.55 GB).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recipes.common.errors import DataError
from sharding.building.dice import Dice
from sharding.building.proportions import apportioned
from sharding.datasets.samples import groups
from sharding.datasets.samples.long_tail import LongTail
from sharding.datasets.samples.sizes import Room, Wish, chosen, largest
from sharding.datasets.samples.table import FREE, Table

NONE, TRAIN, VAL, TEST = range(4)
"""Numbers of the splits that a source gives; NONE: the cut decides."""


@dataclass(frozen=True)
class Pool:
    """The N images of a source.

    Attributes:
        names: the K classes' names from head to tail: class 0 is the most frequent one of a curve.
        label: class of each image, whole numbers [N] in 0..K-1.
        attribute: attribute group of each image within its class, [N] in 0..2; None: there are no attributes.
        split: what the source says, [N] of NONE, TRAIN, VAL, TEST; None: NONE throughout.
        source: images of one number go into one split, [N] in 0..S-1; None: each image is a source of its own.
    """

    names: tuple[str, ...]
    label: np.ndarray
    attribute: np.ndarray | None = None
    split: np.ndarray | None = None
    source: np.ndarray | None = None


@dataclass(frozen=True)
class Wishes:
    """How a pool is to be cut.

    Attributes:
        tail: the class tail of Train-GLT.
        attribute_tail: proportion of the attribute groups in training, val and Test-CBL; None: as they are.
        val: images a class (whole), or their share (0..1, float) of the smallest class's images; None: the default.
        test_cbl: likewise.
        test_gbl: likewise; the attribute groups have equal parts in it.
    """

    tail: LongTail
    attribute_tail: tuple[int, int, int] | None = None
    val: Wish = None
    test_cbl: Wish = None
    test_gbl: Wish = None


@dataclass(frozen=True)
class Report:
    """What a cut came to, for printing and for dataset.json.

    Attributes:
        counts: folder -> images of each class and attribute group, int64 [K, 3]; [K, 1] without attributes.
        largest: images of the largest class in Train-GLT.
        notes: sentences: what limits the long tail, what a given split is kept as, what is left out.
    """

    counts: dict[str, np.ndarray]
    largest: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cut:
    """The editions and splits of a pool.

    Attributes:
        editions: edition -> split -> folder.
        rows: folder -> int64 [n], the images in the order of packing, which the seed shuffles.
        report: what it came to.
    """

    editions: dict[str, dict[str, str]]
    rows: dict[str, np.ndarray] = field(repr=False)
    report: Report


_STREAM = int.from_bytes(b"cut", "big")
"""Dice of the order in which images are taken; the streams after it shuffle the folders."""
_SPLITS = ("test_gbl", "test_cbl", "val")
FOLDERS = frozenset({"glt/train", "cbl/train", *(f"{home}/{split}" for home in ("glt", "shared") for split in _SPLITS)})
"""Every folder that a split may lie in, whatever the wishes."""
"""In the order of taking."""


def cut(pool: Pool, wishes: Wishes, seed: int) -> Cut:
    """Cut the pool; the same pool, wishes and seed give the same cut on any machine.

    Raises:
        DataError: a class cannot give what is wished; the sentence names it, and the largest legal numbers.
    """
    cell, width = pool.label.astype(np.int32), 1
    if pool.attribute is not None:
        width = 3
        cell = cell * np.int32(width) + pool.attribute.astype(np.int32)
    table = Table(cell, pool.names, width, pool.source, Dice(seed, _STREAM))
    notes: list[str] = []
    held = _held_out(pool, table, wishes, notes)
    train, top = _training(pool, table, wishes, held, notes)
    home = "glt" if pool.attribute is None else "shared"
    rows = {f"{edition}/train": some for edition, some in train.items()}
    rows |= {f"{home}/{split}": held[split] for split in reversed(_SPLITS) if split in held}
    counts = {folder: table.count(some) for folder, some in rows.items()}
    return Cut(
        editions={
            edition: {folder.split("/")[1]: folder for folder in rows if folder.split("/")[0] in (edition, home)}
            for edition in train
        },
        rows={
            folder: some[Dice(seed, _STREAM + 1 + number).permutation(len(some))]
            for number, (folder, some) in enumerate(rows.items())
        },
        report=Report(counts, top, tuple(notes)),
    )


def _held_out(pool: Pool, table: Table, wishes: Wishes, notes: list[str]) -> dict[str, np.ndarray]:
    """Take val and the tests: split -> rows."""
    given, free = _given(pool), _trainable(pool)
    listed = bool((given == TEST).any())
    without = free & (given == NONE)
    deck = table.deck(given == TEST if listed else without if without.any() else free)
    room = Room(
        pool.names,
        cells=table.count(deck),
        train=table.count(np.flatnonzero(free)),
        shared=not listed,
        present=table.count(np.arange(len(given))) > 0,
        proportion=wishes.attribute_tail,
    )
    wanted = _wanted(pool, wishes, room)
    whole = listed and pool.attribute is None and wishes.test_cbl is None
    if whole:
        wanted["test_cbl"] = 1
    sizes = chosen(room, wanted, listed)
    held = {
        split: table.take(deck, room.parts(sizes)[split], split, number)
        for number, split in enumerate(_SPLITS, 1)
        if split in wanted and not (whole and split == "test_cbl")
    }
    if whole:
        held["test_cbl"] = deck[table.owners()[deck] == FREE]
        notes.append(f"Test-CBL is the given test list, as far as val leaves it: {_spread(table, held['test_cbl'])}")
    if "val" not in wanted:
        held["val"] = np.flatnonzero(given == VAL)
        notes.append(f"val is the given list: {_spread(table, held['val'])}")
    return held


def _wanted(pool: Pool, wishes: Wishes, room: Room) -> dict[str, Wish]:
    """Return the splits that are cut, and their wishes."""
    wanted: dict[str, Wish] = {"test_cbl": wishes.test_cbl, "val": wishes.val}
    if pool.attribute is not None:
        wanted["test_gbl"] = wishes.test_gbl
    elif wishes.test_gbl is not None or wishes.attribute_tail is not None:
        raise DataError("test_gbl= and attribute_tail= need attributes=clusters or a column; without, neither is legal")
    if (_given(pool) == VAL).any():
        if wishes.val is not None:
            raise DataError(f"val={wishes.val}: the source gives a val list, which is kept; no val= would be legal")
        del wanted["val"]
    for name, here, train in zip(pool.names, room.present, room.train, strict=True):
        if not here.any() or not train.any():
            has = "images in the given val or test list alone, none for training" if here.any() else "no images"
            raise DataError(f"class {name!r} has {has}; a source without this class, or one with more, would be legal")
    return wanted


def _given(pool: Pool) -> np.ndarray:
    """Return the given splits, [N]."""
    return np.zeros(len(pool.label), np.uint8) if pool.split is None else pool.split


def _trainable(pool: Pool) -> np.ndarray:
    """Return which images no given val or test list has, nor one of their source: bool [N].

    Raises:
        DataError: two given splits have images of one source.
    """
    given = _given(pool)
    free: np.ndarray = given <= TRAIN
    if pool.source is None or pool.split is None:
        return free
    seen = np.zeros(int(pool.source.max(initial=-1)) + 1, np.uint8)  # of each source a bit for each of its splits
    for split in (TRAIN, VAL, TEST):
        seen[pool.source[given == split]] |= np.uint8(1 << split)
    torn = np.isin(seen, [0, *(1 << split for split in (TRAIN, VAL, TEST))], invert=True)
    if torn.any():
        row = int(np.argmax(torn[pool.source]))
        raise DataError(
            f"{int(torn.sum())} sources have images in two given splits, one of class {pool.names[pool.label[row]]!r} "
            f"(image {row} of the source); images of one source go into one split, so lists that agree, or no source "
            "column, would be legal"
        )
    free &= seen[pool.source] <= 1 << TRAIN
    return free


def _spread(table: Table, rows: np.ndarray) -> str:
    """Say how many images a class has in a split that is kept as it is."""
    counts = table.count(rows).sum(1)
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,} images of each class" if low == high else f"{low:,} to {high:,} images a class, not balanced"


def _training(
    pool: Pool, table: Table, wishes: Wishes, held: dict[str, np.ndarray], notes: list[str]
) -> tuple[dict[str, np.ndarray], int]:
    """Take training's images from those that are left: edition -> rows; and the size of its largest class."""
    deck = table.deck(_trainable(pool) & (table.owners() == FREE))
    room = table.count(deck)
    ratio = room if wishes.attribute_tail is None else (room > 0) * np.array(wishes.attribute_tail)
    most = _most(room, ratio)
    counts, note = class_counts(wishes.tail, most, pool.names)
    if note:
        parted = f", its attribute groups in {':'.join(map(str, tail))}" if (tail := wishes.attribute_tail) else ""
        notes.append(note + parted)
    train = {"glt": table.first(deck, apportioned(counts, ratio))}
    used = np.zeros(len(pool.label), bool)
    if pool.attribute is not None:
        notes += _thin(wishes.tail, counts, most, ratio, room > 0)
        # As many as in Train-GLT, as in the paper's ImageNet-GLT, so that the editions' runs see equally many images.
        each = min(int(most.min()), -(-int(counts.sum()) // len(counts)))
        train["cbl"] = table.first(deck, apportioned(np.full(len(counts), each), ratio))
    for rows in (*train.values(), *held.values()):
        used[rows] = True
    if not used.all():
        notes.append(
            f"{int((~used).sum()):,} of {len(used):,} images are in no split: the class tail, the attribute tail, "
            "equal parts or shared sources leave them out"
        )
    return train, int(counts.max())


def _thin(tail: LongTail, counts: np.ndarray, most: np.ndarray, ratio: np.ndarray, there: np.ndarray) -> list[str]:
    """Say which classes have no image of one of their attribute groups in Train-GLT; nothing where all have some."""

    def lacking(counts: np.ndarray) -> np.ndarray:
        lacks: np.ndarray = (there & (apportioned(counts, ratio) == 0)).any(1)
        return lacks

    def is_thick(number: int) -> bool:
        milder = replace(tail, ratio=float(number))
        return not lacking(np.array(milder.of(_top(milder, most), len(most)), np.int64)).any()

    if not (found := lacking(counts)).any():
        return []
    best = largest(is_thick, int(tail.ratio)) if tail.curve else 0
    hint = f"; a ratio of {best} is the largest with which each group of each class has one" if best else ""
    few = counts[groups.thirds(counts) == 2]
    return [
        f"{int(found.sum())} of {len(found)} classes have no image of an attribute group in Train-GLT, where classes "
        f"of Few have {int(few.min()):,} to {int(few.max()):,} images{hint}"
    ]


def _most(room: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Return how many images each class can give in a proportion of its groups, int64 [K].

    Args:
        room: images that are there, int64 [K, G].
        ratio: the proportion, int64 [K, G].
    """
    whole = ratio.sum(1)
    least = np.where(ratio > 0, room * whole[:, None] // np.maximum(ratio, 1), room.sum(1, keepdims=True)).min(1)
    most: np.ndarray = least.copy()
    fits = whole > 0
    for more in range(1, int(whole.max(initial=0))):  # rounding may leave room for a few more
        fits &= (apportioned(least + more, ratio) <= room).all(1)
        if not fits.any():
            break
        most += fits
    return most


def class_counts(tail: LongTail, most: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, str]:
    """Return how many images of each class Train-GLT gets, int64 [K], and what limits it, as a sentence or nothing.

    A curve's largest class is as large as every class can follow it.

    Args:
        tail: the class tail.
        most: how many images each class can give, int64 [K], from head to tail.
        names: the classes' names.

    Raises:
        DataError: a class can give nothing, or not what a file wants, or the curve leaves the smallest class nothing.
    """
    if most.min(initial=1) < 1:
        raise DataError(
            f"class {names[int(most.argmin())]!r} has no image left for training; smaller numbers of val=, test_cbl= "
            "or test_gbl= would be legal, or a source without this class"
        )
    if tail.counts is not None:
        wanted = np.array([tail.counts[name] for name in names], np.int64)
        for name, count, there in zip(names, wanted.tolist(), most.tolist(), strict=True):
            if count > there:
                raise DataError(
                    f"long_tail={tail.word}: class {name!r} can give {there} images for training, and {count} are "
                    f"wanted; up to {there} would be legal"
                )
        return wanted, ""
    if not tail.curve:
        return most, ""
    top = _top(tail, most)
    counts = np.array(tail.of(top, len(most)), np.int64)
    if counts.min() < 1:
        best = largest(lambda n: _has_all(replace(tail, ratio=float(n)), most), int(min(tail.ratio, most[0])))
        raise DataError(
            f"long_tail={tail.word}: the largest class can have {top} images, so the smallest, {names[-1]!r}, would "
            f"have none; a ratio of {best} is the largest legal one"
        )
    above = np.array(tail.of(top + 1, len(most)), np.int64) > most
    k = int(np.argmax(above))
    return counts, (
        f"long_tail={tail.word}: {top:,} images of the largest class to {int(counts.min()):,} of the smallest, because "
        f"class {names[k]!r} has no more than {int(most[k]):,} to give"
    )


def _top(tail: LongTail, most: np.ndarray) -> int:
    """Return the largest class of a curve that all classes can follow."""
    return largest(lambda n: bool((np.array(tail.of(n, len(most))) <= most).all()), int(most[0]))


def _has_all(tail: LongTail, most: np.ndarray) -> bool:
    return tail.of(_top(tail, most), len(most))[-1] >= 1
