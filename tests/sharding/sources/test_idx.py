"""IDX files of the MNIST family: every pixel and label as it is, and what is wrong with a pair said in one sentence."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.common.errors import DataError
from sharding.sources import idx
from sharding.sources.rows import Asked, Row

FASHION = Path("/usr/share/datasets/fashion-mnist")


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    """The array as an IDX file."""
    return bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def images(count: int, seed: int, shape: tuple[int, ...] = (5, 4)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def labels(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint8) % 3


def write_pair(folder: Path, split: str, count: int, seed: int, packed: bool = False, dot: bool = False) -> np.ndarray:
    """Write a pair of files, and return the pixels."""
    pixels = images(count, seed)
    folder.mkdir(exist_ok=True)
    for what, content in (("images-idx3", pixels), ("labels-idx1", labels(count))):
        path = folder / f"{split}-{what.replace('-', '.') if dot else what}-ubyte{'.gz' if packed else ''}"
        data = idx_bytes(content)
        path.write_bytes(gzip.compress(data) if packed else data)
    return pixels


def read(folder: Path, work: Path, split: str = "") -> list[Row]:
    return list(idx.rows(Asked(((folder, split),), work)))


def pixels_of(row: Row) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row.where.read())))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("dot", [False, True], ids=["minus", "dot"])
def test_pixels_and_labels_are_those_of_the_files(tmp_path: Path, packed: bool, dot: bool) -> None:
    """Train comes before test, in the order of the files, and every pixel is what was written."""
    test = write_pair(tmp_path / "mnist", "t10k", 4, 2, packed, dot)
    train = write_pair(tmp_path / "mnist", "train", 11, 1, packed, dot)
    assert idx.recognises(tmp_path / "mnist")
    found = read(tmp_path / "mnist", tmp_path / "work")
    assert [(row.name, row.label, row.split) for row in found] == [
        *((f"train-{i:02d}.png", str(i % 3), "train") for i in range(11)),
        *((f"test-{i}.png", str(i % 3), "test") for i in range(4)),
    ]
    assert all(np.array_equal(pixels_of(row), image) for row, image in zip(found, [*train, *test], strict=True))


def test_colours_are_read(tmp_path: Path) -> None:
    """Images of three channels are RGB."""
    write_pair(tmp_path, "train", 3, 1)
    pixels = images(3, 4, (5, 4, 3))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(pixels))
    assert all(
        np.array_equal(pixels_of(row), image) for row, image in zip(read(tmp_path, tmp_path), pixels, strict=True)
    )


def test_an_unpacked_file_is_taken_before_its_archive(tmp_path: Path) -> None:
    """Where both lie side by side, nothing is unpacked again."""
    write_pair(tmp_path, "train", 3, 1, packed=True)
    write_pair(tmp_path, "train", 3, 1)
    assert {row.where.path for row in read(tmp_path, tmp_path / "work")} == {str(tmp_path / "train-images-idx3-ubyte")}
    assert not (tmp_path / "work").exists()


def test_a_replaced_archive_is_unpacked_again(tmp_path: Path) -> None:
    """An unpacked copy is kept while its archive is the same, and never taken for another archive."""
    write_pair(tmp_path / "mnist", "train", 3, 1, packed=True)
    first = read(tmp_path / "mnist", tmp_path / "work")
    kept = Path(first[0].where.path).stat().st_mtime_ns
    assert read(tmp_path / "mnist", tmp_path / "work") == first
    assert Path(first[0].where.path).stat().st_mtime_ns == kept
    pixels = write_pair(tmp_path / "mnist", "train", 3, 2, packed=True)
    second = read(tmp_path / "mnist", tmp_path / "work")
    assert all(np.array_equal(pixels_of(row), image) for row, image in zip(second, pixels, strict=True))


def test_one_file_can_be_named_with_its_split(tmp_path: Path) -> None:
    """source= may name an images file alone; a split that goes with it is its split."""
    write_pair(tmp_path, "train", 3, 1)
    write_pair(tmp_path, "t10k", 2, 2)
    file = tmp_path / "t10k-images-idx3-ubyte"
    assert idx.recognises(file)
    assert [row.split for row in read(file, tmp_path)] == ["test"] * 2
    assert [row.split for row in read(file, tmp_path, "val")] == ["val"] * 2


@pytest.mark.parametrize("name", idx.NAMES)
def test_classes_are_called_as_a_file_beside_them_says(tmp_path: Path, name: str) -> None:
    """The first line names class 0."""
    write_pair(tmp_path, "train", 4, 1)
    (tmp_path / name).write_text("\ufeffT-shirt/top\r\nTrouser\r\nPullover\r\n\r\n", encoding="utf-8")
    assert [row.label for row in read(tmp_path, tmp_path)] == ["T-shirt/top", "Trouser", "Pullover", "T-shirt/top"]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    """What is wrong with a pair is said in one sentence that names the file, before anything is unpacked for long."""
    good_images, good_labels = idx_bytes(images(6, 1)), idx_bytes(labels(6))
    cases: dict[str, tuple[bytes, bytes | None]] = {
        "has 7 labels, and train-images-idx3-ubyte has 6": (good_images, idx_bytes(labels(7))),
        "has 5 labels, and train-images-idx3-ubyte has 6": (good_images, idx_bytes(labels(5))),
        "its labels are missing": (good_images, None),
        "train-images-idx3-ubyte: ends 20 bytes before": (good_images[:-20], good_labels),
        "train-images-idx3-ubyte: goes on 1 bytes after": (good_images + b"x", good_labels),
        "train-labels-idx1-ubyte: ends 1 bytes before": (good_images, good_labels[:-1]),
        "is not an IDX file, it begins with b'<htm'": (b"<html>", good_labels),
        "is not an IDX file": (b"", good_labels),
        "ends inside its header": (good_images[:9], good_labels),
        "type 0x0d in 3 dimensions": (b"\0\0\x0d" + good_images[3:], good_labels),
        "type 0x08 in 1 dimensions": (good_labels, good_labels),
        "images of 1x1 pixels": (idx_bytes(images(6, 1, (1, 1))), good_labels),
        "images of 4x0 pixels": (idx_bytes(images(6, 1, (0, 4))), good_labels),
        "holds 0 entries": (idx_bytes(images(0, 1)), idx_bytes(labels(0))),
        "label -1 of image 2 is out of range": (good_images, idx_bytes(np.array([0, 1, -1, 0, 0, 0], np.int8), 9)),
        "label 70000 of image 1": (good_images, idx_bytes(np.array([0, 70000, 1, 2, 0, 0], ">i4"), 12)),
        "is cut off or damaged": (gzip.compress(good_images)[:-9], good_labels),
        "holds more than the 136 bytes": (gzip.compress(good_images + bytes(1000)), good_labels),
    }
    for number, (sentence, (pixels, classes)) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "names").write_text("a\nb\nc\n")
        (folder / "train-images-idx3-ubyte").write_bytes(pixels)
        if classes is not None:
            (folder / "train-labels-idx1-ubyte").write_bytes(classes)
        with pytest.raises(DataError) as caught:
            read(folder, folder / "work")
        assert sentence in str(caught.value) and str(folder) in str(caught.value), sentence
        assert not list(folder.glob("work/unpacked/*")), "nothing half unpacked stays"


def test_two_data_sets_in_a_folder_are_not_mixed(tmp_path: Path) -> None:
    """EMNIST's archive has six sets side by side: which one is meant has to be said."""
    write_pair(tmp_path, "emnist-letters-train", 3, 1)
    write_pair(tmp_path, "emnist-digits-train", 3, 1)
    with pytest.raises(DataError, match=r"holds 2 data sets, .* 'emnist-digits-', 'emnist-letters-'"):
        read(tmp_path, tmp_path)
    assert len(read(tmp_path / "emnist-digits-train-images-idx3-ubyte", tmp_path)) == 3


@pytest.mark.full
def test_fashion_mnist_is_read_as_debian_ships_it(tmp_path: Path) -> None:
    """70,000 images, 6,000 and 1,000 of each class."""
    if not FASHION.is_dir():
        pytest.skip("needs dataset-fashion-mnist (make system, as root)")
    found = read(FASHION, tmp_path)
    counts = np.zeros((2, 10), int)
    for row in found:
        counts[int(row.split == "test"), int(row.label)] += 1
    assert counts.tolist() == [[6000] * 10, [1000] * 10]
    with gzip.open(FASHION / "t10k-images-idx3-ubyte.gz") as file:
        last = np.frombuffer(file.read()[-784:], np.uint8).reshape(28, 28)
    assert np.array_equal(pixels_of(found[-1]), last)
