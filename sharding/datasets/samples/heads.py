"""Which classes are the head of the long tail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recipes.common.errors import DataError
from sharding.building.dice import Dice
from sharding.datasets.samples.class_lists import names_in

_STREAM = int.from_bytes(b"heads", "big")


def order(counts: np.ndarray, how: str, seed: int, names: Sequence[str]) -> np.ndarray:
    """Order the classes from head to tail: their numbers, int64 [K].

    Args:
        counts: images of each class, int64 [K]: those that are not in a given val or test list, or what a file of
            `long_tail=` gives.
        how: `frequency`, the largest class first, classes of one size in the order of the seed; `seed`, an order of
            the seed alone; else a file of all class names.
        seed: the build's seed.
        names: the classes' names.

    Raises:
        DataError: the file does not exist or does not name each class once.
    """
    shuffled = Dice(seed, _STREAM).permutation(len(names))
    if how == "seed":
        return shuffled
    if how == "frequency":
        falling: np.ndarray = shuffled[np.argsort(-np.asarray(counts)[shuffled], kind="stable")]
        return falling
    if not Path(how).is_file():
        raise DataError(f"head={how} is no file; frequency, seed or a file of the classes' names would be legal")
    return np.array(names_in(Path(how), names, "head"), np.int64)
