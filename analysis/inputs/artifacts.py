"""A run's classes, and the environments that it rebuilt: what figures need besides predictions and metric lines.

Older runs may lack some of it. A figure that needs it is then left out, with the sentence that is raised here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.inputs.runs import Run, arrays_of


@dataclass(frozen=True)
class Classes:
    """The K classes of a data set.

    Attributes:
        counts: training samples, int64 [K].
        groups: class groups, int64 [K]: 0 many, 1 medium, 2 few.
    """

    names: list[str]
    counts: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Environments:
    """The weights of all streams from the end of epoch `epoch` (from 0) on, as `ifl/saving/best_epoch.py` writes them.

    Attributes:
        weights: float64 [S, N]; the first stream is environment 1, the last one the last environment.
        labels, attributes: int64 [N]; attribute -1 where a sample has none.
        classes: int64 [C], those that have thumbnails; none in the light part of a run.
        thumbnails: uint8 [C, 2, E, H, W, 3], the images of each that the last environment weighs least and most.
    """

    epoch: int
    weights: NDArray[np.float64]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    classes: NDArray[np.int64]
    thumbnails: NDArray[np.uint8]


def classes_of(run: Run) -> Classes:
    """Return the classes of a run.

    Raises:
        ValueError: its meta.json lacks them.
    """
    if not run.classes:
        raise ValueError(
            f"{run.name}: meta.json lacks class_names, class_groups or class_counts, or they do not fit together"
        )
    return Classes(
        [known.name for known in run.classes],
        np.array([known.images for known in run.classes], dtype=np.int64),
        np.array([known.group for known in run.classes], dtype=np.int64),
    )


def environments_of(run: Run) -> list[Environments]:
    """Read every rebuild that the run has stored, in the order of epochs; empty where it rebuilt none.

    Raises:
        ValueError: a file cannot be read, or has no labels and attributes (older runs did not store them).
    """
    files = {
        int(found[1]): file
        for file in (run.path / "env").glob("epoch-*.npz")
        if (found := re.fullmatch(r"epoch-(\d+)\.npz", file.name))
    }
    rebuilds = []
    for epoch, file in sorted(files.items()):
        where = f"{run.name}: env/{file.name}"
        arrays = arrays_of(file, where)
        lacking = [key for key in ("weights", "labels", "attributes") if key not in arrays]
        if lacking:
            raise ValueError(f"{where} lacks {', '.join(lacking)}")
        if arrays["weights"].ndim != 2 or not arrays["weights"].shape[1] == len(arrays["labels"]) == len(
            arrays["attributes"]
        ):
            raise ValueError(
                f"{where}: weights of shape {list(arrays['weights'].shape)} beside {len(arrays['labels'])} labels"
            )
        if "extreme_classes" in arrays and "thumbnails" in arrays:
            classes, thumbnails = arrays["extreme_classes"], arrays["thumbnails"]
        else:
            classes, thumbnails = np.zeros(0, np.int64), np.zeros((0, 2, 0, 0, 0, 3), np.uint8)
        rebuilds.append(
            Environments(epoch, arrays["weights"], arrays["labels"], arrays["attributes"], classes, thumbnails)
        )
    return rebuilds
