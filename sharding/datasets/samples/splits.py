"""Cuts a pool of labelled images into editions and splits: a pure function of the pool, the wishes and a seed.

"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sharding.datasets.samples.long_tail import LongTail

NONE, TRAIN, VAL, TEST = range(4)
"""Numbers of the splits that a source gives; NONE: the cut decides."""


@dataclass(frozen=True)
class Pool:
    """The N images of a source.

    Attributes:
        names: the K classes' names from head to tail: class 0 is the most frequent one of the long tail.
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
    val: float | int | None = None
    test_cbl: float | int | None = None
    test_gbl: float | int | None = None


@dataclass(frozen=True)
class Report:
    """What a cut came to, for printing and for dataset.json.

    Attributes:
        counts: folder -> images of each class and attribute group, int64 [K, 3]; [K, 1] without attributes.
        thirds: each class's group by its place in the order, int64 [K] of 0, 1, 2.
        shots: each class's group by its images in Train-GLT, int64 [K] of 0, 1, 2.
        largest: images of the largest class in Train-GLT.
        notes: sentences: what limits the long tail, what a given split is kept as, what is left out.
    """

    counts: dict[str, np.ndarray]
    thirds: np.ndarray
    shots: np.ndarray
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
