"""Attribute groups: the kinds of a class's images, ranked by size and put into groups 0 (many), 1, 2 (few).

A kind is a value of a column or a cluster. The paper pairs six clusters: ranks (1,2), (3,4), (5,6). Other numbers of
kinds are parted as evenly, earlier groups taking one more; two kinds are groups 0 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recipes.common.errors import DataError


@dataclass(frozen=True)
class Attributes:
    """The attribute groups of N images.

    Attributes:
        group: int8 [N] of 0, 1, 2, within each image's class.
        kinds: for each class, its kinds by rank, numbers int64 [k].
        sizes: for each class, how many images its kinds have, by rank, int64 [k].
    """

    group: np.ndarray = field(repr=False)
    kinds: list[np.ndarray] = field(repr=False)
    sizes: list[np.ndarray] = field(repr=False)


def group_of_rank(kinds: int) -> np.ndarray:
    """Return the group of each rank, int8 [kinds]; of a single kind it is 0."""
    if kinds == 2:
        return np.array([0, 2], np.int8)
    return (np.arange(kinds) * 3 // kinds).astype(np.int8)


def by_column(values: np.ndarray, label: np.ndarray, classes: Sequence[str], kinds: Sequence[str]) -> Attributes:
    """Group images by the values of a column.

    Args:
        values: number of each image's value in `kinds`, whole numbers [N].
        label: class of each image, whole numbers [N] in 0..K-1.
        classes: the classes' names [K].
        kinds: the values' names, sorted: of two kinds of one size the first is ranked higher.

    Raises:
        DataError: the column has one value, in all or within a class.
    """
    if len(kinds) < 2:
        value = repr(kinds[0]) if len(kinds) else "nothing"
        raise DataError(
            f"the attribute column says {value} of every image; two values or more in each class would be legal, or "
            "attributes=none"
        )
    found = _grouped(values, label, len(classes))
    for number in _of_one_kind(found):
        raise DataError(
            f"class {classes[number]!r} has the attribute {kinds[found.kinds[number][0]]!r} alone; two values or more "
            "in each class would be legal, or attributes=none"
        )
    return found


def by_clusters(cluster: np.ndarray, label: np.ndarray, classes: Sequence[str]) -> Attributes:
    """Group images by the cluster of each within its class; `cluster` and `label`: whole numbers [N].

    Of two clusters of one size the smaller number is ranked higher. `classes`: their names [K].

    Raises:
        DataError: a class has a single cluster.
    """
    found = _grouped(cluster, label, len(classes))
    for number in _of_one_kind(found):
        raise DataError(
            f"class {classes[number]!r} has a single cluster, because its images have the same features; other "
            "features= or attributes=none would be legal"
        )
    return found


def _of_one_kind(found: Attributes) -> list[int]:
    """Return the classes whose images are all of one kind, so that they have no attribute tail."""
    return [number for number, here in enumerate(found.kinds) if len(here) == 1]


def _grouped(kind: np.ndarray, label: np.ndarray, classes: int) -> Attributes:
    order = np.argsort(label, kind="stable")
    ends = np.cumsum(np.bincount(label, minlength=classes))
    group = np.zeros(len(label), np.int8)
    kinds, sizes = [], []
    for rows in np.split(order, ends[:-1]):
        there, kind_of, counts = np.unique(kind[rows], return_inverse=True, return_counts=True)
        falling = np.argsort(-counts, kind="stable")
        groups = np.empty(len(there), np.int8)
        groups[falling] = group_of_rank(len(there))
        group[rows] = groups[kind_of]
        kinds.append(there[falling].astype(np.int64))
        sizes.append(counts[falling].astype(np.int64))
    return Attributes(group, kinds, sizes)
