"""ImageNet-GLT's splitting at full size, on planted features: every count beside the paper's, time and peak memory.

    python -m tests.bench.splitting [classes=1000] [width=2048] [workers=2] [seed=0]

1,000 classes with ILSVRC2012's sizes as far as they are known (895 of 1,300 images, the smallest of 732, 1,281,167 in
all), each with six planted attributes of random shares. Features are drawn on demand, class by class, where the build
would read them. What is timed is the build's own code: k-means of every class, the class order, the cut, the split
files.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sharding.building.process_pool import in_order
from sharding.building.request import Request
from sharding.datasets.imagenet_glt.annotations import read, write
from sharding.datasets.imagenet_glt.archive import ClassImages
from sharding.datasets.imagenet_glt.build import _ours
from sharding.datasets.imagenet_glt.clustering import cluster
from sharding.datasets.imagenet_glt.splits import GROUPS_END, POOL, TARGETS, class_order, long_tail
from tests.bench.words import values_of

SHEET = {
    "glt/train": 113_460,
    "glt/val": 30_000,
    "glt/test_glt": 60_000,
    "glt/test_cbl": 60_000,
    "glt/test_gbl": 60_000,
    "cbl/train": 114_000,
    "cbl/val": 30_000,
    "cbl/test_cbl": 60_000,
    "cbl/test_gbl": 60_000,
}


def class_sizes(classes: int) -> np.ndarray:
    """int64 [K]: 895 of 1,300, the others evenly from 732 up so that the sum is 1,281,167 (scaled down for fewer
    classes).
    """
    full = 895 * classes // 1000
    rest = classes - full
    total = round(1_281_167 * classes / 1000) - 1300 * full
    sizes = np.linspace(732, 2 * total / rest - 732, rest)
    sizes = np.minimum(np.floor(sizes).astype(np.int64), 1299)
    for i in range(total - int(sizes.sum())):  # what rounding took
        sizes[i % rest] += 1
    return np.concatenate([np.full(full, 1300), sizes])


def planted(seed: int, number: int, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(features float16 [n, width], planted attribute int64 [n]): shares around .27 .19 .17 .15 .12 .10, sparse
    positive centers, noise.
    """
    rng = np.random.default_rng([seed, number])
    shares = rng.dirichlet(200 * np.array([0.27, 0.19, 0.17, 0.15, 0.12, 0.10]))
    attributes = rng.choice(6, size, p=shares)
    centers = rng.gamma(0.3, 1.2, (6, width)).astype(np.float32)
    noise = rng.standard_normal((size, width), np.float32)
    return np.maximum(centers[attributes] + 0.45 * noise, 0).astype(np.float16), attributes


def clustered(state: tuple[int, int], job: tuple[int, int]) -> tuple[np.ndarray, float, float, float]:
    """A class's ranks, the share of its images in the cluster that holds most of their attribute, seconds, and the
    worker's peak MB.
    """
    (seed, width), (number, size) = state, job
    found, attributes = planted(seed, number, size, width)
    start = time.perf_counter()
    ranks = cluster(found, seed, number)
    seconds = time.perf_counter() - start
    table = np.zeros((6, 6), np.int64)
    np.add.at(table, (ranks, attributes), 1)
    return ranks, table.max(1).sum() / size, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(words: list[str]) -> None:
    values = values_of(words, {"classes": 1000, "width": 2048, "workers": 2, "seed": 0}, zero=("seed",))
    count, width, seed = values["classes"], values["width"], values["seed"]
    sizes = class_sizes(count)
    classes = [
        ClassImages(f"n{number:08d}", "", tuple(f"n{number:08d}_{i}.JPEG" for i in range(size)))
        for number, size in enumerate(sizes.tolist())
    ]
    print(f"{count} classes, {sizes.sum():,} images, features of {width}")
    start = time.perf_counter()
    ranks, purity, seconds, peaks = zip(
        *in_order(clustered, (seed, width), list(enumerate(sizes.tolist())), values["workers"]), strict=True
    )
    print(
        f"k-means: {time.perf_counter() - start:.0f} s with {values['workers']} processes, {np.median(seconds):.2f} "
        f"s a class (median), peak {max(peaks):.0f} MB a process; "
        f"images in their planted attribute's cluster {100 * np.mean(purity):.2f} %"
    )

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "clusters").mkdir()
        from sharding.datasets.imagenet_glt.clustering import _identity

        for images, rank in zip(classes, ranks, strict=True):
            np.savez(
                work / "clusters" / f"{images.name}.npz",
                ranks=rank.astype(np.int8),
                names=np.array(images.names),
                identity=_identity("planted", seed),
            )
        scale = 1.0
        annotations = _ours(Request(work, seed=seed, scale=scale), classes, work, {"weights": "planted"})
        for annotation in annotations:
            write(work / f"{annotation.edition}.json", annotation)
        again = [read(work / f"{annotation.edition}.json") for annotation in annotations]
    print(
        f"splitting, written as split files and read again: {time.perf_counter() - start:.1f} s, peak of this "
        f"process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
    )

    print(f"{'split':14}{'images':>9}{'paper':>9}{'differs':>9}")
    for annotation in again:
        for name, rows in annotation.splits.items():
            paper = SHEET[f"{annotation.edition}/{name}"] * count / 1000
            print(
                f"{annotation.edition + '/' + name:14}{len(rows):9,}{paper:9,.0f}"
                f"{100 * (len(rows) - paper) / paper:8.3f}%"
            )
        assert not set.intersection(*(set(rows.source.tolist()) for rows in annotation.splits.values()))
    glt, _ = again
    tails = np.bincount(glt.splits["train"].label, minlength=count)
    order = class_order(sizes.tolist(), seed)
    groups = np.array([np.bincount(np.asarray(ranks[number]) // 2, minlength=3) for number in order])
    target, given = long_tail(groups - np.array([20 + 42, 20 + 12, 20 + 6]))
    print(
        f"long tail: targets {target.sum():,} (paper {TARGETS:,}), capped {given.sum():,} (paper {POOL:,}); at 0, 4, "
        f"399, 849, 999: {', '.join(map(str, target[[0, 4, 399, 849, 999]])) if count == 1000 else 'stretched'}"
        f" (paper 1500, 1500, 181, 46, 18)"
    )
    print(
        f"Train-GLT a class: largest {tails.max()} (paper about 530 to 570), smallest {tails.min()} (about 4 to 8), "
        f"at class 400 {tails[GROUPS_END[0] * count // 1000]} (about 100), at 850 "
        f"{tails[GROUPS_END[1] * count // 1000]} (about 25)"
    )
    for annotation in again:
        for name, rows in annotation.splits.items():
            table = np.zeros((count, 3), np.int64)
            np.add.at(table, (rows.label, rows.attribute), 1)
            print(
                f"{annotation.edition + '/' + name:14} by attribute group {table.sum(0).tolist()}, a class "
                f"{table.min(0).tolist()} to {table.max(0).tolist()}; std of the groups' shares "
                f"{np.std(table.sum(0) / table.sum()):.4f}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
