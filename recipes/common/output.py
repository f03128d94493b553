"""What becomes of a command whose output nobody reads any more, as in `COMMAND | head`. Standard library only.

A command that makes something goes on and is silent (`go_on_unread`); one that only shows something, perhaps for ever,
ends (`end_unread`). Neither says anything: Python alone would end with a BrokenPipeError, or take it for an error of
the file that is being written at that moment.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import sys
from typing import Any


class _Unread(io.FileIO):
    """A file descriptor whose output is dropped once it is a pipe without a reader, or a terminal that is gone.

    Attributes:
        anyhow: output is dropped whatever the error is, such as that of a full disk.
    """

    anyhow = False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            disk = stat.S_ISREG(os.fstat(self.fileno()).st_mode)
            if not self.anyhow and (disk or error.errno not in (errno.EPIPE, errno.EIO)):
                raise
            return len(data)


def go_on_unread(anyhow: bool = False) -> None:
    """From now on drop what nobody can read, on the standard output and the standard error.

    Args:
        anyhow: drop what cannot be written for any other reason, too: a run goes on though the disk of its output is
            full.
    """
    open_closed()
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if isinstance(old, io.TextIOWrapper) and _has_file(old):
            at_once = old.line_buffering or old.write_through
            raw = _Unread(old.fileno(), "w", closefd=False)
            raw.anyhow = anyhow
            new = io.TextIOWrapper(io.BufferedWriter(raw), old.encoding, old.errors, line_buffering=at_once)
            setattr(sys, name, new)


def open_closed() -> None:
    """Give a standard stream that was closed before the start (`COMMAND >&-`) the empty device.

    Else Python has None in its place, and the next file that is opened gets its number and all that is printed to it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is the stream's own
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _has_file(stream: io.TextIOWrapper) -> bool:
    """Say whether a stream writes to a file, and not into the memory of whoever called this process's functions."""
    try:
        return stream.fileno() >= 0
    except io.UnsupportedOperation:
        return False


def end_unread() -> None:
    """From now on end without a word at the first output that nobody can read."""
    open_closed()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
