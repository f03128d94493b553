"""Crops a second: packing MSCOCO-GLT's crops into shards against the bare work, decode + crop + encode with Pillow, in
the same run.

    python -m tests.bench.coco_crops [crops=1500] [workers=2] [rounds=3]

Images are 640x480 JPEGs of about COCO's bytes; boxes have COCO's spread of sizes. Core milliseconds count what this
process and its workers used, so that other users of the machine change them little; wall time is theirs too.
"""

from __future__ import annotations

import io
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sharding.building.packing import Planned, pack
from sharding.building.raw_files import Place
from sharding.datasets.mscoco_glt.build import Crops, Cut
from sharding.datasets.mscoco_glt.objects import crop_box
from tests.bench.words import values_of

IMAGES = 100


def write_images(folder: Path) -> list[Path]:
    """Pictures with detail at every scale, 640x480."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(IMAGES):
        field = np.zeros((480, 640, 3))
        for step in (160, 40, 10, 3, 1):
            layer = Image.fromarray(rng.integers(0, 256, (480 // step + 1, 640 // step + 1, 3), np.uint8)).resize(
                (640, 480), Image.Resampling.BICUBIC
            )
            field += np.asarray(layer, float) * step**0.5
        field = (field - field.min()) / (field.max() - field.min()) * 255
        paths.append(folder / f"{number:012d}.jpg")
        Image.fromarray(field.astype(np.uint8)).save(paths[-1], quality=93)
    return paths


def bare(plan: list[Planned]) -> None:
    for planned in plan:
        image = Image.open(planned.where.place.path).convert("RGB")
        image.crop(crop_box(planned.where.box, *image.size)).save(io.BytesIO(), "JPEG")


def used() -> float:
    """CPU seconds of this process and of its ended children."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main(words: list[str]) -> None:
    values = values_of(words, {"crops": 1500, "workers": 2, "rounds": 3})
    crops, workers, rounds = values["crops"], values["workers"], values["rounds"]
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as temporary:
        paths = write_images(Path(temporary))
        print(f"{IMAGES} images of {statistics.mean(path.stat().st_size for path in paths) / 1e3:.0f} kB")
        plan = []
        for number in range(crops):
            width, height = np.minimum(np.exp(rng.normal(4.6, 0.8, 2)), (630, 470)).tolist()
            box = (float(rng.uniform(0, 640 - width)), float(rng.uniform(0, 480 - height)), width, height)
            plan.append(
                Planned(
                    str(number),
                    f"object-{number}",
                    Cut(Place(str(paths[number % IMAGES])), number, box, (640, 480)),
                    0,
                    0,
                    0,
                    {"attributes": [1, 2, 3]},
                )
            )
        found: dict[str, list[tuple[float, float]]] = {"bare, one process": [], f"pack, {workers} workers": []}
        for number in range(rounds):
            for name, results in found.items():
                cpu, wall = used(), time.perf_counter()
                if name.startswith("bare"):
                    bare(plan)
                else:
                    index = pack(
                        Path(temporary) / f"out{number}",
                        {"train": plan},
                        Crops(None, 75),
                        options={},
                        workers=workers,
                        shard_samples=250,
                    )["train"]
                results.append((1000 * (used() - cpu) / crops, crops / (time.perf_counter() - wall)))
        print(f"stored: {index.size.mean() / 1e3:.1f} kB a crop")
        for name, results in found.items():
            print(
                f"{name}: {statistics.median(r[0] for r in results):.2f} core-ms a crop, "
                f"{statistics.median(r[1] for r in results):.0f} crops/s (medians of {rounds})"
            )
        print(
            f"pack / bare: {statistics.median(p[0] / b[0] for b, p in zip(*found.values(), strict=True)):.2f} of "
            "the core time"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
