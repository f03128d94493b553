"""What a run knows besides its parameters: everything that a checkpoint must hold to go on exactly.

Nothing random is stored: plans, augmentation and the torch seed of every step are functions of (seed, epoch, step).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ifl.invariance.invariance import Invariance, Off
from ifl.step_reduction import StepTotals


@dataclass
class State:
    """Where the run is: `step` steps of epoch `epoch` are done.

    Attributes:
        weights: float64 [N] of each stream, or None for uniform.
        best_epoch: the first epoch of the highest validation accuracy; -1 before there is one.
        best_accuracy: that epoch's validation accuracy, in 0..1.
        best_sha256: of that epoch's weights' file; empty while it is written, and where a rank was not told of it.
        unjudged: epochs that have no verdict yet, oldest first, with the sha256 of their weights' file as above
            (log.eval=job).
        memory: what the method carries (see ifl/method.py).
        class_means: float64 [K, D + 1], features and counts added up for centers that start from class means, or None.
        images: drawn in the steps since the last training line of metrics.jsonl.
        loss, center, correct: sums over these images.
        seconds: time spent so far by part, over all restarts.
    """

    epoch: int = 0
    step: int = 0
    weights: list[np.ndarray | None] = field(default_factory=list)
    best_epoch: int = -1
    best_accuracy: float = -1.0
    best_sha256: str = ""
    unjudged: list[tuple[int, str]] = field(default_factory=list)
    memory: dict[str, torch.Tensor] = field(default_factory=dict)
    class_means: torch.Tensor | None = None
    images: int = 0
    loss: float = 0.0
    center: float = 0.0
    correct: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def count(self, images: int, totals: StepTotals) -> None:
        """Add a step to the sums."""
        self.images += images
        self.loss += totals.loss
        self.center += totals.center
        self.correct += totals.correct

    def means(self, alpha: float) -> dict[str, float]:
        """Return the means over images, and begin the sums again."""
        loss, center, accuracy = self.loss / self.images, self.center / self.images, self.correct / self.images
        self.images, self.loss, self.center, self.correct = 0, 0.0, 0.0, 0
        return {"loss": loss + alpha * center, "method_loss": loss, "center_loss": center, "accuracy": accuracy}

    def spend(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def pack(state: State, invariance: Invariance | Off, **more: Any) -> dict[str, Any]:
    """Return plain values and the tensors themselves, equal on all ranks. A collective; changes nothing."""
    return {
        **{key: value for key, value in vars(state).items() if key != "weights"},
        "seconds": dict(state.seconds),
        "weights": [None if w is None else torch.from_numpy(w) for w in state.weights],
        **invariance.pack(),
        **more,
    }


def unpack(packed: dict[str, Any], invariance: Invariance | Off) -> State:
    """Return the state, and put centers and confidence back in place."""
    packed = {"unjudged": [], **packed}  # which older code does not know
    state = State(**{key: packed[key] for key in vars(State()) if key != "weights"})
    state.weights = [None if w is None else w.numpy() for w in packed["weights"]]
    invariance.unpack(packed, state)
    return state


def step_seed(seed: int, epoch: int, step: int, row: int) -> int:
    """Return a 64-bit seed for the micro-batch whose first canonical row is `row`.

    It is the same on any number of ranks, and nothing random has a state that a checkpoint would have to hold.
    """
    key = np.array([seed << 32 | epoch, step << 32 | row], dtype=np.uint64)
    # A counter apart from the plan's and the augmentation's words.
    counter = np.array([0, 0, 0, int.from_bytes(b"step", "big")], dtype=np.uint64)
    return int(np.random.Philox(key=key, counter=counter).random_raw())
