"""What folders of images mean: which is a class, which a split, and which files are images. For folders and archives.

- Folders on top that are all named as splits are (train, validation ...) are these; classes are below them. A folder
  beside them is refused where one of them holds class folders: in silence, all would become classes.
- A single folder on top that holds other folders is the data set's own name, not a class.
- Of what is left of an image's path the first folder is its class (`classes=top`), or the last one (`leaf`): its name
  alone where no other such folder has it, else the path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from recipes.common.errors import DataError
from sharding.building.listing import shown
from sharding.building.notices import Notices
from sharding.images.any_image import is_image
from sharding.sources.rows import SPLIT_WORDS

NO_CLASS = "images that lie in no class folder"
EMPTY = "folders that hold no image"
HIDDEN = "hidden files and folders, and what systems leave behind (__MACOSX, Thumbs.db)"
NO_IMAGES = "files that are no images by their extension"
_LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}


def is_hidden(name: str) -> bool:
    """Return whether a file or folder, named without the folders above it, is none of the user's data."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def why_no_image(name: str) -> str:
    """Return why a file is not taken; empty if it is an image."""
    return HIDDEN if is_hidden(name) else "" if is_image(name) else NO_IMAGES


class Means(NamedTuple):
    """What a folder's place says of the images in it.

    Attributes:
        name: the folder's path below the data set's own folder, which names of images begin with.
        label: the class; empty where there is none.
        split: train, val, test, or empty.
    """

    name: str
    label: str
    split: str


NOWHERE = Means("", "", "")


@dataclass
class Tree:
    """The folders of a source, as paths below it; "" is the source itself.

    Attributes:
        full: those that hold images themselves.
        bare: those that hold nothing that could be data: no image, and no folder.
    """

    full: set[str] = field(default_factory=set)
    bare: set[str] = field(default_factory=set)

    def read(self, classes: Literal["top", "leaf"], source: object, notices: Notices) -> dict[str, Means]:
        """Say for each folder with images what it means, and count those that hold none.

        Args:
            classes: which folder is the class.
            source: its name for messages.
            notices: counts the folders of a split, or beside the splits, that hold no image.

        Raises:
            DataError: a class folder holds no image in any split, or another folder lies beside splits.
        """
        above, has_splits = self._layout(source)
        parts = {folder: _parts(folder[above:], has_splits) for folder in (*self.full, *self.bare)}
        labels = _labels({below for below, _ in parts.values() if below}, classes)
        found = {}
        for folder in self.full:
            below, split = parts[folder]
            found[folder] = Means(folder[above:], labels.get(below, ""), split)
        taken = {one.label for one in found.values()}
        for folder in sorted(self.bare - {""}):
            label = labels.get(parts[folder][0], "")
            if label and label not in taken:
                raise DataError(
                    f"{source}: class folder {shown(folder)} holds no image; put some in, or take the folder away"
                )
            notices.leave_out(EMPTY, shown(folder))
        return found

    def _layout(self, source: object) -> tuple[int, bool]:
        """Return how many letters of every path are above the classes or splits, and whether there are splits."""
        above = 0
        while True:
            full = [folder[above:].split("/") for folder in self.full if folder[above:]]
            tops = {parts[0] for parts in full}
            others = sorted(top for top in tops if top.lower() not in SPLIT_WORDS)
            if tops and not others:
                return above, True
            splits = sorted({parts[0] for parts in full if len(parts) > 1} - set(others))
            if splits:
                raise DataError(
                    f"{source}: folder {shown(others[0])} lies beside {splits[0]}, which holds folders of images as a "
                    f"split does; {', '.join(SPLIT_WORDS)} alone, or class folders of other names, would be legal"
                )
            tops |= {folder[above:].partition("/")[0] for folder in self.bare if folder[above:]}
            if len(tops) != 1 or all(len(parts) == 1 for parts in full):
                return above, False
            above += len(tops.pop()) + 1


def _parts(folder: str, has_splits: bool) -> tuple[tuple[str, ...], str]:
    """Return the folders of a path that may be classes, and the split."""
    parts = tuple(folder.split("/")) if folder else ()
    if not has_splits:
        return parts, ""
    split = SPLIT_WORDS.get(parts[0].lower(), "") if parts else ""
    return (parts[1:], split) if split else ((), "")


def _labels(paths: Iterable[tuple[str, ...]], classes: Literal["top", "leaf"]) -> dict[tuple[str, ...], str]:
    """Return the class of each folder, by its path below the splits."""
    if classes == "top":
        return {parts: parts[0] for parts in paths}
    known = list(paths)
    times = Counter(parts[-1] for parts in known)
    return {parts: parts[-1] if times[parts[-1]] == 1 else "/".join(parts) for parts in known}
