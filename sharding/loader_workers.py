"""The reader's worker processes: how they are forked, asked, watched, and ended."""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.popen_fork
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch.utils.data import get_worker_info

from recipes.common.errors import RunError
from recipes.common.memory import memory_of_job
from sharding.plan.ranks import Draws

Value = TypeVar("Value")
SHARED_MEMORY = Path("/dev/shm")
"""Where batches lie on their way from a worker to its rank."""
_watched: WeakKeyDictionary[BaseProcess, str] = WeakKeyDictionary()
"""The workers of this process, and what each is called in a sentence."""


class Handover:
    """A sampler that hands out whatever the reader was last asked for; persistent workers ask it again every epoch.

    It does not know the reader: a cycle of references would leave the workers to the garbage collector, which closes
    their queues before it asks them to end, and then they never do.
    """

    draws: Iterable[Draws] = ()

    def __iter__(self) -> Iterator[Draws]:
        return iter(self.draws)


def quiet_worker(worker: int) -> None:
    """Make a worker ignore warning signals, which reach every process of a job step.

    A worker that died of one would take the save with it. Workers end with their parent: it asks them over their
    queues, and at its exit by SIGHUP (see `Fork`).
    """
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, lambda number, frame: os._exit(0))


class _Popen(multiprocessing.popen_fork.Popen):
    _send_signal: Callable[[int], None]
    """Inherited; missing from the types of the standard library."""

    def terminate(self) -> None:
        self._send_signal(signal.SIGHUP)


class _Process(multiprocessing.context.ForkProcess):
    @staticmethod
    def _Popen(process: Any) -> _Popen:
        return _Popen(process)


class Fork(multiprocessing.context.ForkContext):
    """Forked workers that Python ends by SIGHUP.

    At exit it would send SIGTERM, which they ignore, and wait for ever.
    """

    Process = _Process


# ------------------------------------------------------------------------------------------------ when a worker is lost
def begun(loader: Iterable[Value]) -> Iterator[Value]:
    """Return the batches of a `DataLoader`, with its workers watched by `check_workers`.

    Torch would raise a worker's death out of a signal handler, in the midst of whatever the process is doing, such as
    printing another traceback. Here the next batch is refused instead.
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
        RunError: one has; says by what, and what it most likely was.
    """
    for worker, name in list(_watched.items()):
        if (code := worker.exitcode) and code != -signal.SIGHUP:  # ours, see `Fork`
            del _watched[worker]
            raise RunError(f"{name} {death(code)}")


def death(code: int) -> str:
    """Return how a worker ended, by its exit code (below 0: minus the signal's number), and what to change."""
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


LESS = "a smaller data.workers needs less, a larger slurm.mem gives more"
"""What to change where memory is short."""
