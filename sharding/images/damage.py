"""Signs of damage in a JPEG that still decodes: libjpeg fills in what is missing and only warns.

Two original images of ILSVRC make libjpeg warn. So images are not refused for this; builds and sharding.verify name
them.
"""

from __future__ import annotations

from functools import cache, lru_cache
from types import ModuleType

import numpy as np

from sharding.images.decoders import MAX_PIXELS

WARNED = "images whose data libjpeg calls corrupt"
EMPTY = "images with whole sectors of one repeated byte, as a copy leaves where it lost a page"
GREY = "images that end in plain mid-grey, with which libjpeg fills up what is missing"
SECTOR = 512
"""Bytes of a sector. Disks and copies lose whole sectors; archives align their members to sectors."""
_SCAN, _ALONE = 0xDA, (0x01, *range(0xD0, 0xD8))  # the marker before the pixels; markers without a length
_GREY = 128


def doubts(data: bytes) -> list[str]:
    """Return what is odd about an image that decodes, a few words each; an empty list for other files than JPEGs.

    A JPEG is decoded to an eighth of its width and height, which still reads all its bytes.
    """
    if data[:2] != b"\xff\xd8":
        return []
    pixels, warned = _decoded(data, 8)
    if pixels is not None and _ends_grey(pixels):  # each is the mean of 64 pixels, so decode them all to be sure
        return pixels_and_doubts(data)[1]
    return _named(data, pixels, warned)


def is_sound(data: bytes) -> bool:
    """Return whether libjpeg decodes the data as a JPEG to the last byte without a warning."""
    pixels, warned = _decoded(data, 8) if data[:2] == b"\xff\xd8" else (None, False)
    return pixels is not None and not warned


def pixels_and_doubts(data: bytes) -> tuple[np.ndarray | None, list[str]]:
    """Decode a JPEG to RGB, uint8 [H, W, 3], and return what is odd about it (see `doubts`).

    The pixels are None if Pillow has to decide: the fast decoder does not support the file, or it is incomplete.
    """
    if data[:2] != b"\xff\xd8":
        return None, []
    pixels, warned = _decoded(data, 1)
    rgb = pixels is not None and pixels.shape[2] == 3 and not warned
    return pixels if rgb else None, _named(data, pixels, warned)


def _named(data: bytes, pixels: np.ndarray | None, warned: bool) -> list[str]:
    grey = pixels is not None and not warned and _ends_grey(pixels)  # a warning of libjpeg says it already
    signs = {WARNED: warned, EMPTY: _has_empty_stretch(data), GREY: grey}
    return [words for words, found in signs.items() if found]


@cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:  # the suite installs it; nothing else passes on libjpeg's warnings
        return None
    module: ModuleType = simplejpeg
    return module


@lru_cache(1)  # a build first asks whether the bytes are whole, then what is odd about them
def _decoded(data: bytes, factor: int) -> tuple[np.ndarray | None, bool]:
    """Decode to RGB at 1 / `factor` of the width and height; CMYK stays CMYK.

    Returns:
        pixels uint8 [h, w, c], or None if this decoder does not support the file; and whether libjpeg warned.
    """
    library = _simplejpeg()
    if library is None:
        return None, False
    least = 0 if factor == 1 else 1  # with 0 the size stays
    for strict in (True, False):
        try:
            height, width, colours, _ = library.decode_jpeg_header(data)
            if height * width > MAX_PIXELS:
                return None, False
            space = "CMYK" if colours in ("CMYK", "YCCK") else "RGB"
            pixels = library.decode_jpeg(
                data, space, min_height=least, min_width=least, min_factor=factor, strict=strict
            )
            return pixels, not strict
        except ValueError:  # in strict mode a warning; else a JPEG that only Pillow decodes, or an incomplete one
            continue
    return None, False


def _has_empty_stretch(data: bytes) -> bool:
    """Return whether whole sectors of the pixels' data repeat one byte, and the sectors around them do not.

    A plain area can also make a long run of equal bytes, but that run does not begin and end with sectors.
    """
    start, end = _scan(data), data.rfind(b"\xff\xd9")
    end = end if end > start else len(data)
    first = -(-start // SECTOR)
    sectors = np.frombuffer(data, np.uint8, max(0, end // SECTOR - first) * SECTOR, min(first * SECTOR, len(data)))
    sectors = sectors.reshape(-1, SECTOR)
    probes = sectors[:, [0, SECTOR // 3, SECTOR - 1]]
    for number in np.flatnonzero((probes == probes[:, :1]).all(1)).tolist():
        value, begin = sectors[number, :1].tobytes(), (first + number) * SECTOR
        if data[begin : begin + SECTOR] != value * SECTOR or data[begin - 1 : begin] == value:
            continue  # in the latter case it continues a run that began in another sector
        stop = begin + len(data[begin:]) - len(data[begin:].lstrip(value))
        if stop % SECTOR == 0 or stop == len(data):
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


def _ends_grey(pixels: np.ndarray) -> bool:
    """Return whether at least the last eighth of the rows is plain mid-grey, but not the whole image."""
    return bool((pixels[-1, -1] == _GREY).all()) and bool(
        (pixels[-max(1, len(pixels) // 8) :] == _GREY).all() and not (pixels == _GREY).all()
    )
