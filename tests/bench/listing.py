"""Seconds and memory of the index, the keys and the plan of many labelled images.

    python -m tests.bench.listing [rows=1000000]

Rows are made up as they come, so no source is read.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sharding.building import packing
from sharding.building.raw_files import Place
from sharding.datasets.samples.listed import index
from sharding.datasets.samples.listed.plan import Labelled, plan_of
from sharding.sources.rows import Row
from tests.bench.words import values_of

CLASSES = 1000


def main(words: list[str]) -> None:
    """Print a line for each step."""
    rows = values_of(words, {"rows": 1_000_000})["rows"]
    began, before = time.perf_counter(), peak()

    def said(what: str) -> None:
        print(f"{what}: {time.perf_counter() - began:.1f} s in all, {peak() - before:.0f} MiB at most", flush=True)

    gathering = index._Gathering()
    gathering.base = "/images"
    for i in range(rows):
        name = f"class{i % CLASSES:04d}/photograph {i:09d} ü.jpg"
        gathering.add(Row(name, Place(f"/images/{name}", root="/images"), f"class{i % CLASSES:04d}"))
    said("gathered")
    found, order = gathering.found()
    del gathering
    found = found.taken(order)
    said("ordered")
    with tempfile.TemporaryDirectory() as folder:
        index._keep(Path(folder), found)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        said(f"kept in {size / rows:.1f} bytes an image")
        found = index.opened(Path(folder))
        cut = np.split(np.arange(rows), [rows * 9 // 10])
        splits = dict(zip(("glt/train", "glt/val"), cut, strict=True))
        plan = plan_of(Labelled(found, found.label, [0] * CLASSES), {"glt": {name: name for name in splits}}, splits)
        packing._check_keys(plan)
        said("keys chosen and checked")
        shards = sum(1 for _ in packing._shards(Path(folder), plan, {}, packing.SHARD_SAMPLES))
        said(f"{shards:,} shards planned")


def peak() -> float:
    """Return the most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
