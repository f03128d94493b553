"""How fast `sharding.verify` is: `python -m tests.bench.verify [data=DIR] [n=5] [images=600] [workers=2]` prints
images/s and GB/s against a plain reader's, a `webdataset.WebDataset` in one thread that decodes every image with
Pillow, over the same shards.

Without data= the shards are made: photographs' likenesses of 500x375 pixels, ImageNet's usual size, 50 to 120 kB each.
The two take turns, so that a busy machine slows both; n values each: median and range of the ratio of neighbours.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from sharding.verify import verify
from tests.bench.words import values_of
from tests.helpers import toy


def photographs(count: int) -> list[bytes]:
    """JPEGs with detail at all scales, as a photograph has, so that decoding takes its usual time."""
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        image = sum(
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (max(2, 375 // scale), max(2, 500 // scale), 3), np.uint8)).resize(
                    (500, 375), Image.Resampling.BICUBIC
                ),
                np.float32,
            )
            * weight
            for scale, weight in ((120, 0.45), (30, 0.3), (8, 0.15), (2, 0.1))
        )
        buffer = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(buffer, "JPEG", quality=92)
        made.append(buffer.getvalue())
    return made


def plain(folder: Path) -> int:
    """Reads all shards as anybody would, in one thread; the number of images."""
    import webdataset

    shards = sorted(map(str, folder.glob("*/*/shard-*.tar")))
    count = 0
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
        count += 1
    return count


def main(words: list[str]) -> None:
    values = values_of(words, {"data": "", "n": 5, "images": 600, "workers": 2})
    n, workers = values["n"], values["workers"]
    with tempfile.TemporaryDirectory() as scratch:
        if values["data"]:
            folder = Path(values["data"])
        else:
            third = values["images"] // 3
            images, per_class = (
                iter(photographs(3 * third + 2)),
                [third, third, third, 2],
            )  # the last class sets the size of the other splits

            def change(relative: str, samples: list) -> list:
                return (
                    [
                        type(sample)(
                            sample.key,
                            sample.source,
                            next(images),
                            sample.label,
                            sample.group,
                            sample.attribute,
                            sample.extra,
                        )
                        for sample in samples
                    ]
                    if relative == "glt/train"
                    else samples
                )

            folder = toy.build(Path(scratch), per_class=per_class, change=change, shard_samples=100)
        rates: dict[str, list[float]] = {"plain": [], "verify": []}
        size = 0
        for _ in range(n):
            start = time.perf_counter()
            count = plain(folder)
            rates["plain"].append(count / (time.perf_counter() - start))
            start = time.perf_counter()
            verdict = verify(folder, workers)
            rates["verify"].append(verdict.images / (time.perf_counter() - start))
            assert verdict.problems.count == 0 and verdict.images == count, verdict.lines()
            size = verdict.size / verdict.images
    ratios = [two / one for one, two in zip(rates["plain"], rates["verify"], strict=True)]
    for name, values in rates.items():
        print(
            f"{name:8} {median(values):8,.0f} images/s  {median(values) * size / 1e9:.3f} GB/s  ({min(values):,.0f} "
            f"to {max(values):,.0f}, n = {n})"
        )
    print(
        f"verify with {workers} workers / plain webdataset + Pillow in one thread: {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); {count:,} images of {size / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
