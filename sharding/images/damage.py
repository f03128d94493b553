"""Signs of damage in a JPEG that still decodes: libjpeg fills in what is missing and only warns.

Two original images of ILSVRC make libjpeg warn. So images are not refused for this; builds and sharding.verify name
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from types import ModuleType

import numpy as np

from sharding.images.any_image import has_frames
from sharding.images.decoders import MAX_PIXELS

WARNED = "images whose data libjpeg calls corrupt"
EMPTY = "images with whole sectors of one repeated byte, as a copy leaves where it lost a page"
GREY = "images that end in plain mid-grey, with which libjpeg fills up what is missing"
FRAMES = "images of several frames or pages, of which the first is taken"
SECTOR = 512
"""Bytes of a sector. Disks and copies lose whole sectors; archives align their members to sectors."""
_NEIGHBOURS = 2
"""How many bytes on either side of a hole may equal what fills it."""
_SCAN, _ALONE = 0xDA, (0x01, *range(0xD0, 0xD8))  # the marker before the pixels; markers without a length
_GREY = 128


def is_sound(data: bytes) -> bool:
    """Return whether libjpeg takes the data as a JPEG to its last byte, without a warning. For builds: may it stay?"""
    decoding = _decoding(data, 8)
    return decoding.pixels is not None and not decoding.warned


def doubts(data: bytes) -> list[str]:
    """Return what is odd about an image that decodes, a few words each.

    For builds: a JPEG is decoded to an eighth of its width and height, which still reads all its bytes. Of other files
    it is told only whether they have several frames.
    """
    if not _is_jpeg(data):
        return [FRAMES] if has_frames(data) else []
    decoding = _decoding(data, 8)
    if decoding.ends_grey:  # in the mean of 64 pixels; to be sure takes all of them
        decoding = _decoding(data, 1)
    return _signs(data, decoding)


def pixels_and_doubts(data: bytes) -> tuple[np.ndarray | None, list[str]]:
    """Decode a JPEG to RGB, uint8 [H, W, 3], and return what is odd about it (see `doubts`). For verify: it needs both.

    The pixels are None if Pillow has to decide: the fast decoder does not support the file, or it is incomplete.
    """
    decoding = _decoding(data, 1)
    pixels = decoding.pixels
    rgb = pixels is not None and pixels.shape[2] == 3 and not decoding.warned
    return pixels if rgb else None, _signs(data, decoding)


@dataclass(frozen=True, eq=False)
class _Decoding:
    """What libjpeg makes of a file.

    Attributes:
        pixels: uint8 [h, w, c], RGB or CMYK; None where this decoder does not take the file.
        warned: whether it called the data corrupt, and went on.
    """

    pixels: np.ndarray | None = None
    warned: bool = False

    @property
    def ends_grey(self) -> bool:
        """Whether the last eighth of the rows or more is plain mid-grey, and not all of the image."""
        if self.pixels is None or not (self.pixels[-1, -1] == _GREY).all():
            return False
        last = self.pixels[-max(1, len(self.pixels) // 8) :]
        return bool((last == _GREY).all() and not (self.pixels == _GREY).all())


def _signs(data: bytes, decoding: _Decoding) -> list[str]:
    if not _is_jpeg(data):
        return []
    grey = not decoding.warned and decoding.ends_grey  # where libjpeg warned, it is no news
    signs = {WARNED: decoding.warned, EMPTY: _has_empty_stretch(data), GREY: grey}
    return [words for words, found in signs.items() if found]


def _is_jpeg(data: bytes) -> bool:
    return data[:2] == b"\xff\xd8"


@cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:  # the suite installs it; nothing else passes on libjpeg's warnings
        return None
    module: ModuleType = simplejpeg
    return module


@lru_cache(1)  # a build asks twice of the same bytes, `is_sound` and `doubts`, and decoding is most of its work
def _decoding(data: bytes, factor: int) -> _Decoding:
    """Decode at 1 / `factor` of the width and height."""
    library = _simplejpeg()
    if library is None or not _is_jpeg(data):
        return _Decoding()
    least = 0 if factor == 1 else 1  # with 0 the size stays
    for strict in (True, False):
        try:
            height, width, colours, _ = library.decode_jpeg_header(data)
            if height * width > MAX_PIXELS:
                return _Decoding()
            space = "CMYK" if colours in ("CMYK", "YCCK") else "RGB"
            pixels = library.decode_jpeg(
                data, space, min_height=least, min_width=least, min_factor=factor, strict=strict
            )
            return _Decoding(pixels, warned=not strict)
        except ValueError:  # in strict mode a warning; else a JPEG that only Pillow decodes, or an incomplete one
            continue
    return _Decoding()


def _has_empty_stretch(data: bytes) -> bool:
    """Return whether whole sectors of the pixels' data repeat one byte, and the sectors around them do not.

    A plain area can also make a long run of equal bytes, but that run does not begin and end with sectors. The bytes
    next to a hole may equal what fills it: 0 is frequent, since one follows each 0xFF.
    """
    start, end = _scan(data), data.rfind(b"\xff\xd9")
    end = end if end > start else len(data)
    first = -(-start // SECTOR)
    sectors = np.frombuffer(data, np.uint8, max(0, end // SECTOR - first) * SECTOR, min(first * SECTOR, len(data)))
    sectors = sectors.reshape(-1, SECTOR)
    probes = sectors[:, [0, SECTOR // 3, SECTOR - 1]]
    for number in np.flatnonzero((probes == probes[:, :1]).all(1)).tolist():
        value, begin = sectors[number, :1].tobytes(), (first + number) * SECTOR
        before = data[begin - _NEIGHBOURS - 1 : begin]
        if data[begin : begin + SECTOR] != value * SECTOR or before == value * len(before):
            continue  # the latter it continues a run that began in another sector
        stop = begin + len(data[begin:]) - len(data[begin:].lstrip(value))
        if stop % SECTOR <= _NEIGHBOURS or stop == len(data):
            return True
    return False


def _scan(data: bytes) -> int:
    """Return where the data of the first scan begin; the end of the file if it has no scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or marker in _ALONE:  # fill bytes, markers without content
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SCAN:
            return position
    return len(data)
