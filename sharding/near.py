"""Images that look alike: a cheap signature of the decoded pixels, and the pairs of nearly equal ones among many.

A candidate pair differs in at most `BITS` of 256 signs of brightness steps on a 16x16 thumbnail; it counts where the
thumbnails, averaged to 8x8, also differ by at most `LEVELS` of 255 in the mean over all channels. That finds copies that were
encoded again or scaled, not crops or mirror images. Images with hardly any steps (a plain ground) have no signature.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 16
BITS = 3
LEVELS = 3.0
STEP = 2  # a step of brightness by less is noise
LEAST = 16  # of the 256 signs; an image with fewer is featureless
LARGEST = 4096  # of one bucket: a bound on the time, which is quadratic inside buckets

_ORDER = np.argsort(np.random.Philox(key=np.uint64(0)).random_raw(256), kind="stable")  # neighbouring bits are alike; bands want a mixture


def thumbnail(image: Image.Image) -> np.ndarray:
    """uint8 [16, 16, 3]: the image squeezed to a square, every pixel the mean of its area."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def signatures(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bits [n, BITS + 1] uint64, featured [n] bool) of thumbnails [n, 16, 16, 3] uint8."""
    bits, featured = np.zeros((len(thumbs), 4), np.uint64), np.zeros(len(thumbs), bool)
    for start in range(0, len(thumbs), 4096):  # a part at a time bounds the memory
        part = slice(start, start + 4096)
        grey = thumbs[part].astype(np.int32) @ np.array([299, 587, 114]) // 1000
        signs = (np.roll(grey, -1, 2) - grey > STEP).reshape(len(grey), -1)
        featured[part] = signs.sum(1) >= LEAST
        bits[part] = np.packbits(signs[:, _ORDER], 1).view("<u8")
    return bits, featured


def alike(thumbs: np.ndarray, usable: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, bool]:
    """Pairs [m, 2] int64 of rows a < b, sorted, that look alike and have different owners; and whether all were compared.

    `thumbs` [n, 16, 16, 3] uint8, `usable` [n] bool, `owner` [n] int64. Two signatures that differ in at most 3 bits agree in
    one of their 4 bands, so only rows with an equal band are compared.
    """
    bits, featured = signatures(thumbs)
    rows = np.flatnonzero(usable & featured)
    pairs, whole = [np.zeros((0, 2), np.int64)], True
    for band in range(bits.shape[1]):
        order = rows[np.argsort(bits[rows, band], kind="stable")]
        edges = np.flatnonzero(np.diff(bits[order, band])) + 1
        starts, ends = np.r_[0, edges], np.r_[edges, len(order)]
        if not len(order):
            break
        mixed = np.minimum.reduceat(owner[order], starts) != np.maximum.reduceat(owner[order], starts)
        for start, end in zip(starts[mixed].tolist(), ends[mixed].tolist()):
            whole &= end - start <= LARGEST
            members = order[start : min(end, start + LARGEST)]
            for first in range(0, len(members), 256):
                block = members[first : first + 256]
                close = np.bitwise_count(bits[block][:, None] ^ bits[members][None]).sum(2) <= BITS
                one, two = np.nonzero(close & (owner[block][:, None] < owner[members][None]))
                pairs.append(np.stack([block[one], members[two]], 1))
    found = np.unique(np.sort(np.concatenate(pairs), 1), axis=0)
    near = np.zeros(len(found), bool)
    for start in range(0, len(found), 4096):
        one, two = (_coarse(thumbs[found[start : start + 4096, side]]) for side in (0, 1))
        near[start : start + 4096] = np.abs(one - two).mean((1, 2, 3)) <= LEVELS
    return found[near], bool(whole)


def _coarse(thumbs: np.ndarray) -> np.ndarray:
    return thumbs.reshape(len(thumbs), SIDE // 2, 2, SIDE // 2, 2, 3).astype(np.float32).mean((2, 4))
