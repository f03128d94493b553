"""Locks between the processes of a node, which end with the process that holds them. Standard library only."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that the file `path` stands for; the file is made if it is not there."""
    # Opened anew each time: a lock of a descriptor that forked processes share would shut none of them out. And let go by name: a process forked
    # meanwhile has the descriptor open, and closing it here alone would leave the lock to that one.
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock of `path`, alone or with others."""
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(file, fcntl.LOCK_UN)
        return True
