"""Images that look alike: a cheap signature of the decoded pixels, and the pairs of nearly equal ones among many.

The images of a pair differ in at most `BITS` of the signature's 256 bits, and by at most `LEVELS` of 255 in the mean
over the 8x8 thumbnails' values. This finds copies that were encoded again or scaled, not crops or mirror images. Images
with hardly any contrast are left out.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 8
BANDS = 8
BITS = BANDS - 1  # signatures that differ in fewer bits than there are bands are equal in at least one band
LEVELS = 3.0
STEP = 3  # a smaller step is noise
LEAST = 24  # of the 256 bits; an image with fewer is featureless
LARGEST = 4096  # images in a bucket; bounds the time, which is quadratic in it

# neighbouring bits are similar, so each band takes bits from all over the image
_ORDER = np.argsort(np.random.Philox(key=np.uint64(0)).random_raw(4 * SIDE * SIDE), kind="stable")


def thumbnail(image: Image.Image) -> np.ndarray:
    """Squeeze the image to a square, every pixel the mean of its area: uint8 [8, 8, 3]."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def signatures(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the signatures of thumbnails [n, 8, 8, 3] uint8.

    A bit is the sign of a step: of brightness to the right and down, and of red and blue over green.

    Returns:
        bits [n, BANDS] uint32, and featured [n] bool: whether the image has enough contrast to be compared.
    """
    bits, featured = np.zeros((len(thumbs), BANDS), np.uint32), np.zeros(len(thumbs), bool)
    for start in range(0, len(thumbs), 4096):  # a part at a time bounds the memory
        part = slice(start, start + 4096)
        colour = thumbs[part].astype(np.int16)
        grey = colour.sum(3)
        steps = np.stack(
            [
                np.roll(grey, -1, 2) - grey,
                np.roll(grey, -1, 1) - grey,
                3 * (colour[..., 0] - colour[..., 1]),
                3 * (colour[..., 2] - colour[..., 1]),
            ],
            1,
        )
        signs = (steps > 3 * STEP).reshape(len(steps), -1)
        featured[part] = signs.sum(1) >= LEAST
        bits[part] = np.ascontiguousarray(np.packbits(signs[:, _ORDER], 1)).view("<u4")
    return bits, featured


def alike(thumbs: np.ndarray, usable: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, bool]:
    """Find the pairs of images of different owners that look alike.

    Only rows with an equal band of 32 bits are compared.

    Args:
        thumbs: thumbnails, uint8 [n, 8, 8, 3].
        usable: bool [n], which rows count.
        owner: int64 [n], the number of each row's split.

    Returns:
        int64 [m, 2], pairs of rows, sorted, the first one's owner below the second one's; and whether all rows were
        compared.
    """
    bits, featured = signatures(thumbs)
    flat, rows = thumbs.reshape(len(thumbs), -1), np.flatnonzero(usable & featured)
    pairs, whole = [np.zeros((0, 2), np.int64)], True
    for band in range(bits.shape[1]) if len(rows) else ():
        order = rows[np.argsort(bits[rows, band], kind="stable")]
        edges = np.flatnonzero(np.diff(bits[order, band])) + 1
        starts, ends = np.r_[0, edges], np.r_[edges, len(order)]
        mixed = np.minimum.reduceat(owner[order], starts) != np.maximum.reduceat(owner[order], starts)
        for start, end in zip(starts[mixed].tolist(), ends[mixed].tolist(), strict=True):
            whole &= end - start <= LARGEST
            members = order[start : min(end, start + LARGEST)]
            for first in range(0, len(members), 256):
                block = members[first : first + 256]
                close = np.bitwise_count(bits[block][:, None] ^ bits[members][None]).sum(2) <= BITS
                one, two = np.nonzero(close & (owner[block][:, None] < owner[members][None]))
                found = np.stack([block[one], members[two]], 1)
                levels = [int(np.abs(flat[a].astype(np.int16) - flat[b]).sum()) for a, b in found]
                pairs.append(found[np.array(levels, np.int64) <= LEVELS * flat.shape[1]])
    return np.unique(np.concatenate(pairs), axis=0), bool(whole)
