"""Random words: numpy's raw Philox stream, keyed by seed, epoch, stream and purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

# The purposes for which an epoch's random words are used; each has its own Philox key.
DRAW, ORDER, SHARDS = 0, 1, 2
CHUNK = 1 << 16
"""Numbers that are worked on at a time, where all of them would take memory."""


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


def random_order(count: int, key: DrawKey, purpose: int, block: int = 0) -> np.ndarray:
    """Return 0 to `count` - 1 sorted by a generator's random words, [count] of the type of `narrow(count)`."""
    return order_of(lambda: random_words(count, key, purpose, block))


def order_of(words: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the stable order of random words, [n] of the type of `narrow(n)`.

    Each word's last bits make way for its place, and the numbers are sorted in their own memory: several times as fast
    as numpy's stable argsort, in 12 bytes a word instead of 24. Where the bits that are left are equal, the words
    decide.

    Args:
        words: makes the words, uint64 [n]; called once more if some of these bits are equal.
    """
    part = numbers = words()
    bits = max(len(numbers) - 1, 1).bit_length()
    low, places = np.uint64((1 << bits) - 1), np.empty(len(numbers), narrow(len(numbers)))
    for first in range(0, len(numbers), CHUNK):
        part = numbers[first : first + CHUNK]
        part &= ~low
        part |= np.arange(first, first + len(part), dtype=np.uint64)
    numbers.sort()
    before = _tied(numbers, low, places)
    del numbers, part
    if len(before):
        among, made = np.union1d(before, before + 1), words()
        run = np.cumsum(~np.isin(among - 1, before))
        places[among] = places[among][np.lexsort((places[among], made[places[among]], run))]
    return places


def _tied(numbers: np.ndarray, low: np.uint64, places: np.ndarray) -> np.ndarray:
    """Fill in the places, the bits `low`, and return where a number and the next have equal bits above, int64."""
    tied = [np.empty(0, np.int64)]
    for first in range(0, len(numbers), CHUNK):
        part = numbers[first : first + CHUNK + 1]  # with the next part's first
        places[first : first + CHUNK] = part[:CHUNK] & low
        tied.append(first + np.flatnonzero((part[1:] ^ part[:-1]) <= low))
    return np.concatenate(tied)


def narrow(largest: int) -> type[np.signedinteger]:
    """Return int32 if all numbers up to `largest` fit into it, else int64."""
    return np.int32 if largest < 2**31 else np.int64
