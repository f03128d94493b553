"""Groups of classes, Many, Medium and Few as 0, 1 and 2: by thirds of their order, or by shots."""

from __future__ import annotations

import numpy as np

MANY, FEW = 100, 20
"""By shots, a class of more than MANY training images is group 0, one of fewer than FEW group 2."""


def thirds(classes: int) -> np.ndarray:
    """Group the classes, given in their order from head to tail, into three parts as even as can be: int64 [K].

    Earlier groups take one more where the parts are not even.
    """
    return np.arange(classes, dtype=np.int64) * 3 // max(1, classes)


def shots(counts: np.ndarray) -> np.ndarray:
    """Group the classes by their number of training images [K]: int64 [K]."""
    counts = np.asarray(counts)
    return np.where(counts > MANY, 0, np.where(counts >= FEW, 1, 2)).astype(np.int64)
