"""Training data from a web server beside the same data in a folder: `python -m tests.bench.afar [data=out/bench-loader]
[images=2000] [mb_s=8] [rounds=3] [faults=300]`.

Images are those of tests/bench/loader/data.py with a shorter side of 256 (2,000 in 8 shards, 64 MB), crops of 112, two
workers; the server sends `mb_s` megabytes a second to each connection. Each round starts with an empty cache: images/s
of a first and a second epoch, the seconds for which loader processes waited for shards (added up, as a share of the
epoch times the workers), and the seconds to the first batch with a window of one shard and with the whole epoch
shuffled. Then as many answers as `faults` says are spoilt, each kind in turn, and every batch is compared with the
folder's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import torch

from sharding.cache import remote_files
from sharding.cache.prefetcher import Prefetcher
from sharding.format.dataset import Split
from sharding.format.dataset_json import finish_dataset
from sharding.format.index import load_index
from sharding.images.decoders import available
from sharding.open import open_dataset
from sharding.plan.ranks import rank_draws
from sharding.reader import Batch, MicroBatches, Reader, TrainView
from tests.bench.loader import data
from tests.bench.words import values_of
from tests.helpers.plans import micro_batches, plan_epoch
from tests.helpers.remote_server import FAULTS, Server

BATCH, WORKERS = 128, 2
VIEW = {"view": TrainView(112, (0.08, 1.0), hflip=True)}


class Epochs:
    """Epochs of a split, one after the other."""

    def __init__(self, split: Split, window: int) -> None:
        self.split, self.window, self.number = split, window, 0
        self.reader = Reader(MicroBatches(split, decoder=available()[0], **VIEW), WORKERS)
        self.fetcher = Prefetcher(split) if split.remote else None

    def __iter__(self):
        plan = plan_epoch(
            [None],
            len(self.split),
            batch=BATCH,
            group=0,
            seed=0,
            epoch=self.number,
            shards=self.split.index.shard,
            window=self.window,
        )
        self.number += 1
        draws = rank_draws(plan, micro_batches(BATCH, 0, 0, 1), 0)
        batches = self.reader.read(draws)
        yield from self.fetcher.follow(plan, 0, batches, 1) if self.fetcher else batches

    def timed(self) -> tuple[float, float]:
        """Images/s of the next epoch, and its seconds to the first batch."""
        began, first, images = time.perf_counter(), 0.0, 0
        for batch in self:
            first = first or time.perf_counter() - began
            images += len(batch.ids)
        return images / (time.perf_counter() - began), first


def as_data_set(folder: Path) -> Path:
    """The bench's images as a data set that can be opened by its name."""
    root = folder / "afar"
    if not (root / "short256" / "dataset.json").exists():
        root.mkdir(exist_ok=True)
        (root / "short256").symlink_to(folder / "short256", target_is_directory=True)
        finish_dataset(
            root,
            "short256",
            class_names=[f"{label:03d}" for label in range(data.CLASSES)],
            class_groups=[0] * data.CLASSES,
            editions={"glt": {"train": "glt/train"}},
            statistics={},
            options={"builder": "bench"},
        )
    return root


def same(one: Batch, two: Batch) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, two, strict=True))


def main(words: list[str]) -> None:
    usual = {"data": "out/bench-loader", "images": data.IMAGES, "mb_s": 8.0, "rounds": 3, "faults": 300}
    values = values_of(words, usual, zero=("faults",))
    folder, rounds, faults = Path(values["data"]).resolve(), values["rounds"], values["faults"]
    data.make(folder, values["images"])
    root = as_data_set(folder)
    here = Split(root / "short256" / "glt" / "train", load_index(root / "short256" / "glt" / "train"))
    server = Server(root)
    server.bytes_s = values["mb_s"] * 1e6
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        local = Epochs(here, 1)
        for name in ("folder, first epoch", "folder, second epoch"):
            rates.setdefault(name, []).append(local.timed()[0])
        for window in (1, 0):
            with tempfile.TemporaryDirectory() as kept:
                split = open_dataset(server.url, "short256", kept).split("glt", "train")
                far = Epochs(split, window)
                for name in ("first", "second"):
                    before = split.remote.source.counts()
                    began = time.perf_counter()
                    rate, first = far.timed()
                    counts = split.remote.source.counts()
                    waited = (counts["waited_s"] - before["waited_s"]) / WORKERS / (time.perf_counter() - began)
                    where = f"from afar, {'window of 1 shard' if window else 'whole shuffle'}, {name} epoch"
                    rates.setdefault(where, []).append(rate)
                    rates.setdefault(f"{where}: share of time waited, %", []).append(100 * waited)
                    rates.setdefault(f"{where}: seconds to the first batch", []).append(first)
                    rates.setdefault(f"{where}: shards fetched", []).append(counts["shards"] - before["shards"])
    print(
        f"{len(here)} images of {here.index.size.mean() / 1000:.0f} kB in {len(here.index.shard_name)} shards, "
        f"{values['mb_s']:g} MB/s a connection, {WORKERS} workers, n = {rounds}\n"
    )
    print("| | median | min to max |\n|---|---|---|")
    for name, found in rates.items():
        print(
            f"| {name}{', images/s' if ':' not in name else ''} | {median(found):,.4g} | {min(found):,.4g} to "
            f"{max(found):,.4g} |"
        )

    server.bytes_s, remote_files.PAUSES_S, remote_files.STALL_S = None, (0.01,) * 4, 0.5
    names = [f"short256/glt/train/{name}" for name in here.index.shard_name.tolist()]
    kinds, injected, compared, wrong = cycle(FAULTS), 0, 0, 0
    expected = list(Epochs(here, 1))
    while injected < faults:
        server.faults = {name: list(islice(kinds, 1 + i % 4)) for i, name in enumerate(names)}
        injected += sum(map(len, server.faults.values()))
        with tempfile.TemporaryDirectory() as kept:
            found = list(Epochs(open_dataset(server.url, "short256", kept).split("glt", "train"), 1))
        wrong += sum(not same(one, two) for one, two in zip(found, expected, strict=True)) + abs(
            len(found) - len(expected)
        )
        compared += len(found)
        assert not any(server.faults.values()), "every fault was met"
    print(f"\n{injected} faults ({', '.join(FAULTS)}) in {compared} batches: {wrong} wrong or lost")


if __name__ == "__main__":
    main(sys.argv[1:])
