"""From the bytes of one image to the uint8 pixels that a batch holds; numpy and Pillow only.

Training images go through random resized crop, horizontal flip, RandAug, in this order (the GLT
paper's set-up); test images through resize and centre crop. Pixels stay uint8 in [0, 255]: the
normalisation happens once per batch, on the device.

Whatever is random is a function of (seed, epoch, draw) alone, draw being the position in the
epoch's plan, so that neither workers, ranks, prefetching nor a resume can change a pixel.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageFile

from sharding.randaug import apply_policy

MAX_PIXELS = 64_000_000
"""Images of more pixels than this are refused before they are decoded (192 MB as RGB)."""

ASPECT_RATIOS = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10

_BILINEAR = Image.Resampling.BILINEAR
# Topmost word of the Philox counter, so that other users of a (seed, epoch) key, such as the
# plan, never meet this stream.
_DOMAIN = int.from_bytes(b"augment", "big")


class Dice:
    """Random numbers made from a bit generator's raw 64-bit words, one word for each number.

    ``numpy.random.Generator`` may change how it turns words into numbers between numpy versions
    (NEP 19); the words themselves are fixed. Deriving the few kinds needed here keeps a seed's
    pixels the same under every numpy.
    """

    __slots__ = ("_next_word",)

    def __init__(self, bits: np.random.BitGenerator) -> None:
        self._next_word = bits.random_raw

    def word(self) -> int:
        """The next raw word, 0 <= word < 2**64."""
        return int(self._next_word())

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float in [low, high), in steps of (high - low) / 2**53."""
        return low + (high - low) * ((self.word() >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """An integer in 0 .. n-1; its bias, below n / 2**64, is beyond measuring."""
        if n < 1:
            raise ValueError(f"cannot draw from {n} values")
        return (self.word() * n) >> 64

    def coin(self, p: float = 0.5) -> bool:
        """True with probability p."""
        return self.uniform() < p


def draw_rng(seed: int, epoch: int, draw: int) -> Dice:
    """The random numbers of one draw: counter-based (Philox 4x64), so no draw depends on another.

    seed and epoch lie in 0 .. 2**32-1, draw in 0 .. 2**63-1, else ValueError; different triples
    have different Philox keys. Costs about 10 microseconds.
    """
    if not (0 <= seed < 1 << 32 and 0 <= epoch < 1 << 32 and 0 <= draw < 1 << 63):
        raise ValueError(f"seed {seed}, epoch {epoch} or draw {draw} is outside its range")
    key = np.array([seed << 32 | epoch, draw], dtype=np.uint64)
    counter = np.array([0, 0, 0, _DOMAIN], dtype=np.uint64)
    return Dice(np.random.Philox(key=key, counter=counter))


def decode(data: bytes) -> Image.Image:
    """Decode a whole JPEG or PNG file to an RGB image.

    Raises ValueError, in one sentence, on any other format, on data that are damaged visibly or end
    before the last pixel, and on more than MAX_PIXELS pixels. (A flipped byte can leave a legal
    JPEG: the shard index's digests are what finds it.) Transparency is dropped, an EXIF orientation is not applied: both
    as in the usual training pipelines.
    """
    # A process-wide switch of Pillow's that any library may have thrown; with it, half an image
    # would pass for a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG", "PNG"])
        width, height = image.size
        if width * height <= MAX_PIXELS:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make Pillow raise some ten unrelated types
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"not a whole JPEG or PNG image ({len(data)} bytes): {cause}") from error
    raise ValueError(f"image of {width}x{height} pixels exceeds the limit of {MAX_PIXELS} pixels")


def crop_box(
    width: int, height: int, rng: Dice, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw the (left, top, right, bottom) in pixels that a random resized crop keeps.

    The area is uniform in ``scale`` times the image's, the aspect ratio log-uniform in 3/4 .. 4/3,
    the place uniform. A shape that does not fit is drawn again; after 10 failures the largest
    central box of a legal aspect ratio is taken. Semantics: torchvision's RandomResizedCrop.
    """
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integer(width - w + 1), rng.integer(height - h + 1)
            return left, top, left + w, top + h
    w = min(width, round(height * ASPECT_RATIOS[1]))
    h = min(height, round(width / ASPECT_RATIOS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def train_pixels(
    image: Image.Image,
    rng: Dice,
    *,
    size: int,
    crop_scale: tuple[float, float],
    hflip: bool,
    randaug: bool,
) -> np.ndarray:
    """One training view: random resized crop, flip (p = 1/2) if ``hflip``, RandAug if ``randaug``.

    Takes an image of any mode and size; returns uint8 [size, size, 3], RGB. ``crop_scale`` is the
    range of the crop's share of the area, 0 < low <= high <= 1, else ValueError. The resize is
    bilinear and antialiased. Crop and flip of a draw are the same with and without RandAug.
    """
    if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
        raise ValueError(f"crop_scale {crop_scale} is not within 0 < low <= high <= 1")
    image = _rgb(image)
    # Cropped first, not by resize(box=...): that would blend in pixels from outside the box.
    image = image.crop(crop_box(*image.size, rng, crop_scale)).resize((size, size), _BILINEAR)
    # The coin falls even when nobody asks, so that switching flips changes nothing else.
    if rng.coin() and hflip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if randaug:
        image = apply_policy(image, rng)
    return np.array(image)


def test_pixels(image: Image.Image, *, size: int, resize: int) -> np.ndarray:
    """The test view: shorter side to ``resize`` (bilinear, antialiased), central size x size crop.

    Takes an image of any mode and size; returns uint8 [size, size, 3], RGB. Without work to do
    (shorter side == resize) no pixel is resampled. ValueError where ``resize`` < ``size``.
    """
    if resize < size:
        raise ValueError(f"resize {resize} is smaller than the crop of {size} pixels")
    image = _rgb(image)
    short = min(image.size)
    if short != resize:
        width, height = (resize * side // short for side in image.size)
        image = image.resize((width, height), _BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.array(image.crop((left, top, left + size, top + size)))


test_pixels.__test__ = False  # pytest would take it for a test wherever it is imported


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
