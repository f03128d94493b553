"""The images of a source as arrays: 38 bytes an image besides its name (54 in a zip)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sharding.building.notices import Notices
from sharding.building.raw_files import Pixels, Place, Zipped
from sharding.datasets.samples.listed.texts import Texts

PLAIN, DEFLATED, PIXELS = 0, 1, 2
"""Kinds of places: a file's bytes, deflated ones, and from PIXELS on bare pixels of a shape."""
TEXTS = ("names", "source", "files")
PER_IMAGE = ("label", "attribute", "split", "file", "offset", "size", "kind")


@dataclass(frozen=True, eq=False)
class Listed:
    """The N images of a source in their order.

    Attributes:
        names: [N], unique.
        source: what each was made from, empty for the image itself; [N], or of no length where it is so for all.
        files: the files that hold several images or lie elsewhere than their names say [F].
        label: int32 [N], class of each in `classes`.
        attribute: int32 [N], its value in `kinds`; -1 for none.
        split: int8 [N], 0 none, 1 train, 2 val, 3 test.
        file: int32 [N], the file in `files` that holds it; -1: its name below `base`.
        offset: int64 [N], where its bytes begin there.
        size: int64 [N], how many they are; -1: the whole file.
        kind: int8 [N]: 0 a file's bytes, 1 deflated, from 2 on bare pixels of the shape `kind - 2`.
        whole: bytes and checksum of images in a zip, int64 [N, 2], or of no length where there are none.
        said: class names, kinds, base, shapes, digest, sizes, notices, and what the listing was made from.
    """

    names: Texts
    source: Texts
    files: Texts
    label: np.ndarray
    attribute: np.ndarray
    split: np.ndarray
    file: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    kind: np.ndarray
    whole: np.ndarray
    said: Mapping[str, Any] = field(repr=False)

    def __len__(self) -> int:
        """Return N."""
        return len(self.names)

    @property
    def classes(self) -> list[str]:
        """The classes' names [K], in the order of numbers where all are numbers, else of texts."""
        return list(self.said["classes"])

    @property
    def kinds(self) -> list[str]:
        """The values of the attribute, sorted."""
        return list(self.said["kinds"])

    @property
    def base(self) -> str:
        """The folder that the images lie in by their names; empty for none."""
        return str(self.said["base"])

    @property
    def digest(self) -> str:
        """Hex sha256 of names, classes, attributes, splits and sources: what there is, not where it lies."""
        return str(self.said["digest"])

    def notices(self) -> Notices:
        """Return what was left out of the source and what is doubtful, for adding to."""
        return Notices.of(self.said["notices"])

    def source_of(self, i: int) -> str:
        """Return what image `i` was made from."""
        return (self.source[i] if len(self.source) else "") or str(self.names[i])

    def place(self, i: int) -> Place:
        """Return where the bytes of image `i` are."""
        name, size, kind = str(self.names[i]), int(self.size[i]), int(self.kind[i])
        if self.file[i] < 0:
            return Place(os.path.join(self.base, name), root=self.base)
        path = str(self.files[int(self.file[i])])
        root = self.base if self.base and path.startswith(self.base + os.sep) else ""
        where = (path, int(self.offset[i]), size, name if size >= 0 else "", root)
        if kind >= PIXELS:
            return Pixels(*where, shape=tuple(self.said["shapes"][kind - PIXELS]))
        whole, crc32 = self.whole[i].tolist() if len(self.whole) else (0, 0)
        if whole:
            return Zipped(*where, whole_size=whole, crc32=crc32, deflated=kind == DEFLATED)
        return Place(*where)

    def taken(self, rows: np.ndarray) -> Listed:
        """Return the images of some rows, int64 [n], in that order."""
        return replace(
            self,
            names=self.names.taken(rows),
            source=self.source.taken(rows) if len(self.source) else self.source,
            whole=self.whole[rows] if len(self.whole) else self.whole,
            **{name: getattr(self, name)[rows] for name in PER_IMAGE},
        )
