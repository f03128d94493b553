"""The images of a pool by class and attribute group, from which splits take theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipes.common.errors import DataError
from sharding.building.dice import Dice

FREE = 0
"""Owner of a source that no split has."""


class Table:
    """Images in the order in which splits take them: by cell, that is by class and attribute group, by chance within.

    Attributes:
        cell: of each image, class x G + attribute group, int32 [N].
        shape: K classes, G attribute groups.
        source: of each image, whole numbers [N] in 0..S-1; None: each is its own.
        order: the images in the order of taking, int64 [N]. Those of one source follow each other in a cell.
        owner: of each source, the number of the split that has it, uint8 [S].
    """

    def __init__(self, cell: np.ndarray, names: Sequence[str], width: int, source: np.ndarray | None, dice: Dice):
        self.cell, self.names, self.source = cell, names, source
        self.shape = (len(names), width)
        sources = len(cell) if source is None else int(source.max(initial=-1)) + 1
        by_chance = dice.permutation(sources)
        if source is not None:
            place = np.empty(sources, np.int64)
            place[by_chance] = np.arange(sources)
            by_chance = np.argsort(place[source], kind="stable")
        self.order = by_chance[np.argsort(cell[by_chance], kind="stable")]
        self.owner = np.zeros(sources, np.uint8)

    def sources(self, rows: np.ndarray) -> np.ndarray:
        """Return the sources of some rows."""
        found: np.ndarray = rows if self.source is None else self.source[rows]
        return found

    def owners(self) -> np.ndarray:
        """Return who has each image's source, uint8 [N]."""
        return self.owner if self.source is None else self.owner[self.source]

    def deck(self, mask: np.ndarray) -> np.ndarray:
        """Return the images of a mask, bool [N], in the order of taking: int64 [n]."""
        found: np.ndarray = self.order[mask[self.order]]
        return found

    def count(self, rows: np.ndarray) -> np.ndarray:
        """Count some images by cell, int64 [K, G]."""
        return np.bincount(self.cell[rows], minlength=self.shape[0] * self.shape[1]).reshape(self.shape)

    def first(self, deck: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the first `counts` [K, G] images of each cell of a deck, which has as many."""
        there, wanted = self.count(deck).reshape(-1), counts.reshape(-1)
        starts = np.cumsum(there) - there
        found: np.ndarray = deck[np.repeat(starts - (np.cumsum(wanted) - wanted), wanted) + np.arange(wanted.sum())]
        return found

    def take(self, deck: np.ndarray, counts: np.ndarray, split: str, number: int) -> np.ndarray:
        """Take `counts` [K, G] of a deck's images, whose sources then belong to the split of this number: int64 [n].

        Images of sources that the split has already come first, so that few sources are used up.

        Raises:
            DataError: the sources that are left do not hold as many.
        """
        if self.source is None:
            taken = self.first(deck[self.owner[deck] == FREE], counts)
            self.owner[taken] = number
            return taken
        ends = np.cumsum(self.count(deck))
        parts = [np.zeros(0, np.int64)]
        for cell in np.flatnonzero(counts):
            rows = deck[ends[cell - 1] if cell else 0 : ends[cell]]
            owners = self.owner[self.source[rows]]
            usable = np.concatenate([rows[owners == number], rows[owners == FREE]])
            wanted = int(counts.flat[cell])
            if len(usable) < wanted:
                raise DataError(self._used_up(int(cell), len(rows), len(usable), split, wanted))
            self.owner[self.source[usable[:wanted]]] = number
            parts.append(usable[:wanted])
        return np.concatenate(parts)

    def _used_up(self, cell: int, there: int, usable: int, split: str, wanted: int) -> str:
        k, group = divmod(cell, self.shape[1])
        inside = f" in attribute group {group}" if self.shape[1] > 1 else ""
        return (
            f"class {self.names[k]!r} has {there} images{inside}, of which {usable} are of a source that no other "
            f"split has, and {split} needs {wanted}: images of one source go into one split, so smaller numbers of "
            "val=, test_cbl= or test_gbl= would be legal"
        )
