"""Locks for file systems that have none (Lustre mounted without `flock`, NFS without its lock service).

A lease is a file beside the lock's: `LOCK.lease` of the one process that holds it alone, `LOCK.lease-OWNER` of each
that shares it. It names its owner (host, process, a random word), and a thread of the owner's touches it every
`BEAT_S`. One that was not touched for `LEASE_S` belongs to nobody, and the next process takes it over.

What that cannot do, and a lock can: the machines' clocks must agree to some seconds; what a killed process held is free
only after `LEASE_S`, not at once; a process that is suspended for longer loses what it held without being told; child
processes do not hold what their parent held; and two that take over the same abandoned lease in the same instant may
both believe that they have it. Where that matters most, in a run folder, the fence decides at each commit
(ifl/supervision/fence.py). Standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BEAT_S, LEASE_S = 5.0, 30.0
SUFFIX = ".lease"


class _Lease(NamedTuple):
    """A lease of this process.

    Attributes:
        path: its file.
        owner: what the file holds.
        lock: device and inode of the lock's file.
    """

    path: Path
    owner: str
    lock: tuple[int, int]


_ours: dict[int, _Lease] = {}
"""The leases of this process, by the descriptor of the lock's open file."""


def take(handle: int, shared: bool) -> bool:
    """Take the lease of an open lock file, for as long as it is open in this process; whether nobody else holds it."""
    lock, owner = _path_of(handle), f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    path = lock.with_name(f"{lock.name}{SUFFIX}-{owner}") if shared else _alone(lock)
    if not shared and (held := _owner(path)) and not _is_live(path):
        _clear_away(path, held)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # atomic on NFS and Lustre
    except FileExistsError:
        return False
    with open(file, "w") as text:
        text.write(owner)
    # Each looks after it has shown itself, so of two that meet at least one sees the other.
    if _is_live(_alone(lock)) if shared else any(map(_is_live, _shared(lock))):
        path.unlink(missing_ok=True)
        return False
    _ours[handle] = _Lease(path, owner, _identity(handle))
    _start_beating()
    return True


def drop(handle: int) -> bool:
    """Give a lease back; whether this process had one by that open file."""
    lease = _ours.pop(handle, None)
    if lease is not None and _owner(lease.path) == lease.owner:
        with contextlib.suppress(OSError):
            lease.path.unlink()
    return lease is not None


def is_taken(lock: Path, shared: bool = True) -> bool:
    """Say whether some process holds the lease of a lock file alone, or (`shared`) with others."""
    return _is_live(_alone(lock)) or (shared and any(map(_is_live, _shared(lock))))


# -------------------------------------------------------------------------------------------------------- lease files
def _path_of(handle: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{handle}"))


def _identity(handle: int) -> tuple[int, int]:
    stat = os.fstat(handle)
    return stat.st_dev, stat.st_ino


def _alone(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}{SUFFIX}")


def _shared(lock: Path) -> Iterator[Path]:
    prefix = f"{lock.name}{SUFFIX}-"
    return (path for path in lock.parent.iterdir() if path.name.startswith(prefix))


def _owner(path: Path) -> str:
    """Read who owns a lease; empty where there is none."""
    try:
        return path.read_text() or "nobody"
    except FileNotFoundError:
        return ""


def _is_live(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < LEASE_S
    except FileNotFoundError:
        return False


def _clear_away(path: Path, held: str) -> None:
    """Remove the abandoned lease of `held`; one that another process took over in this moment is put back."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}.old")
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        os.rename(path, aside)
        if _owner(aside) != held:
            os.link(aside, path)
    aside.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------- heartbeat
_beating: list[threading.Thread] = []


def _start_beating() -> None:
    if not _beating:
        _beating.append(threading.Thread(target=_beat, name="leases", daemon=True))
        _beating[0].start()


def _beat() -> None:
    while True:
        time.sleep(BEAT_S)
        for handle, lease in list(_ours.items()):
            with contextlib.suppress(OSError):  # the next beat may reach the file system again
                if not _is_open(handle, lease) or _owner(lease.path) != lease.owner:
                    drop(handle)
                else:
                    os.utime(lease.path)


def _is_open(handle: int, lease: _Lease) -> bool:
    try:
        return _identity(handle) == lease.lock
    except OSError:
        return False


def _end() -> None:
    for handle in list(_ours):
        drop(handle)


def _forget() -> None:
    """Hold nothing in a forked process: it has its own end, and no thread that beats."""
    _ours.clear()
    _beating.clear()


atexit.register(_end)
os.register_at_fork(after_in_child=_forget)
