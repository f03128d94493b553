"""Exact sums: real numbers as int64 multiples of 2**-bits.

Integers add up to the same total in any order and on any number of ranks, which floats do not, and on a GPU even
atomic additions stay exact. A value that does not fit is reported and counts as 0, never wrapped around silently.
"""

from __future__ import annotations

import torch


def to_fixed(values: torch.Tensor, bits: int, terms: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn real `values` into int64 multiples of 2**-bits, safe to add up to `terms` times.

    Returns:
        int64 of the same shape, and how many values were not finite or beyond +-2**(62 - bits) / terms (int64 scalar).
    """
    scaled = values.detach().double() * 2.0**bits
    bad = ~(scaled.abs() < 2.0**62 / terms)  # true for NaN as well
    return torch.where(bad, 0.0, scaled).round().to(torch.int64), bad.sum()


def to_float(fixed: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the float64 values of a fixed-point tensor."""
    return fixed.double() * 2.0**-bits
