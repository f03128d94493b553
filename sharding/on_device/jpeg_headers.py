"""Which JPEGs nvJPEG is given, from their headers alone, and what is cut out of them first.

Whatever is unusual here goes to Pillow, as with all fast decoders.
"""

from __future__ import annotations

from typing import NamedTuple

START, END = b"\xff\xd8", b"\xff\xd9"
SCAN, FRAMES, OTHER_FRAMES = 0xDA, {0xC0, 0xC1, 0xC2}, set(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers: start of scan; frames of Huffman-coded baseline, sequential and progressive JPEGs; frames of other kinds."""
EXIF, ADOBE = (0xE1, b"Exif\0\0"), (0xEE, b"Adobe")
SAMPLINGS = {(1, 1), (2, 1), (2, 2), (1, 2), (4, 1)}
"""How much finer luma is sampled than chroma, horizontally and vertically: 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1."""
COMPONENTS = {b"\1\2\3", b"\0\1\2"}
"""What Y, Cb and Cr are called; R, G and B have other names."""


class PlainJpeg(NamedTuple):
    """A JPEG that nvJPEG decodes as libjpeg does.

    Attributes:
        data: the file without its EXIF data, whose orientation torchcodec would apply and no other decoder here does.
        size: width and height in pixels.
    """

    data: bytes
    size: tuple[int, int]


def plain_jpeg(data: bytes) -> PlainJpeg | None:
    """Return a whole JPEG of 8-bit grey or YCbCr; None for whatever else it may be."""
    if not data.startswith(START) or not data.endswith(END):
        return None
    at, kept, size = 2, [START], None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : end]
        if marker == SCAN:
            return PlainJpeg(b"".join((*kept, data[at:])), size) if size is not None else None
        if marker in FRAMES and size is None:
            size = _size(body)
            if size is None:
                return None
        elif marker in FRAMES or marker in OTHER_FRAMES or _is_rgb(marker, body):
            return None
        if not (marker == EXIF[0] and body.startswith(EXIF[1])):
            kept.append(data[at:end])
        at = end
    return None


def _size(frame: bytes) -> tuple[int, int] | None:
    """Return width and height of a frame of 8-bit grey or YCbCr; None for another."""
    if len(frame) < 6 or len(frame) != 6 + 3 * frame[5] or frame[0] != 8:
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    names, samplings = frame[6::3], [(byte >> 4, byte & 15) for byte in frame[7::3]]
    known = samplings == [(1, 1)] or (
        names in COMPONENTS and samplings[0] in SAMPLINGS and samplings[1:] == [(1, 1)] * 2
    )
    return (width, height) if known and width and height else None


def _is_rgb(marker: int, body: bytes) -> bool:
    """Say whether a segment is Adobe's and tells that three components are not YCbCr."""
    return marker == ADOBE[0] and body.startswith(ADOBE[1]) and body[11:12] != b"\1"
