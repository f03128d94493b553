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
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import FrameType

BOOT_S = 120.0
"""The least that a start may take: imports, ranks that start late, loading, and the first step."""
LEAVE_BOOT_S, LEAVE_WAIT_S = 10.0, 30.0
"""How long a rank that was asked to stop may go on in a start, or wait for a batch, before it leaves without a save."""
LAST_WORDS_S = 5.0
"""A disk that hangs may be why there is no progress, so what is written about it gets this long."""
FOR_A_BATCH = (
    os.path.join("torch", "utils", "data", "dataloader.py"),
    os.path.join("sharding", "cache", "prefetcher.py"),
)
FOR_A_THREAD = (os.path.join("concurrent", "futures"),)
SAVER = "saver"
"""What the names of the threads that write checkpoints begin with."""
WAITING = (os.path.join("torch", "distributed"), os.path.join("ifl", "distributed", "comm.py"))


def boot_limit_s(stuck_after_s: float) -> float:
    """Return how many seconds a start may go on without progress."""
    return max(3 * stuck_after_s, BOOT_S)


def patience_s(stuck_after_s: float) -> float:
    """Return how many seconds a rank waits for the others in a collective.

    A watchdog can say more about a rank that hangs, so this is longer than any watchdog waits.
    """
    return 2 * boot_limit_s(stuck_after_s)


@dataclass(frozen=True)
class Leaving:
    """How a rank leaves that was asked to stop and cannot come to the step where it would save.

    Attributes:
        asked: whether it was asked.
        note: called with a sentence before it leaves.
        code: the exit code.
    """

    asked: Callable[[], bool]
    note: Callable[[str], object]
    code: int


class Watchdog:
    """Watches the thread that makes it, as long as the process lives.

    Args:
        stuck_after_s: how long there may be no progress, seconds; in sections whose name begins with `boot`,
            `boot_limit_s` of it.
        rank: this process's, for the sentence.
        on_stuck: called with a sentence, from another thread; the process ends after it, or without it after 5 s.
        leaving: what becomes of a request to stop that comes in a start, or while a batch does not.
    """

    def __init__(
        self, stuck_after_s: float, rank: int, on_stuck: Callable[[str], object], leaving: Leaving | None = None
    ) -> None:
        self._leaving, self._asked_s = leaving, 0.0
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
            self._asked_s = self._asked_s + min(now - before, 2 * nap) if self._cannot_stop() else 0.0
            before = now
            if self._leaving and self._asked_s > self._patience_s():
                self._end(self._leave, self._leaving.code)
            if self._silent_s > (boot_limit_s(self._limit_s) if self._in_boot() else self._limit_s):
                self._end(self._speak, 1)

    def _end(self, last_words: Callable[[], None], code: int) -> None:
        thread = threading.Thread(target=last_words, daemon=True)
        thread.start()
        thread.join(LAST_WORDS_S)
        for worker in multiprocessing.active_children():
            worker.kill()  # one that hangs would not see that its rank has ended
        os._exit(code)

    def _in_boot(self) -> bool:
        return self._section.startswith("boot")

    def _patience_s(self) -> float:
        return LEAVE_BOOT_S if self._in_boot() else LEAVE_WAIT_S

    def _cannot_stop(self) -> bool:
        """Say whether this rank was asked to stop and is where it does not hear it."""
        if self._leaving is None or not self._leaving.asked():
            return False
        return self._in_boot() or _is_in(sys._current_frames().get(self._watched), FOR_A_BATCH)

    def _leave(self) -> None:
        message = (
            f"Stopped: rank {self._rank} was asked to stop in {self._section}, "
            f"{'where' if self._in_boot() else 'and waited for a batch, where'} nothing is saved; the run goes on from "
            "its last checkpoint, if it has one"
        )
        print(message, file=sys.stderr, flush=True)
        assert self._leaving is not None, "only then a rank leaves"
        self._leaving.note(message)

    def _speak(self) -> None:
        others = ", waiting for the other ranks" if self._waits_for_others() else ""
        message = f"Stuck: rank {self._rank} made no progress for {self._silent_s:.0f} s in {self._section}{others}"
        print(message, file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        self._on_stuck(message)

    def _waits_for_others(self) -> bool:
        """Say whether the watched thread is in a collective, or waits for the saver's thread, which is."""
        frames = sys._current_frames()
        watched = frames.get(self._watched)
        savers = (frames.get(thread.ident or 0) for thread in threading.enumerate() if thread.name.startswith(SAVER))
        return waits_for_others(watched) or (_is_in(watched, FOR_A_THREAD) and any(map(waits_for_others, savers)))


def waits_for_others(frame: FrameType | None) -> bool:
    """Say whether a thread is in a collective; on a GPU, where they return at once, its stack may not show it."""
    return _is_in(frame, WAITING)


def _is_in(frame: FrameType | None, files: Collection[str]) -> bool:
    """Say whether a thread is in a call of one of some files."""
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in files):
            return True
        frame = frame.f_back
    return False
