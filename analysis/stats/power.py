"""What a comparison could have found, and how many seeds would have found it.

The power of a t test at a true difference d: the chance that (Z + d / error) / sqrt(X / freedom) is above the test's
threshold, with Z normal and X chi-squared, which is averaged over quantiles of X. It is the noncentral t distribution's
upper tail; of a two-sided test the other tail is left out.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from analysis.stats.crossed import Difference, quantile

POWER = 0.8
MOST_SEEDS = 1000
"""Where more would be needed, the number is not told."""
_QUANTILES = 500


def power(effect: float, error: float, freedom: float, level: float) -> float:
    """Return the chance that a one-sided t test of `level` finds a difference.

    Args:
        effect: the true difference from the test's bound, in its direction.
        error: the standard error.
        freedom: degrees of freedom of the error.
        level: of the one-sided test; half of a two-sided one's.
    """
    from scipy.special import ndtr

    if error == 0:
        return float(effect > 0)
    return float(ndtr(effect / error - quantile(1 - level, freedom) * _chi(freedom)).mean())


@functools.lru_cache(maxsize=4096)
def _chi(freedom: float) -> NDArray[np.float64]:
    """Return quantiles of sqrt(chi-squared / freedom), float64 [_QUANTILES]."""
    from scipy.special import gammaincinv

    shares = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    found: NDArray[np.float64] = np.sqrt(2 * gammaincinv(freedom / 2, shares) / freedom)
    return found


def smallest_effect(error: float, freedom: float, level: float) -> float:
    """Return the smallest true difference that the test finds with a chance of `POWER`; arguments as for `power`."""
    low, high = 0.0, error
    while power(high, error, freedom, level) < POWER and high < 1e6 * error:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, error, freedom, level) < POWER else (low, middle)
    return high


def with_seeds(found: Difference, seeds: int) -> tuple[float, float]:
    """Return the standard error and the degrees of freedom with as many seeds in both rows, or as many pairs of runs.

    The spread of a run is taken to be the same in both rows.
    """
    parts = len(found.runs)
    of_a_run = (found.variance - found.of_samples) / sum(1 / runs for runs in found.runs)
    of_seeds = parts * of_a_run / seeds
    variance = found.of_samples + of_seeds
    squares = of_seeds**2 / (parts * (seeds - 1)) + found.of_samples**2 / max(found.sources - 1, 1)
    most = float(parts * (seeds - 1))
    return math.sqrt(variance), min(most, variance**2 / squares) if squares else most


def seeds_needed(found: Difference, effect: float, level: float) -> int | None:
    """Return the fewest seeds a row, more than there are, with which the test finds `effect` with a chance of `POWER`.

    Spread and effect are taken to be those seen. None where `MOST_SEEDS` are not enough: mostly there are too few test
    samples.
    """

    def enough(seeds: int) -> bool:
        return power(effect, *with_seeds(found, seeds), level) >= POWER

    low, high = max(min(found.runs), 1), MOST_SEEDS
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
