"""Reads the header of each image once: what is no image is left out before the long work, and sizes are found."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from recipes.common.errors import DataError
from sharding.building.notices import Notices
from sharding.building.process_pool import in_order
from sharding.building.raw_files import Place, Zipped
from sharding.datasets.samples.listed.arrays import Listed
from sharding.images.any_image import formats
from sharding.images.decoders import MAX_PIXELS
from sharding.progress import ProgressBar

NO_IMAGES = "files that are no image of a kind that can be read"
TOO_LARGE = f"images of more than the {MAX_PIXELS} pixels that are legal"
_AT_ONCE = 1000
_HEAD = 1 << 16
"""Bytes in which the size of nearly every image is found."""
_HUGE = (MAX_PIXELS, MAX_PIXELS)
"""Stands for the sides of an image that Pillow takes for a bomb, and tells no size of."""
_FEW, _SHARE = 10, 100
"""More than this many files that are no images, and more than one in so many, are refused: that is no slip."""


class Sides(NamedTuple):
    """Sides in pixels, over some images: the shorter side of the smallest and of the largest, and the longest side."""

    least: int
    most: int
    longest: int


def without_bad(found: Listed, order: np.ndarray, notices: Notices, workers: int) -> tuple[np.ndarray, dict[str, int]]:
    """Read the headers of all images, but not of bare pixels, which have none.

    Args:
        found: the images.
        order: their order, int64 [N].
        notices: counts what is no image.
        workers: number of processes.

    Returns:
        the order without those, int64 [n], and `Sides` over the others.

    Raises:
        DataError: an image has a single pixel, too many files are no images, or all of a class.
    """
    is_file = np.array([shape is None for shape in _shapes(found)])[found.kind]
    files = order[is_file[order]]
    sides = [_sides([tuple(shape)]) for shape in found.said["shapes"]]
    bad = np.zeros(len(found), bool)
    parts = [files[first : first + _AT_ONCE] for first in range(0, len(files), _AT_ONCE)]
    jobs = ([found.place(row) for row in part.tolist()] for part in parts)
    with ProgressBar(len(files), "headers", "img", smoothing=0.05) as bar:
        for part, (unread, large, seen) in zip(
            parts, in_order(_headers, None, jobs, workers if parts[1:] else 1), strict=True
        ):
            for reason, places in ((NO_IMAGES, unread), (TOO_LARGE, large)):
                bad[part[places]] = True
                notices.leave_out(reason, *(str(found.names[row]) for row in part[places].tolist()))
            sides += [seen] if seen else []
            bar.update(len(part))
    why = "; ".join(notices.lines())
    if bad.sum() > max(_FEW, len(found) // _SHARE):
        raise DataError(f"of {len(found):,} images {why}; one in {_SHARE} may be so")
    kept = order[~bad[order]]
    there = np.bincount(found.label[kept], minlength=len(found.classes))
    if not there.all():
        raise DataError(f"class {found.classes[int(there.argmin())]!r} has no image: {why}")
    least, most, longest = zip(*sides, strict=True)
    return kept, Sides(min(least), max(most), max(longest))._asdict()


def _shapes(found: Listed) -> Iterator[Sequence[int] | None]:
    """Yield the shape of bare pixels of each kind of place; None for files, which are kinds 0 and 1."""
    yield from (None, None, *found.said["shapes"])


def _sides(shapes: Sequence[Sequence[int]]) -> Sides:
    """Return the sides of images of these shapes: (H, W), (H, W, 3) or (3, H, W)."""
    sides = [shape[1:] if len(shape) == 3 and shape[0] == 3 != shape[2] else shape[:2] for shape in shapes]
    return Sides(min(map(min, sides)), max(map(min, sides)), max(map(max, sides)))


def _headers(_: None, places: Sequence[Place]) -> tuple[list[int], list[int], Sides | None]:
    """Return which of some files are no images, which are too large, and the sides of the others. Runs in a worker."""
    bad, large, sizes = [], [], []
    for number, place in enumerate(places):
        size = _size(place)
        if size == (1, 1):
            raise DataError(f"{place}: an image of 1x1 pixels shows nothing; larger ones are legal")
        if size is None:
            bad.append(number)
        elif size[0] * size[1] > MAX_PIXELS:
            large.append(number)
        else:
            sizes.append(size)
    return bad, large, _sides(sizes) if sizes else None


def _size(place: Place) -> tuple[int, int] | None:
    """Return width and height as the header says; None for what is no image.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        if type(place) is Place and place.size < 0:
            with Image.open(place.path, formats=formats()) as image:
                return image.size
        return _size_in(_head(place)) or _size_in(place.read())
    except (MemoryError, DataError):
        raise
    except Image.DecompressionBombError:
        return _HUGE
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{place}: cannot be read ({error.strerror})") from None
        return None
    except Exception:  # damaged bytes make Pillow raise some ten unrelated types
        return None


def _head(place: Place) -> bytes:
    """Return the first bytes of an image in an archive, which most headers fit into."""
    stretch = Place(place.path, place.offset, min(place.size, _HEAD), place.name, place.root).read()
    if not (isinstance(place, Zipped) and place.deflated):
        return stretch
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stretch, _HEAD)
    except zlib.error:
        return b""


def _size_in(data: bytes) -> tuple[int, int] | None:
    try:
        with Image.open(io.BytesIO(data), formats=formats()) as image:
            return image.size
    except MemoryError:
        raise
    except Image.DecompressionBombError:
        return _HUGE
    except Exception:  # as above
        return None
