"""When a run saves, and what: the clock, the kept epochs, the fence and the checkpoint itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ifl.distributed.comm import Comm
from ifl.engine import Engine
from ifl.invariance.invariance import Invariance, Off
from ifl.saving import checkpoint
from ifl.saving.best_epoch import best_name
from ifl.saving.state import State, pack
from ifl.supervision.fence import Fence
from recipes.schema import Recipe


@dataclass
class Saver:
    """Saves a run's checkpoints.

    Attributes:
        recipe: says how often, and which epochs are kept for good.
        folder: the run folder.
        steps: of an epoch.
        log_offset: bytes of metrics.jsonl so far, made durable.
        identity: what a checkpoint must say of its run (`Setup.identity`).
        fence: rank 0's claim on the run; None on other ranks.
        refuse_pollution: stops the run, before anything is kept, if numbers are not finite any more.
        heartbeat: told what comes next.
    """

    recipe: Recipe
    folder: Path
    steps: int
    engine: Engine
    invariance: Invariance | Off
    comm: Comm
    fence: Fence | None
    log_offset: Callable[[], int]
    identity: Mapping[str, str]
    refuse_pollution: Callable[[State], None]
    heartbeat: Callable[[str], None]
    _saved_at: float = field(default_factory=time.monotonic)

    def due(self, state: State) -> bool:
        """Say whether a checkpoint is due after the step that `state` is in. Rank 0's clock decides for all."""
        log, step = self.recipe.log, state.epoch * self.steps + state.step + 1
        by_clock = time.monotonic() - self._saved_at > log.save_every_s
        by_step = log.save_every_steps is not None and step % log.save_every_steps == 0
        return (by_clock or by_step) and self.comm.rank == 0

    def save(self, state: State) -> None:
        """Commit a checkpoint of where the run is. A collective.

        Raises:
            Diverged: on all ranks, before anything is written, if numbers are not finite.
            StorageError, Fenced, CheckpointError: see `checkpoint.save`.
        """
        began = time.monotonic()
        self.heartbeat(f"saving at epoch {state.epoch}, step {state.step}")
        self.refuse_pollution(state)
        packed = pack(state, self.invariance, **self.identity, metrics_offset=self.log_offset())
        checkpoint.save(
            self.folder / "ckpt",
            self.engine,
            packed,
            state.epoch * self.steps + state.step,
            self.comm,
            needs={best_name(state.best_epoch): state.best_sha256} if state.best_epoch >= 0 else {},
            fence=self.fence,
            milestones=[(epoch + 1) * self.steps for epoch in self.recipe.kept_epochs],
        )
        state.spend("save", time.monotonic() - began)
        self.heartbeat(f"epoch {state.epoch}, step {state.step}")
        self._saved_at = time.monotonic()
