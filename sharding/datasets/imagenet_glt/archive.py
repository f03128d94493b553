"""Finds the images of ILSVRC's training set in class folders, or in the tar of tars as it is downloaded.

`ILSVRC2012_img_train.tar` holds one tar a class, n01440764.tar and so on, and is never unpacked: the headers of all
inner tars are read once, in parallel, and every image is then a stretch of the large file. The result is kept in the
build's work folder, one file for each class, and used again until the source changes. Things that are not taken are
kept, too, by name and reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.common.errors import DataError
from sharding.building.keys import loose_name
from sharding.building.listing import FOLDERS, File, Listing, is_utf8, list_folder, list_tar, shown
from sharding.building.notices import ALIKE, Notices
from sharding.building.process_pool import in_order
from sharding.building.raw_files import Place
from sharding.format.index import kept_arrays, save_npz
from sharding.progress import ProgressBar

CLASS = re.compile(r"n[0-9]{8}")
IMAGE = re.compile(r"[^/.][^/]*\.(jpeg|jpg|png)", re.IGNORECASE)
BESIDE = "files and folders beside the classes, which are named as n01440764 or n01440764.tar is"
NO_IMAGES = "files in classes that are hidden or not .JPEG, .jpg or .png by name"


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The n images of one class, in the order of their names.

    Attributes:
        name: the class's WordNet id.
        path: the class's folder, or the archive.
        names: file names [n], without folders.
        offsets: in an archive, the byte at which each image begins, int64 [n].
        sizes: in an archive, number of bytes of each image, int64 [n].
        left_out: what else the class holds: CLASS/FILE and why it is not taken.
    """

    name: str
    path: str
    names: tuple[str, ...]
    offsets: np.ndarray | None = None
    sizes: np.ndarray | None = None
    left_out: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def place(self, i: int) -> Place:
        """Return the place of image i's bytes."""
        if self.offsets is None or self.sizes is None:
            return Place(os.path.join(self.path, self.names[i]), root=os.path.dirname(self.path))
        return Place(self.path, int(self.offsets[i]), int(self.sizes[i]), f"{self.name}/{self.names[i]}", self.path)

    def alike(self) -> list[str]:
        """List CLASS/FILE of images whose names differ from another's only in case or extension."""
        stems: dict[str, list[str]] = {}
        for name in self.names:
            stems.setdefault(loose_name(name), []).append(f"{self.name}/{name}")
        return [name for names in stems.values() if len(names) > 1 for name in names]


@dataclass(frozen=True, eq=False)
class Classes(Mapping[str, ClassImages]):
    """The classes of a source by WordNet id, in the order of these.

    Attributes:
        found: the classes.
        beside: what else is beside the classes: its name and why it is not taken.
    """

    found: dict[str, ClassImages]
    beside: tuple[tuple[str, str], ...]

    def __getitem__(self, name: str) -> ClassImages:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def notices(self) -> Notices:
        """Return what the source holds but no data set takes, and names that look like the same image twice."""
        notices = Notices()
        for name, reason in (*self.beside, *(one for images in self.values() for one in images.left_out)):
            notices.leave_out(reason, name)
        for images in self.values():
            notices.doubt(ALIKE, *images.alike())
        return notices

    def why_left_out(self, source: str) -> str:
        """Return why an existing image, CLASS/FILE, is not taken; empty if it does not exist."""
        name = source.partition("/")[0]
        if name in self:
            found = [one for one in self[name].left_out if one[0] == shown(source)]
        else:  # n00000002.tar.gz and N00000002, too
            found = [one for one in self.beside if one[0].partition(".")[0].casefold() == name]
        return f"{found[0][0]} is among the {found[0][1]}" if found else ""


def list_classes(source: Path, work: Path, workers: int) -> Classes:
    """List the images of every class, in the order of the names.

    Args:
        source: the folder of the class folders, or the tar of tars.
        work: keeps what was found, for the next start.
        workers: number of processes.

    Raises:
        DataError: `source` is neither a folder of class folders nor a tar of tars, a class has no images, an image
            cannot be told from another or named, or the archive is damaged or ends early; one sentence.
    """
    source = source.absolute()
    if source.is_dir():
        jobs, beside = _class_folders(source)
    elif source.is_file():
        jobs, beside = _class_tars(source)
    else:
        raise DataError(
            f"source={source} does not exist; the folder of the class folders or ILSVRC2012_img_train.tar would be "
            "legal"
        )
    folder = work / "source"
    folder.mkdir(parents=True, exist_ok=True)
    classes: dict[str, ClassImages] = {}
    todo: list[_Job] = []
    for job in jobs:
        known = _known(folder / f"{job.name}.npz", job)
        if known is None:
            todo.append(job)
        else:
            classes[job.name] = known
    with ProgressBar(len(todo), "listing the source", "class", disable=not todo) as bar:
        for job, images in zip(todo, in_order(_listed, None, todo, 1 if len(todo) < 100 else workers), strict=True):
            _keep(folder / f"{job.name}.npz", images, job.stamp)
            classes[job.name] = images
            bar.update()
    return Classes(dict(sorted(classes.items())), beside)


@dataclass(frozen=True)
class _Job:
    """A class to list.

    Attributes:
        name: the class.
        path: its folder, or the archive.
        stamp: text that changes when the folder or the archive does.
        tar: in an archive, the class's tar.
    """

    name: str
    path: str
    stamp: str
    tar: File | None = None


_Found = tuple[list[_Job], tuple[tuple[str, str], ...]]
"""The classes to list, and what else is beside them."""


def _class_folders(source: Path) -> _Found:
    listing = list_folder(source)
    others = [(file.name, BESIDE) for file in listing.files]
    names = []
    for name, reason in listing.others:
        if reason == FOLDERS and CLASS.fullmatch(name):
            names.append(name)
        else:
            others.append((name, BESIDE if reason == FOLDERS else reason))
    if not names:
        raise DataError(
            f"source={source} has no class folders; a folder is needed that holds n01440764 and so on, such as "
            "ILSVRC/Data/CLS-LOC/train"
        )
    jobs = [_Job(name, str(source / name), f"{source / name}|{(source / name).stat().st_mtime_ns}") for name in names]
    return jobs, _left_out("", others)


def _class_tars(source: Path) -> _Found:
    listing, stamp = list_tar(source, f"source={source}"), source.stat()
    tars: dict[str, File] = {}
    others = list(listing.others)
    for file in listing.files:
        name, extension = os.path.splitext(_tail(file.name))
        if extension != ".tar" or not CLASS.fullmatch(name):
            others.append((file.name, BESIDE))
        elif tars.setdefault(name, file)[1:] != file[1:]:
            raise DataError(f"source={source} has two tars of class {name}, {_both(tars[name], file)}; one is legal")
    if not tars:
        raise DataError(
            f"source={source} holds no class tars such as n01440764.tar; ILSVRC2012_img_train.tar is looked for"
        )
    jobs = [
        _Job(name, str(source), f"{source}|{stamp.st_size}|{stamp.st_mtime_ns}|{tar.offset}", tar)
        for name, tar in sorted(tars.items())
    ]
    return jobs, _left_out("", others)


def _listed(_: None, job: _Job) -> ClassImages:
    where = f"class {job.name} of {job.path}"
    if job.tar is None:
        listing = list_folder(job.path)
    else:
        what = f"{job.path}: its inner tar {_tail(job.tar.name)}"
        listing = list_tar(job.path, what, job.tar.offset, job.tar.size)
    taken, others = _images(listing, where)
    left_out = _left_out(f"{job.name}/", others)
    if not taken:
        beside = f" ({len(left_out)} other files or folders, such as {left_out[0][0]})" if left_out else ""
        raise DataError(f"{where} has no images{beside}; .JPEG files are looked for")
    names = tuple(file.name for file in taken)
    if job.tar is None:
        return ClassImages(job.name, job.path, names, left_out=left_out)
    offsets, sizes = (np.array(column, np.int64) for column in zip(*(file[1:] for file in taken), strict=True))
    return ClassImages(job.name, job.path, names, offsets, sizes, left_out)


def _images(listing: Listing, where: str) -> tuple[list[File], list[tuple[str, str]]]:
    """Return a class's images, sorted by the last part of their names, and what is not an image.

    Raises:
        DataError: two images have the same name, or a name is not UTF-8.
    """
    taken: dict[str, File] = {}
    others = list(listing.others)
    for file in listing.files:
        name = _tail(file.name)
        if not IMAGE.fullmatch(name):
            others.append((file.name, NO_IMAGES))
        elif not is_utf8(name):
            raise DataError(
                f"{where} has an image named {shown(name)}, which is not UTF-8; renamed it would be legal (convmv "
                "renames whole folders; a tar is unpacked first)"
            )
        elif taken.setdefault(name, file)[1:] != file[1:]:  # a file that tar was told twice is a link to itself
            raise DataError(f"{where} has two images of one name, {_both(taken[name], file)}; one is legal")
    return [File(name, *taken[name][1:]) for name in sorted(taken)], others


def _both(one: File, other: File) -> str:
    """Name two members of a tar."""
    first, second = sorted((one, other), key=lambda file: file.offset)
    return f"{shown(first.name)} at byte {first.offset} and {shown(second.name)} at byte {second.offset}"


def _tail(name: str) -> str:
    return name.rpartition("/")[2]


def _left_out(folder: str, others: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Name what is not taken in the form of the images' names; `folder` is CLASS/ or empty."""
    return tuple(sorted((folder + shown(_tail(name)), reason) for name, reason in others))


def _keep(path: Path, images: ClassImages, stamp: str) -> None:
    arrays = {
        "names": np.array(images.names),
        "path": np.array(images.path),
        "stamp": np.array(stamp),
        "left_out": np.array(images.left_out, np.str_).reshape(-1, 2),
    }
    if images.offsets is not None and images.sizes is not None:
        arrays |= {"offsets": images.offsets, "sizes": images.sizes}
    save_npz(path, arrays)


def _known(path: Path, job: _Job) -> ClassImages | None:
    """Read what an earlier start found, if the source has not changed.

    A folder of which something was left out is listed again: a broken link may work now, which the folder's time does
    not show.
    """
    kept = kept_arrays(path, "left_out", "stamp", "path", "names")
    if not kept or str(kept["stamp"]) != job.stamp or (len(kept["left_out"]) and job.tar is None):
        return None
    places = kept_arrays(path, "offsets", "sizes")  # those in a tar have them
    left_out = tuple((name, reason) for name, reason in kept["left_out"].tolist())
    names = tuple(kept["names"].tolist())
    return ClassImages(job.name, str(kept["path"]), names, places.get("offsets"), places.get("sizes"), left_out)
