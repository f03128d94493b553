"""Work spread over processes, with results in the order of the jobs, so that nothing depends on the number of workers."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from recipes.common.errors import DataError

State, Job, Result = TypeVar("State"), TypeVar("Job"), TypeVar("Result")
_STATE: Any = None


def in_order(
    function: Callable[[State, Job], Result], state: State, jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """`function(state, job)` for each job, in order; at most 2 x `workers` jobs and results are held at a time.

    `function` lies at the top of a module, `state` is sent to each process once, jobs and results are sent as pickles.
    With one worker all is done in this process. An exception in a worker comes out here. Raises DataError where a worker
    is killed, by the kernel for want of memory most often.
    """
    if workers == 1:
        yield from (function(state, job) for job in jobs)
        return
    # spawned, not forked: the parent may hold threads (torch, OpenMP), whose locks a fork would copy as they stand
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (state,))
    waiting: deque = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(_call, function, job))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            f"one of {workers} worker processes was killed, for want of memory perhaps; fewer workers= need less, and the same command goes on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(state: Any) -> None:
    global _STATE
    _STATE = state
    # Ctrl-C reaches every process of a terminal, and SLURM's warnings every process of a job: the parent says what is to be
    # done.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    # The queue of jobs does not end with a parent that is killed, for every worker holds its other end: it would do the jobs that
    # wait there, beside a new build perhaps and with other words, and then stay for good.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _call(function: Callable[[Any, Any], Any], job: Any) -> Any:
    return function(_STATE, job)
