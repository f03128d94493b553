"""Labelled images from Python: kept in a folder by `keep_samples`, and read from it as any other source.

    source = keep_samples(((image, label) for ...), folder)

What is no file yet is written to the folder one after the other, pixels bare and images encoded. `samples.jsonl` says
what each is and where; it is written last. So a build on them can be resumed and done in parts, and the images are read
by position. The same samples give the same bytes.
"""

from __future__ import annotations

import io
import json
import operator
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from recipes.common.errors import DataError, one_line
from recipes.common.files import file_digest, sync_folder, whole_file
from recipes.common.json_text import NotJson, parse_json
from sharding.building.raw_files import Pixels, Place
from sharding.sources.rows import Asked, Row, split_of

SAYS = "a folder written by keep_samples"
LIST, IMAGES, NEW = "samples.jsonl", "images.bin", ".new"
LEGAL = "bytes of an image file, a path, a PIL image and a uint8 array of H x W, H x W x 3 or H x W x 4 are legal"

_SAVED = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes that PNG keeps as they are."""


class Labelled(NamedTuple):
    """One image and what is known of it; plain tuples of the first two fields or more do as well.

    Attributes:
        image: bytes of an image file, the path of one, a PIL image, or its pixels, uint8 [H, W] or [H, W, C], C = 1, 3
            or 4 (RGBA).
        label: its class, a name or a whole number.
        attribute: its attribute; empty for none.
        split: train, val or test; empty where the build is to choose.
        source: what the image was made from; images of one source go into one split.
        name: its name, unique; by default its number and an extension.
    """

    image: bytes | str | os.PathLike[str] | Image.Image | np.ndarray
    label: str | int
    attribute: str | int = ""
    split: str = ""
    source: str | int = ""
    name: str = ""


def keep_samples(samples: Iterable[Labelled | tuple[Any, ...]], folder: Path) -> Path:
    """Write samples to a folder that is a source of a build; an image at a time is in memory.

    Args:
        samples: is read once.
        folder: made if it is not there; other samples that it has are replaced, the same ones are left as they are.

    Returns:
        The folder.

    Raises:
        DataError: a sample, which the sentence names by its number from 0, is not legal, or there is none.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = folder.stat()
    new = folder / NEW
    shutil.rmtree(new, ignore_errors=True)  # of a program that was killed
    new.mkdir()
    try:
        _write(samples, new)
        changed = _replace(folder, new)
    finally:
        shutil.rmtree(new)
    sync_folder(folder)
    if not changed:  # nor has the folder, by whose time a build sees what it need not list again
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    return folder


def _write(samples: Iterable[Labelled | tuple[Any, ...]], folder: Path) -> None:
    with whole_file(folder / LIST) as listing, whole_file(folder / IMAGES) as images:
        number = -1
        for number, sample in enumerate(samples):
            try:
                entry = _kept(Labelled(*sample), number, images)
            except (TypeError, ValueError, OSError) as error:
                raise DataError(one_line(f"sample {number} cannot be used: {error}")) from None
            listing.write(json.dumps(entry).encode() + b"\n")
        if number < 0:
            raise DataError("there are no samples; at least one image and its label would be legal")


def _replace(folder: Path, new: Path) -> bool:
    """Move the files of `new` to `folder` where other bytes are there; return whether that was so.

    A file of the same bytes keeps its time, by which a build sees that nothing changed.
    """
    if images := _differ(folder / IMAGES, new / IMAGES):
        (folder / LIST).unlink(missing_ok=True)  # it says where images lie in the old file
        os.replace(new / IMAGES, folder / IMAGES)
    if listing := _differ(folder / LIST, new / LIST):
        os.replace(new / LIST, folder / LIST)
    return images or listing


def _differ(old: Path, new: Path) -> bool:
    return not old.is_file() or file_digest(old) != file_digest(new)


def _kept(sample: Labelled, number: int, images: BinaryIO) -> dict[str, Any]:
    """Write the image where it is none of a file, and return the line of the list.

    Raises:
        TypeError, ValueError: a field is not legal; the rest of a sentence.
    """
    words = {field: _text(field, getattr(sample, field)) for field in ("label", "attribute", "split", "source", "name")}
    if not words["label"]:
        raise ValueError("it has no label")
    image, shape = sample.image, None
    if isinstance(image, str | os.PathLike):
        path = os.path.abspath(os.fspath(image))
        where: dict[str, Any] = {"path": path}
        end = os.path.splitext(path)[1]
    else:
        data, shape = _bytes(image)
        end = ".jpg" if data.startswith(b"\xff\xd8") and not shape else ".png"
        where = {"offset": images.tell(), "size": len(data)} | ({"shape": shape} if shape else {})
        images.write(data)
    words["name"] = words["name"] or f"{number:08d}{end}"
    return {field: text for field, text in words.items() if text} | where


def _bytes(image: Any) -> tuple[bytes, tuple[int, ...] | None]:
    """Return an image's bytes, and the shape where they are bare pixels."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image), None
    if isinstance(image, Image.Image):
        if image.mode not in _SAVED and image.mode not in ("CMYK", "YCbCr", "HSV"):
            raise ValueError(f"a PIL image of mode {image.mode}; {', '.join(_SAVED)}, CMYK, YCbCr and HSV are legal")
        return _png(image if image.mode in _SAVED else image.convert("RGB")), None
    if not isinstance(image, np.ndarray):
        raise TypeError(f"its image is of type {type(image).__name__}; {LEGAL}")
    pixels = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,), (4,)):
        raise ValueError(f"its image is an array of {image.dtype} of shape {image.shape}; {LEGAL}")
    if not pixels.size:
        raise ValueError(f"its image of shape {image.shape} has no pixels")
    if pixels.shape[2:] == (4,):
        return _png(Image.fromarray(np.ascontiguousarray(pixels))), None
    return pixels.tobytes(), pixels.shape


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _text(field: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bool | np.bool_) and hasattr(value, "__index__"):
        return str(operator.index(value))
    raise TypeError(f"its {field} is {value!r}; a text or a whole number is legal")


# ----------------------------------------------------------------------------------------------------- as a source
def recognises(path: Path) -> bool:
    """Return whether the folder was written by `keep_samples`."""
    return (path / LIST).is_file() and (path / IMAGES).is_file()


def rows(asked: Asked) -> Iterator[Row]:
    """Yield the samples in the order in which they were given.

    Raises:
        DataError: a line of the list is damaged.
    """
    for folder, split in asked.paths:
        for number, line in enumerate(_lines(folder / LIST)):
            try:
                row = _row(parse_json(line), folder, split)
            except (NotJson, KeyError, TypeError) as error:
                raise DataError(one_line(f"{folder / LIST}: sample {number} is damaged ({error})")) from None
            yield row


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as lines:
            yield from lines
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _row(entry: dict[str, Any], folder: Path, split: str) -> Row:
    name = entry["name"]
    if "path" in entry:
        place = Place(entry["path"])
    else:
        stretch = str(folder / IMAGES), entry["offset"], entry["size"], name, str(folder)
        place = Pixels(*stretch, shape=tuple(entry["shape"])) if "shape" in entry else Place(*stretch)
    attribute, said, source = (entry.get(field, "") for field in ("attribute", "split", "source"))
    return Row(name, place, entry["label"], attribute, split_of(split, said, f"{folder / LIST}: sample {name}"), source)
