"""How a batch travels from a loader worker to its rank: in shared memory, or in a pipe where that is not to be had.

Shared memory costs a batch one copy, open files in both processes and room in /dev/shm. A pipe costs three copies and
nothing else, so it is what works where a container has a small /dev/shm or a shell a small `ulimit -n`.
"""

from __future__ import annotations

import functools
import resource
import sys
from dataclasses import dataclass

import numpy as np
import torch

from recipes.common.process_limits import has_files

Tensors = tuple[torch.Tensor, ...]
FILES_OF_A_BATCH = 8
"""Open files that a batch in shared memory needs at most, while it is on its way."""
AHEAD = 2
"""Batches that a worker reads ahead, torch's `prefetch_factor`."""
SPARE_FILES = 64
"""Open files for all else: queues, checkpoints."""


@dataclass(frozen=True)
class Piped:
    """A batch as plain arrays, each with the order of its tensor's axes in memory."""

    arrays: tuple[np.ndarray, ...]
    orders: tuple[tuple[int, ...], ...]

    def tensors(self) -> Tensors:
        """Return the batch's tensors, laid out in memory as they were."""
        return tuple(
            torch.from_numpy(array).permute(tuple(np.argsort(order)))
            for array, order in zip(self.arrays, self.orders, strict=True)
        )


def piped(tensors: Tensors) -> Piped:
    """Return tensors as they travel in a pipe."""
    orders = tuple(tuple(np.argsort([-step for step in each.stride()], kind="stable").tolist()) for each in tensors)
    return Piped(tuple(each.permute(order).numpy() for each, order in zip(tensors, orders, strict=True)), orders)


class Transport:
    """How one reader's workers hand over their batches. The bits are the same either way."""

    def __init__(self, workers: int, held: int = 0) -> None:
        """Look at what `workers` workers need, and raise the limit of open files where that helps.

        Args:
            workers: of one reader.
            held: files that each keeps open beside the batches, its shards.
        """
        self._shares = not workers or has_files(held + SPARE_FILES + FILES_OF_A_BATCH * (AHEAD * workers + 2))
        if not self._shares:
            _tell(f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files (ulimit -n) are too few for it")

    def packed(self, tensors: Tensors) -> Piped | None:
        """Prepare a worker's batch: its tensors lie in shared memory afterwards, or it is returned for the pipe.

        Done here and not by the thread that sends it, whose errors nobody hears.
        """
        if self._shares:
            try:
                for each in tensors:
                    each.share_memory_()  # type: ignore[no-untyped-call]
                return None
            except (RuntimeError, OSError) as error:
                self._shares = False  # of this worker
                _tell(str(error).splitlines()[0])
        return piped(tensors)


def _tell(why: str) -> None:
    say(f"batches travel from the loader's workers in a pipe, a little slower, and not in shared memory: {why}")


@functools.cache  # once a process
def say(sentence: str) -> None:
    """Tell the user how data are loaded where it is not the usual way."""
    print(sentence, file=sys.stderr, flush=True)
