"""Locks between the processes of a node, which end with the process that holds them. Standard library only."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_held: set[int] = set()


@contextmanager
def locked(path: Path, busy: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock that the file `path` stands for; the file is made if it is not there. `busy` is called before a wait for somebody else who holds it."""
    # Opened anew each time: a lock of a descriptor that forked processes share would shut none of them out.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _held.add(file)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # by name, for a process may be forked in this moment
        _held.discard(file)
        os.close(file)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock of `path`, alone or with others."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(file, fcntl.LOCK_UN)
        return True


def _let_go() -> None:
    """A process that is forked while another thread holds a lock has it, too, and would keep it beyond its parent's death."""
    for file in _held:
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
