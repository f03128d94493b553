"""Random words: numpy's raw Philox stream, keyed by seed, epoch, stream and purpose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# The purposes for which an epoch's random words are used; each has its own Philox key.
DRAW, ORDER, SHARDS = 0, 1, 2


@dataclass(frozen=True)
class DrawKey:
    """What the random words of a stream's epoch depend on.

    Attributes:
        seed: the run's seed, 0 to 2**32 - 1.
        epoch: 0 to 2**32 - 1.
        stream: the stream's number in a batch, 0 to 2**16 - 1.
    """

    seed: int
    epoch: int
    stream: int = 0

    def of_stream(self, stream: int) -> DrawKey:
        """Return the key of another stream in the same epoch."""
        return replace(self, stream=stream)


def bit_generator(key: DrawKey, purpose: int, block: int = 0) -> np.random.Philox:
    """Return the generator for one purpose (`DRAW`, `ORDER`, `SHARDS`) and one block of the order."""
    seed, epoch, stream = key.seed, key.epoch, key.stream
    assert seed < 2**32 and epoch < 2**32 and stream < 2**16 and purpose < 2**16 and block < 2**32
    return np.random.Philox(key=np.array([seed << 32 | epoch, block << 32 | stream << 16 | purpose], dtype=np.uint64))


def random_words(count: int, key: DrawKey, purpose: int, block: int = 0) -> np.ndarray:
    """Return the first `count` random words of a generator, uint64 [count].

    Raw Philox words are fixed by its definition, so unlike numpy's distributions they are the same in every numpy
    version.
    """
    return bit_generator(key, purpose, block).random_raw(count)


def unit_floats(words: np.ndarray) -> np.ndarray:
    """Turn the top 53 bits of each uint64 word into a float64 in [0, 1)."""
    floats: np.ndarray = (words >> np.uint64(11)) * 2.0**-53
    return floats


def shuffled(values: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Sort the values by their random words."""
    return values[np.argsort(words, kind="stable")]
