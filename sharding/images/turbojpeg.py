"""TurboJPEG 3 of libjpeg-turbo through ctypes: decodes a region of a JPEG and skips the rest.

No wheel brings this library. It is looked for in the environment's lib/ (conda's libjpeg-turbo 3), where the system's loader finds it (a module, a
package; Debian 12's is older), and at the path that the environment variable GLT_TURBOJPEG names.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import os
import sys
from pathlib import Path

import numpy as np

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are just outside."""


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


class TurboJpeg:
    """The few functions used of TurboJPEG 3's C interface (turbojpeg.h of libjpeg-turbo 3)."""

    DECOMPRESS, STOPONWARNING, JPEGWIDTH, JPEGHEIGHT, SUBSAMP, COLORSPACE, RGB = 1, 0, 5, 6, 4, 8, 0
    COLOURS = (0, 1, 2)  # RGB, YCbCr, grey; not CMYK, YCCK
    BLOCK_WIDTHS = (
        8,
        16,
        16,
        8,
        8,
        32,
        8,
    )  # of an iMCU, by the kind of subsampling: 4:4:4, 4:2:2, 4:2:0, grey, 4:4:0, 4:1:1, 4:4:1

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        if not hasattr(self._library, "tj3SetCroppingRegion"):
            raise OSError(f"{path} is older than TurboJPEG 3")
        for name, result, arguments in (
            ("tj3Init", ctypes.c_void_p, [ctypes.c_int]),
            ("tj3Set", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]),
            ("tj3Get", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int]),
            ("tj3DecompressHeader", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]),
            ("tj3SetCroppingRegion", ctypes.c_int, [ctypes.c_void_p, _Region]),
            (
                "tj3Decompress8",
                ctypes.c_int,
                [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_int],
            ),
        ):
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._handle = self._library.tj3Init(self.DECOMPRESS)
        if not self._handle:
            raise OSError(f"{path} gives no decompressor")
        self._library.tj3Set(self._handle, self.STOPONWARNING, 1)

    def header(self, data: bytes) -> tuple[int, int, int] | None:
        """(width, height, width of an iMCU), or None where the file is none for this decoder."""
        tj, handle = self._library, self._handle
        if tj.tj3DecompressHeader(handle, data, len(data)):
            return None
        subsampling = tj.tj3Get(handle, self.SUBSAMP)
        if tj.tj3Get(handle, self.COLORSPACE) not in self.COLOURS or not 0 <= subsampling < len(self.BLOCK_WIDTHS):
            return None
        return tj.tj3Get(handle, self.JPEGWIDTH), tj.tj3Get(handle, self.JPEGHEIGHT), self.BLOCK_WIDTHS[subsampling]

    def region(self, data: bytes, box: Box) -> np.ndarray | None:
        """uint8 [h, w, 3] of a box whose left edge is a multiple of the iMCU's width; None where that fails."""
        tj, handle = self._library, self._handle
        left, top, right, bottom = box
        pixels = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        failed = (
            tj.tj3DecompressHeader(handle, data, len(data))
            or tj.tj3SetCroppingRegion(handle, _Region(left, top, right - left, bottom - top))
            or tj.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, pixels.strides[0], self.RGB)
        )
        return None if failed else pixels


def find_turbojpeg() -> tuple[TurboJpeg, str]:
    """The library and its version. Raises ImportError, with the reason, where there is none."""
    named = os.environ.get("GLT_TURBOJPEG")
    places = (
        [named]
        if named
        else [
            *sorted(map(str, (Path(sys.prefix) / "lib").glob("libturbojpeg.so*"))),
            ctypes.util.find_library("turbojpeg"),
        ]
    )
    problems = []
    for place in filter(None, places):
        try:
            return TurboJpeg(place), _version(place)
        except OSError as error:
            problems.append(str(error))
    raise ImportError("; ".join(problems) or "no library libturbojpeg was found")


def _version(place: str) -> str:
    """Of the library that was loaded from a path or by its name: the digest of its bytes, for it does not tell."""
    if "/" not in place:
        mapped = [
            line.split(maxsplit=5)[5].strip()
            for line in Path("/proc/self/maps").read_text().splitlines()
            if place in line
        ]
        if not mapped:
            raise OSError(f"{place} was loaded, and from where is not told")
        place = mapped[0]
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()[:12]
