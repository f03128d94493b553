"""Predictions for whole splits: every sample exactly once, whatever the number of ranks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.engine import Engine
from ifl.method import BaseMethod
from ifl.metrics import evaluate
from ifl.saving.storage import write_arrays
from sharding.cache.prefetcher import Ahead
from sharding.reader import MicroBatches, Reader, evaluation_draws

EVAL_BATCH = 256


class Evaluator:
    """One split, read again for each evaluation."""

    def __init__(
        self, crops: MicroBatches, comm: Comm, *, workers: int, device: torch.device, persistent: bool
    ) -> None:
        self.split, self.comm, self.device = crops.split, comm, device
        first_here = int(os.environ.get("LOCAL_RANK", "0")) == 0
        self.fetcher = Ahead(crops.split) if crops.split.afar and first_here else None
        self.reader = Reader(crops, workers, pin_memory=device.type == "cuda", persistent=persistent)

    @torch.no_grad()
    def predict(
        self, engine: Engine, method: BaseMethod, beat: Callable[[], None] = lambda: None
    ) -> dict[str, np.ndarray]:
        """The contents of preds/*/SPLIT.npz: id, label, group, attribute, prediction int64 [N], confidence float32 [N]
        (the softmax's maximum), in the order of the index. Equal on all ranks. `beat` is called after each batch."""
        network, samples = engine.engine, len(self.split)
        network.eval()
        share = -(-samples // self.comm.size)
        # Ranks may hold one sample less: the rest of a rank's rows keep the id -1 and are dropped.
        rows = torch.full((3, share), -1, dtype=torch.float64, device=self.device)
        done = 0
        draws = evaluation_draws(samples, self.comm.rank, self.comm.size, EVAL_BATCH)
        batches = self.reader.read(draws)
        for batch in self.fetcher.all(batches) if self.fetcher else batches:
            confidence, prediction = (
                method.predict(engine.forward(batch.images.to(self.device))).float().softmax(1).max(1)
            )
            end = done + len(batch.ids)
            rows[0, done:end], rows[1, done:end], rows[2, done:end] = batch.ids.to(self.device), prediction, confidence
            done = end
            beat()
        network.train()
        gathered = self.comm.gather(rows).transpose(1, 2).flatten(0, 1).cpu().numpy()
        gathered = gathered[gathered[:, 0] >= 0]
        gathered = gathered[np.argsort(gathered[:, 0])]
        assert np.array_equal(gathered[:, 0], np.arange(samples))
        index = self.split.index
        return {
            "id": np.arange(samples),
            "label": index.label,
            "group": index.group,
            "attribute": index.attribute,
            "prediction": gathered[:, 1].astype(np.int64),
            "confidence": gathered[:, 2].astype(np.float32),
        }


def scores(predictions: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracy and precision of predictions, by the suite's one definition."""
    return evaluate(predictions["label"], predictions["prediction"], predictions["group"], predictions["attribute"])


def write_predictions(folder: Path, split: str, predictions: dict[str, np.ndarray]) -> None:
    write_arrays(folder / f"{split}.npz", **predictions)
