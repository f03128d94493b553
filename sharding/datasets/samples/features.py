"""Features of the images, by which those of a class are clustered: float32 [N, D], an .npy file in the index's order.

`features=pixels` needs no weights: the principal components of small images, 32x32 pixels if all that are looked at
are grey, else 16x16 in RGB. Mean and covariance are exact sums of whole numbers over at most `SAMPLE` images, which the
seed draws. `features=NAME` is a network of torchvision without its last layer, on the central 256x256 pixels of images
whose shorter side was made 260 (224 and 228 for a network that takes no other size); mean and standard deviation are
not subtracted, as in the paper. `features=LIBRARY:NAME` is a network of timm, torchvision or open_clip on images as it
was trained with. `features=FILE.npy` is the user's own.

Images are decoded `BATCH` at a time by worker processes, so memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from recipes.common.errors import DataError
from recipes.common.files import whole_file
from sharding.building.dice import Dice
from sharding.building.notices import ENOUGH, Damaged, add_damaged
from sharding.building.process_pool import in_order
from sharding.images.backbones import is_of_library, network
from sharding.images.decoders import picture_of
from sharding.images.library_backbones import library_backbone
from sharding.images.transforms import eval_pixels

BATCH = 64
SAMPLE, WIDTH = 10_000, 50
"""Images from which the principal components are found, and the most components that are kept."""
GREY_SIDE, RGB_SIDE = 32, 16
_STREAM = int.from_bytes(b"pixels", "big")
LARGEST = 1e15
"""Numbers of a user's features at most: k-means adds up the squares of their float32."""
_ROWS = 65_536
"""Rows of a user's array that are looked at at a time."""
Batch = tuple[np.ndarray, Mapping[str, str]]
"""Numbers of some images, [B, ...], and those of them that are damaged, name -> what is wrong; no numbers then."""


class Pictures(Protocol):
    """The images of an index; worker processes get a pickle of it."""

    def __len__(self) -> int:
        """Return how many there are."""

    def picture(self, row: int) -> Image.Image:
        """Return a decoded image; `Damaged` names the one that cannot be."""


@dataclass(frozen=True)
class PixelAxes:
    """Principal components of small images.

    Attributes:
        grey: whether the small images are grey.
        mean: float64 [P], of their P numbers of 0..255.
        axes: float64 [D, P], of length 1, the strongest first; of each, the number that is farthest from 0 is positive.
    """

    grey: bool
    mean: np.ndarray = field(repr=False)
    axes: np.ndarray = field(repr=False)


def pixel_axes(pictures: Pictures, seed: int, workers: int) -> PixelAxes:
    """Find the principal components of the images.

    Raises:
        Damaged: images cannot be decoded; all are looked at, for no features can be made then.
    """
    count = len(pictures)
    drawn = np.arange(count) if count <= SAMPLE else np.sort(Dice(seed, _STREAM).permutation(count)[:SAMPLE])
    grey = all(in_order(_all_grey, pictures, _batches(drawn[:: max(1, len(drawn) // 500)]), workers))
    total: np.ndarray | int = 0
    products: np.ndarray | int = 0
    damaged: dict[str, str] = {}
    for small, bad in in_order(_small, (pictures, grey), _batches(drawn), workers):
        add_damaged(damaged, bad)
        if not damaged:
            numbers = small.astype(np.float64)  # every product and sum is a whole number below 2^53, so it is exact
            total, products = total + numbers.sum(0), products + numbers.T @ numbers
    if damaged:
        raise Damaged(damaged | _damaged_of(pictures, np.setdiff1d(np.arange(count), drawn), workers))
    sums = np.asarray(total)
    covariance = (len(drawn) * np.asarray(products) - np.outer(sums, sums)) / len(drawn) ** 2
    _, vectors = np.linalg.eigh(covariance)
    axes = vectors.T[::-1][:WIDTH]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return PixelAxes(grey, sums / len(drawn), axes * signs[:, None])


def of_pixels(pictures: Pictures, axes: PixelAxes, rows: np.ndarray, workers: int) -> Iterator[Batch]:
    """Yield the features of some images, float32 [B, D] at a time, and the damaged ones."""
    for small, damaged in in_order(_small, (pictures, axes.grey), _batches(rows), workers):
        yield small if damaged else ((small - axes.mean) @ axes.axes.T).astype(np.float32), damaged


def of_backbone(pictures: Pictures, name: str, weights: Path, rows: np.ndarray, workers: int) -> Iterator[Batch]:
    """Yield the features of some images by a network, float32 [B, D] at a time, and the damaged ones.

    Raises:
        DataError: there is no such network, or the weights are not its own.
    """
    if is_of_library(name):
        found = library_backbone(name, weights)
        forward, size, resize = found.forward(), found.size, found.resize
    else:
        forward, size = network(name, weights), 224 if name.startswith("vit_") else 256
        resize = size + 4
    for pixels, damaged in in_order(_views, (pictures, size, resize), _batches(rows), workers):
        yield pixels if damaged else forward(pixels), damaged


def save(path: Path, batches: Iterable[np.ndarray], count: int) -> None:
    """Write the features of `count` images to an .npy file as they come; it has its name when it is whole.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path) as file:
        header = {"descr": "<f4", "fortran_order": False}
        for number, batch in enumerate(batches):
            if number == 0:
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, batch.shape[1])})
            file.write(np.ascontiguousarray(batch, "<f4").tobytes())


def from_file(path: Path, count: int) -> np.ndarray:
    """Map a user's features into memory: [N, D] of any type of number, read-only.

    Raises:
        DataError: it is no such array, has another length than the index or a number that is not finite.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not an .npy of numbers"
        raise DataError(f"features={path} cannot be read: {reason}") from None
    wanted = f"numbers [{count}, D], one row an image in the order of the index, would be legal"
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise DataError(f"features={path} is no array of numbers; {wanted}")
    if found.ndim != 2 or len(found) != count or found.shape[1] < 1:
        raise DataError(f"features={path} has the shape {list(found.shape)}; {wanted}")
    for start in range(0, count, _ROWS):
        with np.errstate(invalid="ignore"):
            fit = (np.abs(found[start : start + _ROWS].astype(np.float64)) <= LARGEST).all(1)  # NaN is not, either
        if not fit.all():
            row = start + int(np.argmin(fit))
            raise DataError(f"features={path}: row {row} has a number that is not finite or beyond 1e15; {wanted}")
    return found


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _damaged_of(pictures: Pictures, rows: np.ndarray, workers: int) -> dict[str, str]:
    """Return which of some images are damaged, name -> what is wrong; `ENOUGH` of them."""
    damaged: dict[str, str] = {}
    for _, bad in in_order(_small, (pictures, True), _batches(rows), workers):
        damaged |= bad
        if len(damaged) >= ENOUGH:
            break
    return damaged


def _all_grey(pictures: Pictures, rows: np.ndarray) -> bool:
    return bool(_of_each(pictures, rows, lambda image: np.array(_is_grey(image)))[0].all())


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("1", "L", "LA"):
        return True
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)
    return bool((red == green).all() and (red == blue).all())


def _small(state: tuple[Pictures, bool], rows: np.ndarray) -> Batch:
    """Decode images and make them small: uint8 [B, P]. Pillow averages in whole numbers."""
    pictures, grey = state
    mode, side = ("L", GREY_SIDE) if grey else ("RGB", RGB_SIDE)

    def small(image: Image.Image) -> np.ndarray:
        return np.asarray(image.convert(mode).resize((side, side), Image.Resampling.BOX)).reshape(-1)

    return _of_each(pictures, rows, small)


def _views(state: tuple[Pictures, int, int], rows: np.ndarray) -> Batch:
    """Decode images for a network: uint8 [B, size, size, 3]."""
    pictures, size, resize = state
    return _of_each(pictures, rows, lambda image: eval_pixels(picture_of(image), size=size, resize=resize))


def _of_each(pictures: Pictures, rows: np.ndarray, made: Callable[[Image.Image], np.ndarray]) -> Batch:
    """Decode images and make an array of each: [B, ...]."""
    arrays: list[np.ndarray] = []
    damaged: dict[str, str] = {}
    for row in rows.tolist():
        try:
            arrays.append(made(pictures.picture(row)))
        except Damaged as error:
            damaged |= error.images
    return np.empty(0) if damaged else np.stack(arrays), damaged
