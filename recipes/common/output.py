"""What becomes of a command whose output nobody reads any more, as in `COMMAND | head`, or that a full disk does not
take. Standard library only.

A command that makes something goes on and is silent (`go_on_unread`); one that only shows something, perhaps for ever,
ends (`end_unread`). Neither says anything: Python alone would end with a BrokenPipeError, or take it for an error of
the file that is being written at that moment. Where the standard output cannot be written for another reason the
command ends in one sentence, and at Ctrl-C without a word (`ends_told`); what the standard error does not take is
dropped.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import sys
from collections.abc import Callable
from typing import Any


class Unwritable(Exception):
    """The standard output cannot be written; the message is the system's. No OSError: those are a command's files'."""


class _Stream(io.FileIO):
    """A file descriptor whose output is dropped where nobody can read it.

    Attributes:
        unread: output is dropped once it is a pipe without a reader, or a terminal that is gone.
        anyhow: output is dropped whatever the error is, such as that of a full disk.
    """

    unread, anyhow = True, False

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            disk = stat.S_ISREG(os.fstat(self.fileno()).st_mode)
            gone = self.unread and not disk and error.errno in (errno.EPIPE, errno.EIO)
            if not (self.anyhow or gone):
                self.anyhow = True  # the interpreter tries once more when it ends
                raise Unwritable(error.strerror) from None
            return len(data)


def go_on_unread(anyhow: bool = False) -> None:
    """From now on drop what nobody can read, on the standard output and the standard error.

    Args:
        anyhow: drop what cannot be written for any other reason, too: a run goes on though the disk of its output is
            full.
    """
    _wrap(unread=True, anyhow=anyhow)


def ends_told(command: str, main: Callable[[], int | None]) -> int:
    """Run a command whose streams one of this module's functions took over, and return its exit code, 130 at Ctrl-C.

    Args:
        command: its name in the sentence that is printed, with code 2, where the standard output cannot be written.
        main: the command.
    """
    try:
        try:
            return main() or 0
        except KeyboardInterrupt:
            return 130
        finally:
            sys.stdout.flush()
    except Unwritable as error:
        print(f"{command}: the standard output cannot be written: {error}", file=sys.stderr)
        return 2


def _wrap(unread: bool, anyhow: bool) -> None:
    open_closed()
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        if isinstance(old, io.TextIOWrapper) and _has_file(old):
            at_once = old.line_buffering or old.write_through
            raw = _Stream(old.fileno(), "w", closefd=False)
            raw.unread, raw.anyhow = unread, anyhow or name == "stderr"
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
    _wrap(unread=False, anyhow=False)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
