"""CIFAR's four published forms: the same images and classes of each, and no code of a pickle runs."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recipes.common.errors import DataError
from sharding.sources import cifar
from sharding.sources.rows import Asked, Row
from tests.helpers.cifar import archive, cifar10, cifar100, python2_pickle


def read(path: Path, work: Path, split: str = "", **columns: str) -> list[Row]:
    return list(cifar.rows(Asked(((path, split),), work, columns=columns)))


def pixels_of(row: Row) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row.where.read()))).transpose(2, 0, 1)


def same(rows: list[Row], pixels: np.ndarray) -> bool:
    return all(np.array_equal(pixels_of(row), image) for row, image in zip(rows, pixels, strict=True))


def test_the_pickles_of_the_tests_are_pickles() -> None:
    """Python and numpy themselves read what the tests write, with names as the byte strings of Python 2."""
    files, pixels, labels = cifar10(2)
    content = pickle.loads(files["cifar-10-batches-py/data_batch_1"], encoding="bytes")
    assert content[b"labels"] == labels[:2] and np.array_equal(content[b"data"], pixels[:2].reshape(2, -1))


@pytest.mark.parametrize("python", [True, False], ids=["python", "binary"])
@pytest.mark.parametrize("form", ["tar.gz", "tar", "folder"])
def test_cifar10_in_every_form(tmp_path: Path, python: bool, form: str) -> None:
    """Pixels equal the array, in the order of the batches; the form changes nothing but where they lie."""
    files, pixels, labels = cifar10(3, python)
    path = archive(tmp_path / "cifar-10.tar.gz", files)
    if form != "tar.gz":
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        path.unlink()
        path = tmp_path / next(iter(files)).split("/")[0]
    if form == "tar":
        with tarfile.open(tmp_path / "cifar-10.tar", "w") as tar:
            tar.add(path, path.name)
        path = tmp_path / "cifar-10.tar"
    assert cifar.recognises(path)
    found = read(path, tmp_path / "work")
    assert [row.name for row in found] == [
        *(f"train-{i:02d}.png" for i in range(15)),
        *(f"test-{i}.png" for i in range(3)),
    ]
    assert [row.split for row in found] == ["train"] * 15 + ["test"] * 3
    assert [row.label for row in found] == [f"class{label}" for label in labels]
    assert same(found, pixels)
    assert (tmp_path / "work").exists() == (form == "tar.gz")


@pytest.mark.parametrize("python", [True, False], ids=["python", "binary"])
def test_cifar100_has_fine_and_coarse_classes(tmp_path: Path, python: bool) -> None:
    """The fine ones unless columns=label:coarse asks for the others."""
    files, pixels, fine, coarse = cifar100(4, python)
    path = archive(tmp_path / "cifar-100.tar.gz", files)
    assert cifar.recognises(path)
    found = read(path, tmp_path / "work")
    assert [row.label for row in found] == [f"f{label}" for label in fine] and same(found, pixels)
    assert [row.label for row in read(path, tmp_path, label="coarse")] == [f"c{label}" for label in coarse]


def test_a_replaced_archive_is_unpacked_again(tmp_path: Path) -> None:
    """The unpacked tar belongs to the archive's digest."""
    files, _, _ = cifar10(1)
    path = archive(tmp_path / "c.tar.gz", files)
    before = {row.where.path for row in read(path, tmp_path / "work")}
    assert {row.where.path for row in read(path, tmp_path / "work")} == before
    files, pixels, _ = cifar10(2)
    after = read(archive(path, files), tmp_path / "work")
    assert {row.where.path for row in after} != before and same(after, pixels)


class _Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, file: str) -> None:
    """A call in a batch or among the names is refused, and did not run."""
    mark = tmp_path / "ran"
    files, _, _ = cifar10(1)
    files[f"cifar-10-batches-py/{file}"] = pickle.dumps({"labels": [0], "data": _Runs(mark)}, 2)
    with pytest.raises(DataError, match=rf"member .*{file} is refused: its pickle asks for posix.mkdir, .* was run$"):
        read(archive(tmp_path / "c.tar.gz", files), tmp_path / "work")
    assert not mark.exists()
    pickle.loads(files[f"cifar-10-batches-py/{file}"])  # the attack is a real one
    assert mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"data": np.array([_Runs(Path("/nowhere"))], object)},
        np.ma.masked_array([1]),
        np.rec.array([(1,)], dtype=[("a", "u1")]),
    ],
    ids=["array of objects", "masked array", "record array"],
)
def test_other_arrays_are_refused(tmp_path: Path, content: Any) -> None:
    """Arrays whose content or class is an object of its own are no plain data."""
    files, _, _ = cifar10(1)
    files["cifar-10-batches-py/test_batch"] = pickle.dumps(content, 2)
    with pytest.raises(DataError, match=r"test_batch is refused"):
        read(archive(tmp_path / "c.tar.gz", files), tmp_path / "work")


def changed(batch: dict[str, Any]) -> Callable[[dict[str, bytes]], None]:
    whole: dict[str, Any] = {"labels": [1], "data": np.zeros((1, 3072), np.uint8)}
    return lambda files: files.update({"cifar-10-batches-py/test_batch": python2_pickle(whole | batch)})


BAD: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "a batch or a file of names is missing": lambda files: files.pop("cifar-10-batches-py/data_batch_2"),
    "image 0 has label 10; images with labels from 0 to 9": changed({"labels": [10]}),
    "its `labels` is no list of 1 whole numbers": changed({"labels": [1, 2]}),
    "its `labels` is no list": changed({"labels": "a"}),
    "its `data` is no array of N x 3072 bytes": changed({"data": np.zeros((1, 100), np.uint8)}),
    "`data` is no array": changed({"data": [1]}),
    "it has no images": changed({"labels": [], "data": np.zeros((0, 3072), np.uint8)}),
    "is damaged or no pickle": lambda files: files.update({"cifar-10-batches-py/test_batch": b"junk"}),
    "holds a list, not": lambda files: files.update({"cifar-10-batches-py/test_batch": python2_pickle([1])}),
    "holds no names of classes": lambda files: files.update(
        {"cifar-10-batches-py/batches.meta": python2_pickle({"label_names": []})}
    ),
    "do not lie in the file as bytes": lambda files: files.update(
        {"cifar-10-batches-py/test_batch": pickle.dumps({"labels": [1], "data": np.full((1, 3072), 200, np.uint8)}, 2)}
    ),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_archives_are_refused(tmp_path: Path, sentence: str) -> None:
    """One sentence, which names the archive."""
    files, _, _ = cifar10(1)
    BAD[sentence](files)
    path = archive(tmp_path / "c.tar.gz", files)
    with pytest.raises(DataError) as caught:
        read(path, tmp_path / "work")
    assert sentence in str(caught.value)


def test_binary_files_of_another_length_are_refused(tmp_path: Path) -> None:
    """A batch that is cut off is no whole number of records."""
    files, _, _ = cifar10(1, python=False)
    files["cifar-10-batches-bin/data_batch_1.bin"] += b"x"
    with pytest.raises(DataError, match=r"data_batch_1.bin: has 3074 bytes, .* records of 3073 bytes"):
        read(archive(tmp_path / "c.tar.gz", files), tmp_path / "work")


def test_what_cifar_does_not_have_is_refused(tmp_path: Path) -> None:
    """Coarse labels of CIFAR-10, attributes, a split for all of it, and an archive that is cut off."""
    path = archive(tmp_path / "c.tar.gz", cifar10(1)[0])
    for columns in ({"label": "coarse"}, {"attribute": "coarse"}):
        with pytest.raises(DataError, match=r"columns=.*coarse is not legal .* has label:fine alone"):
            read(path, tmp_path / "work", **columns)
    with pytest.raises(DataError, match=r"say which image is train and which is test; no val= is legal"):
        read(path, tmp_path / "work", "val")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DataError, match=r"c.tar.gz: is cut off or damaged"):
        read(path, tmp_path / "work")


def test_other_archives_are_not_recognised(tmp_path: Path) -> None:
    """Only what begins with a folder of CIFAR's is CIFAR."""
    other = archive(tmp_path / "birds.tar.gz", {"birds/robin/1.jpg": b"x"})
    (tmp_path / "no.tar.gz").write_bytes(b"no archive")
    for path in (other, tmp_path / "no.tar.gz", tmp_path, tmp_path / "nothing.tar"):
        assert not cifar.recognises(path)
