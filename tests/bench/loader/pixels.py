"""How far the suite's training crops are from Pillow's antialiased ones of the same boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sharding.format.dataset import Split
from sharding.format.index import load_index
from sharding.images.decoders import available, decode, decoder
from sharding.images.dice import draw_rng
from sharding.images.transforms import crop_box, train_pixels

IMAGES = 300


def by_pillow(data: bytes, draw: int, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the draw's box, cut, resized and flipped by Pillow alone."""
    image, rng = decode(data), draw_rng(0, 0, draw)
    crop = image.crop(crop_box(*image.size, rng, (0.08, 1.0))).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(crop)[:, ::-1] if rng.coin() else np.asarray(crop)


def section(root: Path, rounds: int) -> None:
    """Prints the differences; they are the same every time, whatever the rounds."""
    print("\n**pixels**: difference to Pillow's crops of the same boxes, grey levels of 255\n")
    print("| decoder | images | crop | mean | largest |\n|---|---|---|---|---|")
    for kind in ("full", "short256"):
        folder = root / kind / "glt" / "train"
        split = Split(folder, load_index(folder))
        for size in (112, 224):
            files = [split.read(i) for i in range(min(IMAGES, len(split)))]
            wanted = [by_pillow(data, draw, size).astype(np.int16) for draw, data in enumerate(files)]
            for name in available():
                opened = decoder(name).opened
                apart = [
                    np.abs(
                        train_pixels(
                            opened(data),
                            draw_rng(0, 0, draw),
                            size=size,
                            crop_scale=(0.08, 1.0),
                            hflip=True,
                            randaug=False,
                        )
                        - pixels
                    )
                    for draw, (data, pixels) in enumerate(zip(files, wanted, strict=True))
                ]
                print(
                    f"| {name} | {len(files)} of {kind} | {size} | {np.mean(apart):.3f} | {np.max(apart)} |", flush=True
                )
