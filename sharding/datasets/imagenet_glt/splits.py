"""Splits clustered classes into ImageNet-GLT: first the tests, then the long tail. Needs only numpy.

Each class and attribute group is shuffled by the seed (the paper follows the order of folders). Test-GBL comes first,
then Test-CBL. The rest is used twice, for the long-tailed Train-GLT and the balanced Train-CBL: the two editions share
images and are never mixed. Test-GLT and val are drawn at random from the long tail's pool.

The long tail. The paper's targets n(c) are known at classes 0 to 4 (1500), 399 (181), 849 (46), 999 (18) and in sum
(214,005; 203,460 once each attribute group gives no more than it has). Ours is the curve through these points: it is
1500 up to class 4, then 1500 (181 / 1500)^(t^p) with t = (c - a) / (399 - a), 0 at least, then log-linear between 399,
849 and 999. p is chosen so that the sum is the published one. a is chosen so that, with the given clusters, the sum
after the cap is the published one. If a is above 4, the flat beginning is longer; if it is below 4, a step follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.common.errors import DataError
from sharding.building.dice import Dice

CLASSES = 1000
GROUPS_END = (400, 850)
"""The first classes are Many; classes from 400 on are Medium, from 850 on Few."""
ANCHORS = ((4, 1500), (399, 181), (849, 46), (999, 18))
TARGETS, POOL = 214_005, 203_460
SHARES = (7, 2, 1)
BEGIN = (-400, 150)
"""The smallest and the largest `a` that are tried."""


@dataclass(frozen=True)
class Counts:
    """How many images of a class each split gets; three numbers are by attribute group."""

    test_gbl: int = 20  # of each attribute group
    test_cbl: tuple[int, int, int] = (42, 12, 6)
    test_glt: int = 60  # of each class on average: drawn at random
    val: int = 30
    cbl: tuple[int, int, int] = (101, 29, 14)  # Train-CBL with its val
    cbl_val: tuple[int, int, int] = (21, 6, 3)
    least: int = 18  # of a class in the long tail

    def times(self, scale: float) -> Counts:
        """Return the counts of a smaller data set by the same rules; a count above 0 stays at least 1."""
        if scale == 1:
            return self

        def few(count: int) -> int:
            return max(1, round(count * scale))

        def each(counts: tuple[int, int, int]) -> tuple[int, int, int]:
            many, medium, rare = counts
            return few(many), few(medium), few(rare)

        val, cbl = each(self.cbl_val), each(self.cbl)
        return Counts(
            test_gbl=few(self.test_gbl),
            test_cbl=each(self.test_cbl),
            test_glt=few(self.test_glt),
            val=few(self.val),
            cbl=(max(val[0] + 1, cbl[0]), max(val[1] + 1, cbl[1]), max(val[2] + 1, cbl[2])),
            cbl_val=val,
            least=min(self.least, 9),
        )


@dataclass(frozen=True)
class Part:
    """The images of one class in one split.

    Attributes:
        rows: int64 [n], numbers of the class's images.
        attribute: int64 [n], their attribute groups.
    """

    rows: np.ndarray
    attribute: np.ndarray


Splits = dict[str, dict[str, list[Part]]]
"""edition -> split -> for each class id its part."""


def class_group(label: int, classes: int = CLASSES) -> int:
    """Return a class's frequency group by its id alone, as in the paper: 400, 450 and 150 of 1,000 classes."""
    return sum(label * CLASSES >= end * classes for end in GROUPS_END)


def class_order(sizes: Sequence[int], seed: int) -> np.ndarray:
    """Order the classes by number of images, descending: int64 [K].

    Classes of equal size (895 of ILSVRC's have 1,300 images) come in a random order.
    """
    shuffled = Dice(seed, 1).permutation(len(sizes))
    order: np.ndarray = shuffled[np.argsort(-np.asarray(sizes)[shuffled], kind="stable")]
    return order


def curve(power: float, begin: float, classes: int = CLASSES) -> np.ndarray:
    """Return the long tail's targets with these p and a (see above), not rounded: float64 [K].

    For another number of classes the curve is stretched.
    """
    at = np.arange(classes) * ((CLASSES - 1) / max(1, classes - 1))
    (plateau, top), (knee, knee_count), *rest = ANCHORS
    t = np.clip((at - begin) / (knee - begin), 0, 1)
    head = math.log(top) + math.log(knee_count / top) * np.where(at <= plateau, 0, t**power)
    tail = np.interp(at, [knee, *(c for c, _ in rest)], np.log([knee_count, *(n for _, n in rest)]))
    return np.exp(np.where(at <= knee, head, tail))


def long_tail(room: np.ndarray, scale: float = 1.0, least: int = 18) -> tuple[np.ndarray, np.ndarray]:
    """Fit the long tail to the paper's sums, for this number of classes.

    Args:
        room: int64 [K, 3], how many images each class and attribute group can give.
        scale: size of the data set, 1 for the paper's.
        least: smallest target of a class.

    Returns:
        The classes' targets, int64 [K], and what the attribute groups give, int64 [K, 3].
    """
    classes = len(room)
    wanted_sum, wanted_pool = (total * scale * classes / CLASSES for total in (TARGETS, POOL))

    def targets(begin: float) -> np.ndarray:
        def rounded(power: float) -> np.ndarray:
            return np.maximum(np.rint(curve(power, begin, classes) * scale).astype(np.int64), least)

        return rounded(-_bisect(lambda minus: float(rounded(-minus).sum()), wanted_sum, -3.0, -0.05))

    def given(target: np.ndarray) -> np.ndarray:
        images: np.ndarray = np.minimum(target[:, None] * np.array(SHARES) // sum(SHARES), room)
        return images

    begin = _bisect(lambda a: float(given(targets(a)).sum()), wanted_pool, *BEGIN)
    target = targets(begin)
    return target, given(target)


def _bisect(falling: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Find the first point in low..high at which the falling function is at most `wanted`, else `high`."""
    if falling(low) <= wanted:
        return low
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > wanted else (low, middle)
    return high


def split(
    ranks: Sequence[np.ndarray], seed: int, scale: float = 1.0, names: Sequence[str] | None = None
) -> tuple[Splits, list[str]]:
    """Divide the classes' images among the splits of both editions.

    Args:
        ranks: for each class, in the order of ids, the cluster ranks (0..5) of its images, int64 [n].
        seed: the build's seed.
        scale: size of the data set, 1 for the paper's.
        names: the classes' names, for messages.

    Returns:
        The splits, and a sentence for each class and attribute group that has fewer images than the paper's counts
        need; it then gives all it has, as in the paper.

    Raises:
        DataError: an attribute group of a class has no images left for a test, or the long tail is too small.
    """
    counts, short = Counts().times(scale), []
    names = names or [str(k) for k in range(len(ranks))]
    tests: dict[str, list[Part]] = {"test_gbl": [], "test_cbl": []}
    left: list[list[np.ndarray]] = []
    for label, rank in enumerate(ranks):
        shuffled = Dice(seed, 1000 + label).permutation(len(rank))
        groups = [shuffled[rank[shuffled] // 2 == group] for group in range(3)]
        least = min(map(len, groups))
        gbl = min(counts.test_gbl, least // 4)
        if gbl < 1:
            raise DataError(
                f"class {names[label]} has {len(rank)} images, in attribute groups of {[len(g) for g in groups]}; at "
                "least 4 in each are needed"
            )
        tests["test_gbl"].append(_part([group[:gbl] for group in groups]))
        tests["test_cbl"].append(
            _part([group[gbl : gbl + n] for group, n in zip(groups, counts.test_cbl, strict=True)])
        )
        left.append([group[gbl + n :] for group, n in zip(groups, counts.test_cbl, strict=True)])
        for group, (have, test, train) in enumerate(zip(map(len, groups), counts.test_cbl, counts.cbl, strict=True)):
            need = max(counts.test_gbl + test + train, 4 * counts.test_gbl)
            if have < need:
                short.append(f"class {names[label]}, attribute group {group}: {have} images, {need} are needed")
    pool = [
        _part([group[:n] for group, n in zip(groups, given, strict=True)])
        for groups, given in zip(
            left,
            long_tail(np.array([[len(g) for g in groups] for groups in left]), scale, counts.least)[1],
            strict=True,
        )
    ]
    glt = _drawn(pool, {"test_glt": counts.test_glt * len(ranks), "val": counts.val * len(ranks)}, seed)
    cbl = {
        "train": [
            _part([group[v:n] for group, v, n in zip(groups, counts.cbl_val, counts.cbl, strict=True)])
            for groups in left
        ],
        "val": [_part([group[:v] for group, v in zip(groups, counts.cbl_val, strict=True)]) for groups in left],
    }
    return {"glt": {**glt, **tests}, "cbl": {**cbl, **tests}}, short


def _part(groups: Sequence[np.ndarray]) -> Part:
    return Part(np.concatenate(groups), np.repeat(np.arange(3), [len(group) for group in groups]))


def _drawn(pool: Sequence[Part], wanted: dict[str, int], seed: int) -> dict[str, list[Part]]:
    """Draw `wanted` images from all classes together, without replacement; the rest is train."""
    labels = np.repeat(np.arange(len(pool)), [len(part.rows) for part in pool])
    rows, attributes = np.concatenate([part.rows for part in pool]), np.concatenate([part.attribute for part in pool])
    if sum(wanted.values()) >= len(rows):
        raise DataError(
            f"the long tail has {len(rows)} images, too few for {wanted}: the source is too small, a smaller scale= "
            "would be legal"
        )
    order, start = Dice(seed, 2).permutation(len(rows)), 0
    splits: dict[str, list[Part]] = {}
    for name, count in {**wanted, "train": len(rows) - sum(wanted.values())}.items():
        chosen = np.sort(order[start : start + count])
        splits[name] = [
            Part(rows[mine], attributes[mine])
            for mine in np.split(chosen, np.searchsorted(labels[chosen], np.arange(1, len(pool))))
        ]
        start += count
    return splits
