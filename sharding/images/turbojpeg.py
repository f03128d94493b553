"""TurboJPEG 3 of libjpeg-turbo through ctypes: decodes a region of a JPEG and skips the rest.

There is no wheel of the library alone. pylibjxl's, which is pinned and for x86-64, has all of it in its one compiled
module (3.1.3 in 0.5.0) and shows its functions; the rest of pylibjxl is not imported. Elsewhere the library is searched
in the environment's lib/ (conda's libjpeg-turbo 3) and by the system's loader (a module or package; Debian 12's is too
old). The environment variable GLT_TURBOJPEG names another.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are just outside."""


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


class TurboJpeg:
    """The functions of TurboJPEG 3's C interface that are used here (turbojpeg.h of libjpeg-turbo 3)."""

    DECOMPRESS, STOPONWARNING, JPEGWIDTH, JPEGHEIGHT, SUBSAMP, COLORSPACE, RGB = 1, 0, 5, 6, 4, 8, 0
    COLOURS = (0, 1, 2)  # RGB, YCbCr, grey; not CMYK, YCCK
    # Widths of an iMCU, by the kind of subsampling: 4:4:4, 4:2:2, 4:2:0, grey, 4:4:0, 4:1:1, 4:4:1.
    BLOCK_WIDTHS = 8, 16, 16, 8, 8, 32, 8

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
        """Return (width, height, width of an iMCU) in pixels, or None if this decoder does not support it."""
        tj, handle = self._library, self._handle
        if tj.tj3DecompressHeader(handle, data, len(data)):
            return None
        subsampling = tj.tj3Get(handle, self.SUBSAMP)
        if tj.tj3Get(handle, self.COLORSPACE) not in self.COLOURS or not 0 <= subsampling < len(self.BLOCK_WIDTHS):
            return None
        return tj.tj3Get(handle, self.JPEGWIDTH), tj.tj3Get(handle, self.JPEGHEIGHT), self.BLOCK_WIDTHS[subsampling]

    def region(self, data: bytes, box: Box) -> np.ndarray | None:
        """Return the pixels of a box, uint8 [h, w, 3]; None if that fails.

        The box's left edge must be a multiple of the iMCU's width.
        """
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
    """Find the library, and return it with its version.

    Raises:
        ImportError: it was not found; the text gives the reason.
    """
    problems = []
    for place in _places():
        try:
            return TurboJpeg(place), _version(place)
        except OSError as error:
            problems.append(str(error))
    raise ImportError("; ".join(problems) or "no library libturbojpeg was found")


def _places() -> Iterator[str]:
    """Yield the paths and names to load the library by, the pinned one first; none is asked for before it is tried."""
    if named := os.environ.get("GLT_TURBOJPEG"):
        yield named
        return
    if (wheel := find_spec("pylibjxl")) is not None and wheel.origin is not None:
        yield from sorted(map(str, Path(wheel.origin).parent.glob("_pylibjxl*.so")))
    yield from sorted(map(str, (Path(sys.prefix) / "lib").glob("libturbojpeg.so*")))
    if of_system := ctypes.util.find_library("turbojpeg"):  # it starts compilers and linkers to find out
        yield of_system


def _version(place: str) -> str:
    """Return the digest of a library's file, since the library does not tell its version.

    `place`: the path or the name by which it was loaded.
    """
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
