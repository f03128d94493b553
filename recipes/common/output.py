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
    """A file descriptor whose output is dropped once it is a pipe without a reader, or a terminal that is gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            disk = stat.S_ISREG(os.fstat(self.fileno()).st_mode)
            if disk or error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return len(data)


def go_on_unread() -> None:
    """From now on drop what nobody can read, on the standard output and the standard error."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if isinstance(old, io.TextIOWrapper):  # None where it was closed by whoever started this
            at_once = old.line_buffering or old.write_through
            raw = _Unread(old.fileno(), "w", closefd=False)
            new = io.TextIOWrapper(io.BufferedWriter(raw), old.encoding, old.errors, line_buffering=at_once)
            setattr(sys, name, new)


def end_unread() -> None:
    """From now on end without a word at the first output that nobody can read."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
