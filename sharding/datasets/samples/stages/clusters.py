"""The stages `features` and `clusters`: the clusters of each class by the features of its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recipes.common.files import file_digest
from sharding.building.request import Request
from sharding.datasets.samples import clusters
from sharding.datasets.samples.listed.arrays import Listed
from sharding.datasets.samples.listed.index import refuse_other_names
from sharding.datasets.samples.stages.features import extract, file_of_all


def clusters_of(request: Request, found: Listed, work: Path) -> np.ndarray | None:
    """Run the two stages as far as they are asked for, and return the rank of each image's cluster, int8 [N].

    Returns:
        None where only these stages, or parts of them, are asked for.

    Raises:
        DataError: an image cannot be decoded, a class has too few images, or an earlier stage has not run.
    """
    words = request.samples
    clusters.refuse_small(found.label, found.classes, words.clusters)
    if words.features.endswith(".npy"):
        refuse_other_names(found, work, Path(words.features))
    if request.does("features"):
        extract(request, found, work)
    if request.stage in ("index", "features"):
        return None
    path = file_of_all(request, found, work)
    how = clusters.Clustering(path, file_digest(path), work / "clusters", request.seed, words.clusters)
    if request.does("clusters"):
        mine = range(request.part[0] - 1, len(found.classes), request.part[1])
        clusters.cluster_all(how, found.label, mine, request.processes_for(len(found) // request.part[1]))
    return None if request.stage == "clusters" else clusters.read_all(how, found.label, found.classes)
