"""Memory as the set grows: a process reads some batches of a set of N entries and says what it and its workers hold.

    python -m tests.bench.loader.memory WAY SPLIT_FOLDER N

The entries lie in the same files again and again. PSS: of a page that k processes share each counts 1/k. A node has a
process with workers for each rank.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from tests.bench.loader.environments import PROJECT, install, python_of
from tests.bench.loader.measure import pss_mb, voice
from tests.bench.loader.pipelines import BATCH, WORKERS, spdl, usual

COUNTS = (10_000, 100_000, 1_000_000)
BATCHES = 8


def ours(folder: Path, samples: int, window: int) -> None:
    from sharding.format.dataset import Split
    from sharding.format.index import load_index
    from sharding.images.decoders import available
    from sharding.plan.ranks import rank_draws
    from sharding.reader import MicroBatches, Reader, TrainView
    from tests.bench.loader.access import enlarged
    from tests.helpers.plans import micro_batches, plan_epoch

    split = Split(folder, enlarged(load_index(folder), samples))
    plan = plan_epoch([None], samples, batch=BATCH, group=0, seed=0, epoch=0, shards=split.index.shard, window=window)
    crops = MicroBatches(split, TrainView(112, (0.08, 1.0), hflip=True), decoder=available()[0])
    said(Reader(crops, WORKERS).read(rank_draws(plan, micro_batches(BATCH, 0, 0, 1), 0)))


def imagefolder(folder: Path, samples: int) -> None:
    import torch

    from sharding.images.torchvision_cpu import torchvision

    images = torchvision.datasets.ImageFolder(folder.parents[1] / "tree", usual(112))
    images.samples = [(path, int(path.split("/")[-2])) for path in _files(folder, samples)]
    said(iter(torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=WORKERS)))


def threads(folder: Path, samples: int) -> None:
    said(iter(spdl(folder, 112, _files(folder, samples))()))


def _files(folder: Path, samples: int) -> list[str]:
    """A text of its own for each entry, as a scan of a folder gives."""
    known = sorted(map(str, folder.parents[1].glob("tree/*/*.jpg")))
    return [f"{known[i % len(known)][:-4]}.jpg" for i in range(samples)]


def said(batches: object) -> None:
    """Says the memory of this process and of each worker after some batches."""
    say = voice()
    for _ in islice(batches, BATCHES):
        pass
    memory = pss_mb()
    own = memory.pop(os.getpid())
    say({"main": own, "worker": sum(memory.values()) / max(1, len(memory)), "all": own + sum(memory.values())})


WAYS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "ours, shuffled whole": ("", lambda folder, samples: ours(folder, samples, 0)),
    "ours, window of 16 shards": ("", lambda folder, samples: ours(folder, samples, 16)),
    "ImageFolder + DataLoader": ("", imagefolder),
    "SPDL, Pillow, 2 threads": ("spdl", threads),
}
"""By name: the peer whose environment is used, and what reads a split's folder of so many samples."""


def section(root: Path, rounds: int) -> None:
    """One measurement each, whatever the rounds: memory varies little."""
    print(
        f"\n**memory**: MB (PSS) of one rank with {WORKERS} workers after {BATCHES} batches, by the number of samples\n"
    )
    print("| loader | samples | main process | each worker | together |\n|---|---|---|---|---|")
    for way, (peer, _) in WAYS.items():
        if peer and (reason := install(peer)):
            print(f"| {way} | not measured: {reason} | | | |")
            continue
        for samples in COUNTS:
            words = [
                str(python_of(peer)),
                "-m",
                "tests.bench.loader.memory",
                way,
                str(root / "full" / "glt" / "train"),
                str(samples),
            ]
            done = subprocess.run(
                words,
                env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout)
            print(
                f"| {way} | {samples:,} | {found['main']:,.0f} | {found['worker']:,.0f} | {found['all']:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    WAYS[sys.argv[1]][1](Path(sys.argv[2]), int(sys.argv[3]))
