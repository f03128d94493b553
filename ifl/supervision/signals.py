"""A signal sets a flag and does nothing else: the ranks agree on it at the next step, save together, and leave.

Imported before torch, so that a signal during the long imports is not lost and does not kill.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any


def watch() -> Callable[[], bool]:
    """Take SIGTERM and SIGUSR2 from now on as requests to stop; returns the function that tells whether one came.

    SIGINT is ignored: Ctrl-C reaches every process of a terminal, and the launcher passes it on as a request.
    """
    came = False

    def handler(number: int, frame: Any) -> None:
        nonlocal came
        came = True

    for name in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(name, handler)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return lambda: came
