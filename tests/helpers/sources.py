"""Raw sources in the shape of ILSVRC2012's training set: class folders, the tar of tars, and the odd files that it
has.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from sharding.datasets.imagenet_glt import clustering, features
from sharding.datasets.imagenet_glt.archive import ClassImages


def jpeg(seed: int, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options) -> bytes:
    """Make a JPEG file of a random picture, smooth, so that it survives the encoder."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 4, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def two_levels(folder: Path, each: int, classes: tuple[str, ...] = ("ant", "bee")) -> Path:
    """Write class folders of `each` JPEGs, by turns dark and light, which are their clusters."""
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            (folder / name / f"{i}.jpg").write_bytes(of_level(1000 * k + i, i % 2))
    return folder


def of_level(seed: int, light: int) -> bytes:
    """Make a JPEG of noise, dark or light."""
    pixels = np.random.default_rng(seed).integers(0, 60, (20, 20, 3)) + (30, 180)[light]
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def png(seed: int, mode: str = "RGB") -> bytes:
    """Make a PNG file; mode I;16 has 16 bits a pixel."""
    rng = np.random.default_rng(seed)
    array = (
        rng.integers(0, 2**16, (30, 40), np.uint16) if mode == "I;16" else rng.integers(0, 256, (30, 40, 3), np.uint8)
    )
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def rotated(seed: int) -> bytes:
    """Make a JPEG whose EXIF data say that it is to be shown turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(seed, exif=exif)


def odd(seed: int) -> dict[str, bytes]:
    """Make the legal oddities of ILSVRC, by their names."""
    return {"cmyk": jpeg(seed, "CMYK"), "gray": jpeg(seed + 1, "L"), "png": png(seed + 2), "rotated": rotated(seed + 3)}


def images_of(sizes: Mapping[str, int]) -> dict[str, dict[str, bytes]]:
    """Make class -> file name -> bytes; the first files of the first class are the odd ones."""
    found = {}
    for number, (name, size) in enumerate(sizes.items()):
        files = [jpeg(1000 * number + i) for i in range(size)]
        if number == 0:
            files[:4] = odd(9).values()
        found[name] = {f"{name}_{i}.JPEG": data for i, data in enumerate(files)}
    return found


def tree(folder: Path, images: Mapping[str, Mapping[str, bytes]]) -> Path:
    """Write the images as class folders."""
    for name, files in images.items():
        (folder / name).mkdir(parents=True)
        for file, data in files.items():
            (folder / name / file).write_bytes(data)
    return folder


def tar_of_tars(
    path: Path, images: Mapping[str, Mapping[str, bytes]], beside: Mapping[str, bytes] | None = None
) -> Path:
    """Write the images as ILSVRC2012_img_train.tar; `beside` are more files in it."""
    with tarfile.open(path, "w") as outer:
        for name, files in images.items():
            _add(outer, f"{name}.tar", inner_tar(files))
        for name, data in (beside or {}).items():
            _add(outer, name, data)
    return path


def inner_tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file, data in files.items():
            _add(tar, file, data)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


# ------------------------------------------------------------------------------------------------------------- planted
SHARES = (0.27, 0.19, 0.17, 0.15, 0.12, 0.10)
"""Shares of the six planted attributes in a class."""


def planted(seed: int, number: int, size: int, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Make features float16 [n, width] of one class in six well separated clusters, and their ranks int64 [n]."""
    rng = np.random.default_rng([seed, number])
    ends = np.rint(np.cumsum(SHARES) * size).astype(int)
    ranks = rng.permutation(np.repeat(np.arange(6), np.diff(np.r_[0, ends])))
    centers = np.zeros((6, width))
    centers[np.arange(6), rng.permutation(width)[:6]] = 4.0
    return (centers[ranks] + rng.normal(0, 0.3, (size, width))).astype(np.float16), ranks


def plant(work: Path, images: ClassImages, number: int, weights: str, seed: int = 0) -> np.ndarray:
    """Write planted features as the features stage would, and return the clusters' ranks."""
    found, ranks = planted(seed, number, len(images))
    (work / "features").mkdir(parents=True, exist_ok=True)
    origins = [images.place(i).traced()[1] for i in range(len(images))]
    features.save(work / "features", images, found, weights, origins)
    assert features.read(work / "features", images, weights) is not None and clustering.CLUSTERS == 6
    return ranks
