"""A rank that makes no progress says where it is and ends, so that a run finishes or fails but never hangs.

The training tells the watchdog at each bit of progress what comes next. Where it says nothing for too long, a thread
prints the stacks, says so, and ends the process; srun or the launcher then ends the other ranks, and the run goes on
from its last checkpoint. A rank that cannot even speak (stopped, or on a node that is gone) is missed by the others,
who wait for it.

What counts is the time in which this process could run: the thread counts its own short naps, so the pauses of a job
that SLURM suspends and resumes do not count.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

BOOT_S = 120.0
"""The least that a start may take: imports, ranks that start late, loading, and the first step."""
LAST_WORDS_S = 5.0
"""A disk that hangs may be why there is no progress, so what is written about it gets this long."""
WAITING = (os.path.join("torch", "distributed"), os.path.join("ifl", "distributed", "comm.py"))


def boot_limit_s(stuck_after_s: float) -> float:
    """Return how many seconds a start may go on without progress."""
    return max(3 * stuck_after_s, BOOT_S)


def patience_s(stuck_after_s: float) -> float:
    """Return how many seconds a rank waits for the others in a collective.

    A watchdog can say more about a rank that hangs, so this is longer than any watchdog waits.
    """
    return 2 * boot_limit_s(stuck_after_s)


class Watchdog:
    """Watches the thread that makes it, as long as the process lives.

    Args:
        stuck_after_s: how long there may be no progress, seconds; in sections whose name begins with `boot`,
            `boot_limit_s` of it.
        rank: this process's, for the sentence.
        on_stuck: called with a sentence, from another thread; the process ends after it, or without it after 5 s.
    """

    def __init__(self, stuck_after_s: float, rank: int, on_stuck: Callable[[str], object]) -> None:
        self._limit_s, self._rank, self._on_stuck = stuck_after_s, rank, on_stuck
        self._section, self._silent_s = "boot", 0.0
        self._watched = threading.get_ident()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def progressed(self, section: str | None = None) -> None:
        """Note that there is progress; `section` is what comes next, by default more of the same."""
        self._section, self._silent_s = section or self._section, 0.0

    def _watch(self) -> None:
        nap = min(1.0, self._limit_s / 20)
        before = time.monotonic()
        while True:
            time.sleep(nap)
            now = time.monotonic()
            self._silent_s += min(now - before, 2 * nap)  # a longer nap was a pause of the whole process
            before = now
            if self._silent_s > (boot_limit_s(self._limit_s) if self._section.startswith("boot") else self._limit_s):
                last_words = threading.Thread(target=self._speak, daemon=True)
                last_words.start()
                last_words.join(LAST_WORDS_S)
                for worker in multiprocessing.active_children():
                    worker.kill()  # one that hangs would not see that its rank has ended
                os._exit(1)

    def _speak(self) -> None:
        others = ", waiting for the other ranks" if waits_for_others(sys._current_frames().get(self._watched)) else ""
        message = f"Stuck: rank {self._rank} made no progress for {self._silent_s:.0f} s in {self._section}{others}"
        print(message, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        self._on_stuck(message)


def waits_for_others(frame: FrameType | None) -> bool:
    """Say whether a thread is in a collective; on a GPU, where they return at once, its stack may not show it."""
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in WAITING):
            return True
        frame = frame.f_back
    return False
