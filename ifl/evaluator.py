"""Predictions for whole splits: every sample exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.engine import Engine
from ifl.method import BaseMethod
from ifl.metrics import evaluate
from ifl.saving.storage import write_arrays
from sharding.cache.prefetcher import Prefetcher
from sharding.reader import Reader, Source, evaluation_draws

EVAL_BATCH = 256

Predictions = dict[str, np.ndarray]
"""The columns of preds/*/SPLIT.npz, by name."""


class Evaluator:
    """One split, read again for each evaluation."""

    def __init__(
        self, crops: Source, comm: Comm, *, workers: int, device: torch.device, persistent: bool, fetches: bool
    ) -> None:
        """Prepare to read a split.

        Args:
            crops: the split's images, or their features.
            comm: the ranks, which share the samples.
            workers: loader processes of this rank.
            device: this rank's.
            persistent: keep the loader processes from one evaluation to the next.
            fetches: this rank fetches the split's shards, where they are remote, for its node.
        """
        self.split, self.comm, self.device = crops.split, comm, device
        self.fetcher = Prefetcher(crops.split) if crops.split.remote and fetches else None
        self.reader = Reader(crops, workers, pin_memory=device.type == "cuda", persistent=persistent)

    @cached_property
    def _sources(self) -> np.ndarray:
        return source_numbers(self.split.index.source)

    @torch.inference_mode()
    def predict(self, engine: Engine, method: BaseMethod, heartbeat: Callable[[], None] = lambda: None) -> Predictions:
        """Return the contents of preds/*/SPLIT.npz, equal on all ranks. A collective.

        `heartbeat` is called after each batch.

        Returns:
            In the order of the index: id, label, group, attribute, prediction int64 [N]; source int32 [N], numbers from
            0 in the order in which the sources first occur; and confidence float32 [N], the softmax's maximum.
        """
        samples = len(self.split)
        engine.set_training(False)
        share = -(-samples // self.comm.size)
        # Ranks may hold one sample less: the rest of a rank's rows keep the id -1 and are dropped.
        rows = torch.full((3, share), -1, dtype=torch.float64, device=self.device)
        done = 0
        draws = evaluation_draws(samples, self.comm.rank, self.comm.size, EVAL_BATCH)
        batches = self.reader.read(draws)
        for batch in self.fetcher.all(batches) if self.fetcher else batches:
            logits_BK = method.predict(engine.predict(batch.images.to(self.device)))
            confidence, prediction = logits_BK.float().softmax(1).max(1)
            end = done + len(batch.ids)
            rows[0, done:end], rows[1, done:end], rows[2, done:end] = batch.ids.to(self.device), prediction, confidence
            done = end
            heartbeat()
        engine.set_training(True)
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
            "source": self._sources,
            "prediction": gathered[:, 1].astype(np.int64),
            "confidence": gathered[:, 2].astype(np.float32),
        }


def source_numbers(sources: np.ndarray) -> np.ndarray:
    """Give each source of a split's samples a number, by its first occurrence.

    Samples of one source are no independent test samples, so analysis counts them as one cluster.

    Args:
        sources: text [N], what each sample was made from.

    Returns:
        int32 [N]; `arange(N)` where each sample has a source of its own.
    """
    _, first, inverse = np.unique(sources, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int32)
    number[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return number[inverse]


def accuracy(predictions: Predictions) -> float:
    """Return the share of right predictions."""
    return float(np.mean(predictions["prediction"] == predictions["label"]))


def scores(predictions: Predictions) -> dict[str, Any]:
    """Return accuracy and precision of predictions, by the suite's one definition."""
    return evaluate(predictions["label"], predictions["prediction"], predictions["group"], predictions["attribute"])


def write_predictions(folder: Path, split: str, predictions: Predictions) -> None:
    """Write preds/*/SPLIT.npz."""
    write_arrays(folder / f"{split}.npz", **predictions)
