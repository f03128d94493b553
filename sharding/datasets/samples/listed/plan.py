"""A split's images for packing, made from arrays when a shard is reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from sharding.building.keys import not_alone, plain_key, told_apart
from sharding.building.packing import Images, Planned
from sharding.datasets.samples.listed.arrays import Listed
from sharding.format.index import by_class_and_group


@dataclass(frozen=True, eq=False)
class Labelled:
    """The images of a source with what the build decided about them.

    Attributes:
        listed: the N images.
        label: class id of each in the data set, int32 [N].
        groups: frequency group of each class [K].
        attribute: attribute group of each within its class, int8 [N]; None where there are none.
        kind: its cluster or its value of the attribute column, int32 [N]; None where there are none.
        kinds: names of the values; None for clusters, which have numbers.
    """

    listed: Listed
    label: np.ndarray
    groups: Sequence[int]
    attribute: np.ndarray | None = None
    kind: np.ndarray | None = None
    kinds: Sequence[str] | None = None

    def extra(self, row: int) -> dict[str, Any]:
        """Return the entries for an image's KEY.json."""
        if self.kind is None:
            return {}
        number = int(self.kind[row])
        return {"cluster": number} if self.kinds is None else {"attribute_value": self.kinds[number]}


@dataclass(frozen=True, eq=False)
class SplitImages(Images):
    """The images of one split.

    Attributes:
        of: all images.
        rows: those of the split in the order of packing, int64 [n].
        marked: which images' keys have a digest, bool [N].
    """

    of: Labelled
    rows: np.ndarray
    marked: np.ndarray

    def __len__(self) -> int:
        """Return n."""
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> Planned: ...
    @overload
    def __getitem__(self, i: slice) -> list[Planned]: ...
    def __getitem__(self, i: int | slice) -> Planned | list[Planned]:
        """Make an image, or some of them."""
        return (
            self._planned(int(self.rows[i])) if isinstance(i, int) else list(map(self._planned, self.rows[i].tolist()))
        )

    def keys(self) -> Iterator[str]:
        """Yield the keys in the order of packing."""
        return map(self._key, self.rows.tolist())

    def counts(self) -> np.ndarray:
        """Count the images by class and attribute group, int64 [K, 3], or by class alone, [K], where there are none."""
        classes, label = len(self.of.groups), self.of.label[self.rows]
        if self.of.attribute is None:
            return np.bincount(label, minlength=classes)
        return by_class_and_group(label, self.of.attribute[self.rows], classes)[:, :3]

    def _planned(self, row: int) -> Planned:
        of = self.of
        label = int(of.label[row])
        group = -1 if of.attribute is None else int(of.attribute[row])
        return Planned(
            self._key(row),
            of.listed.source_of(row),
            of.listed.place(row),
            label,
            of.groups[label],
            group,
            of.extra(row),
        )

    def _key(self, row: int) -> str:
        name = str(self.of.listed.names[row])
        return told_apart(name) if self.marked[row] else plain_key(name)


def plan_of(
    of: Labelled, editions: Mapping[str, Mapping[str, str]], rows: Mapping[str, np.ndarray]
) -> dict[str, SplitImages]:
    """Plan the packing of the splits.

    Args:
        of: all images.
        editions: edition -> split -> folder.
        rows: folder -> its images in the order of packing, int64 [n].
    """
    of_editions = [[rows[folder] for folder in splits.values()] for splits in editions.values()]
    marked = not_alone(of.listed.names, len(of.listed), of_editions)
    return {folder: SplitImages(of, some, marked) for folder, some in rows.items()}
