"""The bytes of an image in a shard: the source's own if possible, else a new JPEG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageFile

from sharding.images.any_image import check_size, first_frame, flat, jpeg_of
from sharding.images.damage import is_sound
from sharding.images.decoders import MAX_PIXELS, not_whole

QUALITY = 90
"""JPEG quality of images that are encoded again, unless the user gives another."""
TRANSCODED = 95
"""JPEG quality of an image that is not a JPEG and would otherwise be stored as it is."""
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class StoredSize:
    """How images are stored: by default as the source's own bytes.

    Attributes:
        resize_short: most pixels of the shorter side (bilinear, antialiased; a smaller image keeps its size).
        quality: JPEG quality of images that are encoded again; given alone, all images are.
        any_image: any image that Pillow opens is taken, by the rules of any_image.py; else whole JPEGs and 8-bit PNGs.
    """

    resize_short: int | None = None
    quality: int | None = None
    any_image: bool = False

    @property
    def options(self) -> dict[str, int]:
        """Return what the user chose, for the recorded options of a build."""
        return {
            name: value
            for name, value in (("resize_short", self.resize_short), ("quality", self.quality))
            if value is not None
        }

    def __call__(self, data: bytes) -> tuple[bytes, Mapping[str, Any]]:
        """Return the bytes to store for the raw image `data`, and entries for KEY.json that say what was done to it.

        Every image is decoded once, to its last byte. JPEGs stay as they are unless an option says otherwise. They may
        have any colour space that Pillow turns into RGB (grayscale, CMYK, YCCK) and any EXIF orientation, which
        training ignores.

        Raises:
            ValueError: it is not a whole 8-bit JPEG or PNG, or not such an image as is taken; one sentence.
        """
        if self.any_image:
            return self._of_any(data)
        again = self.resize_short is not None or self.quality is not None
        image = opened(data, whole=again)
        if not again:
            if image.format == "PNG":  # ILSVRC has one whose name ends in .JPEG
                return encoded(image.convert("RGB"), TRANSCODED), {
                    "stored": f"PNG encoded as JPEG of quality {TRANSCODED}"
                }
            return data, {}
        short = min(image.size)
        rgb = image.convert("RGB")
        if self.resize_short is not None and short > self.resize_short:
            width, height = (max(1, round(side * self.resize_short / short)) for side in image.size)
            rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
        elif self.quality is None and image.format != "PNG":
            return data, {}
        return encoded(rgb, self.quality or QUALITY), (
            {"stored": "PNG encoded as JPEG"} if image.format == "PNG" else {}
        )

    def _of_any(self, data: bytes) -> tuple[bytes, Mapping[str, Any]]:
        is_jpeg, short = data.startswith(_JPEG), self.resize_short
        if is_jpeg:
            size = _size(data)
            check_size(size)
            if self.quality is None and (short is None or min(size) <= short):
                opened(data, whole=False)
                return data, {}
        image = opened(data) if is_jpeg else first_frame(data)
        form = image.format
        image, said = flat(image)
        quality = self.quality or TRANSCODED
        if short is not None and (side := min(image.size)) > short:
            width, height = (max(1, round(one * short / side)) for one in image.size)
            image, quality = image.resize((width, height), Image.Resampling.BILINEAR), self.quality or QUALITY
        stored = "" if is_jpeg else f"{form}{said} encoded as JPEG of quality {quality}"
        return jpeg_of(image, quality), {"stored": stored} if stored else {}


def _size(data: bytes) -> tuple[int, int]:
    """Return the width and height in a JPEG's header.

    Raises:
        ValueError: it has none.
    """
    try:
        return Image.open(io.BytesIO(data), formats=["JPEG"]).size
    except Exception as error:  # as in `opened`
        raise not_whole(data, error) from error


def opened(data: bytes, whole: bool = True) -> Image.Image:
    """Return the decoded image after checking that it is a whole 8-bit JPEG or PNG of at most MAX_PIXELS pixels.

    Args:
        data: the bytes of the file.
        whole: False decodes a JPEG to an eighth of its width and height. That still reads all its bytes, in a fraction
            of the time; the returned image may not be loaded yet.

    Raises:
        ValueError: it is not such an image; one sentence.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # see decoders.decode
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG", "PNG"])
        width, height = image.size
        mode, form = image.mode, image.format
        if width * height <= MAX_PIXELS and not mode.startswith("I"):
            quick = not whole and form == "JPEG"
            if quick:
                image.draft(None, (max(1, width // 8), max(1, height // 8)))
            if not quick or not is_sound(data):
                image.load()
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make Pillow raise some ten unrelated types
        raise not_whole(data, error) from error
    if mode.startswith("I"):
        raise ValueError(f"a {form} of 16 bits a channel; 8 bits are legal")
    if width * height > MAX_PIXELS:
        raise ValueError(f"image of {width}x{height} pixels exceeds the limit of {MAX_PIXELS} pixels")
    return image


def encoded(image: Image.Image, quality: int) -> bytes:
    """Encode an RGB image as a JPEG file: baseline, colours at half resolution, no metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", optimize=False, progressive=False)
    return buffer.getvalue()
