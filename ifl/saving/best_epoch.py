"""What rank 0 writes during training: the best epoch's weights, and the environments for the figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ifl.engine import Engine
from ifl.saving.state import State
from ifl.saving.storage import write_arrays
from ifl.saving.weights import read_weights
from sharding.format.dataset import Split
from sharding.images.decoders import decoder
from sharding.images.transforms import eval_pixels

EXTREMES, THUMB_CLASSES, THUMB_SIDE = 6, 10, 32


def best_name(epoch: int) -> str:
    """Return the name of an epoch's weights.

    The epoch is in it, so a run that is killed now and resumed from before finds its older best unharmed.
    """
    return f"best-{epoch:04d}.pt"


def load_best(folder: Path, engine: Engine, state: State) -> None:
    """Put the best epoch's network back in place, on every rank."""
    engine.network.load_state_dict(read_weights(folder / best_name(state.best_epoch), state.best_sha256))


def write_environment(path: Path, weights: list[np.ndarray | None], split: Split) -> None:
    """Write env/epoch-NNN.npz: ids, labels and attributes int64 [N], weights float64 [S, N], and thumbnails.

    The thumbnails are those of the last environment's extremes:
    `extremes` int64 [C, 2, 6] are the ids that weigh least and most in C classes spread along the tail
    (`extreme_classes`), `thumbnails` uint8 [C, 2, 6, 32, 32, 3] their images; a class with fewer samples repeats some.
    """
    samples, labels = len(split), split.index.label
    table = np.stack([np.ones(samples) if w is None else w for w in weights])
    present = np.unique(labels)
    classes = present[np.unique(np.linspace(0, len(present) - 1, min(THUMB_CLASSES, len(present))).round().astype(int))]
    extremes = np.empty((len(classes), 2, EXTREMES), dtype=np.int64)
    for row, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(table[-1][members], kind="stable")]
        extremes[row] = np.resize(members, EXTREMES), np.resize(members[::-1], EXTREMES)
    thumbnails = np.stack(
        [
            eval_pixels(decoder("pillow").opened(split.read(int(i))), size=THUMB_SIDE, resize=THUMB_SIDE)
            for i in extremes.flat
        ]
    )
    split.close()  # its shards may have to make room
    write_arrays(
        path,
        ids=np.arange(samples),
        labels=labels,
        attributes=split.index.attribute,
        weights=table,
        extreme_classes=classes,
        extremes=extremes,
        thumbnails=thumbnails.reshape(*extremes.shape, THUMB_SIDE, THUMB_SIDE, 3),
    )
