"""Locks between processes, which end with the process that holds them. Standard library only.

They are the kernel's (`flock`). A file system that has none gets leases instead, with the limits that their module
states (leases.py). An error of the call is raised; it never means that somebody holds the lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from recipes.common import leases

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors that say that a file system has no locks."""
PAUSE_S = 0.1
"""Between two attempts to take a lease."""
_held: set[int] = set()


def _flock(file: int | IO[str], how: int) -> bool | None:
    """Call `flock`; whether it gave what was asked for, and None where the file system has no locks.

    Raises:
        OSError: the call failed.
    """
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def _kind(shared: bool) -> int:
    return fcntl.LOCK_SH if shared else fcntl.LOCK_EX


def _handle(file: int | IO[str]) -> int:
    return file if isinstance(file, int) else file.fileno()


def try_acquire(file: int | IO[str], shared: bool = False) -> bool:
    """Take an open file's lock, for as long as it is open here or in a forked process, or until it is released.

    Returns:
        False where somebody else holds it.

    Raises:
        OSError: that cannot be told.
    """
    taken = _flock(file, _kind(shared) | fcntl.LOCK_NB)
    return leases.take(_handle(file), shared) if taken is None else taken


def acquire(file: int | IO[str], shared: bool = False, busy: Callable[[], object] = lambda: None) -> None:
    """Take an open file's lock. `busy` is called before a wait for somebody else who holds it.

    Raises:
        OSError: the file system failed.
    """
    if not try_acquire(file, shared):
        busy()
        if _flock(file, _kind(shared)) is None:
            while not leases.take(_handle(file), shared):
                time.sleep(PAUSE_S)


def release(file: int | IO[str]) -> None:
    """Let go of an open file's lock, in this process and in those that share it."""
    if not leases.drop(_handle(file)):
        _flock(file, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path, busy: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of the file `path`, shared with no other process; the file is made if it is not there.

    Args:
        path: the file.
        busy: called before a wait, see `acquire`.
    """
    # Opened each time: a lock of a descriptor that forked processes share would shut none of them out.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _held.add(file)
    try:
        acquire(file, busy=busy)
        yield
    finally:
        release(file)  # by name, for a process may be forked in this moment
        _held.discard(file)
        os.close(file)


def is_free(path: Path) -> bool:
    """Say whether nobody holds the lock of `path`, shared or not; the file is made if it is not there.

    Raises:
        OSError: that cannot be told.
    """
    with open(path, "a") as file:
        taken = _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return not leases.is_taken(path) if taken is None else taken


def is_held(path: Path) -> bool:
    """Say whether somebody holds the lock of `path` and does not share it. Those who ask do not disturb each other.

    Raises:
        OSError: that cannot be told.
    """
    try:
        with open(path) as file:
            taken = _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return leases.is_taken(path, shared=False) if taken is None else not taken
    except FileNotFoundError:
        return False


def _let_go() -> None:
    """Close the locks in a forked process.

    One that is forked while another thread holds a lock has it, too, and would keep it beyond its parent's death.
    """
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
