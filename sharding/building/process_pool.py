"""Spreads work over processes; results come in the order of the jobs and do not depend on the number of workers."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from recipes.common.errors import DataError
from recipes.common.process_limits import memory_of_job

State = TypeVar("State")
Job = TypeVar("Job")
Result = TypeVar("Result")
_STATE: Any = None  # in a worker: the state of its pool's `in_order`


def in_order(
    function: Callable[[State, Job], Result], state: State, jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """Yield `function(state, job)` for each job, in order; at most 2 x `workers` jobs and results are held at a time.

    Args:
        function: defined at the top of a module, so that a process can import it.
        state: sent to each process once, as a pickle.
        jobs: sent as pickles, as the results are.
        workers: number of processes; with one all is done in this process.

    Raises:
        DataError: a worker was killed, most often by the kernel because memory ran out, or ended by itself.
        Exception: what `function` raised in a worker.
    """
    if workers == 1:
        yield from (function(state, job) for job in jobs)
        return
    # spawned, not forked: the parent may hold threads (torch, OpenMP), and a fork would copy their locks, held or not
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (state,))
    waiting: deque[Future[Result]] = deque()
    processes: list[BaseProcess] = []
    try:
        for job in jobs:
            waiting.append(pool.submit(_call, function, job))
            if len(processes) < workers:
                processes = [process for process in multiprocessing.active_children() if process not in others]
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        pool.shutdown(wait=True, cancel_futures=True)
        raise DataError(f"one of {workers} worker processes {end_of(processes)}; the same command goes on") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_of(processes: Sequence[BaseProcess]) -> str:
    """Return how the first of a broken pool's processes ended: what is known of it, and no more.

    The pool itself ends the others by SIGTERM, so another end comes first.
    """
    codes = sorted((process.exitcode or 0 for process in processes), key=lambda code: code == -signal.SIGTERM)
    code = next(filter(None, codes), 0)
    if code == 0:
        return "ended, and nothing says how"
    if code > 0:
        return f"ended by itself with exit code {code}, and what it printed before may say why"
    if code != -signal.SIGKILL:
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed, for want of memory perhaps ({memory_of_job()}): fewer workers= need less"


def _begin(state: Any) -> None:
    global _STATE
    _STATE = state
    # Ctrl-C reaches every process of a terminal, and SLURM's warnings every process of a job: the parent decides what
    # they mean.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    # When the parent is killed, the queue of jobs stays open, because every worker holds its other end. The workers
    # would do the jobs left in it, perhaps beside a new build with other options, and then wait for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker always has one
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _call(function: Callable[[Any, Job], Result], job: Job) -> Result:
    return function(_STATE, job)
