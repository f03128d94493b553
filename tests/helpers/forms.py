"""Labelled images in every form that a build takes: the same images, labels and names each time."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers import sources

CLASSES = {"Äpfel rot": 30, "birds": 24, "猫": 18}
"""Class -> images of it; their names sorted are in another order."""
BROKEN = "birds/kaputt.jpg"
"""A file that is no image."""


def names() -> dict[str, str]:
    """Image -> class: names with spaces, umlauts and Chinese letters, of two extensions."""
    return {
        f"{name}/bild {number} ü 犬.{'png' if number % 3 == 0 else 'jpg'}": name
        for name, count in CLASSES.items()
        for number in range(count)
    }


def folder(path: Path) -> Path:
    """Write class folders."""
    for number, name in enumerate(names()):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sources.png(number) if file.suffix == ".png" else sources.jpeg(number))
    (path / BROKEN).write_bytes(b"no image at all")
    return path


def files(tree: Path) -> dict[str, str]:
    """Image -> class of a folder of class folders, the broken one among them."""
    return {file.relative_to(tree).as_posix(): file.parent.name for file in sorted(tree.glob("*/*"))}


def oltr(tree: Path, path: Path) -> Path:
    """Write a list of `path number`."""
    numbers = {name: number for number, name in enumerate(sorted(CLASSES))}
    path.write_text("".join(f"{file} {numbers[name]}\n" for file, name in reversed(files(tree).items())))
    return path


def table(tree: Path, path: Path) -> Path:
    """Write a CSV or a Parquet file with a header."""
    rows = files(tree)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"file": list(rows), "species": list(rows.values())}), path)
        return path
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "species"), *rows.items()])
    return path


def shards(tree: Path, path: Path) -> Path:
    """Write tars by webdataset itself."""
    import webdataset

    path.mkdir()
    with webdataset.ShardWriter(str(path / "birds-%03d.tar"), maxcount=40, verbose=0) as writer:
        for file, name in files(tree).items():
            stem, _, extension = file.rpartition(".")
            writer.write({"__key__": stem, extension: (tree / file).read_bytes(), "json": {"species": name}})
    return path


def zipped(tree: Path, path: Path) -> Path:
    """Write a zip, half of it deflated."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, file in enumerate(files(tree)):
            archive.write(tree / file, file, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
    return path


def idx(path: Path, train: int = 240, test: int = 60, side: int = 12) -> Path:
    """Write images of digits' family in IDX files: three classes, a bright stroke at another height in each.

    Within a class a light or dark background of three levels is the attribute that clusters find.
    """
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 3
        levels = np.array([0, 0, 0, 60, 60, 120])[rng.integers(0, 6, count)]
        pixels = np.repeat(levels, side * side).reshape(count, side, side) + rng.integers(0, 25, (count, side, side))
        for row, label in enumerate(labels.tolist()):
            pixels[row, 2 + 3 * label : 4 + 3 * label] += 100
        for what, array in (("images-idx3", pixels.astype(np.uint8)), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(length.to_bytes(4, "big") for length in array.shape)
            with gzip.open(path / f"{name}-{what}-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(head + array.tobytes())
    return path


def tenth_of_fashion(whole: Path, path: Path) -> Path:
    """Write the first tenth of each file of Debian's dataset-fashion-mnist."""
    path.mkdir(parents=True)
    for file in sorted(whole.glob("*-ubyte.gz")):
        data = gzip.decompress(file.read_bytes())
        count, begin = int.from_bytes(data[4:8], "big"), 4 + 4 * data[3]
        size = (len(data) - begin) // count * (count // 10)
        with gzip.open(path / file.name, "wb", compresslevel=1) as packed:
            packed.write(data[:4] + (count // 10).to_bytes(4, "big") + data[8:begin] + data[begin : begin + size])
    return path


def contents(root: Path, name: str) -> dict[str, list[tuple[str, str, int, str]]]:
    """What a data set holds: folder -> (name without extension, bytes' digest, label, class) of each image in order."""
    from sharding.open import open_dataset

    dataset = open_dataset(root, name)
    found = {}
    for edition, splits in dataset.editions.items():
        for split, relative in splits.items():
            index = dataset.split(edition, split).index
            found[relative] = [
                (str(source).rpartition(".")[0], sha256.tobytes().hex(), int(label), dataset.class_names[label])
                for source, sha256, label in zip(index.source, index.sha256, index.label, strict=True)
            ]
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a data set, without the build's own folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }


def repaired(tree: Path) -> None:
    """Take the broken file out."""
    (tree / BROKEN).unlink()


def picture(side: int = 20) -> bytes:
    """Make a small JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (200, 20, 20)).save(buffer, "JPEG")
    return buffer.getvalue()


def meta(root: Path, name: str) -> dict:
    """Read a data set's dataset.json."""
    return json.loads((root / name / "dataset.json").read_bytes())


def moved(path: Path, to: Path) -> Path:
    """Move a source."""
    shutil.move(path, to)
    return to
