"""When a run saves, and what: the clock, the kept epochs, the fence, and the thread that writes.

A save copies what it holds into host memory and lets the run go on; a thread of each rank serialises, writes, syncs and
commits the copy (ifl/saving/checkpoint.py). The threads have a process group for themselves, so their messages never
meet those of the steps, and what one of them could not do all of them know. The next save waits for them, and so does
whatever ends the run. An error of theirs ends the run at the next step, on all ranks. Rank 0's thread writes the files
of weights beside the checkpoints, too (ifl/saving/kept_weights.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from ifl.distributed.comm import Comm
from ifl.engine import Engine
from ifl.invariance.invariance import Invariance, Off
from ifl.saving import checkpoint
from ifl.saving.best_epoch import best_name
from ifl.saving.kept_weights import KeptWeights, know
from ifl.saving.snapshot import HostMemory, Snapshot
from ifl.saving.state import State, pack
from ifl.supervision.fence import Fence
from ifl.supervision.watchdog import SAVER
from recipes.schema import Recipe


class Log(Protocol):
    """The run's metrics.jsonl, as far as a save needs it (ifl/run_log.py)."""

    def write(self, **values: Any) -> None: ...

    def offset(self) -> int: ...

    def held(self) -> list[Any]: ...

    def sync(self) -> None: ...


@dataclass(frozen=True)
class Guard:
    """What rank 0 does before a checkpoint gets its name: the lines that it counts on are made durable, and it asks
    whether the run is still this start's.
    """

    fence: Fence | None
    log: Log

    def check(self) -> None:
        self.log.sync()
        if self.fence:
            self.fence.check()


@dataclass
class Saver:
    """Saves a run's checkpoints and weights. As a context it ends when nothing is being written any more.

    Attributes:
        recipe: says how often, and which epochs are kept for good.
        folder: the run folder.
        steps: of an epoch.
        comm: the ranks as the threads speak to them.
        log: metrics.jsonl. A checkpoint stores how long it is, and the lines that are held back; a line tells of each
            save once it is committed.
        identity: what a checkpoint must say of its run (`Setup.identity`).
        fence: rank 0's claim on the run; None on other ranks.
        refuse_pollution: raises, before a copy is written, if numbers of it are not finite; it is told the copy, the
            ranks, the epoch and the step.
        heartbeat: told what comes next.
        weights: the files of weights beside the checkpoints.
    """

    recipe: Recipe
    folder: Path
    steps: int
    engine: Engine
    invariance: Invariance | Off
    comm: Comm
    fence: Fence | None
    log: Log
    identity: Mapping[str, str]
    refuse_pollution: Callable[[Snapshot, Comm, int, int], None]
    heartbeat: Callable[[str], None]
    _saved_at: float = field(default_factory=time.monotonic)
    _memory: HostMemory = field(default_factory=HostMemory)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, SAVER))
    _write: Future[float] | None = None
    _line: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = KeptWeights(self.folder, self.engine, self._thread, self.comm.rank == 0, self.fence)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()  # waits; where a save failed, too, the error that is on its way says more

    def due(self, state: State) -> bool:
        """Say whether a checkpoint is due after the step that `state` is in. Rank 0's clock decides for all.

        It is due, too, where the write under way has failed, or one of weights: the save that all ranks then make
        raises its error, or is refused with it.
        """
        log, step = self.recipe.log, self._count(state.epoch, state.step) + 1
        by_clock = time.monotonic() - self._saved_at > log.save_every_s
        by_step = log.save_every_steps is not None and step % log.save_every_steps == 0
        failed = self._write is not None and self._write.done() and self._write.exception() is not None
        return ((by_clock or by_step) and self.comm.rank == 0) or failed or self.weights.error is not None

    def save(self, state: State, wait: bool = False) -> None:
        """Begin to commit a checkpoint of where the run is; with `wait`, and before another, commit it. A collective.

        Raises:
            Diverged, StorageError, Fenced, CheckpointError: of this save where it waits, or of the one before.
        """
        began = time.monotonic()
        self.heartbeat(f"saving at epoch {state.epoch}, step {state.step}")
        self.wait()
        lines = {"metrics_offset": self.log.offset(), "metrics_held": self.log.held()}
        packed = pack(state, self.invariance, **self.identity, **lines)
        copied = Snapshot(self.engine, packed if self.comm.rank == 0 else {}, self._memory)
        self._write = self._thread.submit(self._commit, copied, state.epoch, state.step)
        blocked_s = time.monotonic() - began
        self._line = {
            "kind": "saved",
            "epoch": state.epoch,
            "step": self._count(state.epoch, state.step),
            "blocked_s": round(blocked_s, 4),
        }
        if wait or self.engine.skipped_steps:  # after such a step others may be sound, so it is refused here
            self.wait()
        state.spend("save", time.monotonic() - began)
        self.heartbeat(f"epoch {state.epoch}, step {state.step}")
        self._saved_at = time.monotonic()

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is committed. All ranks must call it.

        Raises:
            Diverged: on all ranks; nothing was written, for numbers are not finite.
            StorageError, Fenced, CheckpointError: on all ranks; see `checkpoint.save`.
        """
        if self._write is not None:
            written_s, self._write = self._write.result(), None
            self.log.write(**self._line, written_s=round(written_s, 4))

    def written(self, comm: Comm, device: torch.device) -> dict[str, str]:
        """Wait until the weights beside the checkpoints are written. A collective of these ranks.

        Returns:
            The sha256 of the files that this start has written, by their names, on all ranks.

        Raises:
            StorageError, Fenced: on all ranks, if one of the files was refused.
        """
        self.weights.wait()
        error, digests = comm.from_first((self.weights.error, self.weights.digests), device)
        if error:
            raise error
        return dict(digests)

    def _count(self, epoch: int, step: int) -> int:
        """Return the optimizer steps so far."""
        return epoch * self.steps + step

    def _commit(self, copied: Snapshot, epoch: int, step: int) -> float:
        """Write and commit a copy, in the thread; return the seconds that it took."""
        began = time.monotonic()
        if error := self.comm.from_first(self.weights.error, copied.device):
            raise error
        self.refuse_pollution(copied, self.comm, epoch, step)
        needs = {}
        if self.comm.rank == 0:  # the weights that were begun before the copy was made are written by now
            know(copied.state, self.weights.digests)
            best = [(copied.state["best_epoch"], copied.state["best_sha256"])]
            needs = {best_name(epoch): sha256 for epoch, sha256 in [*best, *copied.state["unjudged"]] if epoch >= 0}
        checkpoint.save(
            self.folder / "ckpt",
            copied,
            copied.state,
            self._count(epoch, step),
            self.comm,
            needs=needs,
            fence=Guard(self.fence, self.log) if self.comm.rank == 0 else None,
            milestones=[(epoch + 1) * self.steps for epoch in self.recipe.kept_epochs],
        )
        return time.monotonic() - began
