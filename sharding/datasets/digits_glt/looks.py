"""The six looks of digits_glt: scans of 8x8 pixels drawn as RGB images, in integer arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sharding.building.dice import Dice

LOOKS = ("pen", "chalk", "neon", "hatch", "poster", "plate")

SIDE = 32


def render(scans: np.ndarray, looks: np.ndarray, dice: Dice) -> np.ndarray:
    """Draw `scans` int64 [B, 8, 8] (0..16) under `looks` int64 [B] (0..5): uint8 [B, 32, 32, 3], RGB."""
    count = len(scans)
    slant = np.array([70, -70, 0, 30, 100, -30])[looks]  # 1/256: how far the look leans
    ink = _warp(
        scans,
        inverse=dice.integers(1150, 1400, count),
        slant=slant + dice.integers(-50, 50, count),
        turn=dice.integers(-35, 35, count),
        shift=dice.integers(-2000, 2000, 2, count),
    )
    image = np.zeros((count, SIDE, SIDE, 3), np.int64)
    for look, draw in enumerate((_pen, _chalk, _neon, _hatch, _poster, _plate)):
        chosen = np.flatnonzero(looks == look)
        image[chosen] = draw(ink[chosen], dice)
    image += dice.integers(-21, 21, *image.shape)  # a sensor's noise
    return np.clip(image, 0, 255).astype(np.uint8)


def _warp(scans: np.ndarray, inverse: np.ndarray, slant: np.ndarray, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Enlarge the scans, bilinear, in fixed point.

    Args:
        scans: int64 [B, 8, 8] of 0..16.
        inverse: int64 [B], scan cells per pixel / 4096.
        slant: int64 [B], shear / 256.
        turn: int64 [B], rotation / 256.
        shift: int64 [2, B], cells / 4096.

    Returns:
        ink, int64 [B, 32, 32] of 0..4096.
    """

    def lift(a: np.ndarray) -> np.ndarray:
        return a[:, None, None]

    half: np.ndarray = np.arange(1 - SIDE, SIDE, 2)  # pixel centres in half pixels from the middle
    x, y = half[None, None, :], half[None, :, None]
    middle = (2 + 3) * 4096 + 2048  # of the scan with 2 empty cells around it
    column = ((lift(inverse) * (256 * x + lift(slant + turn) * y)) >> 9) + lift(shift[0]) + middle
    row = ((lift(inverse) * (256 * y - lift(turn) * x)) >> 9) + lift(shift[1]) + middle
    column, row = np.clip(column, 0, 11 * 4096 - 1), np.clip(row, 0, 11 * 4096 - 1)
    flat = np.pad(scans, ((0, 0), (2, 2), (2, 2))).reshape(len(scans), -1)
    corner = (row >> 12) * 12 + (column >> 12)

    def cell(step: int) -> np.ndarray:
        return np.take_along_axis(flat, (corner + step).reshape(len(flat), -1), 1).reshape(corner.shape)

    right, down = column & 4095, row & 4095
    top = cell(0) * (4096 - right) + cell(1) * right
    bottom = cell(12) * (4096 - right) + cell(13) * right
    ink: np.ndarray = (top * (4096 - down) + bottom * down) >> 16
    return ink


def _stroke(ink: np.ndarray, threshold: np.ndarray, soft: int = 900) -> np.ndarray:
    """Cover the pixels where the ink passes `threshold` [B], with a soft edge; a low threshold is a bold stroke.

    Returns:
        int64 [B, 32, 32] of 0..256.
    """
    coverage: np.ndarray = np.clip((ink - threshold[:, None, None] + soft // 2) * 256 // soft, 0, 256)
    return coverage


def _colour(dice: Dice, count: int, base: Sequence[int], spread: int) -> np.ndarray:
    """Return `base` with every channel varied by up to `spread`, [B, 1, 1, 3]."""
    colour: np.ndarray = np.array(base) + dice.integers(-spread, spread, count, 1, 1, 3)
    return colour


def _blend(ground: np.ndarray, ink: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    mixed: np.ndarray = ground + (((ink - ground) * coverage[..., None]) >> 8)
    return mixed


_HUES = np.array([(214, 52, 58), (232, 140, 36), (222, 200, 60), (60, 160, 80), (50, 110, 200), (140, 70, 180)])


def _hues(dice: Dice, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose two different strong colours for each image, [B, 1, 1, 3] each."""
    first = dice.integers(0, 5, count)
    second = (first + dice.integers(1, 5, count)) % 6
    return _HUES[first][:, None, None], _HUES[second][:, None, None]


def _grid(dice: Dice, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixel coordinates x, y [B, 32, 32] with a random origin for each image."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return x + dice.integers(0, 11, count, 1, 1), y + dice.integers(0, 11, count, 1, 1)


def _pen(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """Draw thin dark ink on ruled cream paper."""
    n = len(ink)
    _, y = _grid(dice, n)
    paper = _colour(dice, n, (236, 228, 206), 14) - (y % 6 == 0)[..., None] * np.array([70, 45, 12])
    return _blend(paper, _colour(dice, n, (60, 66, 120), 36), _stroke(ink, dice.integers(2000, 2700, n)))


def _chalk(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """Draw grainy white chalk on a smeared green board."""
    n = len(ink)
    smear = np.repeat(np.repeat(dice.integers(-22, 22, n, 8, 8), 4, 1), 4, 2)[..., None]
    board = _colour(dice, n, (56, 92, 74), 16) + smear
    cover = _stroke(ink, dice.integers(1500, 2300, n)) * dice.integers(40, 256, n, SIDE, SIDE) >> 8
    return _blend(board, _colour(dice, n, (226, 226, 216), 20), cover)


def _neon(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """Draw a glowing outline in a strong colour on near-black."""
    n = len(ink)
    away = np.abs(ink - dice.integers(1100, 1900, n, 1, 1))
    cover = np.clip(256 - away * 256 // 900, 0, 256)
    glow = np.clip(90 - away * 90 // 2000, 0, 90)
    colour, _ = _hues(dice, n)
    return _blend(_colour(dice, n, (22, 16, 38), 10), colour + 30, np.maximum(cover, glow))


def _hatch(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """Hatch the stroke one way and the ground the other, in the same two greys and blues."""
    n = len(ink)
    x, y = _grid(dice, n)
    cover = _stroke(ink, dice.integers(1200, 1900, n), 500)
    dark, light = _colour(dice, n, (84, 100, 136), 24), _colour(dice, n, (180, 194, 212), 24)
    ground = np.where(((x + y) % 4 < 2)[..., None], light, dark)
    inside = np.where(((x - y) % 4 < 2)[..., None], light, dark) + np.array([24, 0, -36])
    return _blend(ground, inside, cover)


def _poster(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """Draw a fat leaning stroke, one strong colour on another."""
    n = len(ink)
    ground, colour = _hues(dice, n)
    shade = (np.arange(SIDE) - 16)[None, :, None, None]
    return _blend(ground + shade, colour + 0 * shade, _stroke(ink, dice.integers(1000, 1600, n)))


def _plate(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """Draw a colour-vision plate: tiles of uneven brightness, warm in the stroke and green in the ground."""
    n = len(ink)
    tiles = np.repeat(np.repeat(dice.integers(-64, 64, n, 16, 16), 2, 1), 2, 2)[..., None]
    cover = _stroke(ink, dice.integers(1200, 2000, n), 600)
    plate: np.ndarray = (
        _blend(_colour(dice, n, (150, 176, 120), 18), _colour(dice, n, (190, 84, 60), 18), cover) + tiles
    )
    return plate
