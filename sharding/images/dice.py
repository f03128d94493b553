"""The random numbers of a draw. numpy only.

Everything random is a function of (seed, epoch, draw), where draw is the position in the epoch's plan. So the pixels do
not depend on workers, ranks, prefetching or a resume.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# The top word of the Philox counter. Others that use the same (seed, epoch) key, such as the plan, never get the words
# of this stream.
_DOMAIN = int.from_bytes(b"augment", "big")
_AT_ONCE = 16
"""Words that are made at a time, a multiple of a Philox block's four; few draws need more."""


class Dice:
    """Random numbers made from raw 64-bit words, one word for each number.

    `numpy.random.Generator` may change how it turns words into numbers between numpy versions (NEP 19); the words
    themselves are fixed. Deriving the few kinds needed here keeps a seed's pixels the same under every numpy.
    """

    __slots__ = ("word",)
    word: Callable[[], int]
    """Returns the next raw word, 0 <= word < 2**64."""

    def __init__(self, words: Iterator[int]) -> None:
        self.word = words.__next__

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a float in [low, high), in steps of (high - low) / 2**53."""
        return low + (high - low) * ((self.word() >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """Return an integer in 0 .. n-1; its bias, below n / 2**64, is too small to measure.

        Raises:
            ValueError: n is less than 1.
        """
        if n < 1:
            raise ValueError(f"cannot draw from {n} values")
        return (self.word() * n) >> 64

    def coin(self, p: float = 0.5) -> bool:
        """Return True with probability p."""
        return self.uniform() < p


def draw_rng(seed: int, epoch: int, draw: int) -> Dice:
    """Return the random numbers of one draw: counter-based (Philox 4x64), so no draw depends on another.

    Different triples have different Philox keys.

    Args:
        seed: the run's, 0 to 2**32 - 1.
        epoch: 0 to 2**32 - 1.
        draw: the draw's number within the epoch, 0 to 2**63 - 1.

    Raises:
        ValueError: one of them is outside its range.
    """
    if not (0 <= seed < 1 << 32 and 0 <= epoch < 1 << 32 and 0 <= draw < 1 << 63):
        raise ValueError(f"seed {seed}, epoch {epoch} or draw {draw} is outside its range")
    return Dice(_words([seed << 32 | epoch, draw]))


class _Generator(threading.local):
    """This thread's bit generator, which is set anew for each draw: to make one costs ten times as much."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)


_generator = _Generator()


def _words(key: list[int]) -> Iterator[int]:
    """Yield the words of a Philox key, without end."""
    philox = _generator.philox
    for block in itertools.count(step=_AT_ONCE // 4):
        state: Any = {
            "bit_generator": "Philox",
            "state": {"counter": [block, 0, 0, _DOMAIN], "key": key},
            "buffer": [0, 0, 0, 0],
            "buffer_pos": 4,  # nothing is left in the buffer
            "has_uint32": 0,
            "uinteger": 0,
        }
        philox.state = state
        yield from philox.random_raw(_AT_ONCE).tolist()
