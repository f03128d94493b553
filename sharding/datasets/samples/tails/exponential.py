"""Counts that fall by the same factor from class to class: the long tail of CIFAR-LT."""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache

SAYS = "exponential, as CIFAR-LT: largest x RATIO^(-i / (classes - 1)), truncated"
_DIGITS, _NOTHING = 40, Decimal("1e-20")


def counts(largest: int, classes: int, ratio: float) -> list[int]:
    """Return `largest` x `ratio`^(-i / (classes - 1)), truncated, for each class i.

    Decimal numbers are the same on every machine; a product that is whole but for their rounding is whole.
    """
    with localcontext(prec=_DIGITS):
        return [int(largest * share + _NOTHING) for share in _shares(classes, Decimal(str(ratio)))]


@cache
def _shares(classes: int, ratio: Decimal) -> tuple[Decimal, ...]:
    with localcontext(prec=_DIGITS):
        return tuple(ratio ** (Decimal(-i) / max(1, classes - 1)) for i in range(classes))
