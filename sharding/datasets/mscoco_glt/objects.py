"""COCO's objects: instance annotations joined with COCO-Attributes, checked, as plain arrays; and an object's crop.

A source folder holds COCO 2014 as it is unpacked: annotations/instances_train2014.json,
annotations/instances_val2014.json, train2014/, val2014/.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recipes.common.errors import DataError, one_line
from sharding.datasets.mscoco_glt.attributes import Attributes
from sharding.images.decoders import MAX_PIXELS, decode

FOLDERS = ("train2014", "val2014")
CLASSES = 29
LOST = 0.01
"""The largest share of patches that may lack an annotation in COCO 2014 and are left out; where more do, the files do
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

    def __len__(self) -> int:
        """Return the number of objects N."""
        return len(self.patch)


def read_objects(source: Path, attributes: Attributes) -> Objects:
    """Join the attributes with the annotations in `source`, and check that every image is there.

    One instances file is read at a time and no segmentation is kept: about 1.5 GB of memory for COCO's.

    Raises:
        DataError: a file is missing or damaged, an annotation's image or category is not there, a box has no size or
            lies outside its image, or the files do not belong together; one sentence.
    """
    wanted = frozenset(annotation for annotation in attributes.annotation.tolist() if annotation >= 0)
    found: dict[int, _Instance] = {}
    for folder in FOLDERS:
        for instance in _instances(source, folder, wanted):
            if instance.annotation in found:
                raise DataError(
                    f"annotation {instance.annotation} occurs twice in {source / 'annotations'}; the two instances "
                    "files of COCO 2014 share none"
                )
            found[instance.annotation] = instance
    rows = [row for row, annotation in enumerate(attributes.annotation.tolist()) if annotation in found]
    lost = len(attributes) - len(rows)
    if lost > LOST * len(attributes):
        raise DataError(
            f"{lost} of {len(attributes)} patches of the attribute file have no annotation in "
            f"{source / 'annotations'}; "
            f"instances_train2014.json and instances_val2014.json of COCO 2014 and its attribute file belong together"
        )
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


def _instances(source: Path, folder: str, wanted: Collection[int]) -> Iterator[_Instance]:
    """Yield the wanted annotations of one instances file, checked."""
    path = source / "annotations" / f"instances_{folder}.json"
    document = _load(path)
    try:
        names = {category["id"]: str(category["name"]) for category in document["categories"]}
        images = {
            image["id"]: (f"{folder}/{image['file_name']}", (int(image["width"]), int(image["height"])))
            for image in document["images"]
        }
        chosen = [entry for entry in document["annotations"] if entry["id"] in wanted]
        del document
        there = _listing(source / folder)
        for entry in chosen:
            who = f"annotation {entry['id']} in {path}"
            if entry["image_id"] not in images:
                raise DataError(f"{who} is of image {entry['image_id']}, which the file does not list")
            if entry["category_id"] not in names:
                raise DataError(f"{who} is of category {entry['category_id']}, which the file does not list")
            file, size = images[entry["image_id"]]
            if file.partition("/")[2] not in there:
                raise DataError(f"{who} is of image {source / file}, which is not there")
            box = [float(value) for value in entry["bbox"]]
            if len(box) != 4 or not all(map(math.isfinite, box)) or box[2] <= 0 or box[3] <= 0:
                raise DataError(
                    f"{who} has the box {box}, which has no size; left, top, width and height in pixels are legal, "
                    "width and height above 0"
                )
            if box[0] >= size[0] or box[1] >= size[1] or box[0] + box[2] <= 0 or box[1] + box[3] <= 0:
                raise DataError(f"{who} has the box {box}, which lies outside its image of {size[0]}x{size[1]} pixels")
            yield _Instance(entry["id"], entry["image_id"], file, size, box, names[entry["category_id"]])
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            one_line(
                f"{path} is no instances file of COCO: {type(error).__name__} {error}; it needs images, annotations "
                "and categories"
            )
        ) from None


def _load(path: Path) -> Any:
    """Read the JSON document, without the segmentations that make up most of it."""

    def slim(entry: dict[str, Any]) -> dict[str, Any]:
        return (
            {key: entry[key] for key in ("id", "image_id", "category_id", "bbox")}
            if entry.keys() >= {"bbox", "image_id", "category_id", "id"}
            else entry
        )

    try:
        return json.loads(path.read_bytes(), object_hook=slim)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); source= is a folder with annotations/, train2014/ and "
            "val2014/ of COCO 2014"
        ) from None
    except ValueError as error:
        raise DataError(one_line(f"{path} is no whole JSON file: {error}")) from None


def _listing(folder: Path) -> frozenset[str]:
    """List the names in a folder of images.

    One listing is quick, where a look at each of 80,000 files takes minutes on a shared file system.
    """
    try:
        return frozenset(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}); source= is a folder with annotations/, train2014/ and "
            "val2014/ of COCO 2014"
        ) from None


# ----------------------------------------------------------------------------------------------------------- one crop
def crop_box(box: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the square to crop, (left, top, right, bottom) in whole pixels: the object's box with what is around it.

    On each axis 50 pixels are added on both sides of a box under 100 pixels, a fifth of its size on both sides of a
    larger one. This is clipped to the image of `width` x `height`, rounded, and the shorter axis is extended on both
    sides to the longer; that may lead outside the image, which is black.
    """
    left, right = _around(box[0], box[2], width)
    top, bottom = _around(box[1], box[3], height)
    side = max(right - left, bottom - top)
    left -= (side - (right - left)) // 2
    top -= (side - (bottom - top)) // 2
    return left, top, left + side, top + side


def _around(start: float, size: float, limit: int) -> tuple[int, int]:
    """Return where a box with its surroundings begins and ends along one axis, in pixels; at least one pixel."""
    more = 50.0 if size < 100 else 0.2 * size
    low, high = round(max(0.0, start - more)), round(min(float(limit), start + size + more))
    low = min(low, limit - 1)
    return low, max(high, low + 1)


def crop(data: bytes, box: tuple[float, float, float, float], size: tuple[int, int]) -> Image.Image:
    """Cut the RGB image of one object from the bytes of its image, which must be of `size`; see `crop_box`.

    Raises:
        ValueError: the image is bad or of another size, or the square is larger than any image may be; one sentence.
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
