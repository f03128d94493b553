"""Equality of what readers give."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sharding.reader import Batch


def assert_equal(found: Iterable[Batch], expected: Iterable[Batch]) -> list[Batch]:
    """Compare batches by dtypes and bits, and return those that were found."""
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for number, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        for name in Batch._fields:
            left, right = getattr(mine, name), getattr(theirs, name)
            assert left.dtype == right.dtype and torch.equal(left, right), f"batch {number}: {name} differ"
    return found
