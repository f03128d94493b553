"""What tests of a node's caches share: processes that come and go, and batches that must be the same."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import torch

from sharding.reader import Batch


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    """Bit for bit, and some are there."""
    assert len(found) == len(expected) > 0
    assert all(torch.equal(mine, theirs) for left, right in zip(found, expected, strict=True) for mine, theirs in zip(left, right, strict=True))


def children(number: int, work: Callable[[int], object]) -> list[int]:
    """The pids of processes that do `work(k)` and leave without cleaning up, with 1 after an error."""
    pids = []
    for k in range(number):
        if (pid := os.fork()) == 0:
            try:
                work(k)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        pids.append(pid)
    return pids
