"""What a run knows besides its parameters: everything that a checkpoint must hold to go on exactly.

Nothing random is stored: plans, augmentation and the torch seed of every step are functions of (seed, epoch, step).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.invariance.centers import Centers
from ifl.invariance.confidence import ConfidenceTable
from ifl.step_reduction import StepTotals


@dataclass
class State:
    """Where the run stands: `step` steps of epoch `epoch` are done.

    Attributes:
        weights: float64 [N] of each stream, or None for uniform.
        best_epoch, best_accuracy, best_sha256: the first epoch of the highest validation accuracy, and its weights' file.
        memory: what the method carries (see ifl/method.py).
        class_means: float64 [K, D + 1], features and counts added up for centers that start from class means, or None.
        images, loss, center, correct: sums over the steps since the last training line of metrics.jsonl.
        seconds: time spent so far by part, over all restarts.
    """

    epoch: int = 0
    step: int = 0
    weights: list[np.ndarray | None] = field(default_factory=list)
    best_epoch: int = -1
    best_accuracy: float = -1.0
    best_sha256: str = ""
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
        """The sums as means over images; starts them anew."""
        loss, center, accuracy = self.loss / self.images, self.center / self.images, self.correct / self.images
        self.images, self.loss, self.center, self.correct = 0, 0.0, 0.0, 0
        return {"loss": loss + alpha * center, "method_loss": loss, "center_loss": center, "accuracy": accuracy}

    def spend(self, part: str, seconds: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def pack(
    state: State, centers: Centers | None, confidence: ConfidenceTable | None, comm: Comm, **more: Any
) -> dict[str, Any]:
    """Plain values and tensors, equal on all ranks. A collective; changes nothing."""
    return {
        **{key: value for key, value in vars(state).items() if key != "weights"},
        "seconds": dict(state.seconds),
        "memory": {key: value.cpu() for key, value in state.memory.items()},
        "weights": [None if w is None else torch.from_numpy(w.copy()) for w in state.weights],
        "centers": None if centers is None else centers.centers_KD.cpu(),
        "confidence": None if confidence is None else confidence.total(comm).cpu(),
        **more,
    }


def unpack(packed: dict[str, Any], centers: Centers | None, confidence: ConfidenceTable | None, comm: Comm) -> State:
    """The state, with centers and confidence put back in place."""
    state = State(**{key: packed[key] for key in vars(State()) if key != "weights"})
    state.weights = [None if w is None else w.numpy() for w in packed["weights"]]
    if centers is not None:
        centers.centers_KD.copy_(packed["centers"])
        if state.class_means is not None:
            state.class_means = state.class_means.to(centers.centers_KD.device)
    if confidence is not None:
        confidence.restart(packed["confidence"], comm.rank)
    return state


def step_seed(seed: int, epoch: int, step: int, row: int) -> int:
    """A 64-bit seed for the micro-batch whose first canonical row is `row`: the same on any number of ranks, and nothing
    random has a state that a checkpoint would have to hold."""
    key = np.array([seed << 32 | epoch, step << 32 | row], dtype=np.uint64)
    counter = np.array(
        [0, 0, 0, int.from_bytes(b"step", "big")], dtype=np.uint64
    )  # apart from the plan's and the augmentation's words
    return int(np.random.Philox(key=key, counter=counter).random_raw())
