"""Fetches a remote split's shards before the readers ask, in the order of the epoch's plan."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from recipes.common.errors import DataError
from sharding.format.dataset import FetchAhead, Split
from sharding.plan.epoch import EpochPlan
from sharding.plan.shard_schedule import last_use, shard_arrivals

AHEAD_LOOK_S = 0.25
"""Seconds between two checks for room."""
AT_ONCE = 4
"""Shards that are fetched ahead at the same time."""
Item = TypeVar("Item")


class Prefetcher:
    """Fetches a remote split's shards ahead of the readers, in the order in which they are needed.

    Only one process of a node has a prefetcher.
    """

    def __init__(self, split: Split) -> None:
        assert split.remote is not None
        self._index, self._remote = split.index, split.remote
        self._step, self._generation = 0, 0

    def follow(self, plan: EpochPlan, start: int, batches: Iterable[Item], per_step: int) -> Iterator[Item]:
        """Pass batches on, and meanwhile fetch the plan's shards.

        Shards that nobody read since the epoch began, and those that the rest of it does not need, are evicted first.

        Args:
            plan: the epoch's plan.
            start: the step of the first batch.
            batches: the reader's batches.
            per_step: how many batches a step takes.
        """
        shards = self._index.shard
        order = [int(shard) for _, there in shard_arrivals(plan, shards, start) for shard in there]
        self._begin(order, last_use(plan, shards), start)
        return self._passed_on(batches, start, per_step)

    def all(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass batches on, and meanwhile fetch all shards in their order, until there is no room left."""
        number = len(self._index.shard_name)
        self._begin(list(range(number)), np.full(number, np.inf), 0)
        return self._passed_on(batches, 0, 1)

    def _passed_on(self, batches: Iterable[Item], start: int, per_step: int) -> Iterator[Item]:
        generation = self._generation
        try:
            for number, batch in enumerate(batches):
                self._step = start + number // per_step
                yield batch
        finally:
            if generation == self._generation:
                self.stop()

    def stop(self) -> None:
        """Stop fetching; shards that are under way are completed."""
        self._generation += 1

    def _begin(self, order: list[int], last: np.ndarray, start: int) -> None:
        self.stop()
        self._step = start
        wanted, began, room_turn = iter(order), time.time(), threading.Semaphore()
        for _ in range(AT_ONCE):
            threading.Thread(
                target=self._work,
                args=(self._generation, wanted, room_turn, order, last, began),
                name="ahead",
                daemon=True,
            ).start()

    def _work(
        self,
        generation: int,
        wanted: Iterator[int],
        room_turn: threading.Semaphore,
        order: list[int],
        last: np.ndarray,
        began: float,
    ) -> None:
        """Fetch shards, as one of several threads.

        The shards get their room one after the other, so that a later shard never takes the room of an earlier one.
        """
        source, relative = self._remote.source, self._remote.relative
        names = [source.folder / relative / str(name) for name in self._index.shard_name]
        while generation == self._generation:
            room_turn.acquire()
            held = [room_turn]

            def release(held: list[threading.Semaphore] = held) -> None:
                if held:
                    held.pop().release()

            try:
                shard = next(wanted)
                while generation == self._generation and last[shard] >= self._step - 1:
                    turns = {
                        names[other]: place
                        for place, other in enumerate(order)
                        if other == shard or last[other] >= self._step - 1  # another rank may be a step behind
                    }
                    if source.fetch_ahead(relative, self._index, shard, FetchAhead(turns, began, release)):
                        break
                    time.sleep(AHEAD_LOOK_S)
            except (StopIteration, DataError, OSError):
                return  # the reader that needs this shard will meet the same error and report it
            finally:
                release()
