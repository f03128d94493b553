"""A tar or zip of class folders: its images are read where they lie in it, and never unpacked to single files.

The archive's list is followed twice: for the folders, which are kept, and for the images. A compressed tar cannot be
read by position. It is unpacked once to a plain tar in the build's own folder, and kept there until its digest changes.
"""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from recipes.common.errors import DataError
from sharding.building.listing import FOLDERS, File, each_in_tar, shown
from sharding.building.raw_files import Place
from sharding.images.any_image import is_image
from sharding.sources.rows import Asked, Row, split_of
from sharding.sources.shared.class_folders import HIDDEN, NO_CLASS, NOWHERE, Tree, is_hidden, why_no_image
from sharding.sources.shared.unpacked import DAMAGE, OPEN, compression, head_of, unpacked
from sharding.sources.shared.zip_listing import MAGIC, Member, Zip

SAYS = "a tar or zip of class folders"
TAKES = ("classes",)
_LOOKED_AT = 200
"""Members that `recognises` looks at."""
_LABELS = {".cls", ".json"}
"""Files beside an image of the same name: WebDataset shards, which are another format."""


class _Held(NamedTuple):
    """What an archive holds: its path, its place, and why it is no plain file."""

    name: str
    member: File | Member
    reason: str


def recognises(path: Path) -> bool:
    """Return whether a tar or zip has images in folders, and no files beside them that say the class."""
    if not path.is_file():
        return False
    kind = _kind(path)
    if kind == "zstd":
        return ".tar." in path.name.lower() or path.suffix.lower() == ".tzst"
    images, others, names = set(), set(), _first_names(path, kind)
    if kind == "zip" and not names:
        return True  # it is not whole, which is said when it is read
    for name in names:
        stem, end = posixpath.splitext(name)
        if posixpath.dirname(name) and is_image(name) and not _hidden(name):
            images.add(stem)
        elif end.lower() in _LABELS:
            others.add(stem)
    return bool(images) and not images & others


def rows(asked: Asked) -> Iterator[Row]:
    """Yield the images in the archive's order.

    Raises:
        DataError: the archive is damaged, encrypted, compressed in a way that is not read, or needs more disk than
            there is; a class has no images; several archives are asked for; one sentence.
    """
    if len(asked.paths) != 1:
        named = ", ".join(str(path) for path, _ in asked.paths)
        raise DataError(f"{named}: one archive is read, in which folders may be train, val and test")
    source, split = asked.paths[0]
    archive = unpacked(source, asked.work)
    kind = _kind(archive)
    tree, folders = Tree(), set[str]()
    for name, _, reason in _each(archive, kind):
        folder = name if reason == FOLDERS else posixpath.dirname(name)
        if not _hidden(folder):
            folders.add(folder)
            if not reason and not why_no_image(posixpath.basename(name)):
                tree.full.add(folder)
    with_folders = {posixpath.dirname(folder) for folder in folders}
    tree.bare = folders - tree.full - with_folders
    means = tree.read(asked.classes, source, asked.notices)
    with Zip(archive) as opened:  # of a tar it is an open file and no more
        for name, member, reason in _each(archive, kind):
            where, label, said = means.get(posixpath.dirname(name), NOWHERE)
            why = reason or (HIDDEN if _hidden(name) else why_no_image(posixpath.basename(name)))
            if reason == FOLDERS:
                continue
            if why := why or ("" if label else NO_CLASS):
                asked.notices.leave_out(why, shown(name))
                continue
            place = opened.place(member) if isinstance(member, Member) else _stretch(archive, member)
            yield Row(f"{where}/{posixpath.basename(name)}", place, label, split=split_of(split, said, place))


def _each(archive: Path, kind: str) -> Iterator[_Held]:
    """Yield what an archive holds, paths without `./`.

    Raises:
        DataError: it is damaged, or a path leaves it.
    """
    for name, member, reason in _members(archive, kind):
        yield _Held(_inside(name, archive), member, reason)


def _members(archive: Path, kind: str) -> Iterator[_Held]:
    """Yield what an archive holds, paths as they stand in it.

    Raises:
        DataError: it is damaged.
    """
    if kind == "zip":
        with Zip(archive) as opened:
            for member in opened.members():
                yield _Held(member.name, member, member.reason)
    else:
        for file, reason in each_in_tar(archive, str(archive)):
            yield _Held(file.name, file, reason)


def _inside(name: str, archive: Path) -> str:
    """Return a member's path in its plainest form; empty for the archive's own folder."""
    plain = posixpath.normpath(name)
    if plain.startswith("/") or plain.split("/")[0] == "..":
        raise DataError(f"{archive}: member {shown(name)} leaves the archive; a path inside of it would be legal")
    return "" if plain == "." else plain


def _hidden(name: str) -> bool:
    return any(map(is_hidden, name.split("/")))


def _stretch(archive: Path, file: File) -> Place:
    return Place(str(archive), file.offset, file.size, file.name, str(archive))


# ------------------------------------------------------------------------------------------------------------- kinds
def _kind(path: Path) -> str:
    """Return `zip`, `tar`, or what the file is compressed by, as its first bytes say, or of a zip its name."""
    found = compression(path)
    if found:
        return found
    if head_of(path, 4) in MAGIC or path.suffix.lower() == ".zip":
        return "zip"
    return "tar"


def _first_names(path: Path, kind: str) -> list[str]:
    """Return the names of the first members, up to the first damage; none of what is no archive."""
    names = []
    try:
        for name in _plain_names(path, kind):
            names.append(posixpath.normpath(f"/{name}").lstrip("/"))  # what leaves the archive is refused later
    except (DataError, OSError, tarfile.TarError, *DAMAGE):
        pass
    return names


def _plain_names(path: Path, kind: str) -> Iterator[str]:
    """Yield the names of the plain files among the first members, as they stand in the archive."""
    if kind in OPEN:
        with OPEN[kind](path) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            yield from (member.name for member in islice(tar, _LOOKED_AT) if member.isfile())
    else:
        yield from (one.name for one in islice(_members(path, kind), _LOOKED_AT) if not one.reason)
