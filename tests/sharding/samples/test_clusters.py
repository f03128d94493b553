"""Clusters of each class's features on the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recipes.common.errors import DataError
from sharding.datasets.samples.clusters import Clustering, cluster_all, read_all, refuse_small

NAMES = ("x", "y")
SIZES = (9, 7, 5, 4, 3, 2)


def planted(folder: Path) -> tuple[Clustering, np.ndarray, np.ndarray]:
    """Two classes of six clear clusters each: how to find them, the labels, and the ranks that are to be found."""
    ranks = np.tile(np.repeat(np.arange(6), SIZES), 2)
    label = np.repeat([0, 1], sum(SIZES))
    order = np.random.default_rng(0).permutation(len(label))
    noise = np.random.default_rng(1).normal(0, 0.01, (len(label), 2))
    np.save(folder / "f.npy", (np.stack([ranks, ranks * ranks], 1) + noise)[order].astype(np.float32))
    return Clustering(folder / "f.npy", "d", folder / "clusters", seed=0), label[order], ranks[order]


def test_clusters_are_found_within_classes_and_ranked_by_size(tmp_path: Path) -> None:
    """Planted clusters come back by rank, whichever classes are worked on first."""
    how, label, ranks = planted(tmp_path)
    cluster_all(how, label, [1], 1)
    with pytest.raises(DataError, match=r"does not hold the clusters of class 'x'.*stage=clusters comes first"):
        read_all(how, label, NAMES)
    cluster_all(how, label, [0], 1)
    assert read_all(how, label, NAMES).tolist() == ranks.tolist()


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    """A class's file is kept for the same features, images, seed and number of clusters, and for no others."""
    how, label, _ = planted(tmp_path)
    cluster_all(how, label, [0, 1], 1)
    before = [how.file(number).stat().st_mtime_ns for number in (0, 1)]
    cluster_all(how, label, [0, 1], 1)
    assert [how.file(number).stat().st_mtime_ns for number in (0, 1)] == before
    for other in (replace(how, seed=1), replace(how, digest="e"), replace(how, clusters=5)):
        with pytest.raises(DataError, match="stage=clusters comes first"):
            read_all(other, label, NAMES)


def test_few_distinct_images_have_few_clusters(tmp_path: Path) -> None:
    """Where a class has fewer distinct images than clusters it has fewer clusters, without a warning."""
    np.save(tmp_path / "f.npy", np.repeat([[0.0], [1.0]], [5, 3], axis=0).astype(np.float32))
    how = Clustering(tmp_path / "f.npy", "d", tmp_path / "clusters", seed=0)
    cluster_all(how, np.zeros(8, int), [0], 1)
    assert read_all(how, np.zeros(8, int), NAMES[:1]).tolist() == [0] * 5 + [1] * 3


def test_too_small_classes_are_refused() -> None:
    """A class with fewer images than clusters is named, with the largest legal number."""
    label = np.array([0] * 6 + [1] * 4)
    refuse_small(label, NAMES, 4)
    with pytest.raises(DataError, match="class 'y' has 4 images, and clusters=6 needs as many at least; clusters=4, "):
        refuse_small(label, NAMES, 6)
    for clusters in (1, 128):
        with pytest.raises(DataError, match=f"clusters={clusters} is not legal: 2 to 127 would be"):
            refuse_small(label, NAMES, clusters)
