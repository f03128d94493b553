"""A tar or zip of class folders: its images are read where they lie in it, and never unpacked to single files.

The archive's list is followed twice: for the folders, which are kept, and for the images. A compressed tar cannot be
read by position. It is unpacked once to a plain tar in the build's own folder, and kept there until its digest changes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from recipes.common.errors import DataError
from recipes.common.files import disk_refusal, file_digest, replacing, write_json
from sharding.building.listing import BLOCK, COMPRESSED, FOLDERS, File, each_in_tar, shown
from sharding.building.raw_files import Place
from sharding.sources.rows import Asked, Row
from sharding.sources.shared.class_folders import HIDDEN, NO_CLASS, NOWHERE, Tree, is_hidden, is_image, why_no_image
from sharding.sources.shared.zip_listing import MAGIC, Member, Zip

SAYS = "a tar or zip of class folders"
_OPEN: dict[str, Callable[[Path], io.BufferedIOBase]] = {
    "gzip": gzip.GzipFile,
    "bzip2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
"""What a tar may be compressed by -> what opens it."""
_DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, ValueError)
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
    kind = _kind(source)
    if kind in _OPEN or kind == "zstd":
        archive, kind = _unpacked(source, kind, asked.work), "tar"
    else:
        archive = source
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
            yield Row(f"{where}/{posixpath.basename(name)}", place, label, split=split or said)


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
    try:
        with open(path, "rb") as file:
            head = file.read(BLOCK)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if head.startswith(MAGIC) or path.suffix.lower() == ".zip":
        return "zip"
    found = COMPRESSED.match(head)
    return str(found.lastgroup) if found else "tar"


def _first_names(path: Path, kind: str) -> list[str]:
    """Return the names of the first members, up to the first damage; none of what is no archive."""
    names = []
    try:
        for name in _plain_names(path, kind):
            names.append(posixpath.normpath(f"/{name}").lstrip("/"))  # what leaves the archive is refused later
    except (DataError, OSError, tarfile.TarError, *_DAMAGE):
        pass
    return names


def _plain_names(path: Path, kind: str) -> Iterator[str]:
    """Yield the names of the plain files among the first members, as they stand in the archive."""
    if kind in _OPEN:
        with _OPEN[kind](path) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            yield from (member.name for member in islice(tar, _LOOKED_AT) if member.isfile())
    else:
        yield from (one.name for one in islice(_members(path, kind), _LOOKED_AT) if not one.reason)


# --------------------------------------------------------------------------------------------------------- unpacking
def _unpacked(source: Path, kind: str, work: Path) -> Path:
    """Return the plain tar of a compressed one, unpacked now unless an earlier start did it from the same bytes.

    Raises:
        DataError: it is damaged, or the disk has no room.
    """
    if kind not in _OPEN:
        raise DataError(f"{source}: is compressed by {kind}, which is not read here; unpack it to a plain tar first")
    folder = work / "unpacked"
    name = source.name if source.name.endswith(".tar") else f"{source.name.split('.tar')[0]}.tar"
    target, note = folder / name, folder / f"{name}.json"
    stamp = source.stat()
    known = json.loads(note.read_text()) if note.exists() and target.exists() else {}
    same = [known.get("size"), known.get("mtime_ns")] == [stamp.st_size, stamp.st_mtime_ns]
    if known and same:
        return target
    says = {"size": stamp.st_size, "mtime_ns": stamp.st_mtime_ns, "sha256": file_digest(source)}
    if known.get("sha256") != says["sha256"]:
        folder.mkdir(parents=True, exist_ok=True)
        note.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        if shutil.disk_usage(folder).free < stamp.st_size:
            raise DataError(
                f"{source}: unpacked it takes more than its {stamp.st_size / 1e9:.1f} GB, and {folder} has "
                f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free; make room, or name a plain tar"
            )
        _unpack(source, kind, target)
    write_json(note, says)
    return target


def _unpack(source: Path, kind: str, target: Path) -> None:
    with replacing(target) as temporary:
        try:
            with _OPEN[kind](source) as packed, open(temporary, "wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
        except _DAMAGE as error:
            raise DataError(f"{source}: is damaged or not whole ({error}); its publisher's bytes would do") from None
        except OSError as error:
            raise DataError(f"{source}: cannot be unpacked to {target} ({disk_refusal(error)})") from None
