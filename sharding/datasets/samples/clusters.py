"""Clusters of each class's features, kept on the disk, a file a class: k-means is not the same on every processor."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import whole_file
from sharding.building.k_means import STARTS, ranked_clusters
from sharding.building.process_pool import in_order
from sharding.format.index import kept_arrays
from sharding.progress import ProgressBar

CLUSTERS = 6
MOST = 127
"""Clusters of a class that are legal at most: a rank is an int8."""


@dataclass(frozen=True)
class Clustering:
    """What the clusters are made from.

    Attributes:
        features: an .npy file, [N, D], that worker processes map into memory.
        digest: sha256 of that file, hex.
        folder: for the files of the classes.
        seed: the build's seed.
        clusters: clusters of a class.
    """

    features: Path
    digest: str
    folder: Path
    seed: int
    clusters: int = CLUSTERS

    def file(self, number: int) -> Path:
        """Return the file of a class."""
        return self.folder / f"{number:06d}.npz"

    def identity(self, rows: np.ndarray) -> str:
        """Say what a class's clusters are made from."""
        which = hashlib.sha256(np.ascontiguousarray(rows, np.int64).tobytes()).hexdigest()
        return f"{self.digest} rows {which} seed {self.seed} k-means {self.clusters} x {STARTS}"

    def kept(self, number: int, rows: np.ndarray) -> np.ndarray | None:
        """Read the ranks of a class's clusters, int8 [n]; None unless they were made from this."""
        found = kept_arrays(self.file(number), "identity", "ranks")
        return found["ranks"] if found and str(found["identity"]) == self.identity(rows) else None


def refuse_small(label: np.ndarray, names: Sequence[str], clusters: int) -> None:
    """Refuse a number of clusters that not all classes can have.

    Args:
        label: class of each image, whole numbers [N].
        names: the classes' names [K].
        clusters: clusters of a class.

    Raises:
        DataError: it is below 2 or above `MOST`, or a class has fewer images.
    """
    if not 2 <= clusters <= MOST:
        raise DataError(f"clusters={clusters} is not legal: 2 to {MOST} would be")
    counts = np.bincount(label, minlength=len(names))
    k = int(counts.argmin())
    if counts[k] < clusters:
        fewer = f"clusters={counts[k]}, " if counts[k] >= 2 else ""
        raise DataError(
            f"class {names[k]!r} has {counts[k]} images, and clusters={clusters} needs as many at least; {fewer}"
            "attributes=none or a source without this class would be legal"
        )


def cluster_all(how: Clustering, label: np.ndarray, classes: Sequence[int], workers: int) -> None:
    """Write the clusters of some classes, unless they are there already.

    Args:
        how: what they are made from.
        label: class of each image, whole numbers [N].
        classes: the classes' numbers.
        workers: number of processes.
    """
    how.folder.mkdir(parents=True, exist_ok=True)
    rows_of = _rows_of(label)
    todo = [number for number in classes if how.kept(number, rows_of[number]) is None]
    jobs = ((number, rows_of[number]) for number in todo)
    with ProgressBar(len(todo), "clusters", "class", disable=not todo) as bar:
        for _ in in_order(_write, how, jobs, workers):
            bar.update()


def read_all(how: Clustering, label: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Read the rank of each image's cluster within its class, 0 for the largest: int8 [N].

    Raises:
        DataError: a class's clusters are missing.
    """
    ranks = np.empty(len(label), np.int8)
    for number, rows in enumerate(_rows_of(label)):
        kept = how.kept(number, rows)
        if kept is None:
            raise DataError(
                f"{how.file(number)} does not hold the clusters of class {names[number]!r} for these features, images "
                "and seed; stage=clusters comes first"
            )
        ranks[rows] = kept
    return ranks


def _rows_of(label: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(label, kind="stable")
    return np.split(order, np.cumsum(np.bincount(label))[:-1])


def _write(how: Clustering, job: tuple[int, np.ndarray]) -> None:
    number, rows = job
    found = np.load(how.features, mmap_mode="r")[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct images than clusters: then there are fewer clusters
        ranks = ranked_clusters(found, how.clusters, how.seed, number)
    with whole_file(how.file(number)) as file:
        np.savez(file, identity=how.identity(rows), ranks=ranks.astype(np.int8))
