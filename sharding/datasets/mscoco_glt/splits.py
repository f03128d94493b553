"""MSCOCO-GLT's splits as a pure function of classes, attributes and a seed. Needs only numpy.

In each class Test-GBL comes first: a greedy pick of N objects whose attributes together are as even as possible. Then
comes Test-CBL, N random objects of the rest, then the pool for training, from which Test-GLT and val are drawn at
random. Both editions start from all objects, so an object in a test split of one may be in the training split of the
other: evaluate a model only on its own edition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from recipes.common.errors import DataError
from sharding.building.dice import Dice

MANY, MEDIUM = 11, 12
"""Class ids 0-10 are group 0 (many), 11-22 group 1 (medium), all others group 2 (few)."""

EPSILON = Fraction(1, 10**9)
"""Added to the sum that the greedy pick divides by; part of the definition."""


@dataclass(frozen=True)
class Sizes:
    """How many objects an edition takes.

    Attributes:
        test: objects of each class for Test-GBL, and as many for Test-CBL.
        pool: objects of class 0 for everything else.
        tail: the last class's share of `pool` (1: balanced).
        val: drawn from the pool at random, times the number of classes.
        test_glt: likewise.
    """

    test: int
    pool: int
    tail: float
    val: int
    test_glt: int

    def times(self, scale: float) -> Sizes:
        """Return the same edition `scale` times as large, 0 < scale <= 1; a count above 0 stays at least 1."""

        def few(count: int) -> int:
            return min(count, max(1, int(count * scale + 1e-9)))

        return Sizes(few(self.test), few(self.pool), self.tail, few(self.val), few(self.test_glt))


PAPER: Mapping[str, Sizes] = {
    "glt": Sizes(test=200, pool=64600, tail=0.005, val=100, test_glt=200),
    "cbl": Sizes(test=100, pool=1158, tail=1.0, val=50, test_glt=0),
}
"""The paper's editions: 188,426 objects give 144,573 and 32,132 for training."""


@dataclass(frozen=True)
class Part:
    """One split of an edition.

    Attributes:
        rows: objects in the order of writing, int64 [n].
        score: attribute_score of each, float64 [n].
        attribute: attribute group (0-2) of each, int64 [n].
    """

    rows: np.ndarray
    score: np.ndarray = field(repr=False)
    attribute: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)


def class_group(label: int) -> int:
    """Return the frequency group of a class id: by its index, as in the paper."""
    return 0 if label < MANY else 1 if label < MANY + MEDIUM else 2


def greedy_pick(present: np.ndarray, count: int) -> np.ndarray:
    """Pick `count` objects whose attributes together are even.

    By definition: with d the attributes' counts so far, each pick takes the object v, not yet taken and with at least
    one attribute, for which the standard deviation over the attributes of (d + v) / (sum(d + v) + 1e-9) is smallest,
    the first in order on a tie.

    With w = d + v, S = sum(w) and the A values' mean S / (S + e) / A, the variance is (A |w|^2 - S^2) / (A (S + e))^2;
    and since v is of 0 and 1, |w|^2 = |d|^2 + 2 d.v + |v| and S = |d|_1 + |v|. So one matrix-vector product a pick,
    with the object picked last, is enough for all objects, and it reads only that object's few attributes. Numerator
    and S are whole numbers; objects closer than the division's rounding are compared as fractions, so that ties are
    true ones (in floats, which of several equal objects is taken depends on rounding).

    Args:
        present: which attributes the objects have, bool [N, A].
        count: how many to pick.

    Returns:
        Rows of the picked objects, int64 [count], in the order of picking.

    Raises:
        DataError: fewer than `count` objects have an attribute.
    """
    ones = present.sum(1, dtype=np.int64)
    free = ones > 0
    if free.sum() < count:
        raise DataError(f"{free.sum()} objects have an attribute, {count} are needed")
    has = np.ascontiguousarray(present.T)
    counts, dots = np.zeros(len(has), np.int64), np.zeros(len(present), np.int64)  # d, and d.v of every object
    picks = np.empty(count, np.int64)
    for i in range(count):
        sums = int(counts.sum()) + ones
        spread = len(has) * (int(counts @ counts) + 2 * dots + ones) - sums * sums
        ratio = np.where(free, spread / (sums + float(EPSILON)) ** 2, np.inf)
        picks[i] = pick = _first_least(ratio, spread, sums)
        free[pick] = False
        counts += present[pick]
        dots += has[present[pick]].sum(0, dtype=np.int64)
    return picks


def _first_least(ratio: np.ndarray, spread: np.ndarray, sums: np.ndarray) -> int:
    """Find the first row of the smallest spread / (sums + EPSILON)^2, exactly.

    `ratio` is the same up to float64's rounding; inf excludes a row.
    """
    near = np.flatnonzero(ratio <= ratio.min() * (1 + 1e-12))
    pairs, first = np.unique(np.stack([spread[near], sums[near]], 1), axis=0, return_index=True)
    least = min(
        range(len(pairs)), key=lambda j: (Fraction(int(pairs[j, 0])) / (int(pairs[j, 1]) + EPSILON) ** 2, first[j])
    )
    return int(near[first[least]])


def pool_sizes(sizes: Sizes, there: Sequence[int]) -> list[int]:
    """Return how many objects of each class an edition's pool takes [K]: pool * tail^(c / (K - 1)), rounded down.

    A long-tailed edition takes at most the available `there` [K].
    """
    wanted = [int(sizes.pool * sizes.tail ** (c / max(1, len(there) - 1))) for c in range(len(there))]
    return wanted if sizes.tail == 1 else [min(n, most) for n, most in zip(wanted, there, strict=True)]


def split(
    labels: np.ndarray, present: np.ndarray, names: Sequence[str], seed: int, editions: Mapping[str, Sizes] = PAPER
) -> dict[str, dict[str, Part]]:
    """Split the objects.

    Test-GBL depends only on the objects' order, everything else on `seed`, too. The order inside a part is random, so
    that a few shards contain all classes.

    Args:
        labels: class ids of the objects, int64 [N].
        present: which attributes they have, bool [N, A].
        names: the classes' names [K].
        seed: the build's seed.
        editions: edition -> its sizes.

    Returns:
        edition -> split -> part.

    Raises:
        DataError: a class, which the sentence names, has too few objects.
    """
    members = [np.flatnonzero(labels == k) for k in range(len(names))]
    most = max(sizes.test for sizes in editions.values())
    picks = []
    for k, rows in enumerate(members):
        try:
            picks.append(rows[greedy_pick(present[rows], most)])
        except DataError as error:
            raise DataError(f"class {names[k]!r} is too small for Test-GBL: {error}") from None
    found = {}
    for number, (edition, sizes) in enumerate(editions.items()):
        rows_of = _rows(members, [pick[: sizes.test] for pick in picks], names, sizes, edition, Dice(seed, number))
        score_of = _scores(labels, present, rows_of["train"], len(names))
        found[edition] = {name: Part(rows, score_of[rows], thirds(score_of[rows])) for name, rows in rows_of.items()}
    return found


def _rows(
    members: Sequence[np.ndarray],
    balanced: Sequence[np.ndarray],
    names: Sequence[str],
    sizes: Sizes,
    edition: str,
    dice: Dice,
) -> dict[str, np.ndarray]:
    """Choose the rows of each split of one edition; `balanced` [K] are the classes' picks for Test-GBL."""

    def shuffled(some: np.ndarray) -> np.ndarray:
        mixed: np.ndarray = some[dice.permutation(len(some))]
        return mixed

    test, rest = [], []
    for rows, picked in zip(members, balanced, strict=True):
        free = shuffled(np.setdiff1d(rows, picked, assume_unique=True))
        test.append(free[: sizes.test])
        rest.append(free[sizes.test :])
    wanted = pool_sizes(sizes, [len(rows) for rows in rest])
    for name, rows, picked, free, count in zip(names, members, test, rest, wanted, strict=True):
        if len(picked) < sizes.test or len(free) < count or count < 1:
            raise DataError(
                f"class {name!r} has {len(rows)} objects, too few for edition {edition}: "
                f"{2 * sizes.test} for its two balanced tests and {max(1, count)} for training are needed"
            )
    pool = shuffled(np.concatenate([rows[:count] for rows, count in zip(rest, wanted, strict=True)]))
    test_glt, val = sizes.test_glt * len(members), sizes.val * len(members)
    if len(pool) <= test_glt + val:
        raise DataError(
            f"edition {edition} has {len(pool)} objects for training, Test-GLT and val; more than {test_glt + val} "
            "are needed"
        )
    found = {"train": pool[test_glt + val :], "val": pool[test_glt : test_glt + val]}
    if test_glt:
        found["test_glt"] = pool[:test_glt]
    return {**found, "test_cbl": shuffled(np.concatenate(test)), "test_gbl": shuffled(np.concatenate(balanced))}


def _scores(labels: np.ndarray, present: np.ndarray, train: np.ndarray, classes: int) -> np.ndarray:
    """Compute attribute_score of every object, float64 [N]; 0 without attributes.

    It is the mean, over the object's attributes, of p(a | its class): attribute a's count in the class's training
    objects, divided by the count of all attributes there. Each score is a single division of whole numbers, so it is
    the same on any machine.
    """
    counts = attribute_counts(labels[train], present[train], classes)
    ones, total = present.sum(1, dtype=np.int64), counts.sum(1)
    score = np.zeros(len(labels))
    for k in range(classes):
        rows = np.flatnonzero((labels == k) & (ones > 0))
        score[rows] = (present[rows].astype(np.float64) @ counts[k].astype(np.float64)) / (
            max(1, total[k]) * ones[rows]
        )
    return score


def attribute_counts(labels: np.ndarray, present: np.ndarray, classes: int) -> np.ndarray:
    """Count how often each attribute occurs in each class: int64 [K, A]."""
    return np.stack([present[labels == k].sum(0, dtype=np.int64) for k in range(classes)])


def thirds(score: np.ndarray) -> np.ndarray:
    """Group a split's objects by score, int64 [N].

    Group 0 is above the score at a third of the descending list, group 1 above the one at two thirds, group 2 the rest.
    """
    falling, third = np.sort(score)[::-1], len(score) // 3
    return np.where(score > falling[third], 0, np.where(score > falling[2 * third], 1, 2)).astype(np.int64)


def unevenness(present: np.ndarray) -> float:
    """Return the standard deviation, over the attributes, of each one's share of all attributes of a split.

    `present`: bool [N, A].
    """
    counts = present.sum(0, dtype=np.int64)
    return float((counts / max(1, counts.sum())).std())
