"""What a source says of each image, and what is asked of a format: the contract of the files in this folder.

A format is a file `sharding/sources/NAME.py` with these names:

    SAYS = "a folder of class folders"                  what it reads, for help and messages
    TAKES = ("classes",)                                which of `WORDS` it reads; may be left out where it reads none
    def recognises(path: Path) -> bool                  whether source= looks like it; looks at names and first bytes
    def rows(asked: Asked) -> Iterator[Row]             reads it in one pass, in an order that is always the same

`format=NAME` chooses it; without the word the one format that recognises the source is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from recipes.common.cli import nearest
from recipes.common.errors import DataError
from sharding.building.listing import shown
from sharding.building.notices import Notices
from sharding.building.raw_files import Place

SPLITS = ("train", "val", "test")
"""Splits that a source may give; an image without one is in the pool that the build cuts."""
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What sources call the splits, in any case."""

WORDS = ("columns", "images", "classes")
"""Fields of `Asked` that only some formats read; the others refuse them."""


class Row(NamedTuple):
    """One image of a source.

    Attributes:
        name: its path in the source with `/` between folders, unique in the source; what the sample's key is made from.
        where: where its bytes lie. `str(where)` names it in messages.
        label: its class, as the source says it.
        attribute: its attribute, as the source says it; empty where it says nothing.
        split: one of `SPLITS`, or empty.
        source: what the image was made from; images of one such source go into one split. Empty: the image itself.
        line: the line of the list that names it, counted from 1; 0 where there is no list.
        listed_in: that list, for messages.
    """

    name: str
    where: Place
    label: str
    attribute: str = ""
    split: str = ""
    source: str = ""
    line: int = 0
    listed_in: str = ""


@dataclass(frozen=True)
class Asked:
    """What a format is to read.

    Attributes:
        paths: the files or the folder that `source=` names, each with the split that goes with it ("" for none).
        images: the folder that the paths of a list start from; None: the list's own folder.
        columns: field of `Row` (path, label, attribute, split, source) -> name of the list's column.
        classes: which folder on an image's path is its class, where folders are classes: the topmost or the last one.
        work: the build's own folder, where what must be unpacked to be read by position may be kept.
        notices: counts what is left out, by reason and name.
    """

    paths: tuple[tuple[Path, str], ...]
    work: Path
    images: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    classes: Literal["top", "leaf"] = "top"
    notices: Notices = field(default_factory=Notices)


def split_of(asked: str, said: str, where: object) -> str:
    """Return an image's split, one of `SPLITS` or empty, where the command, the source or both may say it.

    Args:
        asked: what goes with its path in `source=`; empty where nothing does.
        said: what the source says of it, one of `SPLIT_WORDS` in any case; empty where it says nothing.
        where: names the image, for the beginning of a sentence.

    Raises:
        DataError: the source says another split than the command, or none that there is.
    """
    if said and (split := SPLIT_WORDS.get(said.lower())) != asked:
        if split is None:
            raise DataError(f"{where}: split {shown(said)} is none; {nearest(said, SPLIT_WORDS)}, or nothing")
        if asked:
            raise DataError(
                f"{where}: the source says split {shown(said)}, and source={asked}:... says {asked}; one of the two, "
                "or both the same, would be legal"
            )
        return split
    return asked
