"""The launcher's output, which may end before its runs do."""

from __future__ import annotations

import io
import os
import signal
import sys


class _Dropped(io.RawIOBase):
    """Writes to a file descriptor; what cannot be written (a terminal or reader that is gone, a full disk) is lost."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._handle

    def isatty(self) -> bool:
        return os.isatty(self._handle)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return os.write(self._handle, data)
        except OSError:
            return len(data)


def outlive_output() -> None:
    """Make this process go on where its output cannot be written: from now on such output is dropped."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for name, handle in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before Python began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
        elif stream is getattr(sys, f"__{name}__"):
            raw = io.BufferedWriter(_Dropped(handle))  # type: ignore[type-var]
            lines = handle == 2 or os.isatty(handle)
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=lines))
