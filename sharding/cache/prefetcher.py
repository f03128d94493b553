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
"""Seconds between two looks for room."""
AT_ONCE = 4
"""Shards that are fetched ahead at the same time."""
Item = TypeVar("Item")


class Prefetcher:
    """Fetches a remote split's shards in the order in which they are needed, before they are.

    One process of a node has one.
    """

    def __init__(self, split: Split) -> None:
        assert split.remote is not None
        self._index, self._remote = split.index, split.remote
        self._step, self._turn = 0, 0

    def follow(self, plan: EpochPlan, start: int, batches: Iterable[Item], a_step: int) -> Iterator[Item]:
        """Pass batches on, and meanwhile fetch the plan's shards.

        Shards that the rest of the epoch does not need make room.

        Args:
            plan: the epoch's.
            start: the step of the first batch.
            batches: the reader's.
            a_step: how many of them a step takes.
        """
        shards = self._index.shard
        order = [int(shard) for _, there in shard_arrivals(plan, shards, start) for shard in there]
        self._begin(order, last_use(plan, shards), start)
        return self._passed_on(batches, start, a_step)

    def all(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Pass batches on, and meanwhile fetch all shards in their order, as far as there is room for all of them."""
        number = len(self._index.shard_name)
        self._begin(list(range(number)), np.full(number, np.inf), 0)
        return self._passed_on(batches, 0, 1)

    def _passed_on(self, batches: Iterable[Item], start: int, a_step: int) -> Iterator[Item]:
        turn = self._turn
        try:
            for number, batch in enumerate(batches):
                self._step = start + number // a_step
                yield batch
        finally:
            if turn == self._turn:
                self.stop()

    def stop(self) -> None:
        """Begin to fetch no other shard."""
        self._turn += 1

    def _begin(self, order: list[int], last: np.ndarray, start: int) -> None:
        self.stop()
        self._step = start
        wanted, began, door = iter(order), time.time(), threading.Semaphore()
        for _ in range(AT_ONCE):
            threading.Thread(
                target=self._work, args=(self._turn, wanted, door, order, last, began), name="ahead", daemon=True
            ).start()

    def _work(
        self,
        turn: int,
        wanted: Iterator[int],
        door: threading.Semaphore,
        order: list[int],
        last: np.ndarray,
        began: float,
    ) -> None:
        """Fetch shards, as one of several threads.

        They get room one after the other, so that no later shard takes the room of an earlier one.
        """
        source, relative = self._remote.source, self._remote.relative
        names = [source.folder / relative / str(name) for name in self._index.shard_name]
        while turn == self._turn:
            door.acquire()
            shut = [door]

            def let_in(shut: list[threading.Semaphore] = shut) -> None:
                if shut:
                    shut.pop().release()

            try:
                shard = next(wanted)
                while turn == self._turn and last[shard] >= self._step - 1:
                    turns = {
                        names[other]: place
                        for place, other in enumerate(order)
                        if other == shard or last[other] >= self._step - 1  # another rank may be a step behind
                    }
                    if source.fetch_ahead(relative, self._index, shard, FetchAhead(turns, began, let_in)):
                        break
                    time.sleep(AHEAD_LOOK_S)
            except (StopIteration, DataError, OSError):
                return  # the reader that needs what cannot be had meets the same, and says so
            finally:
                let_in()
