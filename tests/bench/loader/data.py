"""JPEGs like ImageNet's for the loader's bench: cut from the two photographs that scikit-learn brings, with detail of a
photograph's spectrum on top.

    python -m tests.bench.loader.data [out=out/bench-loader] [images=2000]

OUT/full/tree/CLASS/N.jpg (56 % are 500 x 375, quality 90 to 96, 85 % with colours at half resolution),
OUT/short256/tree the same with a shorter side of 256 (quality 90), and beside each `glt/train`, the suite's shards of
the same bytes. 100 classes, long-tailed. The same bytes every time.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.words import values_of

SHAPES = ((500, 375), (375, 500), (500, 333), (640, 480), (400, 400))
SHARES = (0.56, 0.2, 0.12, 0.06, 0.06)
CLASSES = 100
NOISE = 6.5  # grey levels: with it a file of full size weighs about what ImageNet's do
IMAGES, SHARD = 2000, 250
SETS = ("full", "short256")


def detail(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """float [height, width], mean 0 and deviation 1, of a spectrum that falls as 1/f."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = 1 / np.maximum(np.hypot(down, across), 1 / width)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * fall, (height, width))
    return noise / noise.std()


def picture(number: int, photos: list[Image.Image]) -> Image.Image:
    """A cut of a photograph, turned and stretched, with detail of its own."""
    rng = np.random.default_rng(number)
    width, height = SHAPES[rng.choice(len(SHAPES), p=SHARES)]
    photo = photos[number % len(photos)]
    share = rng.uniform(0.4, 1)
    cut_w, cut_h = photo.width * share, photo.height * share
    left, top = rng.uniform(0, photo.width - cut_w), rng.uniform(0, photo.height - cut_h)
    lean = rng.uniform(-0.1, 0.1)
    image = photo.transform(
        (width, height),
        Image.Transform.AFFINE,
        (cut_w / width, lean, left, lean, cut_h / height, top),
        Image.Resampling.BICUBIC,
    )
    fine = detail(rng, width, height)[..., None] * 12 + rng.normal(0, NOISE, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + fine, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int, subsampling: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def labels_of(images: int) -> np.ndarray:
    """int64 [images], ascending: class k has about .955^k times as many images as class 0."""
    edges = np.cumsum(0.955 ** np.arange(CLASSES))
    return np.searchsorted(edges, (np.arange(images) + 0.5) / images * edges[-1])


def make(folder: Path, images: int = IMAGES, shard: int = SHARD) -> None:
    """Write both sets, unless they are there; others that are there go, with what was made from them."""
    from sklearn.datasets import load_sample_images

    from sharding.building.packing import Copies, Planned, finish, pack
    from sharding.building.raw_files import Place
    from sharding.images.encoding import StoredSize

    if (folder / "made").exists() and (folder / "made").read_text() == str(images):
        return
    for name in SETS:
        shutil.rmtree(folder / name, ignore_errors=True)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    plans: dict[str, list[Planned]] = {name: [] for name in SETS}
    for number, label in enumerate(labels_of(images).tolist()):
        rng = np.random.default_rng((number, 1))
        image = picture(number, photos)
        small = image.resize(
            tuple(round(side * 256 / min(image.size)) for side in image.size), Image.Resampling.BILINEAR
        )
        files = {
            "full": jpeg(image, int(rng.integers(90, 97)), "4:2:0" if rng.random() < 0.85 else "4:4:4"),
            "short256": jpeg(small, 90, "4:2:0"),
        }
        for name, data in files.items():
            path = folder / name / "tree" / f"{label:03d}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            plans[name].append(Planned(f"{number:06d}", f"s{number}", Place(str(path)), label, 0, 0))
    for name, planned in plans.items():
        order = np.random.default_rng(0).permutation(images)  # as a builder's, so that a shard holds all classes
        plan = {"glt/train": [planned[i] for i in order]}
        finish(
            folder / name, pack(folder / name, plan, Copies(StoredSize()), options={}, workers=1, shard_samples=shard)
        )
        print(
            f"{name}: {images} images, {sum(len(image.where.read()) for image in planned) / images / 1000:.0f} kB each"
        )
    (folder / "made").write_text(str(images))


def main(words: list[str]) -> None:
    values = values_of(words, {"out": "out/bench-loader", "images": IMAGES})
    make(Path(values["out"]), values["images"])


if __name__ == "__main__":
    main(sys.argv[1:])
