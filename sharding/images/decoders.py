"""From the bytes of an image to its RGB pixels, all of them or those of a box: one decoder is chosen for a run, the fastest that all its ranks have.

All decoders are libjpeg-turbo's code with its exact settings (slow integer DCT, smooth chroma), so they give the same pixels, to the bit where the
library is of the same generation. What a fast decoder does not take (PNG, CMYK, damaged but legal files) goes to Pillow, which decides for all of
them what is an image. Needs numpy and Pillow; the others are used where they are found.
"""

from __future__ import annotations

import ctypes
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageFile, features

from recipes.common.errors import DataError
from sharding.images.turbojpeg import Box, TurboJpeg, find_turbojpeg

MAX_PIXELS = 64_000_000
"""Images of more pixels than this are refused before they are decoded (192 MB as RGB)."""


class Picture(Protocol):
    """An image of which pixels can be had; `size` is (width, height)."""

    @property
    def size(self) -> tuple[int, int]: ...

    def region(self, box: Box) -> np.ndarray:
        """uint8 [bottom - top, right - left, 3], RGB; perhaps a read-only view."""
        ...


@dataclass(frozen=True, eq=False)
class Pixels:
    """A picture that is decoded: uint8 [H, W, 3], RGB."""

    array: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.array.shape[1], self.array.shape[0]

    def region(self, box: Box) -> np.ndarray:
        left, top, right, bottom = box
        return self.array[top:bottom, left:right]


def picture_of(image: Image.Image) -> Pixels:
    """Of a Pillow image of any mode."""
    return Pixels(np.asarray(image.convert("RGB")))


def whole(picture: Picture) -> np.ndarray:
    """All pixels, uint8 [H, W, 3]."""
    return picture.region((0, 0, *picture.size))


@dataclass(frozen=True)
class Decoder:
    """Attributes:
    opened: the picture in the bytes of a JPEG or PNG file. Raises ValueError, in one sentence, where there is none.
    """

    name: str
    version: str
    opened: Callable[[bytes], Picture]


# --------------------------------------------------------------------------------------------------------------------- Pillow
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


def _pillow_opened(data: bytes) -> Picture:
    return picture_of(decode(data))


def _pillow() -> Decoder:
    return Decoder("pillow", f"{version('pillow')}, libjpeg {features.version('jpg')}", _pillow_opened)


# ----------------------------------------------------------------------------------------------------------------- simplejpeg
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


# ---------------------------------------------------------------------------------------------------------------- torchvision
def _torchvision() -> Decoder:
    import torch

    if (installed := find_spec("torchvision")) is None:
        raise ImportError("torchvision is not installed")
    for library in Path(installed.origin).parent.glob("image*.so"):  # a second saved where it does not load
        ctypes.CDLL(str(library))
    from torchvision.io import ImageReadMode, decode_jpeg

    import sharding.images.torchvision_cpu  # noqa: F401, without which the next line may fail

    decode_jpeg(torch.frombuffer(bytearray(_tiny_jpeg()), dtype=torch.uint8), ImageReadMode.RGB)

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
        except Exception:  # as with Pillow, of many types; Pillow says what it is
            pass
        return _pillow_opened(data)

    return Decoder("torchvision", version("torchvision"), opened)


def _tiny_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------- TurboJPEG 3
@dataclass(frozen=True, eq=False)
class _Encoded:
    """A JPEG of which only what is asked for is decoded."""

    turbo: TurboJpeg
    data: bytes
    size: tuple[int, int]
    block: int

    def region(self, box: Box) -> np.ndarray:
        left, top, right, bottom = box
        # A block more on the left and two columns on the right: chroma is interpolated from its neighbours, and the pixels must be those of the
        # whole image. (Above and below the library looks by itself.)
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


# ----------------------------------------------------------------------------------------------------------------- the choice
_MAKERS: dict[str, Callable[[], Decoder]] = {
    "turbojpeg": _turbojpeg,
    "torchvision": _torchvision,
    "simplejpeg": _simplejpeg,
    "pillow": _pillow,
}
ORDER = tuple(_MAKERS)
"""From the fastest to the one that is always there."""


@cache
def _made(name: str) -> Decoder | str:
    """The decoder, or why it is not here."""
    try:
        return _MAKERS[name]()
    except (ImportError, OSError, RuntimeError) as error:
        return " ".join(str(error).split())


def decoder(name: str) -> Decoder:
    """The decoder of that name. Raises DataError, with the reason, where it is not on this machine."""
    made = _made(name)
    if isinstance(made, str):
        raise DataError(f"data.decoder={name} is not on this machine ({made}); it has {', '.join(available())}")
    return made


def available() -> list[str]:
    """The names of the decoders on this machine, fastest first."""
    return [name for name in ORDER if isinstance(_made(name), Decoder)]


def agreed(offers: Sequence[Sequence[str]], wanted: str | None, why: str) -> str:
    """The decoder of a run, the same on all ranks.

    Args:
        offers: what each rank has, by rank.
        wanted: the one that it must be, if any.
        why: who wants it, for the message.

    Raises:
        DataError: a rank lacks the wanted one.
    """
    if wanted is not None:
        lacking = [rank for rank, names in enumerate(offers) if wanted not in names]
        if lacking:
            raise DataError(
                f"{why}, and rank{'s' * (len(lacking) > 1)} {', '.join(map(str, lacking))} of {len(offers)} lack{'s' * (len(lacking) == 1)} it; "
                f"all ranks have {', '.join(_common(offers))}"
            )
        return wanted
    return _common(offers)[0]


def _common(offers: Sequence[Sequence[str]]) -> list[str]:
    return [name for name in ORDER if all(name in names for names in offers)]
