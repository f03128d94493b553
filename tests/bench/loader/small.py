"""What loading costs where images are small: microseconds of one core for an image of digits_glt, 32 px, in a process
that reads by itself; decoded each time, and as a rank of a small set reads, which decodes an image once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from sharding.cache.own_pixels import OwnPixels
from sharding.open import open_dataset
from sharding.plan.ranks import Draws, rank_draws
from sharding.reader import EvalView, MicroBatches, Reader, TrainView, evaluation_draws
from tests.helpers.digits import digits
from tests.helpers.plans import micro_batches, plan_epoch

SIZE, BATCH, GROUP, EVAL_BATCH = 32, 128, 32, 256
VIEWS = {
    "training": TrainView(SIZE, (0.6, 1.0), hflip=True),
    "training with RandAug": TrainView(SIZE, (0.6, 1.0), hflip=True, randaug=True),
    "evaluation": EvalView(SIZE, SIZE),
}


def section(root: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    split = open_dataset(digits(root), "digits_glt").split("glt", "train")
    found: dict[str, dict[str, list[float]]] = {}
    for name, view in VIEWS.items():
        caches = {"decoded each time": None, "kept": OwnPixels(split)}
        readers = {way: Reader(MicroBatches(split, view, cache=cache), 0) for way, cache in caches.items()}
        found[name] = {way: [] for way in readers}
        for turn in range(2 * rounds + 2):  # until the second drawn epoch nearly every image was seen
            for way, reader in readers.items():
                began, images = time.process_time(), 0
                for batch in reader.read(asked(len(split), view, turn)):
                    images += len(batch.ids)
                if turn >= 2:
                    found[name][way].append((time.process_time() - began) / images * 1e6)
    print(f"\n**small**: us of a core for an image of {SIZE} px, {len(split)} images an epoch, n = {2 * rounds}\n")
    print("| what | decoded each time, median | min to max | kept | min to max |\n|---|---|---|---|---|")
    for name, ways in found.items():
        cells = [f"{statistics.median(us):,.0f} | {min(us):,.0f} to {max(us):,.0f}" for us in ways.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def asked(samples: int, view: TrainView | EvalView, epoch: int) -> Iterable[Draws]:
    if isinstance(view, EvalView):
        return evaluation_draws(samples, 0, 1, EVAL_BATCH)
    plan = plan_epoch([None], samples, batch=BATCH, group=GROUP, seed=0, epoch=epoch)
    return rank_draws(plan, micro_batches(BATCH, GROUP, 0, 1), 0)
