"""The data set of all sections, in ImageNet-GLT's form: JPEGs like ImageNet's to train on, painted ones to judge."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from tests.bench.gpu.bench import Bench
from tests.bench.loader import data as like_imagenet
from tests.helpers import toy


@cache
def _photos() -> Any:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(photo) for photo in load_sample_images().images]


def jpeg_of(number: int) -> bytes:
    """The bytes of one picture like ImageNet's: 108 kB, mostly 500 x 375."""
    rng = np.random.default_rng((number, 1))
    subsampling = "4:2:0" if rng.random() < 0.85 else "4:4:4"
    return like_imagenet.jpeg(like_imagenet.picture(number, _photos()), int(rng.integers(90, 97)), subsampling)


def section(bench: Bench) -> None:
    """Build the data set, and say what it is."""
    scale, sizes = bench.scale, []

    def real(relative: str, samples: Iterable[Any]) -> list[Any]:
        samples = list(samples)
        if scale.real and relative == "glt/train":
            with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                made = pool.map(jpeg_of, range(len(samples)), chunksize=8)
                samples = [dataclasses.replace(sample, jpg=jpg) for sample, jpg in zip(samples, made, strict=True)]
        if relative == "glt/train":
            sizes.extend(len(sample.jpg) / 1e3 for sample in samples)
        return samples

    began = time.monotonic()
    bench.data.mkdir()
    toy.build(
        bench.data,
        "imagenet_glt",
        [scale.images] * scale.classes,
        [label * 3 // scale.classes for label in range(scale.classes)],
        change=real,
        shard_samples=250,
    )
    bench.row("size of a training image", "kB", [float(np.mean(sizes))])
    bench.row("training images", "images", [len(sizes)])
    bench.row("making the data set", "s", [time.monotonic() - began])
