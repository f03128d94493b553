"""Class folders: reads the images below a folder, where folders say the classes and perhaps the splits.

Two walks: the first learns the folders, which is all that is kept, the second gives the images folder by folder in the
order of their names. So the names of one folder's files are in memory at a time. What is no image by its name is
counted and left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from recipes.common.errors import DataError
from sharding.building.listing import FOLDERS, Listing, list_folder, shown
from sharding.building.notices import Notices
from sharding.building.raw_files import Place
from sharding.images.any_image import is_image
from sharding.sources.rows import Asked, Row, split_of
from sharding.sources.shared.class_folders import HIDDEN, NO_CLASS, NOWHERE, Tree, is_hidden, why_no_image

SAYS = "a folder of class folders"
TAKES = ("classes",)
CIRCLES = "links to a folder that they lie in"
_LOOKED_AT = 200
"""Folders in which `recognises` looks for an image."""


def recognises(path: Path) -> bool:
    """Return whether a folder has an image in a folder below it."""
    if not path.is_dir():
        return False
    for looked_at, (folder, listing) in enumerate(_walk(path, Notices())):
        if folder and any(is_image(file.name) and not is_hidden(file.name) for file in listing.files):
            return True
        if looked_at == _LOOKED_AT:
            break
    return False


def rows(asked: Asked) -> Iterator[Row]:
    """Yield the images, folder by folder.

    Raises:
        DataError: a folder cannot be read, a class has no images, or several folders are asked for; one sentence.
    """
    if len(asked.paths) != 1 or not asked.paths[0][0].is_dir():
        named = ", ".join(str(path) for path, _ in asked.paths)
        raise DataError(f"{named}: class folders are read from one folder, whose subfolders may be train, val and test")
    source, split = asked.paths[0]
    tree = Tree()
    for folder, listing in _walk(source, Notices()):
        if any(not why_no_image(file.name) for file in listing.files):
            tree.full.add(folder)
        elif not any(reason == FOLDERS and not is_hidden(name) for name, reason in listing.others):
            tree.bare.add(folder)
    means = tree.read(asked.classes, source, asked.notices)
    for folder, listing in _walk(source, asked.notices):
        name, label, said = means.get(folder, NOWHERE)
        for file in listing.files:
            if reason := why_no_image(file.name) or ("" if label else NO_CLASS):
                asked.notices.leave_out(reason, shown(f"{folder}/{file.name}" if folder else file.name))
            else:
                place = Place(os.path.join(source, folder, file.name), root=str(source))
                yield Row(f"{name}/{file.name}", place, label, split=split_of(split, said, place))


def _walk(source: Path, notices: Notices) -> Iterator[tuple[str, Listing]]:
    """Yield the path of each folder below `source`, "" for itself, with what it holds, in the order of the paths.

    Links to folders are followed. What is neither a folder nor a plain file is counted.
    """
    todo = [("", frozenset[tuple[int, int]]())]
    while todo:
        folder, above = todo.pop()
        path = os.path.join(source, folder)
        try:
            stamp = os.stat(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        if (here := (stamp.st_dev, stamp.st_ino)) in above:
            notices.leave_out(CIRCLES, shown(folder))
            continue
        listing, inner = list_folder(path), []
        for name, reason in listing.others:
            below = f"{folder}/{name}" if folder else name
            if reason == FOLDERS and not is_hidden(name):
                inner.append((below, above | {here}))
            else:
                notices.leave_out(HIDDEN if reason == FOLDERS else reason, shown(below))
        yield folder, listing
        todo += reversed(inner)
