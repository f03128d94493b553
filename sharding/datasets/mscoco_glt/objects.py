"""COCO's objects: instance annotations joined with COCO-Attributes, checked, as plain arrays; and an object's crop.

A source folder holds COCO 2014 as it is unpacked: annotations/instances_train2014.json,
annotations/instances_val2014.json, train2014/, val2014/.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recipes.common.errors import DataError, one_line
from sharding.building.foreign_json import Entry, listed, read_foreign, real_number, text, whole_number
from sharding.building.notices import Notices
from sharding.datasets.mscoco_glt.attributes import Attributes
from sharding.images.decoders import MAX_PIXELS, decode

FOLDERS = ("train2014", "val2014")
CLASSES = 29
LONGEST = 65_535
"""Pixels of the longest side that a JPEG can have."""
LEGAL = "source= is a folder with annotations/, train2014/ and val2014/ of COCO 2014"
LOST = 0.01
"""The largest share of patches without an annotation in COCO 2014, which are left out. If more lack one, the files do
not belong together.
"""


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects in the order of the attribute file, of K = 29 classes.

    Attributes:
        patch: ids in the attribute file, int64 [N].
        annotation: ids of COCO's instances, int64 [N].
        image: ids of COCO's images, int64 [N].
        label: class ids, int64 [N].
        box: left, top, width and height in pixels of the image, float64 [N, 4].
        size: width and height of the image, int64 [N, 2].
        file: the image's path in the source folder, text [N].
        present: which attributes the object has, bool [N, A].
        names: classes from the largest, ties by name, text [K].
        left_out: how many patches of the attribute file have no annotation in COCO 2014.
        notices: their names, and what else is odd about the files.
    """

    patch: np.ndarray
    annotation: np.ndarray
    image: np.ndarray
    label: np.ndarray
    box: np.ndarray
    size: np.ndarray
    file: np.ndarray
    present: np.ndarray
    names: list[str]
    left_out: int
    notices: Notices

    def __len__(self) -> int:
        """Return the number of objects N."""
        return len(self.patch)


def read_objects(source: Path, attributes: Attributes) -> Objects:
    """Join the attributes with the annotations in `source`, and check that every image exists.

    It reads one instances file at a time and keeps no segmentations: about 1.5 GB of memory for COCO.

    Raises:
        DataError: a file is missing or damaged, an id occurs twice, an annotation's image or category is missing, a box
            is empty or outside of its image, or the files do not belong together; one sentence.
    """
    wanted = frozenset(annotation for annotation in attributes.annotation.tolist() if annotation >= 0)
    found: dict[int, _Instance] = {}
    ids, notices = _Ids(), Notices()
    for folder in FOLDERS:
        for instance in _instances(source, folder, wanted, ids, notices):
            found[instance.annotation] = instance
    rows = [row for row, annotation in enumerate(attributes.annotation.tolist()) if annotation in found]
    lost = len(attributes) - len(rows)
    if lost > LOST * len(attributes):
        raise DataError(
            f"{lost} of {len(attributes)} patches of the attribute file have no annotation in "
            f"{source / 'annotations'}; "
            f"instances_train2014.json and instances_val2014.json of COCO 2014 and its attribute file belong together"
        )
    gone = np.setdiff1d(np.arange(len(attributes)), rows)
    notices.leave_out("patches without an annotation in COCO 2014", *attributes.patch[gone].astype(str).tolist())
    instances = [found[annotation] for annotation in attributes.annotation[rows].tolist()]
    names, counts = np.unique([instance.category for instance in instances], return_counts=True)
    if len(names) != CLASSES:
        raise DataError(
            f"the objects with attributes are of {len(names)} categories ({', '.join(names[:3].tolist())} ...); "
            f"COCO-Attributes has {CLASSES}"
        )
    order = np.lexsort((names, -counts))
    label_of = {str(names[k]): label for label, k in enumerate(order)}
    return Objects(
        patch=attributes.patch[rows],
        annotation=attributes.annotation[rows],
        image=np.array([instance.image for instance in instances], np.int64),
        label=np.array([label_of[instance.category] for instance in instances], np.int64),
        box=np.array([instance.box for instance in instances], np.float64),
        size=np.array([instance.size for instance in instances], np.int64),
        file=np.array([instance.file for instance in instances]),
        present=attributes.present[rows],
        names=list(label_of),
        left_out=lost,
        notices=notices,
    )


@dataclass(frozen=True)
class _Instance:
    """An annotation of an instances file: ids, the image's path in the source folder and its (width, height), the box
    (left, top, width, height) and the category's name. Sizes and boxes are in pixels.
    """

    annotation: int
    image: int
    file: str
    size: tuple[int, int]
    box: list[float]
    category: str


@dataclass
class _Ids:
    """The first place of each id in both instances files, to find ids that are given twice."""

    first: dict[tuple[str, Any, Path | None], tuple[Path, str]] = field(default_factory=dict)
    category: dict[int, tuple[str, Entry]] = field(default_factory=dict)

    def add(self, kind: str, value: Any, entry: Entry, within: Path | None = None) -> None:
        """Note an id, which names one thing in the file `within`, or in both.

        Raises:
            DataError: the id was given before.
        """
        path, place = self.first.setdefault((kind, value, within), (entry.path, entry.place))
        if (path, place) != (entry.path, entry.place):
            raise DataError(
                one_line(f"{kind} {value!r} occurs twice, in {place} of {path} and in {entry}; once would be legal")
            )

    def add_category(self, number: int, name: str, entry: Entry) -> None:
        """Note a category; both files list all categories.

        Raises:
            DataError: its file has its id or name twice, or the other file has another name for it.
        """
        self.add("category", number, entry, entry.path)
        self.add("category", name, entry, entry.path)
        before, first = self.category.setdefault(number, (name, entry))
        if before != name:
            raise DataError(
                one_line(f"category {number} is {before!r} in {first} and {name!r} in {entry}; one name would be legal")
            )


def _instances(source: Path, folder: str, wanted: Collection[int], ids: _Ids, notices: Notices) -> Iterator[_Instance]:
    """Yield the wanted annotations of one instances file, checked."""
    path = source / "annotations" / f"instances_{folder}.json"
    document = Entry(path, "the file", read_foreign(path, LEGAL, _slim))
    names: dict[int, str] = {}
    for entry in _entries(document, "categories"):
        number, name = entry.get("id", whole_number), entry.get("name", text)
        ids.add_category(number, name, entry)
        names[number] = name
    images: dict[int, tuple[str, tuple[int, int]]] = {}
    seen: set[str] = set()
    for entry in _entries(document, "images"):
        number, file = entry.get("id", whole_number), entry.get("file_name", text)
        ids.add("image", number, entry)
        images[number] = f"{folder}/{file}", (entry.get("width", _pixels), entry.get("height", _pixels))
        if file in seen:
            notices.doubt("image files with two entries in an instances file", f"{folder}/{file}")
        seen.add(file)
    chosen = []
    for entry in _entries(document, "annotations"):
        number = entry.get("id", whole_number)
        if number in wanted:
            ids.add("annotation", number, entry)
            chosen.append((number, entry))
    del document
    there = _listing(source / folder)
    for number, entry in chosen:
        yield _instance(number, entry, names, images, source, there)


def _entries(document: Entry, key: str) -> Iterator[Entry]:
    for number, content in enumerate(document.get(key, listed)):
        yield Entry(document.path, f"{key}[{number}]", content)


def _pixels(value: Any) -> int:
    return whole_number(value, 1, LONGEST)


def _instance(
    number: int,
    entry: Entry,
    names: Mapping[int, str],
    images: Mapping[int, tuple[str, tuple[int, int]]],
    source: Path,
    there: Collection[str],
) -> _Instance:
    """Join an annotation with its category and its image, which must be among `there`, and check its box."""
    who = f"annotation {number} in {entry.path}"
    image, category = entry.get("image_id", whole_number), entry.get("category_id", whole_number)
    if image not in images:
        raise DataError(f"{who} is of image {image}, which the file does not list")
    if category not in names:
        raise DataError(f"{who} is of category {category}, which the file does not list")
    file, size = images[image]
    if file.partition("/")[2] not in there:
        raise DataError(one_line(f"{who} is of image {source / file}, which is not there"))
    box = entry.get("bbox", lambda values: [real_number(value) for value in listed(values)])
    if len(box) != 4 or box[2] <= 0 or box[3] <= 0:
        raise DataError(
            f"{who} has the box {box[:9]}, which has no size; left, top, width and height in pixels are legal, "
            "width and height above 0"
        )
    if box[0] >= size[0] or box[1] >= size[1] or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
        raise DataError(f"{who} has the box {box}, which lies outside its image of {size[0]}x{size[1]} pixels")
    return _Instance(number, image, file, size, box, names[category])


def _slim(entry: dict[str, Any]) -> dict[str, Any]:
    """Drop an annotation's segmentation; segmentations make up most of the file."""
    kept = ("id", "image_id", "category_id", "bbox")
    return {key: entry[key] for key in kept} if entry.keys() >= set(kept) else entry


def _listing(folder: Path) -> frozenset[str]:
    """List the names in a folder of images.

    One listing is fast; checking each of 80,000 files takes minutes on a shared file system.
    """
    try:
        return frozenset(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); {LEGAL}") from None


# ----------------------------------------------------------------------------------------------------------- one crop
def crop_box(box: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the square to crop, (left, top, right, bottom) in whole pixels: the object's box with its surroundings.

    Each axis grows on both sides, by 50 pixels if the box is under 100 pixels, else by a fifth of its size. The result
    is clipped to the image of `width` x `height` and rounded. Then the shorter axis is extended on both sides to the
    length of the longer one. This may reach outside of the image, where the crop is black.
    """
    left, right = _around(box[0], box[2], width)
    top, bottom = _around(box[1], box[3], height)
    side = max(right - left, bottom - top)
    left -= (side - (right - left)) // 2
    top -= (side - (bottom - top)) // 2
    return left, top, left + side, top + side


def _around(start: float, size: float, limit: int) -> tuple[int, int]:
    """Return the begin and end of a box with its surroundings along one axis, in pixels, at least one pixel."""
    more = 50.0 if size < 100 else 0.2 * size
    low, high = round(max(0.0, start - more)), round(min(float(limit), start + size + more))
    low = min(low, limit - 1)
    return low, max(high, low + 1)


def crop(data: bytes, box: tuple[float, float, float, float], size: tuple[int, int]) -> Image.Image:
    """Cut the RGB image of one object from the bytes of its image, which must be of `size`; see `crop_box`.

    Raises:
        ValueError: the image is bad or of another size, or the square is larger than an image may be; one sentence.
    """
    left, top, right, bottom = square = crop_box(box, *size)
    if (right - left) * (bottom - top) > MAX_PIXELS:
        raise ValueError(
            f"the object's square of {right - left}x{bottom - top} pixels, black around the image, exceeds the limit "
            f"of {MAX_PIXELS} pixels"
        )
    image = decode(data)
    if image.size != tuple(size):
        raise ValueError(f"the image has {image.width}x{image.height} pixels, its annotation says {size[0]}x{size[1]}")
    return image.crop(square)
