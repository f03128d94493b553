"""Images/s of the two stages that compute features: data.features=once, and the builder's network."""

from __future__ import annotations

import shutil
import time

import numpy as np
import torch

from ifl.network.frozen_features import FrozenFeatures
from ifl.setup import set_up
from ifl.supervision.startup_timer import Boot
from sharding.images import backbones
from sharding.images.torchvision_cpu import torchvision
from tests.bench.gpu.bench import Bench
from tests.bench.gpu.ours import recipe_of

BUILDERS = (64, 256)
"""Images of a batch of the builder of ImageNet-GLT, and pixels of their sides."""


def section(bench: Bench) -> None:
    """Time both; decoding is in the first and not in the second."""
    for precision in ("bf16", "fp32") if bench.scale.gpu else ("bf16",):
        with bench.guarded(f"data.features=once, {precision}"):
            _once(bench, precision)
    bench.note("data.features=once: the start of the loader's workers is in it, and weighs with so few images")
    with bench.guarded("the builder's features"):
        _builders(bench)


def _once(bench: Bench, precision: str) -> None:
    workers = f"data.workers={bench.workers}"
    words = ("recipe=glt_baseline", "model.train=head", "data.features=once", f"optim.precision={precision}", workers)
    recipe = recipe_of(bench, *words)
    run = set_up(recipe, recipe.run_folder, Boot(lambda said: None), fresh=True)  # the first computing, not counted
    frozen = FrozenFeatures(
        recipe,
        run.model.network,
        run.data.dataset,
        run.readers.decoder,
        run.ranks.comm,
        run.ranks.device,
        lambda said: None,
    )
    rates = []
    for _ in range(min(3, bench.scale.rounds)):
        shutil.rmtree(bench.data / "imagenet_glt" / "features")
        bench.device.wait()
        began = time.perf_counter()
        found = frozen.of({"train": run.data.train_split})["train"]
        rates.append(len(found.split) / (time.perf_counter() - began))
        if bench.left_s < 10:
            break
    bench.row(f"data.features=once at {recipe.data.image_size}, {precision}, from JPEGs", "images/s", rates)


def _builders(bench: Bench) -> None:
    name, (images, side) = bench.scale.features, BUILDERS
    if not bench.scale.gpu:
        images, side = 2, 32
    weights = bench.folder() / "weights.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(name, weights=None).state_dict(), weights)
    forward = backbones.network(name, weights)
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    for _ in range(bench.scale.warm):
        forward(pixels)
    rates = []
    for _ in range(bench.scale.rounds):
        took = bench.device.timed(lambda: forward(pixels), bench.scale.steps)
        rates.append(images * bench.scale.steps / took.host_s)
    bench.row(f"the builder's {name} on {images} x {side} x {side} pixels, without decoding", "images/s", rates)
