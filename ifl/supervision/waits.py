"""How long the ranks waited for data, and for each other.

Both ride in the step's reduction as times of the step before (ifl/supervision/stragglers.py), so nothing is asked of
the device for them. A rank waits for the others as long as the slowest one's own part of the step, up to its reduction,
is longer than its own.
"""

from __future__ import annotations

from collections.abc import Sequence


class Waits:
    """Adds up the waits of the steps since the last line of the log, as means over the ranks."""

    def __init__(self, batch: int) -> None:
        """Begin; `batch`: rows of the global batch, of which all ranks have as many, or one more."""
        self._batch = batch
        self._reset()

    def _reset(self) -> None:
        self._data_s = self._ranks_s = 0.0

    def count(self, own_ns: Sequence[int], data_ns: Sequence[int]) -> None:
        """Add a step.

        Args:
            own_ns: of each rank its own nanoseconds an image; 0 where they are not known.
            data_ns: of each rank the nanoseconds that it waited for its batches.
        """
        ranks = len(own_ns)
        self._data_s += sum(data_ns) / ranks / 1e9
        if 0 not in own_ns:
            self._ranks_s += (max(own_ns) - sum(own_ns) / ranks) * self._batch / ranks / 1e9

    def taken(self) -> dict[str, float]:
        """Return the seconds `data_wait_s` and `rank_wait_s`, and begin again."""
        taken = {"data_wait_s": round(self._data_s, 4), "rank_wait_s": round(self._ranks_s, 4)}
        self._reset()
        return taken
