"""Cuts views of one size out of pictures of many sizes, all at once, with the bits of the host's way.

The host resizes each picture by torch's `interpolate` of uint8 on a CPU: bilinear, antialiased, first along rows, then
along columns, in integers with weights of 15 bits. That kernel is for CPUs alone. Here the same integers are computed
by tensor operations, for the rows of all pictures together, so the result is the same to the bit on any device.

Axes: M pictures, N pixels of all of them, R rows of all their boxes, S the views' side, T taps, W positions of a
resized box.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

WEIGHT_BITS, MOST_BITS = 15, 22
"""A weight takes less than these bits, and is a fraction of at most 2 to the power of those."""

AT_ONCE = 1 << 24
"""Values of an intermediate result that are made together, about; each takes up to 20 bytes of the device's memory."""


class Windows(NamedTuple):
    """Views of M pictures, on the host; see `sharding.images.transforms.Window`.

    Attributes:
        starts: int64 [M], where each picture begins in the pixels.
        sizes: int64 [M, 2], its width and height.
        boxes: int64 [M, 4], left, top, right and bottom of the box that is resized.
        resized: int64 [M, 2], width and height to which.
        corners: int64 [M, 2], left and top of the view in that.
        flipped: bool [M], whether the view is mirrored then.
    """

    starts: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    resized: np.ndarray
    corners: np.ndarray
    flipped: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Widths and heights of the boxes, int64 [M, 2]."""
        lengths: np.ndarray = self.boxes[:, 2:] - self.boxes[:, :2]
        return lengths

    def of(self, chosen: np.ndarray) -> Windows:
        """Return those of some of the pictures."""
        return Windows(*(column[chosen] for column in self))


class Weights(NamedTuple):
    """How each position of the views along one axis is made.

    Attributes:
        first: int64 [M, S], the first pixel that counts, in the box.
        taps: int32 [M, S, T], what it and the next ones count, as multiples of `2 ** -bits`.
        bits: int32 [M].
    """

    first: torch.Tensor
    taps: torch.Tensor
    bits: torch.Tensor


def views(pixels_N: torch.Tensor, windows: Windows, side: int) -> torch.Tensor:
    """Return the views of pictures.

    Args:
        pixels_N: uint8 [N], one picture after the other, each as [3, height, width].
        windows: where they lie.
        side: S.

    Returns:
        uint8 [M, 3, S, S] on the device of the pixels, channels last in memory.
    """
    # Work grows with the largest number of taps, so pictures that are shrunk much are not resized with the others.
    kinds = np.array([_taps(scale).bit_length() for scale in (windows.lengths / windows.resized).max(1).tolist()])
    values = 3 * side * np.maximum(windows.lengths[:, 1], side)
    made = torch.empty((len(kinds), side, side, 3), dtype=torch.uint8, device=pixels_N.device).permute(0, 3, 1, 2)
    for kind in np.unique(kinds):
        alike = np.flatnonzero(kinds == kind)
        for chosen in np.split(alike, np.flatnonzero(np.diff(values[alike].cumsum() // AT_ONCE)) + 1):
            made[_on(chosen, pixels_N.device)] = _alike(pixels_N, windows.of(chosen), side)
    return made


def _taps(scale: float) -> int:
    """Return how many pixels count at most for one of a box that is `scale` times as long as what it becomes."""
    return 2 * math.ceil(max(1.0, scale)) + 1


def _alike(pixels_N: torch.Tensor, windows: Windows, side: int) -> torch.Tensor:
    """Return the views of pictures that are shrunk about as much, uint8 [M, 3, S, S]."""
    device = pixels_N.device
    widths, heights = windows.lengths.T
    across = weights(widths, windows.resized[:, 0], windows.corners[:, 0], windows.flipped, side, device)
    down = weights(heights, windows.resized[:, 1], windows.corners[:, 1], np.zeros(len(widths), bool), side, device)
    picture_R = np.repeat(np.arange(len(heights)), heights)
    first_row = np.cumsum(heights) - heights
    y_R = np.arange(len(picture_R)) - first_row[picture_R] + windows.boxes[picture_R, 1]
    begin_R = windows.starts[picture_R] + y_R * windows.sizes[picture_R, 0] + windows.boxes[picture_R, 0]
    planes_M3 = windows.sizes.prod(1)[:, None] * np.arange(3)
    rows = _summed(
        pixels_N,
        _on(begin_R, device)[:, None, None] + _on(planes_M3[picture_R], device)[:, :, None],
        across,
        _on(widths, device),
        _on(picture_R, device),
    )
    return _down(rows, _on(first_row, device), down, _on(heights, device))


def _on(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)


def _summed(
    pixels_N: torch.Tensor, begin: torch.Tensor, across: Weights, widths: torch.Tensor, picture_R: torch.Tensor
) -> torch.Tensor:
    """Resize along rows.

    Args:
        pixels_N: all pixels.
        begin: int64 [R, 3, 1], where each row of each colour begins in them.
        across: the weights along rows.
        widths: int64 [M], of the boxes.
        picture_R: int64, the picture of each row.

    Returns:
        uint8 [R, 3, S].
    """
    first, last, bits = across.first[picture_R], widths[picture_R, None] - 1, across.bits[picture_R, None, None]
    total = torch.zeros((*begin.shape[:2], first.shape[1]), dtype=torch.int32, device=pixels_N.device)
    for tap in range(across.taps.shape[2]):
        x = torch.minimum(first + tap, last)
        total += pixels_N[begin + x[:, None]].int() * across.taps[:, :, tap][picture_R, None]
    return _rounded(total, bits)


def _down(rows: torch.Tensor, first_row: torch.Tensor, down: Weights, heights: torch.Tensor) -> torch.Tensor:
    """Resize along columns: uint8 [R, 3, S], of which each picture's begin at `first_row`, become [M, 3, S, S]."""
    total = torch.zeros((*down.first.shape, *rows.shape[1:]), dtype=torch.int32, device=rows.device)
    for tap in range(down.taps.shape[2]):
        y = torch.minimum(down.first + tap, heights[:, None] - 1)
        total += rows[first_row[:, None] + y].int() * down.taps[:, :, tap, None, None]
    return _rounded(total, down.bits[:, None, None, None]).permute(0, 2, 1, 3)


def _rounded(total: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    half = torch.ones_like(bits) << (bits - 1)
    return ((total + half) >> bits).clamp(0, 255).to(torch.uint8)


def weights(
    lengths: np.ndarray, resized: np.ndarray, corners: np.ndarray, flipped: np.ndarray, side: int, device: torch.device
) -> Weights:
    """Return how to resize along one axis: a triangle as wide as two of the longer pixels, in integers.

    Args:
        lengths: int64 [M], of the boxes.
        resized: int64 [M], what they become.
        corners: int64 [M], where the views begin in that.
        flipped: bool [M], whether a view's positions run backwards.
        side: S.
        device: of the result.
    """
    most = max(_taps(scale) for scale in (lengths / resized).tolist())
    length, wanted = (_on(each, device)[:, None] for each in (lengths, resized))
    scale = length.double() / wanted.double()
    reach = scale.clamp(min=1)
    places = torch.arange(int(resized.max()), device=device)
    centre = scale * (places + 0.5)
    first = (centre - reach + 0.5).long().clamp(min=0)
    count = torch.minimum(torch.minimum((centre + reach + 0.5).long(), length) - first, 2 * reach.ceil().long() + 1)
    tap = torch.arange(most, device=device)
    shares = 1 - (((first[:, :, None] + tap) - centre[:, :, None] + 0.5) * (1 / reach)[:, :, None]).abs()
    shares = torch.where(tap < count[:, :, None], shares.clamp(min=0), 0)
    total = torch.zeros_like(centre)
    for number in range(most):  # one after the other, for a sum's last bits depend on its order
        total += shares[:, :, number]
    shares = torch.where(places[:, None] < wanted[:, :, None], shares / total[:, :, None], 0)
    # The largest weight, which may belong to a position outside of the view, says how fine all are.
    steps = 2.0 ** torch.arange(1, MOST_BITS + 1, device=device, dtype=torch.float64)
    too_large = (0.5 + shares.amax((1, 2))[:, None] * steps).long() >= 1 << WEIGHT_BITS
    bits = (~too_large).sum(1)
    whole = (0.5 + shares * (1 << bits).double()[:, None, None]).int()
    kept = torch.arange(side, device=device)
    kept = torch.where(_on(flipped, device)[:, None], side - 1 - kept, kept) + _on(corners, device)[:, None]
    picture = torch.arange(len(lengths), device=device)[:, None]
    return Weights(first[picture, kept], whole[picture, kept], bits.int())
