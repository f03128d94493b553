"""What RandAug costs: microseconds of one core for an image of 112 px, ours beside torchvision's RandAugment.

The policies are different ones (see sharding/images/randaug.py), so this is what a recipe pays, not one algorithm
against itself.
"""

from __future__ import annotations

import sharding.images.torchvision_cpu  # noqa: F401, before torchvision

# isort: split
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from sharding.format.dataset import Split
from sharding.format.index import load_index
from sharding.images.dice import draw_rng
from sharding.images.randaug import apply_policy
from tests.bench.loader.pixels import by_pillow

SIZE, IMAGES = 112, 400


def section(root: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    folder = root / "full" / "glt" / "train"
    split = Split(folder, load_index(folder))
    arrays = [by_pillow(split.read(i), i, SIZE).copy() for i in range(min(IMAGES, len(split)))]
    images = [Image.fromarray(array) for array in arrays]
    tensors = [torch.tensor(array).permute(2, 0, 1).contiguous() for array in arrays]
    policy = v2.RandAugment(2, 9)
    ways: dict[str, tuple[Callable, list]] = {
        "ours, array to array": (
            lambda array, draw: np.asarray(apply_policy(Image.fromarray(array), draw_rng(0, 0, draw))),
            arrays,
        ),
        "torchvision v2.RandAugment(2, 9), Pillow images": (lambda image, draw: policy(image), images),
        "torchvision v2.RandAugment(2, 9), uint8 tensors": (lambda image, draw: policy(image), tensors),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first one warms up
        for name, (way, inputs) in ways.items():
            began = time.process_time()
            for draw, image in enumerate(inputs, turn * len(inputs)):
                way(image, draw)
            if turn:
                found[name].append((time.process_time() - began) / len(inputs) * 1e6)
    least = statistics.median(found["ours, array to array"])
    print(f"\n**policy**: us of a core for an image of {SIZE} px, {len(images)} images, n = {rounds}\n")
    print("| policy | us, median | min to max | x ours |\n|---|---|---|---|")
    for name, times in found.items():
        print(
            f"| {name} | {statistics.median(times):,.0f} | {min(times):,.0f} to {max(times):,.0f} | "
            f"{statistics.median(times) / least:.2f} |",
            flush=True,
        )
