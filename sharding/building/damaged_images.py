"""Damaged images: a build goes on to the others, so that one start tells of all, and refuses at its end."""

from __future__ import annotations

from collections.abc import Mapping

from recipes.common.errors import DataError
from sharding.building.notices import NAMED
from sharding.progress import ProgressBar

ENOUGH = 1000
"""Damaged images after which no more are looked for: the source is not what it was taken for."""


class Damaged(DataError):
    """Images whose bytes are damaged, or none of a kind that is taken.

    Attributes:
        images: name -> what is wrong, a few words; not empty.
    """

    def __init__(self, images: Mapping[str, str]) -> None:
        super().__init__(images)
        self.images = dict(images)

    def __str__(self) -> str:
        """Return the sentence that names the images, the first of many."""
        names = list(self.images)
        first = self.images[names[0]]
        if len(names) == 1:
            return f"{names[0]}: {first}"
        count = f"{len(names):,}" + (" or more" if len(names) >= ENOUGH else "")
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        return (
            f"{count} images cannot be taken: {', '.join(names[:NAMED])}{more}; of the first: {first}; once all are "
            "replaced or taken out, the same command goes on"
        )


def add_damaged(found: dict[str, str], more: Mapping[str, str]) -> None:
    """Add damaged images, name -> what is wrong, to those found before; the first is told at once."""
    if more and not found:
        first = Damaged(dict([*more.items()][:1]))
        ProgressBar.write(f"{first} (the build goes on to the other images, and refuses at its end)")
    found |= more
