"""Groups of classes, Many, Medium and Few as 0, 1 and 2: by thirds of the classes, or by shots."""

from __future__ import annotations

import numpy as np

MANY, FEW = 100, 20
"""By shots, a class of more than MANY training images is group 0, one of fewer than FEW group 2."""


def thirds(counts: np.ndarray) -> np.ndarray:
    """Group the classes by the rank of their number of training images [K] into three even parts: int64 [K].

    Of classes of one number the earlier one ranks higher. Earlier groups take one more where parts cannot be even.
    """
    found = np.empty(len(counts), np.int64)
    found[np.argsort(-np.asarray(counts), kind="stable")] = np.arange(len(counts)) * 3 // max(1, len(counts))
    return found


def shots(counts: np.ndarray) -> np.ndarray:
    """Group the classes by their number of training images [K]: int64 [K]."""
    counts = np.asarray(counts)
    return np.where(counts > MANY, 0, np.where(counts >= FEW, 1, 2)).astype(np.int64)
