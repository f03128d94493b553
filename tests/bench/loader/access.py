"""Getting at samples: undecoded reads, the index, and the time to the first batch from anywhere in an epoch.

The set is made as large as ImageNet-GLT by listing its shards again and again: 115,000 entries that lie in the same
files.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sharding.format.dataset import Split
from sharding.format.index import Index, load_index, save_index
from sharding.format.shards import index_of_shard
from sharding.images.decoders import available
from sharding.plan.ranks import rank_draws
from sharding.reader import MicroBatches, Reader, TrainView
from tests.bench.loader.pipelines import BATCH, WORKERS
from tests.helpers.plans import micro_batches, plan_epoch

SAMPLES = 115_000
PLACES = (0.0, 0.01, 0.5, 0.99)
_OF_SHARDS = ("shard_name", "shard_size", "shard_sha256")


def enlarged(index: Index, samples: int) -> Index:
    """An index of `samples` entries: the same shards again and again, the last time as far as need be."""
    times = -(-samples // len(index))
    columns = {}
    for field in dataclasses.fields(Index):
        array = getattr(index, field.name)
        columns[field.name] = (
            np.concatenate([array] * times) if field.name in _OF_SHARDS else np.concatenate([array] * times)[:samples]
        )
    shards = len(index.shard_name)
    columns["shard"] = columns["shard"] + np.arange(samples, dtype=np.int32) // len(index) * shards
    return Index(**columns)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _spread(values: list[float], form: str = ",.0f") -> str:
    return f"{statistics.median(values):{form}} | {min(values):{form}} to {max(values):{form}}"


def undecoded(split: Split, rounds: int) -> None:
    import webdataset

    urls = [str(split.folder / name) for name in split.index.shard_name.tolist()]
    order = np.random.default_rng(0).permutation(len(split)).tolist()

    def all_read() -> None:
        for i in order:
            split.read(i)

    def all_placed() -> None:
        index = split.index
        files = [os.open(path, os.O_RDONLY) for path in urls]
        for i in order:
            os.pread(files[index.shard[i]], int(index.size[i]), int(index.offset[i]))
        for file in files:
            os.close(file)

    def all_streamed() -> None:
        assert sum(1 for _ in webdataset.WebDataset(urls, shardshuffle=False)) == len(split)

    theirs = "webdataset.WebDataset, in order"
    ways = {
        "Split.read, random order, each sha256 checked": all_read,
        "positioned reads alone, random order, unchecked": all_placed,
        theirs: all_streamed,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first one warms up
        for name, way in ways.items():
            began = time.process_time()  # one thread's work, on a machine that may do other work
            way()
            if turn:
                found[name].append(len(split) / (time.process_time() - began))
    least = statistics.median(found[theirs])
    print(f"\n**access**: undecoded samples a second of a core, warm page cache, n = {rounds}\n")
    print("| way | samples/s, median | min to max | x webdataset |\n|---|---|---|---|")
    for name, rates in found.items():
        print(f"| {name} | {_spread(rates)} | {statistics.median(rates) / least:.1f} |")
    print(
        f"\nTo reach the middle of an epoch of {SAMPLES:,} by reading on, webdataset takes {SAMPLES / 2 / least:.1f} "
        "s of one core, undecoded."
    )


def indexed(split: Split, index: Index, rounds: int) -> None:
    paths = [split.folder / name for name in split.index.shard_name.tolist()]
    with tempfile.TemporaryDirectory() as folder:
        saved = [_seconds(lambda: save_index(Path(folder), index)) for _ in range(rounds)]
        loaded = [_seconds(lambda: load_index(Path(folder))) for _ in range(rounds)]
    made = [_seconds(lambda: [index_of_shard(path) for path in paths]) * SAMPLES / len(split) for _ in range(rounds)]
    print(f"\nIndex of {SAMPLES:,} samples, seconds, n = {rounds}\n\n| | median | min to max |\n|---|---|---|")
    print(f"| write index.npz | {_spread(saved, '.2f')} |\n| load it | {_spread(loaded, '.2f')} |")
    print(
        f"| make it anew from the tars, all digests (one process; from {len(split):,} samples) | "
        f"{_spread(made, '.1f')} |",
        flush=True,
    )


def forget(split: Split) -> None:
    """Drop the shards from the page cache."""
    for name in set(split.index.shard_name.tolist()):
        file = os.open(split.folder / name, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def first_batch_s(split: Split, place: float, weights: list[np.ndarray | None], window: int) -> float:
    """Seconds to plan an epoch, start a reader and have the batch at that share of the epoch."""
    rows = micro_batches(BATCH, 0, 0, 1)
    began = time.perf_counter()
    plan = plan_epoch(
        weights, len(split), batch=BATCH, group=0, seed=0, epoch=0, shards=split.index.shard, window=window
    )
    start = int(place * plan.steps)
    crops = MicroBatches(split, TrainView(224, (0.08, 1.0), hflip=True), decoder=available()[0])
    # No more than the workers take at once: what follows the first batch would compete with it for the cores.
    draws = itertools.islice(rank_draws(plan, rows, 0, start=start), WORKERS)
    batches = Reader(crops, WORKERS, persistent=False).read(draws)
    next(batches)
    seconds = time.perf_counter() - began
    for _ in batches:  # so that the workers end
        pass
    return seconds


def first_batches(split: Split, rounds: int) -> None:
    balanced = 1 / np.bincount(split.index.label)[split.index.label]
    kinds = {
        "shuffled whole": ([None], 0),
        "window of 16 shards": ([None], 16),
        "half from a weighted stream": ([None, balanced], 0),
    }
    found: dict[tuple[str, str, float], list[float]] = {}
    for _ in range(rounds):
        for kind, (weights, window) in kinds.items():
            for pages in ("warm", "cold"):
                for place in PLACES:
                    if pages == "cold":
                        forget(split)
                    found.setdefault((kind, pages, place), []).append(first_batch_s(split, place, weights, window))
    print(
        f"\nTime to the first batch ({BATCH} images, crops of 224; plan and start of {WORKERS} workers included), "
        f"{len(split):,} samples, ms, n = {rounds}\n"
    )
    print(
        "| order | page cache |"
        + "".join(f" at {place:.0%} | x 0 % |" for place in PLACES)
        + "\n|---|---|"
        + "---|---|" * len(PLACES)
    )
    for kind in kinds:
        for pages in ("warm", "cold"):
            median = [statistics.median(found[kind, pages, place]) for place in PLACES]
            print(
                f"| {kind} | {pages} |"
                + "".join(f" {value * 1000:.0f} | {value / median[0]:.2f} |" for value in median),
                flush=True,
            )


def section(root: Path, rounds: int) -> None:
    folder = root / "full" / "glt" / "train"
    split = Split(folder, load_index(folder))
    large = enlarged(split.index, SAMPLES)
    undecoded(split, rounds)
    indexed(split, large, rounds)
    first_batches(Split(folder, large), rounds)
