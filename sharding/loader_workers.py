"""The reader's worker processes: how they are forked, asked, and ended."""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.popen_fork
import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

from sharding.plan.ranks import Draws


class Handover:
    """A sampler that hands out whatever the reader was last asked for; persistent workers ask it anew every epoch.

    It does not know the reader: a cycle of references would leave the workers to the garbage collector, which closes
    their queues before it asks them to end, and then they never do.
    """

    draws: Iterable[Draws] = ()

    def __iter__(self) -> Iterator[Draws]:
        return iter(self.draws)


def quiet_worker(worker: int) -> None:
    """Warning signals reach every process of a job step, and a worker that died of one would take the save with it.
    Workers end with their parent: it asks them over their queues, and at its own exit by SIGHUP (see `_Fork`)."""
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, lambda number, frame: os._exit(0))


class _Popen(multiprocessing.popen_fork.Popen):
    def terminate(self) -> None:
        self._send_signal(signal.SIGHUP)


class _Process(multiprocessing.context.ForkProcess):
    @staticmethod
    def _Popen(process: Any) -> _Popen:
        return _Popen(process)


class Fork(multiprocessing.context.ForkContext):
    """Forked workers that Python ends by SIGHUP: at exit it would send SIGTERM, which they ignore, and wait for ever."""

    Process = _Process
