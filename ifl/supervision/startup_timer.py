"""Where the seconds of a start go."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path


class Boot:
    """Times the parts of a start, and tells the watchdog of each.

    Attributes:
        parts: seconds of each part that is over, in order; the first, `import`, is the process's time before this.
    """

    def __init__(self, heartbeat: Callable[[str], None]) -> None:
        self._heartbeat, self._began, self._since, self._part = heartbeat, time.monotonic(), time.monotonic(), ""
        self.parts = {"import": round(_process_age(), 2)}

    def part(self, name: str) -> None:
        """Begin the part `name`; the one before is over."""
        now = time.monotonic()
        if self._part:
            self.parts[self._part] = round(now - self._since, 2)
        self._part, self._since = name, now
        self._heartbeat(f"boot, {name}")

    def beat(self, said: str) -> None:
        """Tell the watchdog of progress within a part."""
        self._heartbeat(f"boot, {said}")

    def over(self) -> float:
        """End the start, and return its seconds; what comes now is the first step.

        What the imports left behind lives as long as the process, so the garbage collector, which job.py has switched
        off for them, need not look at it again.
        """
        self.part("first step")
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        return self._since - self._began


def _process_age() -> float:
    """Return the seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
