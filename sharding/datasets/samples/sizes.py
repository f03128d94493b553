"""How many images of a class val and the tests get, and whether every class can give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

import numpy as np

from recipes.common.errors import DataError
from sharding.building.proportions import apportioned

SHARES = {"val": 0.05, "test_cbl": 0.1, "test_gbl": 0.1}
"""Defaults, as shares of the smallest class's images: training keeps the most."""
LISTED_SHARES = {"val": 0.1, "test_cbl": 1.0, "test_gbl": 0.3}
"""Defaults where val and the tests come from a given test list; Test-CBL is what remains of it."""
Wish = float | int | None


@dataclass(frozen=True)
class Sizes:
    """Images of each class in the splits that are not for training; 0: the split is not cut from these images."""

    val: int
    test_cbl: int
    test_gbl: int

    def __str__(self) -> str:
        wanted = [f"{name}={count}" for name, count in vars(self).items() if count]
        return " and ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted)


@dataclass(frozen=True)
class Room:
    """What the classes can give to val and the tests.

    Attributes:
        names: the K classes' names.
        cells: images of each class and attribute group that val and tests are cut from, int64 [K, G]; G is 1 without
            attributes.
        train: images that training may have, int64 [K, G].
        shared: whether an image that val or a test takes is one that training loses.
        present: which attribute groups a class has at all, bool [K, G].
        proportion: of the attribute groups in all splits but Test-GBL; None: as what Test-GBL leaves.
    """

    names: Sequence[str]
    cells: np.ndarray
    train: np.ndarray
    shared: bool
    present: np.ndarray = field(repr=False)
    proportion: tuple[int, ...] | None = None

    @property
    def smallest(self) -> int:
        """Images of the smallest class."""
        return int(self.cells.sum(1).min())

    @property
    def step(self) -> int:
        """Test-GBL's images of a class are a multiple of this: its attribute groups have equal parts."""
        return math.lcm(*self.present.sum(1).tolist())

    def parts(self, sizes: Sizes) -> dict[str, np.ndarray]:
        """Return split -> images of each class and attribute group, int64 [K, G]."""
        gbl = self.present * (sizes.test_gbl // np.maximum(1, self.present.sum(1, keepdims=True)))
        ratio = self.of_groups(self.cells - gbl)
        each = np.ones(len(self.names), np.int64)
        return {
            "test_gbl": gbl,
            "test_cbl": apportioned(each * sizes.test_cbl, ratio),
            "val": apportioned(each * sizes.val, ratio),
        }

    def of_groups(self, left: np.ndarray) -> np.ndarray:
        """Return the proportion of each class's attribute groups, int64 [K, G], where `left` [K, G] is there."""
        ratio: np.ndarray = np.maximum(left, 0) if self.proportion is None else self.present * np.array(self.proportion)
        return ratio

    def fits(self, sizes: Sizes) -> np.ndarray:
        """Return which classes can give this and one image for training, bool [K]."""
        parts = self.parts(sizes)
        need = parts["test_gbl"] + parts["test_cbl"] + parts["val"]
        given = np.broadcast_to(sizes.val + sizes.test_cbl + sizes.test_gbl, len(need)) == need.sum(1)
        left = self.train - need if self.shared else self.train
        one = apportioned(np.ones(len(need), np.int64), self.of_groups(left))
        fit: np.ndarray = given & (need <= self.cells).all(1) & (one <= left).all(1) & (one.sum(1) == 1)
        return fit


def chosen(room: Room, wishes: dict[str, Wish], listed: bool) -> Sizes:
    """Choose the sizes: what is wished, else the defaults.

    Args:
        room: what is there.
        wishes: split -> its wish, without the splits that are not cut from the room.
        listed: whether the room is a given test list: Test-CBL is by default all that the others leave, as far as its
            classes and attribute groups can be even.

    Raises:
        DataError: a wish is not legal, or a class cannot give it; the sentence has the largest legal numbers.
    """
    found = Sizes(**{name: _size(room, name, wishes[name], listed) if name in wishes else 0 for name in SHARES})
    if listed and "test_cbl" in wishes and wishes["test_cbl"] is None:
        found = replace(found, test_cbl=1)
        found = replace(found, test_cbl=max(1, _most(room, found, "test_cbl", room.smallest)))
    if not room.fits(found).all():
        raise DataError(_refusal(room, found))
    return found


def _size(room: Room, name: str, wish: Wish, listed: bool) -> int:
    step = room.step if name == "test_gbl" else 1
    if wish is None:
        count = _share((LISTED_SHARES if listed else SHARES)[name], room.smallest)
        if name == "test_gbl":  # the smallest attribute group of all keeps most of its images
            count = min(count, step * (int(room.cells[room.present].min()) // (2 if listed else 4)))
    elif isinstance(wish, int) and wish >= 1:
        if wish % step:
            near = " or ".join(str(n) for n in (wish // step * step, (wish // step + 1) * step) if n)
            raise DataError(
                f"{name}={wish}: the attribute groups have equal parts in it, so a multiple of {step} images a class "
                f"would be legal, such as {near}"
            )
        count = wish
    elif isinstance(wish, float) and 0 < wish < 1:
        count = _share(wish, room.smallest)
    else:
        raise DataError(
            f"{name}={wish} is not legal: a number of images a class from 1 on, or a share of the smallest class's "
            "images, above 0 and below 1, would be"
        )
    return max(step, count // step * step)


def _share(share: float, images: int) -> int:
    return int(Decimal(str(share)) * images)


def _most(room: Room, sizes: Sizes, name: str, limit: int) -> int:
    """Return the largest number, at most `limit`, that all classes can give to one split; 0: there is none."""
    step = room.step if name == "test_gbl" else 1
    return step * largest(lambda n: bool(room.fits(replace(sizes, **{name: n * step})).all()), limit // step)


def largest(legal: Callable[[int], bool], limit: int) -> int:
    """Return the largest of 1..limit that is legal, if none below an illegal one is illegal; 0: none is."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if legal(middle) else (low, middle)
    return low


def _refusal(room: Room, sizes: Sizes) -> str:
    """Say which class cannot give what, and what all could."""
    unfit = np.flatnonzero(~room.fits(sizes))
    k = int(unfit[0])
    parts = np.sum(list(room.parts(sizes).values()), axis=0)[k]
    have, where = room.cells[k].tolist(), "" if room.shared else " in the given test list"
    if not sum(have):
        split = " and ".join(name for name, count in vars(sizes).items() if count)
        return (
            f"class {room.names[k]!r} has no image{where}, which {split} are cut from; some of it there, or a source "
            "without this class, would be legal"
        )
    training = ", and training one more" if room.shared else ""
    groups = f", in attribute groups of {have}" if len(have) > 1 else ""
    need = f", in attribute groups {parts.tolist()}" if len(have) > 1 else ""
    others = (
        ("", "", ", and so does 1 other class")[len(unfit)]
        if len(unfit) < 3
        else f", and so do {len(unfit) - 1} other classes"
    )
    wanted = {name: count for name, count in vars(sizes).items() if count}
    legal = {name: _most(room, sizes, name, count) for name, count in wanted.items()}
    sentence = (
        f"class {room.names[k]!r} has {sum(have)} image{'s' * (sum(have) != 1)}{where}{groups}; "
        f"{sizes} need {int(parts.sum())}{need}{training}{others}"
    )
    if any(legal.values()):
        single = [f"{name}={most}" for name, most in legal.items() if most]
        return f"{sentence}; the largest legal, with the others as they are: {' or '.join(single)}"
    least = Sizes(**{name: (room.step if name == "test_gbl" else 1) if name in wanted else 0 for name in vars(sizes)})
    if room.fits(least).all():
        scale = largest(lambda n: bool(room.fits(_scaled(sizes, least, n)).all()), 1000)
        return f"{sentence}; together {_scaled(sizes, least, scale)} would be legal"
    return f"{sentence}; even {least} are too many: a source without this class, or one with more of it, would be legal"


def _scaled(sizes: Sizes, least: Sizes, thousandths: int) -> Sizes:
    """Return sizes so many thousandths as large, in whole steps and at least `least`."""
    return Sizes(
        **{
            name: max(step, count * thousandths // 1000 // step * step) if (step := getattr(least, name)) else 0
            for name, count in vars(sizes).items()
        }
    )
