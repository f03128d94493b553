"""From a picture to the uint8 pixels that a batch holds.

Training images go through random resized crop, horizontal flip, RandAug, in this order (the GLT paper's set-up); test
images through resize and centre crop. Pixels stay uint8 in [0, 255]: the normalisation happens once per batch, on the
device.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from recipes.common.syntax_tree import digest, meaning
from sharding.images import decoders, turbojpeg
from sharding.images.decoders import Picture, Pixels, whole
from sharding.images.dice import Dice
from sharding.images.randaug import apply_policy
from sharding.images.turbojpeg import Box


def origin(decoder: str) -> str:
    """Return a text that says what the pixels of a test view or a whole picture depend on; caches use it as a key.

    It names what this code does (a comment changes nothing), the decoder, Pillow (which decodes what other decoders do
    not) and torch.
    """
    code = [meaning(Path(file).read_bytes()) for file in (__file__, decoders.__file__, turbojpeg.__file__)]
    made_by = f"{decoder} {decoders.decoder(decoder).version} pillow {version('pillow')} torch {torch.__version__}"
    return f"{digest(code)} {made_by}"


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize uint8 [h, w, 3] to [height, width, 3]: bilinear and antialiased, on integers.

    Equal to Pillow's to within two grey levels (on average .03).
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    # channels last, for which torch has a vectorised kernel; numpy's views cost a tenth of torch's
    image = torch.from_numpy(np.array(pixels)[None]).permute(0, 3, 1, 2)
    resampled: np.ndarray = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True).numpy()[0]
    return resampled.transpose(1, 2, 0)


def shrunk(picture: Picture, short: int) -> Picture:
    """Return the picture with a shorter side of at most `short` pixels."""
    side = min(picture.size)
    if side <= short:
        return picture
    width, height = (max(1, round(length * short / side)) for length in picture.size)
    return Pixels(resized(whole(picture), width, height))


def train_pixels(
    picture: Picture,
    rng: Dice,
    *,
    size: int,
    crop_scale: tuple[float, float],
    hflip: bool,
    randaug: bool,
    randaug_pixels: str = "own",
) -> np.ndarray:
    """Return a training view: uint8 [size, size, 3], RGB.

    Only the crop's pixels are decoded. Crop and flip of a draw are the same with and without RandAug.

    Args:
        picture: the image.
        rng: the draw's random numbers.
        size: pixels of the square view's side.
        crop_scale: the range of the crop's share of the area, 0 < low <= high <= 1.
        hflip: whether half of the views are mirrored.
        randaug: whether RandAug comes last.
        randaug_pixels: the pixels of its operations, a key of `sharding.images.randaug.POLICIES`.

    Raises:
        ValueError: `crop_scale` is not such a range.
    """
    box, flipped = draw_crop(*picture.size, rng, crop_scale, hflip)
    # Crop first, then resize: no pixel from outside of the box is blended in.
    pixels = resized(picture.region(box), size, size)
    if flipped:
        pixels = torch.from_numpy(np.array(pixels)).flip(1).numpy()  # twenty times as fast as numpy's reversed copy
    if randaug:
        pixels = np.asarray(apply_policy(Image.fromarray(pixels), rng, randaug_pixels))
    return pixels


def eval_pixels(picture: Picture, *, size: int, resize: int) -> np.ndarray:
    """Return the test view: uint8 [size, size, 3], RGB.

    The shorter side becomes `resize` pixels (bilinear, antialiased; not resampled if it has that size already), and the
    central crop is taken. If a picture is longer than `LONGEST`, only its middle is resized, so that the view's size
    bounds the memory: at most about `resize` x `LONGEST` * `resize` pixels are made. Such a crop may be shifted by up
    to a pixel, because the sampling grid differs. So only long pictures are cropped first, and the pixels of all others
    stay the same to the bit.

    Args:
        picture: the image.
        size: pixels of the square crop's side.
        resize: pixels of the shorter side, at least `size`.

    Raises:
        ValueError: `resize` is smaller than `size`.
    """
    window = central_window(*picture.size, size, resize)
    left, top, right, bottom = window.box
    x, y = window.left, window.top
    if (window.width, window.height) == (right - left, bottom - top):
        return picture.region((left + x, top + y, left + x + size, top + y + size))
    return resized(picture.region(window.box), window.width, window.height)[y : y + size, x : x + size]


class Window(NamedTuple):
    """A square view as it is cut from a picture: a box is resized, and a square of the result is kept.

    Attributes:
        box: of the picture.
        width: to which the box is resized, pixels.
        height: likewise.
        left: of the square in the resized box, pixels.
        top: likewise.
    """

    box: Box
    width: int
    height: int
    left: int
    top: int


def central_window(width: int, height: int, size: int, resize: int) -> Window:
    """Return where the test view of a picture of `width` x `height` pixels lies; the others as for `eval_pixels`.

    Raises:
        ValueError: `resize` is smaller than `size`.
    """
    if resize < size:
        raise ValueError(f"resize {resize} is smaller than the crop of {size} pixels")
    x, y = (max(0, side - LONGEST * min(width, height)) // 2 for side in (width, height))
    box = x, y, width - x, height - y
    sides = width - 2 * x, height - 2 * y
    wide, high = (resize * side // min(sides) for side in sides)
    return Window(box, wide, high, round((wide - size) / 2), round((high - size) / 2))


LONGEST = 64
"""The largest part of a picture's longer side that a test view resizes, in lengths of the shorter side.

Photos are far below it. Without it a 65500x1 image, a file of 17 kB, would take gigabytes.
"""


def draw_crop(width: int, height: int, rng: Dice, scale: tuple[float, float], hflip: bool) -> tuple[Box, bool]:
    """Draw the box that a training view keeps, and whether it is mirrored; the arguments as for `train_pixels`.

    Raises:
        ValueError: `scale` is not within 0 < low <= high <= 1.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"crop_scale {scale} is not within 0 < low <= high <= 1")
    # Draw the coin even without flips, so that switching flips on changes nothing else.
    return crop_box(width, height, rng, scale), rng.coin() and hflip


ASPECT_RATIOS = (3 / 4, 4 / 3)
LOG_RATIOS = (math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1]))
CROP_ATTEMPTS = 10


def crop_box(width: int, height: int, rng: Dice, scale: tuple[float, float]) -> Box:
    """Draw the (left, top, right, bottom) in pixels that a random resized crop keeps.

    The area is uniform in `scale` times the image's, the aspect ratio log-uniform in 3/4 .. 4/3, the place uniform. A
    shape that does not fit is drawn again; after 10 failures the largest central box of a legal aspect ratio is taken.
    This is what torchvision's RandomResizedCrop does.
    """
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(*LOG_RATIOS))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integer(width - w + 1), rng.integer(height - h + 1)
            return left, top, left + w, top + h
    w = min(width, round(height * ASPECT_RATIOS[1]))
    h = min(height, round(width / ASPECT_RATIOS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
