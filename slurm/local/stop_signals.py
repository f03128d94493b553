"""What asks the launcher of local runs to stop: Ctrl-C, SIGTERM, and SIGHUP, which a lost terminal sends."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

TOGETHER_S = 1.0
"""Signals that come within this time are one: `timeout` sends its own to a process and to its group."""


class StopSignals:
    """Hears the signals of a command.

    The first is passed on from the handler itself, so that a launcher that cannot print, or hangs in a print, still
    passes it on. A later one ends the command at once.

    Attributes:
        came: whether one was heard.
    """

    def __init__(self, ask: Callable[[], object], pause: Callable[[bool], object]) -> None:
        """Prepare to listen.

        Args:
            ask: asks all that is under way to stop; called in the signal's handler.
            pause: stops the processes of all that is under way (True), or lets them go on (False): Ctrl-Z.
        """
        self.came = False
        self._ask, self._pause, self._first_s = ask, pause, 0.0

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Listen until the block ends. A signal that is ignored, as SIGHUP is under nohup, stays ignored."""
        handlers = {
            signal.SIGINT: self._hear,
            signal.SIGTERM: self._hear,
            signal.SIGHUP: self._hear,
            signal.SIGTSTP: self._suspend,
        }
        before = {
            name: signal.signal(name, handler)
            for name, handler in handlers.items()
            if signal.getsignal(name) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.came:
            self.came, self._first_s = True, now
            self._ask()
        elif now - self._first_s > TOGETHER_S:
            raise KeyboardInterrupt

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Stop the ranks as the terminal would, for they are not in its foreground group, and then this process."""
        self._pause(True)
        os.kill(os.getpid(), signal.SIGSTOP)  # returns when the shell lets it go on
        self._pause(False)
