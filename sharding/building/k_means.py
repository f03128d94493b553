"""Clusters of the features of a class, ranked by size: the paper's attributes."""

from __future__ import annotations

import numpy as np

STARTS = 10
"""Number of random starts of k-means; the tightest result is taken."""
_DOMAIN = int.from_bytes(b"k-means", "big")


def ranked_clusters(found: np.ndarray, clusters: int, seed: int, number: int) -> np.ndarray:
    """Rank each image's cluster by size, 0 for the largest.

    The result does not depend on the number of processes or threads (it uses one). Other processors may round
    differently, and so find other clusters.

    Args:
        found: features [n, D], of at least `clusters` images.
        clusters: how many to find.
        seed: the build's seed.
        number: the class's number; each class has a separate random stream.

    Returns:
        int64 [n].
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    state = int(np.random.Philox(key=np.array([seed, _DOMAIN + number], dtype=np.uint64)).random_raw() >> 32)
    with threadpool_limits(1):
        labels = KMeans(clusters, n_init=STARTS, random_state=state).fit(np.asarray(found, np.float32)).labels_
    sizes = np.bincount(labels, minlength=clusters)
    ranks = np.empty(clusters, np.int64)
    ranks[np.argsort(-sizes, kind="stable")] = np.arange(clusters)
    found_ranks: np.ndarray = ranks[labels]
    return found_ranks
