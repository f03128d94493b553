"""Files of weights beside the checkpoints: of the best epoch, of epochs that are to be judged, and of the last one.

Rank 0 copies the network into host memory and lets the run go on; the thread that writes the checkpoints writes these
files, too, in the order in which both were begun. So a checkpoint finds the files that it needs, and a commit clears
away none that a later checkpoint needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ifl.engine import Engine
from ifl.saving.best_epoch import best_name
from ifl.saving.checkpoint import Claim
from ifl.saving.snapshot import HostMemory
from ifl.saving.storage import storage_error
from ifl.saving.weights import write_weights
from recipes.common.files import FULL

Entry = tuple[int, str]
"""An epoch, and the sha256 of its weights' file; empty while the file is being written."""


class KeptWeights:
    """Writes them on rank 0; on other ranks it does nothing.

    Attributes:
        digests: the sha256 of the files that this start has written, by their names.
        error: what was refused; nothing is written after it.
    """

    def __init__(self, run: Path, engine: Engine, thread: ThreadPoolExecutor, first: bool, fence: Claim | None) -> None:
        """Begin nothing yet.

        Args:
            run: the run folder.
            engine: whose network is written.
            thread: the one that writes the checkpoints.
            first: whether this is rank 0.
            fence: asked before each file is written.
        """
        self._folder, self._engine, self._thread = run / "ckpt", engine, thread
        self._first, self._fence = first, fence
        self._memory = HostMemory()
        self._last: Future[None] | None = None
        self.digests: dict[str, str] = {}
        self.error: Exception | None = None

    def begin(self, name: str) -> None:
        """Copy the network as it is evaluated, and begin to write it; the file before must be written first."""
        if self._first:
            self.wait()
            kept, arrived = self._memory.take(self._engine.weights())
            self.then(lambda: self._write(name, kept, arrived))

    def then(self, action: Callable[[], object]) -> None:
        """Do something once all that was begun is written, if the run is still this start's.

        An error of it counts as one of writing.
        """
        if self._first:
            self._last = self._thread.submit(self._guarded, action)

    def wait(self) -> None:
        """Wait until all that was begun is written, or refused."""
        if self._last is not None:
            self._last.result()

    def _write(self, name: str, kept: Any, arrived: torch.Event | None) -> None:
        if arrived is not None:
            arrived.synchronize()
        self.digests[name] = write_weights(self._folder / name, self._memory.copied(kept))

    def _guarded(self, action: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            if self._fence:
                self._fence.check()
            action()
        except OSError as error:
            lacking = self._memory.size - shutil.disk_usage(self._folder.parent).free if error.errno in FULL else 0
            self.error = storage_error(error, self._folder, lacking)
        except Exception as error:  # whatever it is, it ends the run at its next step
            self.error = error


def known(entries: Iterable[Entry], digests: Mapping[str, str]) -> list[Entry]:
    """Return the entries with the digests that are known by now."""
    return [(epoch, sha256 or digests.get(best_name(epoch), "")) for epoch, sha256 in entries]


def know(held: dict[str, Any], digests: Mapping[str, str]) -> None:
    """Put digests that are known by now among a state's values: `vars` of a `State`, or what `pack` gave."""
    held["unjudged"] = known(held["unjudged"], digests)
    ((_, held["best_sha256"]),) = known([(held["best_epoch"], held["best_sha256"])], digests)
