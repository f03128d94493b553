"""From the bytes of an image to its RGB pixels, all of them or those of a box.

A run uses one decoder, the fastest that all its ranks have.

All decoders are built on libjpeg-turbo, with its exact settings (slow integer DCT, smooth chroma), so they give the
same pixels, to the bit if the libraries are of the same generation. Files that a fast decoder does not support (PNG,
CMYK, damaged but legal files) go to Pillow, which alone decides whether a file is an image. Needs numpy and Pillow; the
other libraries are optional.
"""

from __future__ import annotations

import ctypes
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features

from recipes.common.errors import DataError
from sharding.images.turbojpeg import Box, TurboJpeg, find_turbojpeg

MAX_PIXELS = 64_000_000
"""Images of more pixels than this are refused before they are decoded (192 MB as RGB)."""
# Pillow warns about things that do not change the pixels: EXIF data, which are not read here, and large sizes, which
# are refused here. The warnings break the progress bar. What Pillow cannot decode raises an error.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Picture(Protocol):
    """An image, decoded or not, that returns the pixels of a region."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        ...

    def region(self, box: Box) -> np.ndarray:
        """Return the RGB pixels of a box, uint8 [bottom - top, right - left, 3]; may be a read-only view."""
        ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture that is decoded.

    Attributes:
        array: uint8 [H, W, 3], RGB.
    """

    array: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.array.shape[1], self.array.shape[0]

    def region(self, box: Box) -> np.ndarray:
        """Return a view of a box: uint8 [bottom - top, right - left, 3]."""
        left, top, right, bottom = box
        return self.array[top:bottom, left:right]


def picture_of(image: Image.Image) -> Pixels:
    """Return the picture of a Pillow image of any mode."""
    return Pixels(np.asarray(image.convert("RGB")))


def whole(picture: Picture) -> np.ndarray:
    """Return all pixels, uint8 [H, W, 3]."""
    return picture.region((0, 0, *picture.size))


@dataclass(frozen=True)
class Decoder:
    """A way from the bytes of an image to its pixels.

    Attributes:
        name: one of `ORDER`.
        version: of the library, or its digest; another version may give other pixels.
        opened: makes a picture from the bytes of a JPEG or PNG file; raises ValueError with one sentence.
    """

    name: str
    version: str
    opened: Callable[[bytes], Picture]


# ------------------------------------------------------------------------------------------------------------- Pillow
def decode(data: bytes) -> Image.Image:
    """Decode a whole JPEG or PNG file to an RGB image.

    Transparency is dropped, an EXIF orientation is not applied: both as in the usual training pipelines.

    Raises:
        ValueError: in one sentence, another format, data that are visibly damaged or end before the last pixel, or
            more than MAX_PIXELS pixels. (A flipped byte can leave a legal JPEG: the shard index's digests find it.)
    """
    # This is a process-wide switch of Pillow, which any library may have set. With it a truncated image would pass as
    # a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG", "PNG"])
        width, height = image.size
        if width * height <= MAX_PIXELS:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make Pillow raise some ten unrelated types
        raise not_whole(data, error) from error
    raise ValueError(f"image of {width}x{height} pixels exceeds the limit of {MAX_PIXELS} pixels")


def not_whole(data: bytes, error: Exception) -> ValueError:
    """Return the error for bytes that Pillow cannot decode: one sentence with Pillow's reason."""
    cause = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):  # Pillow's text names a file object, which says nothing
        cause = f"it begins with {data[:8]!r}" if data else "it is empty"
    return ValueError(f"not a whole JPEG or PNG image ({len(data)} bytes): {cause}")


def _pillow_opened(data: bytes) -> Picture:
    return picture_of(decode(data))


def _pillow() -> Decoder:
    return Decoder("pillow", f"{version('pillow')}, libjpeg {features.version('jpg')}", _pillow_opened)


# --------------------------------------------------------------------------------------------------------- simplejpeg
def _simplejpeg() -> Decoder:
    import simplejpeg

    def opened(data: bytes) -> Picture:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours not in ("CMYK", "YCCK") and width * height <= MAX_PIXELS:
                return Pixels(simplejpeg.decode_jpeg(data))
        except ValueError:
            pass
        return _pillow_opened(data)

    return Decoder("simplejpeg", version("simplejpeg"), opened)


# -------------------------------------------------------------------------------------------------------- torchvision
def _torchvision() -> Decoder:
    import torch

    if (installed := find_spec("torchvision")) is None or installed.origin is None:
        raise ImportError("torchvision is not installed")
    for library in Path(installed.origin).parent.glob("image*.so"):  # saves a second if it does not load
        ctypes.CDLL(str(library))
    from torchvision.io import ImageReadMode, decode_jpeg

    import sharding.images.torchvision_cpu  # noqa: F401, without which the next line may fail

    decode_jpeg(torch.frombuffer(bytearray(tiny_jpeg()), dtype=torch.uint8), ImageReadMode.RGB)

    def opened(data: bytes) -> Picture:
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as header:
                (width, height), mode = header.size, header.mode
            if mode in ("RGB", "L") and width * height <= MAX_PIXELS:
                return Pixels(
                    decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
                    .permute(1, 2, 0)
                    .numpy()
                )
        except Exception:  # of many types, as with Pillow; Pillow's error says what it is
            pass
        return _pillow_opened(data)

    return Decoder("torchvision", version("torchvision"), opened)


def tiny_jpeg() -> bytes:
    """Return the file of a black image of 8 x 8 pixels, to try a decoder with."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


# -------------------------------------------------------------------------------------------------------- TurboJPEG 3
@dataclass(frozen=True, eq=False)
class _Encoded:
    """A JPEG of which only the requested region is decoded."""

    turbo: TurboJpeg
    data: bytes
    size: tuple[int, int]
    block: int

    def region(self, box: Box) -> np.ndarray:
        left, top, right, bottom = box
        # Decode one more block on the left and two more columns on the right: chroma is interpolated from neighbours,
        # and the pixels must equal those of the whole image. (The library itself handles the rows above and below.)
        start, end = max(0, left // self.block - 1) * self.block, min(self.size[0], right + 2)
        pixels = self.turbo.region(self.data, (start, top, end, bottom))
        if pixels is None:
            return _pillow_opened(self.data).region(box)
        return pixels[:, left - start : right - start]


def _turbojpeg() -> Decoder:
    turbo, digest = find_turbojpeg()

    def opened(data: bytes) -> Picture:
        found = turbo.header(data)
        if found is None or found[0] * found[1] > MAX_PIXELS:
            return _pillow_opened(data)
        return _Encoded(turbo, data, found[:2], found[2])

    return Decoder("turbojpeg", digest, opened)


# --------------------------------------------------------------------------------------------------------- the choice
_MAKERS: dict[str, Callable[[], Decoder]] = {
    "turbojpeg": _turbojpeg,
    "torchvision": _torchvision,
    "simplejpeg": _simplejpeg,
    "pillow": _pillow,
}
ORDER = tuple(_MAKERS)
"""From the fastest to Pillow, which is always installed."""


@cache
def _made(name: str) -> Decoder | str:
    """Return the decoder, or the reason why it is not available."""
    try:
        return _MAKERS[name]()
    except (ImportError, OSError, RuntimeError) as error:
        return " ".join(str(error).split())


def decoder(name: str) -> Decoder:
    """Return the decoder of that name.

    Raises:
        DataError: it is not on this machine; the sentence gives the reason.
    """
    made = _made(name)
    if isinstance(made, str):
        raise DataError(f"data.decoder={name} is not on this machine ({made}); it has {', '.join(available())}")
    return made


def available() -> list[str]:
    """Return the names of the decoders on this machine, fastest first."""
    return [name for name in ORDER if isinstance(_made(name), Decoder)]


def agreed(offers: Sequence[Sequence[str]], wanted: str | None, why: str) -> str:
    """Return the name of a run's decoder, the same on all ranks.

    Args:
        offers: the decoders of each rank.
        wanted: the required decoder, if any.
        why: what requires it, for the message.

    Raises:
        DataError: a rank lacks the wanted one.
    """
    if wanted is not None:
        lacking = [rank for rank, names in enumerate(offers) if wanted not in names]
        if lacking:
            ranks = ", ".join(map(str, lacking))
            who = (
                f"rank {ranks} of {len(offers)} lacks" if len(lacking) == 1 else f"ranks {ranks} of {len(offers)} lack"
            )
            raise DataError(f"{why}, and {who} it; all ranks have {', '.join(_common(offers))}")
        return wanted
    return _common(offers)[0]


def _common(offers: Sequence[Sequence[str]]) -> list[str]:
    return [name for name in ORDER if all(name in names for names in offers)]
