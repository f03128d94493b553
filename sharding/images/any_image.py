"""Any image that Pillow opens, as 8-bit grey or RGB: the rules by which it becomes a JPEG.

- Grey stays grey. Palettes, CMYK and every other colour space become RGB.
- What is transparent lies on white.
- 1 bit becomes 0 and 255. Of 16 bits the higher 8 are kept. Numbers of other ranges (32-bit floats) are refused.
- Of an animation or a file of several pages the first one is taken.
- EXIF orientation and colour profiles are ignored, as in the usual training pipelines.
"""

from __future__ import annotations

import io
import os
from functools import cache

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from sharding.images.decoders import MAX_PIXELS

_NEED_MORE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow tells by their first bytes, but cannot decode alone, or only by running another program."""
SMALL = 64
"""Images whose longer side has at most so many pixels keep their colours in full."""
_WHITE = 255


@cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are taken."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NEED_MORE))


@cache
def extensions() -> frozenset[str]:
    """Return the extensions, as `.png`, of the images that Pillow can read."""
    taken = formats()
    return frozenset(end for end, kind in Image.EXTENSION.items() if kind in taken)


def is_image(name: str) -> bool:
    """Return whether a file is an image by its extension, in any case."""
    return os.path.splitext(name)[1].lower() in extensions()


def first_frame(data: bytes) -> Image.Image:
    """Decode an image file of any format, its first frame.

    Raises:
        ValueError: it is none, is damaged, has one pixel or more than MAX_PIXELS; one sentence.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # see decoders.decode
    try:
        image = Image.open(io.BytesIO(data), formats=formats())
        check_size(image.size)
        image.load()
    except (MemoryError, _Size):
        raise
    except Image.DecompressionBombError:
        raise _Size(f"has far more than the {MAX_PIXELS} pixels that are legal") from None
    except Exception as error:  # damaged bytes make Pillow raise some ten unrelated types
        cause = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # Pillow's text names a file object, which says nothing
            cause = f"it begins with {data[:8]!r}" if data else "it is empty"
        raise ValueError(f"not a whole image that Pillow opens ({len(data)} bytes): {cause}") from error
    check_size(image.size)  # an icon's is known when it is loaded
    return image


class _Size(ValueError):
    """An image of an illegal size."""


def check_size(size: tuple[int, int]) -> None:
    """Check the width and height of an image.

    Raises:
        ValueError: it has one pixel, or more than MAX_PIXELS; one sentence.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        raise _Size(f"image of {width}x{height} pixels exceeds the limit of {MAX_PIXELS} pixels")
    if width * height <= 1:
        raise _Size(f"image of {width}x{height} pixels, which shows nothing; two pixels or more are legal")


def flat(image: Image.Image) -> tuple[Image.Image, str]:
    """Return a loaded image as mode L or RGB without metadata, and what was changed in a few words.

    Raises:
        ValueError: its mode has no rule; one sentence.
    """
    mode, said = image.mode, ""
    if mode.startswith("I"):
        image, said = _high_byte(image), ", the higher 8 of 16 bits"
    elif image.has_transparency_data:
        image, said = _on_white(image), ", on white"
    elif mode == "1":
        image = image.convert("L")
    elif mode == "F":
        raise ValueError("an image of 32-bit floats, whose range is not known; 8 or 16 bits a channel are legal")
    elif mode not in ("L", "RGB"):
        try:
            image = image.convert("RGB")
        except ValueError:
            raise ValueError(f"an image of Pillow's mode {mode}, which it cannot turn into RGB") from None
    image.info = {}  # Pillow would write the comment of a GIF into the JPEG
    return image, said


def jpeg_of(image: Image.Image, quality: int) -> bytes:
    """Encode an image of mode L or RGB as a JPEG file: baseline, no metadata; small ones with colours in full."""
    buffer = io.BytesIO()
    colours = "4:4:4" if max(image.size) <= SMALL else "4:2:0"
    image.save(buffer, "JPEG", quality=quality, subsampling=colours, optimize=False, progressive=False)
    return buffer.getvalue()


def has_frames(data: bytes) -> bool:
    """Return whether the file is an animation or has several pages; False if it is no image."""
    try:
        image = Image.open(io.BytesIO(data), formats=formats())
        return image.format != "PSD" and bool(getattr(image, "is_animated", False))  # there they are layers
    except Exception:  # of many types; who decodes it says what it is
        return False


def _high_byte(image: Image.Image) -> Image.Image:
    numbers = np.asarray(image)  # of 2 or 4 bytes, in its byte order
    if numbers.itemsize > 2 and (numbers.min() < 0 or numbers.max() >= 1 << 16):
        raise ValueError("an image of 32-bit numbers outside of 0 to 65535; 8 or 16 bits a channel are legal")
    return Image.fromarray((numbers >> 8).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if grey else "RGBA")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (_WHITE,) * 3)
    white.paste(image, mask=image.getchannel("A"))
    return white.getchannel("R") if grey else white
