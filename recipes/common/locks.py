"""Locks between the processes of a node, which end with the process that holds them. Standard library only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_held: set[int] = set()


def try_acquire(file: int | IO[str], shared: bool = False) -> bool:
    """Take an open file's lock, for as long as it is open here or in a forked process.

    Returns:
        False where somebody else holds it.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def acquire(file: int | IO[str], shared: bool = False, busy: Callable[[], object] = lambda: None) -> None:
    """Take an open file's lock. `busy` is called before a wait for somebody else who holds it."""
    if not try_acquire(file, shared):
        busy()
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


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
        fcntl.flock(file, fcntl.LOCK_UN)  # by name, for a process may be forked in this moment
        _held.discard(file)
        os.close(file)


def is_free(path: Path) -> bool:
    """Say whether nobody holds the lock of `path`, shared or not; the file is made if it is not there."""
    with open(path, "a") as file:
        return try_acquire(file)


def is_held(path: Path) -> bool:
    """Say whether somebody holds the lock of `path` and does not share it. Those who ask do not disturb each other."""
    try:
        with open(path) as file:
            return not try_acquire(file, shared=True)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _let_go() -> None:
    """Close the locks in a forked process.

    One that is forked while another thread holds a lock has it, too, and would keep it beyond its parent's death.
    """
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
