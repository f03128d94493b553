"""The random numbers of a draw. numpy only.

Everything random is a function of (seed, epoch, draw), where draw is the position in the epoch's plan. So the pixels do
not depend on workers, ranks, prefetching or a resume.
"""

from __future__ import annotations

import numpy as np

# The top word of the Philox counter. Others that use the same (seed, epoch) key, such as the plan, never get the words
# of this stream.
_DOMAIN = int.from_bytes(b"augment", "big")


class Dice:
    """Random numbers made from a bit generator's raw 64-bit words, one word for each number.

    `numpy.random.Generator` may change how it turns words into numbers between numpy versions (NEP 19); the words
    themselves are fixed. Deriving the few kinds needed here keeps a seed's pixels the same under every numpy.
    """

    __slots__ = ("_next_word",)

    def __init__(self, bits: np.random.BitGenerator) -> None:
        self._next_word = bits.random_raw

    def word(self) -> int:
        """Return the next raw word, 0 <= word < 2**64."""
        return int(self._next_word())

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

    Different triples have different Philox keys. Costs about 10 microseconds.

    Args:
        seed: the run's, 0 to 2**32 - 1.
        epoch: 0 to 2**32 - 1.
        draw: the draw's number within the epoch, 0 to 2**63 - 1.

    Raises:
        ValueError: one of them is outside its range.
    """
    if not (0 <= seed < 1 << 32 and 0 <= epoch < 1 << 32 and 0 <= draw < 1 << 63):
        raise ValueError(f"seed {seed}, epoch {epoch} or draw {draw} is outside its range")
    key = np.array([seed << 32 | epoch, draw], dtype=np.uint64)
    counter = np.array([0, 0, 0, _DOMAIN], dtype=np.uint64)
    return Dice(np.random.Philox(key=key, counter=counter))
