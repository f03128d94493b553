"""How widely a figure's values lie."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """Return between which two figures the middle half of the values lies; of few values, never outside of them."""
    low, _, high = quantiles([*values, *values] if len(values) == 1 else values, n=4, method="inclusive")
    return low, high
