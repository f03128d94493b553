"""RandAug as the GLT paper's experiments use it: a random pair of AutoAugment operations.

This is **not** the RandAugment of Cubuk et al. 2020 (no N, no M) and not torchvision's class of that name. For every
image one of the 135^2 ordered pairs of (operation, level) is picked uniformly, 135 = 15 operations x levels 1..9; each
of the two is then applied with probability 1/2, the first before the second.

Sources: [A] Cubuk et al., "AutoAugment", CVPR 2019, table of operations and ranges; [G] the set-up of Tang et al.,
"Invariant Feature Learning for Generalized Long-Tailed Classification", ECCV 2022 (which narrows some of the ranges of
[A]). A level is a tenth of its range, counted from 0: ``start + (stop - start) * level / 9``. "+-" is a fair coin for
each application.

============  ==============  ================================================  ===================
operation     start .. stop   value at ``level``                                source
============  ==============  ================================================  ===================
ShearX/Y      0 .. 0.3        +- level/30, about the upper left corner          [A]; corner [G]
TranslateX/Y  0 .. 150/331    +- level/9 * 150/331 of the width (height),       [A], 331 px being
                              rounded to whole pixels                           its image side
Rotate        0 .. 30         +level * 10/3 degrees, counter-clockwise only     [A]; one side [G]
Color         0 .. 0.9        factor 1 +- level/10                              [A]
Contrast      0 .. 0.9        factor 1 +- level/10                              [A]
Brightness    0 .. 0.9        factor 1 +- level/10                              [A]
Sharpness     0 .. 0.9        factor 1 +- level/10                              [A]
Posterize     8 .. 4          round(8 - level * 4/9) bits; level 1 is 8 bits,   [A], [G]
                              that is, the image itself
Solarize      256 .. 0        values >= 256 - level * 256/9 are inverted        [A]
Cutout        0 .. 20         square of round(level * 20/9) px for any          [G]
                              image size; centre uniform, clipped at the edge
AutoContrast  none            no strength: the same at all levels               [A]
Equalize      none            no strength                                       [A]
Invert        none            no strength                                       [A]
============  ==============  ================================================  ===================

Cutout's 20 px are meant for 112 px images (3 % of the area at most); at 32 px level 9 hides up to 39 %, a strong but
legal occlusion. What shear, translation and rotation uncover is filled with mid grey.

The operations come in two kinds, `POLICIES`, which share pairs, levels, signs and places. `package` has the pixels of
the PyPI package `randaugment` 1.0.2, which [G] names. (It translates by fractions of a pixel and takes the nearest
ones. Since no fraction is a half, these are the pixels above.)

=========  ===============  ===============================
detail     own              package
=========  ===============  ===============================
shear      bilinear         bicubic
rotation   bilinear         nearest
Cutout     (128, 128, 128)  (125, 122, 113)
its side   as above         one less where that is odd
=========  ===============  ===============================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageOps

from sharding.images.dice import Dice

LEVELS = range(1, 10)
"""The levels that the policy draws from; level 0, the start of a range, is never drawn."""

GREY = (128, 128, 128)
_TRANSLATE = 150 / 331


Place = tuple[int, int]
"""x and y of a pixel."""


class Operation(NamedTuple):
    """One row of the table above: ``apply(image, value, place)`` maps RGB to RGB of the same size.

    ``placed`` says that it has a place; of the others it is the upper left corner, and means nothing.
    """

    name: str
    start: float
    stop: float
    mirrored: bool
    placed: bool
    apply: Callable[[Image.Image, float, Place], Image.Image]

    def magnitude(self, level: int) -> float:
        """Return the unsigned value at ``level`` (0..9), in the unit that the table names."""
        return self.start + (self.stop - self.start) * (level / LEVELS[-1])


class Choice(NamedTuple):
    """One half of a drawn pair; ``applied`` is the outcome of its coin."""

    operation: Operation
    level: int
    applied: bool


class Drawn(NamedTuple):
    """An operation with all that is random about it: its signed value, in the table's unit, and its place."""

    operation: Operation
    value: float
    place: Place

    def applied(self, image: Image.Image) -> Image.Image:
        """Apply it to an RGB image, and return a new RGB image of equal size."""
        return self.operation.apply(image, self.value, self.place)


class Details(NamedTuple):
    """A column of the second table above.

    Attributes:
        shear: how pixels are interpolated.
        rotation: likewise.
        hidden: the colour of Cutout's square, RGB.
        side_step: Cutout's side is a multiple of it, in pixels.
    """

    shear: Image.Resampling
    rotation: Image.Resampling
    hidden: tuple[int, int, int]
    side_step: int

    def sheared(self, image: Image.Image, x: float, y: float) -> Image.Image:
        return _affine(image, self.shear, 1, x, 0, y, 1, 0)

    def rotated(self, image: Image.Image, degrees: float) -> Image.Image:
        return image.rotate(degrees, self.rotation, fillcolor=GREY)

    def square(self, side: float, centre: Place) -> tuple[int, int, int]:
        """Return Cutout's square: left and top, which may lie outside of the image, and its side in pixels."""
        pixels = round(side) // self.side_step * self.side_step
        return centre[0] - pixels // 2, centre[1] - pixels // 2, pixels

    def cut_out(self, image: Image.Image, side: float, centre: Place) -> Image.Image:
        left, top, pixels = self.square(side, centre)
        result = image.copy()
        result.paste(self.hidden, (left, top, left + pixels, top + pixels))  # Pillow clips the box
        return result


def _affine(image: Image.Image, resampling: Image.Resampling, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=GREY)


def _translated(image: Image.Image, x: float, y: float) -> Image.Image:
    # Whole pixels, so that a translation never blurs.
    return _affine(image, Image.Resampling.BILINEAR, 1, 0, round(x), 0, 1, round(y))


def _enhance(name: str, enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return Operation(name, 0, 0.9, True, False, lambda im, v, _: enhancer(im).enhance(1 + v))


def _operations(details: Details) -> tuple[Operation, ...]:
    """Return all rows of the table. Their order is part of what a seed means: operation k of a pair is row k."""
    return (
        Operation("ShearX", 0, 0.3, True, False, lambda im, v, _: details.sheared(im, v, 0)),
        Operation("ShearY", 0, 0.3, True, False, lambda im, v, _: details.sheared(im, 0, v)),
        Operation("TranslateX", 0, _TRANSLATE, True, False, lambda im, v, _: _translated(im, v * im.width, 0)),
        Operation("TranslateY", 0, _TRANSLATE, True, False, lambda im, v, _: _translated(im, 0, v * im.height)),
        Operation("Rotate", 0, 30, False, False, lambda im, v, _: details.rotated(im, v)),
        _enhance("Color", ImageEnhance.Color),
        _enhance("Contrast", ImageEnhance.Contrast),
        _enhance("Brightness", ImageEnhance.Brightness),
        _enhance("Sharpness", ImageEnhance.Sharpness),
        Operation("Posterize", 8, 4, False, False, lambda im, v, _: ImageOps.posterize(im, round(v))),
        # i < v is i < ceil(v)
        Operation("Solarize", 256, 0, False, False, lambda im, v, _: ImageOps.solarize(im, math.ceil(v))),
        Operation("Cutout", 0, 20, False, True, details.cut_out),
        Operation("AutoContrast", 0, 0, False, False, lambda im, *_: ImageOps.autocontrast(im)),
        Operation("Equalize", 0, 0, False, False, lambda im, *_: ImageOps.equalize(im)),
        Operation("Invert", 0, 0, False, False, lambda im, *_: ImageOps.invert(im)),
    )


DETAILS = {
    "own": Details(shear=Image.Resampling.BILINEAR, rotation=Image.Resampling.BILINEAR, hidden=GREY, side_step=1),
    "package": Details(
        shear=Image.Resampling.BICUBIC, rotation=Image.Resampling.NEAREST, hidden=(125, 122, 113), side_step=2
    ),
}
POLICIES: dict[str, tuple[Operation, ...]] = {name: _operations(details) for name, details in DETAILS.items()}
"""The operations by `augment.randaug_pixels`."""


def apply_operation(image: Image.Image, operation: Operation, level: int, dice: Dice) -> Image.Image:
    """Apply one operation at ``level`` (0..9) to an RGB image, and return a new RGB image of equal size.

    ``dice`` gives the sign of a mirrored operation and the place of Cutout.
    """
    return draw_strength(operation, level, dice, image.size).applied(image)


def draw_strength(operation: Operation, level: int, dice: Dice, size: tuple[int, int]) -> Drawn:
    """Draw the sign and the place of an operation at ``level`` (0..9), for an image of ``size``, width and height."""
    value = operation.magnitude(level)
    if operation.mirrored and dice.coin():
        value = -value
    return Drawn(operation, value, (dice.integer(size[0]), dice.integer(size[1])) if operation.placed else (0, 0))


def draw_pair(dice: Dice, operations: Sequence[Operation] = POLICIES["own"]) -> tuple[Choice, Choice]:
    """Draw one of the 135^2 ordered pairs uniformly, and for each half whether it is applied."""
    half = len(operations) * len(LEVELS)

    def choice(index: int) -> Choice:
        row, level = divmod(index, len(LEVELS))
        return Choice(operations[row], LEVELS[level], dice.coin())

    first, second = divmod(dice.integer(half * half), half)
    return choice(first), choice(second)


def draw_operations(dice: Dice, size: tuple[int, int], pixels: str = "own") -> list[Drawn]:
    """Draw what is applied to an image of ``size``, width and height: none, one or two operations, in their order.

    ``pixels`` is a key of POLICIES.
    """
    pair = draw_pair(dice, POLICIES[pixels])
    return [draw_strength(operation, level, dice, size) for operation, level, applied in pair if applied]


def apply_policy(image: Image.Image, dice: Dice, pixels: str = "own") -> Image.Image:
    """Apply a freshly drawn pair to an RGB image of any size; mode and size stay.

    All randomness comes from ``dice``. ``image`` itself is never changed; it is returned if neither half is applied.
    ``pixels`` is a key of POLICIES.
    """
    for drawn in draw_operations(dice, image.size, pixels):
        image = drawn.applied(image)
    return image
