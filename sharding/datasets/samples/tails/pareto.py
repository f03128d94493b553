"""Counts along the quantiles of a Pareto distribution of power 6: the long tail of ImageNet-LT and Places-LT.

Liu et al., "Large-Scale Long-Tailed Recognition in an Open World" (CVPR 2019), draw both
from a Pareto distribution of power alpha = 6 and give no more than the largest and the smallest class: 1,280 and 5
images of ImageNet-LT's 1,000 classes. Their counts are draws. Ours are the distribution's quantiles in the middle of
each class's share: of that share u of the classes that are larger, x(u) = u^(-1/6), at u = (i + 1/2) / classes for
class i, stretched so that the first class has `largest` images and the last `largest / ratio`.

ImageNet-LT's extremes give 104,345 images by this curve, 349 classes of more than 100 images and 163 of fewer than 20;
the published draw has 115,846 images, 385 and 136 such classes.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache

SAYS = "quantiles of a Pareto distribution of power 6, as ImageNet-LT and Places-LT"
ALPHA = 6
_DIGITS, _NOTHING = 40, Decimal("1e-20")


def counts(largest: int, classes: int, ratio: float) -> list[int]:
    """Return the truncated counts, the most frequent class first. Decimal numbers are the same on every machine."""
    with localcontext(prec=_DIGITS):
        smallest = largest / Decimal(str(ratio))
        return [int(smallest + (largest - smallest) * height + _NOTHING) for height in _heights(classes)]


@cache
def _heights(classes: int) -> tuple[Decimal, ...]:
    """Return the quantiles, the first 1 and the last 0; a single class has 1."""
    with localcontext(prec=_DIGITS):
        quantiles = [(Decimal(2 * classes) / (2 * i + 1)) ** (Decimal(1) / ALPHA) for i in range(classes)]
        first, last = quantiles[0], quantiles[-1]
        return tuple((q - last) / (first - last) for q in quantiles) if classes > 1 else (Decimal(1),)
