"""Whole numbers in a proportion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def apportion(count: int, proportion: Sequence[int]) -> list[int]:
    """Split `count` into whole numbers by `proportion`: largest remainders first, on ties earlier parts first."""
    parts: list[int] = apportioned(np.array(count), np.array(proportion)).tolist()
    return parts


def apportioned(count: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    """Split each of many counts, int64 [...], by its proportion, int64 [..., parts], as `apportion` does.

    A proportion of nothing but zeros gives nothing.
    """
    whole = np.maximum(proportion.sum(-1, keepdims=True), 1)
    parts, rest = np.divmod(count[..., None] * proportion, whole)
    place = np.argsort(np.argsort(-rest, axis=-1, kind="stable"), axis=-1, kind="stable")
    parts += place < rest.sum(-1, keepdims=True) // whole
    split: np.ndarray = parts
    return split
