"""Reading again what a shared file system refuses for a while. Standard library only."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between two tries: a minute, in which a server fails over and a client mounts again."""


def _numbers(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


PASSING = _numbers(
    *("ESTALE", "EIO", "ETIMEDOUT", "EAGAIN", "EBUSY", "EREMOTEIO"),  # a server that fails over or is slow
    *("ENODEV", "ENXIO", "ENOTCONN", "ESHUTDOWN", "EPIPE"),  # a mount that is made again
    *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
    *("EKEYEXPIRED", "ENOKEY"),  # a ticket that is renewed
    *("ENFILE", "ENOMEM", "ENOBUFS"),  # the node's own want
)
"""Errors of a read that waiting has been seen to mend. A disk that is really broken says EIO too: it costs a minute."""
VANISHED = _numbers("ENOENT", "EACCES", "EPERM")
"""Errors that are the user's where a file is first asked for, and pass where it was there before.

A server that fails over, an automounter and an expired ticket say so for a while.
"""


def retried(read: Callable[[], Value], what: str, was_there: bool = False) -> Value:
    """Return `read()`, tried again after pauses while it fails with an error that passes; the first is told on stderr.

    Args:
        read: opens its file anew each time, for a stale handle stays stale.
        what: what is read, such as `shard /data/a.tar`.
        was_there: whether it was there before, so that its absence may pass, too.

    Raises:
        OSError: of the last try; one that does not pass at once.
    """
    told = False
    for pause_s in PAUSES_S:
        try:
            return read()
        except OSError as error:
            if error.errno not in (PASSING | VANISHED if was_there else PASSING):
                raise
            if not told:
                print(
                    f"{what}: {errno_words(error)}; trying again for {sum(PAUSES_S):g} s", file=sys.stderr, flush=True
                )
            told = True
        time.sleep(pause_s)
    return read()


def errno_words(error: OSError) -> str:
    """Return a system's error by its name and meaning: `ESTALE (Stale file handle)`."""
    return f"{errno.errorcode.get(error.errno or 0, error.errno)} ({error.strerror or error})"
