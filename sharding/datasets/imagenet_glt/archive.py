"""The images of ILSVRC's training set where they lie: in class folders, or in the tar of tars as it is downloaded.

`ILSVRC2012_img_train.tar` holds one tar a class, n01440764.tar and so on, and is never unpacked: the headers of all
inner tars are read once, in parallel, and every image is then a stretch of the one large file. What was found is kept
in the build's work folder, a file a class, and used again as long as the source did not change.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recipes.common.errors import DataError
from sharding.building.process_pool import in_order
from sharding.building.raw_files import Place
from sharding.format.index import save_npz
from sharding.progress import ProgressBar

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CLASS = re.compile(r"n[0-9]{8}")
IMAGE = re.compile(r"[^/.][^/]*\.(jpeg|jpg|png)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The n images of one class, in the order of their names.

    Attributes:
        name: the class's WordNet id.
        path: the class's folder, or the archive.
        names: file names [n], without folders.
        offsets: in an archive, where each image begins, in bytes, int64 [n].
        sizes: in an archive, number of bytes of each image, int64 [n].
    """

    name: str
    path: str
    names: tuple[str, ...]
    offsets: np.ndarray | None = None
    sizes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def place(self, i: int) -> Place:
        """Return where the bytes of image i are."""
        if self.offsets is None or self.sizes is None:
            return Place(os.path.join(self.path, self.names[i]))
        return Place(self.path, int(self.offsets[i]), int(self.sizes[i]), f"{self.name}/{self.names[i]}")


def list_classes(source: Path, work: Path, workers: int) -> dict[str, ClassImages]:
    """List the images of every class, in the order of the names.

    Args:
        source: the folder of the class folders, or the tar of tars.
        work: keeps what was found, for the next start.
        workers: number of processes.

    Returns:
        Class name (WordNet id) -> its images.

    Raises:
        DataError: `source` is neither a folder of class folders nor a tar of tars, a class has no images, or the
            archive is damaged or ends early; one sentence.
    """
    source = source.absolute()
    if source.is_dir():
        found = sorted(entry.name for entry in os.scandir(source) if CLASS.fullmatch(entry.name) and entry.is_dir())
        if not found:
            raise DataError(
                f"source={source} has no class folders; a folder is needed that holds n01440764 and so on, such as "
                "ILSVRC/Data/CLS-LOC/train"
            )
        jobs = [
            _Job(name, str(source / name), f"{source / name}|{(source / name).stat().st_mtime_ns}") for name in found
        ]
    elif source.is_file():
        stamp = source.stat()
        jobs = [
            _Job(name, str(source), f"{source}|{stamp.st_size}|{stamp.st_mtime_ns}|{offset}", offset, size)
            for name, offset, size in _inner_tars(source)
        ]
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
    return dict(sorted(classes.items()))


@dataclass(frozen=True)
class _Job:
    """A class to list.

    Attributes:
        name: the class.
        path: its folder, or the archive.
        stamp: text that changes when the folder or the archive does.
        offset: where the class's tar begins in the archive, in bytes.
        size: number of bytes of that tar; 0 for a folder.
    """

    name: str
    path: str
    stamp: str
    offset: int = 0
    size: int = 0


def _listed(_: None, job: _Job) -> ClassImages:
    name, path, offset = job.name, job.path, job.offset
    if not job.size:
        names = sorted(entry.name for entry in os.scandir(path) if IMAGE.fullmatch(entry.name))
        images = ClassImages(name, path, tuple(names))
    else:
        rows = []
        try:
            with (
                open(path, "rb", buffering=0) as file,
                tarfile.open(fileobj=_Window(file, offset, job.size), mode="r:") as tar,
            ):
                for member in tar:
                    tail = member.name.rsplit("/", 1)[-1]
                    if member.isfile() and IMAGE.fullmatch(tail):
                        rows.append((tail, offset + member.offset_data, member.size))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(
                f"{path}: its inner tar {name}.tar is not a whole tar ({error or type(error).__name__})"
            ) from None
        rows.sort()
        images = ClassImages(
            name,
            path,
            tuple(row[0] for row in rows),
            np.array([row[1] for row in rows], np.int64),
            np.array([row[2] for row in rows], np.int64),
        )
    if not len(images):
        raise DataError(f"class {name} of {path} has no images; .JPEG files are looked for")
    if len(set(images.names)) < len(images):
        raise DataError(f"class {name} of {path} has two images of one name")
    return images


def _inner_tars(source: Path) -> list[tuple[str, int, int]]:
    """List the inner tars: class, offset of its tar's bytes, their number."""
    found = []
    try:
        with tarfile.open(source, "r:") as tar:
            for member in tar:
                name, extension = os.path.splitext(member.name.rsplit("/", 1)[-1])
                if member.isfile() and extension == ".tar" and CLASS.fullmatch(name):
                    found.append((name, member.offset_data, member.size))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"source={source} is not a tar, or not a whole one ({error or type(error).__name__}); "
            "ILSVRC2012_img_train.tar is looked for"
        ) from None
    if not found:
        raise DataError(
            f"source={source} holds no class tars such as n01440764.tar; ILSVRC2012_img_train.tar is looked for"
        )
    return sorted(found)


class _Window(io.RawIOBase):
    """A stretch of an open file, as a file."""

    def __init__(self, file: io.FileIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        self._at = to + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        with memoryview(buffer) as view:
            count = max(0, min(len(view), self._size - self._at))
            data = os.pread(self._file.fileno(), count, self._offset + self._at)
            view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _keep(path: Path, images: ClassImages, stamp: str) -> None:
    arrays = {"names": np.array(images.names), "path": np.array(images.path), "stamp": np.array(stamp)}
    if images.offsets is not None and images.sizes is not None:
        arrays |= {"offsets": images.offsets, "sizes": images.sizes}
    save_npz(path, arrays)


def _known(path: Path, job: _Job) -> ClassImages | None:
    """Read what an earlier start found, if the source is as it was."""
    try:
        with np.load(path) as kept:
            if str(kept["stamp"]) != job.stamp:
                return None
            columns = (kept["offsets"], kept["sizes"]) if "offsets" in kept.files else (None, None)
            return ClassImages(job.name, str(kept["path"]), tuple(kept["names"].tolist()), *columns)
    except Exception:  # none, or damaged in one of numpy's and zipfile's many ways
        return None
