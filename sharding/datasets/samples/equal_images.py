"""Looks for one image under two labels, by the digests of what was packed: copies that no name or link gives away.

They are counted and not refused: large real sets have some, and which label is right only their owner can say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sharding.building.notices import NAMED, Notices
from sharding.format.index import Index

TWO_LABELS = "images whose bytes are also those of an image with another label"


def doubt_two_labels(indices: Mapping[str, Index], classes: Sequence[str], notices: Notices) -> None:
    """Count images of equal bytes that are in two classes.

    It holds 24 bytes an image. Copies in one class are for sharding.verify, which names those in two splits.

    Args:
        indices: folder of each split -> its index.
        classes: names by class id.
        notices: is told their number, and the names of the first ones.
    """
    splits = list(indices.values())
    first = np.cumsum([0, *map(len, splits)])
    label = np.concatenate([split.label for split in splits]).astype(np.int32)
    digest = np.concatenate([np.ascontiguousarray(split.sha256[:, :8]).view("<u8")[:, 0] for split in splits])
    order = np.lexsort((label, digest))
    differs = (digest[order[1:]] == digest[order[:-1]]) & (label[order[1:]] != label[order[:-1]])
    places = np.sort(order[1:][differs])

    def name(place: int) -> str:
        number = int(np.searchsorted(first, place, side="right")) - 1
        return f"{splits[number].source[place - first[number]]} of class {classes[label[place]]}"

    notices.doubt(TWO_LABELS, *(name(place) if i < NAMED else "" for i, place in enumerate(places.tolist())))
