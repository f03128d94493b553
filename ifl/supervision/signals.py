"""A request to stop sets a flag and does nothing else: the ranks agree on it at the next step, save and leave together.

Imported before torch, so that a signal during the long imports is not lost and does not kill.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

REQUESTS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
"""Signals that ask a rank to stop. A launcher may start ranks with these blocked: `watch` hears what came before it."""
LAUNCHER = "GLT_LAUNCHER"
"""Environment variable that holds the reading end of a pipe whose other end the launcher alone has. Nothing is ever
written: that the pipe has ended says that the launcher has, whatever ended it, across containers and double forks."""


def watch() -> Callable[[], bool]:
    """Take `REQUESTS`, and the end of the launcher, as requests to stop from now on.

    SIGINT is ignored: Ctrl-C reaches every process of a terminal, and the launcher passes it on as a request. A SIGHUP
    that is ignored, as under nohup, stays ignored.

    Returns:
        The function that tells whether a request came.
    """
    came = False

    def note(*_: Any) -> None:
        nonlocal came
        came = True

    for name in REQUESTS:
        if name is not signal.SIGHUP or signal.getsignal(name) is not signal.SIG_IGN:
            signal.signal(name, note)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
    if pipe := os.environ.pop(LAUNCHER, None):
        threading.Thread(target=_await_end, args=(int(pipe), note), name="launcher", daemon=True).start()
    return lambda: came


def _await_end(pipe: int, then: Callable[[], object]) -> None:
    while os.read(pipe, 1):
        pass
    then()
