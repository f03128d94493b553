"""Random words: numpy's raw Philox stream, keyed by seed, epoch, stream and purpose."""

from __future__ import annotations

import numpy as np

# The purposes for which an epoch's random words are used; each has a Philox key of its own.
DRAW, ORDER, SHARDS = 0, 1, 2


def bit_generator(seed: int, epoch: int, stream: int, purpose: int, block: int = 0) -> np.random.Philox:
    assert seed < 2**32 and epoch < 2**32 and stream < 2**16 and purpose < 2**16 and block < 2**32
    return np.random.Philox(key=np.array([seed << 32 | epoch, block << 32 | stream << 16 | purpose], dtype=np.uint64))


def random_words(count: int, seed: int, epoch: int, stream: int, purpose: int, block: int = 0) -> np.ndarray:
    """uint64 [count] random words. Raw Philox output is part of its definition and, unlike numpy's derived
    distributions, the same for every numpy version."""
    return bit_generator(seed, epoch, stream, purpose, block).random_raw(count)


def unit_floats(words: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) from the top 53 bits of each word."""
    return (words >> np.uint64(11)) * 2.0**-53


def shuffled(values: np.ndarray, words: np.ndarray) -> np.ndarray:
    return values[np.argsort(words, kind="stable")]
