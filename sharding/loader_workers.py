"""The reader's worker processes: starting them, giving them work, watching and ending them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.context
import multiprocessing.popen_fork
import multiprocessing.queues
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch.utils.data import get_worker_info

from recipes.common.errors import RunError, one_line
from recipes.common.process_limits import memory_of_job
from sharding.plan.ranks import Draws

Value = TypeVar("Value")
SHARED_MEMORY = Path("/dev/shm")
"""Holds batches on their way from a worker to its rank."""
_watched: WeakKeyDictionary[BaseProcess, str] = WeakKeyDictionary()
"""The workers of this process, and their names in messages."""


class Handover:
    """A sampler that yields the draws the reader was last asked for; persistent workers iterate over it every epoch.

    It has no reference to the reader: the garbage collector would break such a cycle by closing the workers' queues
    before asking them to end, and then they would never end.
    """

    draws: Iterable[Draws] = ()

    def __iter__(self) -> Iterator[Draws]:
        return iter(self.draws)


def quiet_worker(worker: int) -> None:
    """Make a worker ignore warning signals, which reach every process of a job step.

    If a worker died of one, the rank could not save. Workers end with their parent, which asks them to over their
    queues, and by SIGHUP when it exits (see `Fork`).
    """
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, lambda number, frame: os._exit(0))
    end_with_parent()
    _tell_errors_of_threads()


def end_with_parent() -> None:
    """Let the kernel end this process when its parent ends, however that was.

    A worker would hold what it inherited, such as the run folder's lock, and may be in the midst of a batch that nobody
    takes.
    """
    ctypes.CDLL(None).prctl(PARENT_ENDED, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it ended before that
        os._exit(0)


PARENT_ENDED = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


# ---------------------------------------------------------------------------------------------- errors beside the work
BROKEN = 70
"""A worker's exit code after an error in a thread that serves what it has read."""


def _tell_errors_of_threads() -> None:
    """Let no error in a thread of this worker be lost, for its rank would wait for ever.

    Python prints such an error and drops what was to be handed over. Here the rank gets the error in the batch's place,
    and an error of any other thread ends the worker.
    """

    def instead(queue: Any, error: BaseException, batch: tuple[Any, ...]) -> None:
        what = one_line(f"{type(error).__name__}: {error}")
        queue.put((batch[0], RunError(f"a loader worker could not hand over a batch ({what}); {ENOUGH}")))

    def end(error: BaseException | None) -> None:
        with contextlib.suppress(OSError):
            traceback.print_exception(error)
            sys.stderr.flush()
        os._exit(BROKEN)

    # What a queue's sending thread calls, meant to be replaced; as a method it knows the queue.
    multiprocessing.queues.Queue._on_queue_feeder_error = instead  # type: ignore[attr-defined]
    threading.excepthook = lambda args: end(args.exc_value)
    sys.excepthook = lambda kind, error, trace: end(error)


class _Popen(multiprocessing.popen_fork.Popen):
    _send_signal: Callable[[int], None]
    """Inherited; missing from the standard library's types."""

    def terminate(self) -> None:
        self._send_signal(signal.SIGHUP)


class _Process(multiprocessing.context.ForkProcess):
    @staticmethod
    def _Popen(process: Any) -> _Popen:
        return _Popen(process)


class Fork(multiprocessing.context.ForkContext):
    """Forked workers that Python ends by SIGHUP.

    By default it would send SIGTERM at exit, which they ignore, and wait for ever.
    """

    Process = _Process


# ------------------------------------------------------------------------------------------------ when a worker is lost
def begun(loader: Iterable[Value]) -> Iterator[Value]:
    """Return the batches of a `DataLoader`, with its workers watched by `check_workers`.

    Torch would raise an error for a dead worker inside a signal handler, at any point of the program, such as while
    another traceback is printed. Here getting the next batch fails instead.

    Raises:
        OSError: a worker cannot be started.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    workers = getattr(batches, "_workers", [])
    for number, worker in enumerate(workers, start=1):
        _watched[worker] = _named(number, len(workers), worker.pid)
    return batches


def own_name() -> str:
    """Return what the worker that this process is, is called in a sentence."""
    worker = get_worker_info()
    return "the loader" if worker is None else _named(worker.id + 1, worker.num_workers, os.getpid())


def _named(number: int, workers: int, pid: int | None) -> str:
    return f"loader worker {number} of {workers} (pid {pid})"


def check_workers() -> None:
    """Check that no worker of this process has died.

    Raises:
        RunError: one has; the sentence says how, and the most likely reason.
    """
    for worker, name in list(_watched.items()):
        if (code := worker.exitcode) and code != -signal.SIGHUP:  # sent by us, see `Fork`
            del _watched[worker]
            raise RunError(f"{name} {death(code)}")


def death(code: int) -> str:
    """Return how a worker ended and what to change; an exit `code` below 0 is minus a signal's number."""
    if code == BROKEN:
        return f"ended because a thread of it failed, and what it printed before says why; {ENOUGH}"
    if code > 0:
        return f"ended with code {code}, and what it printed before may say why"
    by = signal.Signals(-code)
    if by is signal.SIGKILL:
        memory = memory_of_job()
        if memory.kills == 0:
            return (
                "was killed by SIGKILL, and the kernel counts no kill for want of memory in the job's cgroup: somebody "
                f"sent it, or a guard of the machine that watches the memory ({memory}); if it was short, {LESS}"
            )
        return f"was killed by SIGKILL, most likely for want of memory: {memory}; {LESS}"
    if by is signal.SIGBUS:
        free = shutil.disk_usage(SHARED_MEMORY).free / 2**30 if SHARED_MEMORY.is_dir() else 0.0
        return (
            f"was killed by SIGBUS, most likely because {SHARED_MEMORY} is full, in which batches travel "
            f"({free:.1f} GiB are free now), or because the disk of data.cache_folder lost a page: a larger "
            f"{SHARED_MEMORY}, a smaller data.workers or another data.cache_folder may help"
        )
    if by in (signal.SIGSEGV, signal.SIGILL, signal.SIGABRT, signal.SIGFPE):
        return (
            f"was killed by {by.name}, a fault inside a compiled library, most likely the image decoder: "
            "data.decoder=pillow is the most careful one"
        )
    return f"was killed by {by.name}, which somebody sent"


ENOUGH = "a smaller data.workers needs less, and 0 none; ulimit -n (open files) may give more"
"""What to change where something lacks that workers need."""
LESS = "a smaller data.workers needs less, a larger slurm.mem gives more"
"""What to change when memory is short."""
