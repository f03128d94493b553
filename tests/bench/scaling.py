"""Whether slurm/scaling.py foretells what is measured: `python -m tests.bench.scaling [n=20] [rounds=5] [data=DIR]`
prints predicted and measured steps/s on 1, 2 and 4 gloo ranks of this machine, small_resnet on digits_glt, 128 images a
step.

The model sees one rank's steps alone, at 128 and 32 images a step; the same beside a second process, without
communication, which tells how many cores two processes really have; and sums over two idle ranks by message size. Four
ranks share these cores. Then the real loop runs on 1, 2 and 4 ranks, in rounds with the others, so that all see the
same machine. Last, the published scaling of eight A100 (NVIDIA DeepLearningExamples).
"""

from __future__ import annotations

import functools
import operator
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch

from slurm.scaling import Assumptions, reduction_s, step_s, suite_bytes
from tests.bench.spread import middle_half
from tests.bench.words import values_of
from tests.helpers.digits import digits
from tests.helpers.paths import PROJECT
from tests.helpers.ranks import Ranks, comm_of, my_rank

WORDS = [
    "recipe=glt_ifl",
    "data=digits_glt",
    "ifl.milestones=[0,1]",
    "batch.budget=matched",
    "batch.draws_per_epoch=32",
    "schedule.epochs=2",
    "log.every=100000",
    "log.digest_every=100000",
    "log.save_every_s=100000",
    "cluster=local",
]
BATCH, GROUP, STREAMS, CLASSES = 128, 32, 2, 10
SIZES = [1 << power for power in (10, 13, 16, 19, 21, 23)]
PUBLISHED = (
    ("ResNet-50, AMP, 8 A100", 2470.0, 256, 102e6, 6.72),
    ("ResNeXt-101 32x4d, AMP, 8 A100", 908.0, 128, 177e6, 7.58),
)
"""Images/s of one GPU, images of each, gradient bytes, and how much faster eight are."""


def stepped(words: list[str], n: int) -> list[float]:
    """In a rank: seconds of `n` training steps after two that are not counted, loader included."""
    from ifl import train as loop
    from recipes.resolve import resolve
    from slurm.run_folder import prepare

    recipe, ends = resolve(words), dict[int, float]()
    if my_rank() == 0:
        prepare(recipe, recipe.run_folder)

    def heartbeat(section: str | None = None) -> None:
        if match := re.fullmatch(r"epoch 0, step (\d+)", section or ""):
            ends.setdefault(int(match[1]), time.perf_counter())

    loop.train(recipe, recipe.run_folder, lambda: len(ends) >= n + 2, heartbeat)
    return np.diff([ends[step] for step in range(2, n + 3)]).tolist()


def size_of_network() -> dict[str, int]:
    """In a rank: what stands in meta.json as `network`."""
    from ifl.network.network import build_network
    from recipes.resolve import resolve

    return build_network(resolve(WORDS), np.full(CLASSES, 10))[0].size


def summed(size: int, n: int) -> list[float]:
    """In a rank: seconds of sums of `size` bytes over all ranks, none of which does anything else."""
    comm, tensor, times = comm_of(torch.distributed.get_world_size()), torch.zeros(size // 4), []
    for _ in range(n + 3):
        comm.gather(torch.zeros(1))
        began = time.perf_counter()
        comm.sum(tensor)
        times.append(time.perf_counter() - began)
    return times[3:]


def fitted_link(curve: dict[int, float]) -> tuple[float, float]:
    """Latency and bytes/s with which `reduction_s` follows a curve of two ranks, in relative error."""
    sizes, seconds = np.array(list(curve)), np.array(list(curve.values()))
    rows = np.stack([np.full(len(sizes), 2.0), sizes], axis=1) / seconds[:, None]  # t = 2 latency + bytes / speed
    latency_s, byte_s = np.linalg.lstsq(rows, np.ones(len(sizes)), rcond=None)[0]
    return max(0.0, float(latency_s)), 1 / float(byte_s)


def main(words: list[str]) -> None:
    values = values_of(words, {"n": 20, "rounds": 5, "data": ""})
    n, rounds = values["n"], values["rounds"]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(values["data"] or digits(Path(scratch) / "data"))
        groups = {"one": Ranks(1), "other": Ranks(1), "two": Ranks(2), "four": Ranks(4)}
        places = iter(range(10**6))

        def steps_s(group: str, batch: int = BATCH) -> list[float]:
            """Seconds of each step, the slowest rank's."""
            answers = groups[group].run(
                stepped,
                [
                    *WORDS,
                    f"batch.size={batch}",
                    f"batch.bn={GROUP}",
                    f"data.root={root}",
                    f"runs={scratch}/{next(places)}",
                ],
                n,
                timeout=300,
            )
            return [max(together) for together in zip(*answers, strict=True)]

        fits, measured = [], {1: [], 2: [], 4: []}
        print(f"{os.cpu_count()} cores, of which others used {os.getloadavg()[0]:.1f} in the last minute")
        try:
            for _ in range(rounds):
                alone, small = steps_s("one"), steps_s("one", GROUP)
                with ThreadPoolExecutor(2) as pool:
                    beside = functools.reduce(operator.iadd, pool.map(steps_s, ("one", "other")), [])
                whole, (low, high) = median(alone), middle_half(alone)
                fixed_s = max(0.0, (median(small) * BATCH / GROUP - whole) / (BATCH / GROUP - 1))
                fits.append(
                    (
                        fixed_s,
                        (whole - fixed_s) / BATCH,
                        min(float(os.cpu_count() or 1), 2 * whole / median(beside)),
                        (high - low) / 1.349 / whole,
                    )
                )
                for ranks, group in ((1, "one"), (2, "two"), (4, "four")):
                    measured[ranks].append(1 / median(steps_s(group)))
            curve = {size: median(groups["two"].run(summed, size, 30)[0]) for size in SIZES}
            size = groups["one"].run(size_of_network)[0]
        finally:
            for group in groups.values():
                group.close()
    latency_s, speed = fitted_link(curve)
    link = {
        "gradient_bytes": 4.0 * size["trained_parameters"],
        "suite_bytes": suite_bytes(BATCH, CLASSES, size["features"]),
        "latency_s": latency_s,
        "node_bytes_s": speed,
    }
    for nbytes, seconds in curve.items():
        print(
            f"sum of {nbytes / 1e3:8.1f} kB over 2 ranks: {1e3 * seconds:7.3f} ms, fitted "
            f"{1e3 * reduction_s(Assumptions(0.0, **link), nbytes, 2, 1):7.3f} ms"
        )
    print(
        f"latency {1e6 * latency_s:.0f} us, {speed / 1e9:.2f} GB/s; a step sends {link['gradient_bytes'] / 1e3:.0f} "
        f"kB of gradients and {link['suite_bytes'] / 1e3:.1f} kB of ours"
    )
    fixed_s, image_s, cores, jitter = (median(column) for column in zip(*fits, strict=True))
    print(
        f"one rank: {1e3 * image_s:.3f} ms an image, {1e3 * fixed_s:.1f} ms a step besides, jitter {jitter:.3f}; two "
        f"processes have {cores:.2f} of {os.cpu_count()} cores (medians of {rounds} rounds)"
    )
    for ranks, rates in measured.items():
        predicted = [
            1
            / step_s(
                Assumptions(image_s=image_s, fixed_s=fixed_s, cores=cores, jitter=jitter, **link),
                BATCH,
                GROUP,
                ranks,
                1,
                STREAMS,
            )
            for fixed_s, image_s, cores, jitter in fits
        ]
        errors = [100 * (told / rate - 1) for told, rate in zip(predicted, rates, strict=True)]
        print(
            f"{ranks} rank{'s' * (ranks > 1)}: predicted {median(predicted):6.2f} steps/s, measured "
            f"{median(rates):6.2f} ({min(rates):.2f} to {max(rates):.2f}); error {median(errors):+.0f} % "
            f"({min(errors):+.0f} to {max(errors):+.0f}), n = {rounds} rounds of {n} steps, each foretold from its "
            "own fit"
        )
    for name, rate, share, gradient_bytes, faster in PUBLISHED:
        gpus = Assumptions(image_s=1 / rate, fixed_s=0.0, gradient_bytes=gradient_bytes, buckets=4, suite_bytes=0.0)
        predicted = 8 * step_s(gpus, share, share, 1, 1) / step_s(gpus, 8 * share, share, 8, 1)
        print(
            f"{name}, {share} images each, gradients in 4 buckets: predicted {predicted:.2f} times one, published "
            f"{faster}, error {100 * (predicted / faster - 1):+.0f} %"
        )


if __name__ == "__main__":
    from tests.bench import scaling  # ranks find its functions by this name

    assert Path.cwd() == PROJECT, "run it in the project's folder"
    scaling.main(sys.argv[1:])
