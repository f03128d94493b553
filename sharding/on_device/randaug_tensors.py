"""RandAug's operations on a batch that lies on a device, with the bits of those on the host.

What Pillow does is done in the same arithmetic: integers where it has integers, and single or double precision where it
has them, operator by operator. So the pixels are those of `sharding.images.randaug` on any device.

Axes: M images, S their side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from sharding.images.randaug import DETAILS, GREY, POLICIES, Details, Drawn

Operate = Callable[[torch.Tensor, Sequence[Drawn], Details], torch.Tensor]
"""From images and what was drawn for each, uint8 [M, 3, S, S], to the changed ones."""


def apply_drawn(images: torch.Tensor, drawn: Sequence[Sequence[Drawn]], pixels: str) -> torch.Tensor:
    """Apply to each image what was drawn for it, none, one or two operations in their order.

    Args:
        images: uint8 [M, 3, S, S], which are changed in place.
        drawn: of each image.
        pixels: a key of `sharding.images.randaug.POLICIES`.

    Returns:
        The images.
    """
    for half in range(2):
        for operation in POLICIES[pixels]:
            chosen = [
                number
                for number, each in enumerate(drawn)
                if len(each) > half and each[half].operation.name == operation.name
            ]
            if chosen:
                rows = _tensor(chosen, images, torch.int64)
                strengths = [drawn[number][half] for number in chosen]
                images[rows] = OPERATIONS[operation.name](images[rows].contiguous(), strengths, DETAILS[pixels])
    return images


def _tensor(values: Sequence[object], images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).to(images.device, non_blocking=True)


# ---------------------------------------------------------------------------------------------------- places of pixels
def _affine(images: torch.Tensor, matrices: Sequence[Sequence[float]], resampling: Image.Resampling) -> torch.Tensor:
    """Take each pixel (x, y) from (a x + b y + c, d x + e y + f), with pixels' centres at halves; grey from outside."""
    if resampling is Image.Resampling.NEAREST:
        x, y = _nearest_places(images, matrices)
    else:
        x, y = _places(images, matrices)
    side = images.shape[-1]
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    moved = FILTERS[resampling](images, x, y)
    return torch.where(inside[:, None], moved, _colour(GREY, images))


def _places(images: torch.Tensor, matrices: Sequence[Sequence[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x and y from which pixels are taken, float64 [M, S, S]."""
    a, b, c, d, e, f = _tensor(matrices, images, torch.float64).T[:, :, None, None]
    middle = torch.arange(images.shape[-1], device=images.device) + 0.5
    x, y = middle[None, None, :].double(), middle[None, :, None].double()
    return a * x + b * y + c, d * x + e * y + f


def _nearest_places(images: torch.Tensor, matrices: Sequence[Sequence[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same in whole pixels, int64 [M, S, S], in Pillow's fixed point of 16 bits."""
    fixed = [
        [math.floor(value * 65536 + 0.5) for value in (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)]
        for a, b, c, d, e, f in matrices
    ]
    a, b, c, d, e, f = _tensor(fixed, images, torch.int64).T[:, :, None, None]
    steps = torch.arange(images.shape[-1], device=images.device)
    x, y = steps[None, None, :], steps[None, :, None]
    return (c + b * y + a * x) >> 16, (f + e * y + d * x) >> 16


def _taken(images: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the pixels at x and y, int64 [M, S, S], or those at the edge that are nearest: uint8 [M, 3, S, S]."""
    last = images.shape[-1] - 1
    place = (y.clamp(0, last) * (last + 1) + x.clamp(0, last)).flatten(1)[:, None]
    return images.flatten(2).gather(2, place.expand(-1, 3, -1)).view_as(images)


def _bilinear(images: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    right, down = ((x - 0.5) - left)[:, None], ((y - 0.5) - top)[:, None]

    def row(number: int) -> torch.Tensor:
        a, b = (_taken(images, left.long() + step, top.long() + number).double() for step in (0, 1))
        return a + (b - a) * right

    upper = row(0)
    return (upper + (row(1) - upper) * down).to(torch.uint8)


def _bicubic(images: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    right, down = ((x - 0.5) - left)[:, None], ((y - 0.5) - top)[:, None]

    def curve(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return b + at * ((c - a) + at * ((2 * (a - b) + c - d) + at * (b - a - c + d)))

    def row(number: int) -> torch.Tensor:
        a, b, c, d = (_taken(images, left.long() + step, top.long() + number).double() for step in range(-1, 3))
        return curve(a, b, c, d, right)

    return curve(row(-1), row(0), row(1), row(2), down).clamp(0, 255).to(torch.uint8)


FILTERS: dict[Image.Resampling, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    Image.Resampling.NEAREST: _taken,
    Image.Resampling.BILINEAR: _bilinear,
    Image.Resampling.BICUBIC: _bicubic,
}


def _sheared_x(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    return _affine(images, [(1, each.value, 0, 0, 1, 0) for each in drawn], details.shear)


def _sheared_y(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    return _affine(images, [(1, 0, 0, each.value, 1, 0) for each in drawn], details.shear)


def _translated_x(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    side = images.shape[-1]
    return _affine(images, [(1, 0, round(each.value * side), 0, 1, 0) for each in drawn], Image.Resampling.BILINEAR)


def _translated_y(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    side = images.shape[-1]
    return _affine(images, [(1, 0, 0, 0, 1, round(each.value * side)) for each in drawn], Image.Resampling.BILINEAR)


def _rotated(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    return _affine(images, [_rotation(each.value, images.shape[-1]) for each in drawn], details.rotation)


def _rotation(degrees: float, side: int) -> tuple[float, ...]:
    """Return the matrix of a rotation about the centre, as Pillow rounds it."""
    angle, centre = -math.radians(degrees % 360), side / 2
    cosine, sine, minus_sine = (round(value, 15) for value in (math.cos(angle), math.sin(angle), -math.sin(angle)))
    return (
        cosine,
        sine,
        cosine * -centre + sine * -centre + centre,
        minus_sine,
        cosine,
        minus_sine * -centre + cosine * -centre + centre,
    )


# ---------------------------------------------------------------------------------------------------- values of pixels
def _colour(colour: Sequence[int], images: torch.Tensor) -> torch.Tensor:
    return _tensor(colour, images, torch.uint8)[None, :, None, None]


def _mixed(less: torch.Tensor, images: torch.Tensor, drawn: Sequence[Drawn]) -> torch.Tensor:
    """Go from what an operation takes to nothing, `less`, through the images and beyond them by 1 + value."""
    share = _tensor([1 + each.value for each in drawn], images, torch.float32)[:, None, None, None]
    change = share * (images.int() - less.int()).float()
    return (less.float() + change).clamp(0, 255).to(torch.uint8)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Return the brightness of each pixel, int32 [M, 1, S, S]."""
    red, green, blue = images.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)[:, None]


def _coloured(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    return _mixed(_grey(images), images, drawn)


def _contrasted(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    total = _grey(images).sum((1, 2, 3), keepdim=True).double()
    return _mixed((total / images.shape[-1] ** 2 + 0.5).long(), images, drawn)


def _brightened(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    return _mixed(torch.zeros_like(images), images, drawn)


def _sharpened(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    return _mixed(_smooth(images), images, drawn)


def _smooth(images: torch.Tensor) -> torch.Tensor:
    """Return Pillow's ImageFilter.SMOOTH: of 3 x 3 pixels the middle counts five times; the edge stays as it is.

    A thirteenth is never a half, so no rounding of Pillow's sums of floats can show.
    """
    wide, smooth = images.int(), images.clone()
    total = 4 * wide[..., 1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            total = total + wide[..., y : wide.shape[-2] - 2 + y, x : wide.shape[-1] - 2 + x]
    smooth[..., 1:-1, 1:-1] = ((2 * total + 13) // 26).to(torch.uint8)
    return smooth


def _posterized(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    masks = [256 - 2 ** (8 - round(each.value)) for each in drawn]
    return images & _tensor(masks, images, torch.uint8)[:, None, None, None]


def _solarized(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    least = _tensor([math.ceil(each.value) for each in drawn], images, torch.int32)[:, None, None, None]
    return torch.where(images.int() < least, images, 255 - images)


def _cut_out(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    squares = _tensor([details.square(each.value, each.place) for each in drawn], images, torch.int64)
    steps = torch.arange(images.shape[-1], device=images.device)
    across, down = ((steps >= squares[:, [k]]) & (steps < squares[:, [k]] + squares[:, [2]]) for k in (0, 1))
    hidden = (down[:, :, None] & across[:, None, :])[:, None]
    return torch.where(hidden, _colour(details.hidden, images), images)


def _stretched(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    low, high = (edge.double() for edge in (images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)))
    scale = torch.full_like(low, 255) / (high - low)  # a number divided by a tensor is rounded twice
    stretched = images.double() * scale + -low * scale
    return torch.where(high > low, stretched.clamp(0, 255).to(torch.uint8), images)


def _equalized(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    values = images.flatten(2).flatten(0, 1).long()
    place = values + 256 * torch.arange(len(values), device=images.device)[:, None]
    counts = torch.zeros(256 * len(values), dtype=torch.int64, device=images.device)
    counts = counts.scatter_add_(0, place.flatten(), torch.ones_like(place).flatten()).view(-1, 256)
    step = (values.shape[1] - counts.gather(1, values.amax(1, keepdim=True))) // 255
    before = counts.cumsum(1) - counts + step // 2
    table = (before // step.clamp(min=1)).clamp(max=255)
    equalized = table.gather(1, values).to(torch.uint8).view_as(images)
    return torch.where((step > 0).view(*images.shape[:2], 1, 1), equalized, images)


def _inverted(images: torch.Tensor, drawn: Sequence[Drawn], details: Details) -> torch.Tensor:
    return 255 - images


OPERATIONS: dict[str, Operate] = {
    "ShearX": _sheared_x,
    "ShearY": _sheared_y,
    "TranslateX": _translated_x,
    "TranslateY": _translated_y,
    "Rotate": _rotated,
    "Color": _coloured,
    "Contrast": _contrasted,
    "Brightness": _brightened,
    "Sharpness": _sharpened,
    "Posterize": _posterized,
    "Solarize": _solarized,
    "Cutout": _cut_out,
    "AutoContrast": _stretched,
    "Equalize": _equalized,
    "Invert": _inverted,
}
"""By the name of the operation in `sharding.images.randaug.POLICIES`."""
