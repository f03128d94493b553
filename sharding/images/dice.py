"""The random numbers of a draw, and the crop that they choose. numpy only.

Whatever is random is a function of (seed, epoch, draw) alone, draw being the position in the
epoch's plan, so that neither workers, ranks, prefetching nor a resume can change a pixel.
"""

from __future__ import annotations

import numpy as np

# Topmost word of the Philox counter, so that other users of a (seed, epoch) key, such as the
# plan, never meet this stream.
_DOMAIN = int.from_bytes(b"augment", "big")


class Dice:
    """Random numbers made from a bit generator's raw 64-bit words, one word for each number.

    ``numpy.random.Generator`` may change how it turns words into numbers between numpy versions
    (NEP 19); the words themselves are fixed. Deriving the few kinds needed here keeps a seed's
    pixels the same under every numpy.
    """

    __slots__ = ("_next_word",)

    def __init__(self, bits: np.random.BitGenerator) -> None:
        self._next_word = bits.random_raw

    def word(self) -> int:
        """The next raw word, 0 <= word < 2**64."""
        return int(self._next_word())

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float in [low, high), in steps of (high - low) / 2**53."""
        return low + (high - low) * ((self.word() >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """An integer in 0 .. n-1; its bias, below n / 2**64, is beyond measuring."""
        if n < 1:
            raise ValueError(f"cannot draw from {n} values")
        return (self.word() * n) >> 64

    def coin(self, p: float = 0.5) -> bool:
        """True with probability p."""
        return self.uniform() < p


def draw_rng(seed: int, epoch: int, draw: int) -> Dice:
    """The random numbers of one draw: counter-based (Philox 4x64), so no draw depends on another.

    seed and epoch lie in 0 .. 2**32-1, draw in 0 .. 2**63-1, else ValueError; different triples
    have different Philox keys. Costs about 10 microseconds.
    """
    if not (0 <= seed < 1 << 32 and 0 <= epoch < 1 << 32 and 0 <= draw < 1 << 63):
        raise ValueError(f"seed {seed}, epoch {epoch} or draw {draw} is outside its range")
    key = np.array([seed << 32 | epoch, draw], dtype=np.uint64)
    counter = np.array([0, 0, 0, _DOMAIN], dtype=np.uint64)
    return Dice(np.random.Philox(key=key, counter=counter))
