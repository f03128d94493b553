"""The open files that a rank needs: checked before it connects, and again before it reads.

The numbers were counted on runs of one, two and four ranks on CPUs with 0, 2 and 4 loader workers, and rounded up.
"""

from __future__ import annotations

import os

from recipes.common.process_limits import require_files

OF_A_RANK, OF_A_PEER = 26, 5
"""For the rank itself (logs, locks, a checkpoint, what torch opens), and for the connections to each other rank."""
OF_WORKERS, OF_A_WORKER = 8, 12
"""For the pipes to loader workers, of which training, val and a test split have theirs at the same time."""
SPARE = 8
"""For files that are open for a moment: a checkpoint, a log, a program's output."""


def check_before_connecting(workers: int) -> None:
    """Check that this rank (WORLD_SIZE) may open what it needs for the others and for its loader workers.

    Raises:
        RunError: it may not; the sentence says how many files are needed.
    """
    ranks = int(os.environ.get("WORLD_SIZE") or 1)
    more = OF_A_RANK + OF_A_PEER * (ranks - 1) + _of_workers(workers)
    require_files(more, f"{ranks} ranks with {workers} loader workers each")


def check_before_reading(workers: int, held: int) -> None:
    """Check that this rank, which is connected, and each of its workers may open what reading needs.

    Args:
        workers: loader workers of this rank.
        held: files that a process keeps open while it reads: shards, and those of the node's caches.

    Raises:
        RunError: they may not; the sentence says how many files are needed.
    """
    require_files(SPARE + _of_workers(workers) + held, f"{workers} loader workers and {held} files of the data")


def _of_workers(workers: int) -> int:
    return OF_WORKERS + OF_A_WORKER * workers if workers else 0
