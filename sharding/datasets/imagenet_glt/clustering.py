"""Attributes as in the paper: clusters of a class's features, sorted by size into three frequency groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import whole_file
from sharding.building.k_means import STARTS, ranked_clusters
from sharding.building.process_pool import in_order
from sharding.datasets.imagenet_glt import features
from sharding.datasets.imagenet_glt.archive import ClassImages
from sharding.format.index import kept_arrays
from sharding.progress import ProgressBar

CLUSTERS = 6


def cluster(found: np.ndarray, seed: int, number: int) -> np.ndarray:
    """Rank each image's cluster by size, 0 for the largest of the 6: int64 [n].

    Ranks (0, 1), (2, 3), (4, 5) are the attribute groups 0, 1, 2. `found`: features [n, D]; `number`: the class's.
    """
    return ranked_clusters(found, CLUSTERS, seed, number)


@dataclass(frozen=True)
class _State:
    features: Path
    folder: Path
    weights: str
    seed: int


def cluster_all(
    classes: Sequence[ClassImages], numbers: Sequence[int], work: Path, weights: str, seed: int, workers: int
) -> None:
    """Write `work/clusters/CLASS.npz` for each class that does not have one yet.

    Args:
        classes: the classes to work on.
        numbers: their numbers among all classes.
        work: the build's work folder, with the features.
        weights: sha256 of the network's weights, hex.
        seed: the build's seed.
        workers: number of processes.

    Raises:
        DataError: a class's features are missing, or it has fewer images than clusters.
    """
    state = _State(work / "features", work / "clusters", weights, seed)
    state.folder.mkdir(parents=True, exist_ok=True)
    todo = [
        (number, images)
        for number, images in zip(numbers, classes, strict=True)
        if read(work, images, weights, seed) is None
    ]
    with ProgressBar(len(todo), "clusters", "class", disable=not todo) as bar:
        for _ in in_order(_write, state, todo, workers):
            bar.update()


def _write(state: _State, job: tuple[int, ClassImages]) -> None:
    number, images = job
    found = features.read(state.features, images, state.weights)
    if found is None:
        raise DataError(
            f"{state.features / images.name}.npz does not hold the features of class {images.name} as it is now; "
            "stage=features comes first"
        )
    if len(images) < CLUSTERS:
        raise DataError(f"class {images.name} has {len(images)} images; {CLUSTERS} clusters need at least as many")
    ranks = cluster(found, state.seed, number)
    with whole_file(state.folder / f"{images.name}.npz") as file:
        np.savez(
            file,
            ranks=ranks.astype(np.int8),
            names=np.array(images.names),
            identity=_identity(state.weights, state.seed),
            made_from=features.made_from(state.features, images.name) or "",
        )


def read(work: Path, images: ClassImages, weights: str, seed: int) -> np.ndarray | None:
    """Read the rank of each image's cluster, int64 [n].

    None if the file was not made from these images, weights and seed, or if the features were made again since.
    """
    now = features.made_from(work / "features", images.name)  # None: they may have been deleted
    path = work / "clusters" / f"{images.name}.npz"
    kept = kept_arrays(path, "identity", "names", "ranks", *(() if now is None else ("made_from",)))
    if (
        kept
        and str(kept["identity"]) == _identity(weights, seed)
        and tuple(kept["names"].tolist()) == images.names
        and (now is None or str(kept["made_from"]) == now)
    ):
        ranks: np.ndarray = kept["ranks"].astype(np.int64)
        return ranks
    return None


def read_all(classes: Sequence[ClassImages], work: Path, weights: str, seed: int) -> Iterator[np.ndarray]:
    """Yield the ranks of every class, int64 [n] each.

    Raises:
        DataError: a class's ranks are missing.
    """
    for images in classes:
        ranks = read(work, images, weights, seed)
        if ranks is None:
            raise DataError(
                f"{work / 'clusters' / images.name}.npz does not hold the clusters of class {images.name} for this "
                "seed and these weights; stage=clusters comes first"
            )
        yield ranks


def digest(classes: Sequence[ClassImages], work: Path, weights: str, seed: int) -> str:
    """Return a digest of all classes' ranks; empty if some are missing, "outdated" if features changed since."""
    sha256 = hashlib.sha256()
    for images in classes:
        ranks = read(work, images, weights, seed)
        if ranks is None:
            return "outdated" if (work / "clusters" / f"{images.name}.npz").exists() else ""
        sha256.update(images.name.encode() + ranks.astype(np.int8).tobytes())
    return sha256.hexdigest()


def _identity(weights: str, seed: int) -> str:
    return f"{weights} seed {seed} k-means {CLUSTERS} x {STARTS}"
