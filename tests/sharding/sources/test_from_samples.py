"""Samples from Python: kept in a folder as they are, and read from it as rows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recipes.common.errors import DataError
from sharding.sources import from_samples
from sharding.sources.from_samples import Labelled, keep_samples
from sharding.sources.rows import Asked, Row
from tests.helpers import sources


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def read(folder: Path, split: str = "") -> list[Row]:
    return list(from_samples.rows(Asked(((folder, split),), folder)))


def pixels_of(row: Row) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row.where.read())))


def test_every_form_of_an_image_is_kept_as_it_is(tmp_path: Path) -> None:
    """Bytes and files are read byte for byte, pixels and PIL images without loss."""
    jpeg = sources.jpeg(1)
    (tmp_path / "a bird.jpg").write_bytes(jpeg)
    forms: list[Any] = [jpeg, tmp_path / "a bird.jpg", str(tmp_path / "a bird.jpg")]
    pixels = [array(5, 4), array(5, 4, 3), array(5, 4, 4), array(5, 4, 1)]
    pictures = [Image.fromarray(one.squeeze()) for one in pixels]
    folder = keep_samples(((image, 0) for image in [*forms, *pixels, *pictures]), tmp_path / "kept")
    assert from_samples.recognises(folder) and not from_samples.recognises(tmp_path)
    found = read(folder)
    assert [row.where.read() for row in found[:3]] == [jpeg] * 3
    for row, wanted in zip(found[3:], pixels * 2, strict=True):
        assert np.array_equal(pixels_of(row), wanted.squeeze())
    assert found[0].name == "00000000.jpg" and found[3].name == "00000003.png"


def test_what_is_known_of_a_sample_is_kept(tmp_path: Path) -> None:
    """Numbers become text; a split that goes with the folder is every sample's."""
    samples: list[Any] = [
        Labelled(array(3, 3), "robin", "snow", "train", 7, "robin/1.png"),
        (array(3, 3), np.int64(3)),
    ]
    folder = keep_samples(samples, tmp_path)
    first, second = read(folder)
    assert first[0] == "robin/1.png" and first[2:6] == ("robin", "snow", "train", "7")
    assert second[2:6] == ("3", "", "", "")
    assert [row.split for row in read(folder, "train")] == ["train", "train"]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    """Written again, the folder holds what it held before, and nothing else; its files and itself keep their times.

    Of other samples the list and the images are others together, and of other labels the list alone.
    """

    def kept(*samples: Any) -> dict[str, tuple[bytes, int]]:
        paths = [*keep_samples(samples, tmp_path).iterdir(), tmp_path]
        return {path.name: (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns) for path in paths}

    samples: list[Any] = [(array(3, 3), 1), (Image.fromarray(array(4, 4, 3)), 2)]
    before = kept(*samples)
    assert kept(*samples) == before
    assert set(before) == {from_samples.LIST, from_samples.IMAGES, tmp_path.name}
    relabelled = kept((array(3, 3), 3), samples[1])
    assert relabelled[from_samples.IMAGES] == before[from_samples.IMAGES]
    assert [row.label for row in read(tmp_path)] == ["3", "2"] and relabelled[tmp_path.name] != before[tmp_path.name]
    darker = kept((array(3, 3) // 2, 3), samples[1])
    assert all(darker[name][1] > relabelled[name][1] for name in (from_samples.LIST, from_samples.IMAGES))
    assert np.array_equal(pixels_of(read(tmp_path)[0]), array(3, 3) // 2)


def test_samples_that_cannot_be_used_leave_the_earlier_ones(tmp_path: Path) -> None:
    """The folder holds whole samples or none, and nothing that a killed program left."""
    (tmp_path / from_samples.NEW).mkdir()
    (tmp_path / from_samples.NEW / from_samples.IMAGES).write_bytes(b"half")
    keep_samples([(array(3, 3), 1)], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="sample 1 cannot be used"):
        keep_samples([(array(4, 4), 2), (array(3, 3), None)], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "sample, sentence",
    [
        ((array(3, 3), ""), "it has no label"),
        ((array(3, 3), None), "its label is None"),
        ((array(3, 3), True), "its label is True"),
        ((array(3, 3), 1.5), "its label is 1.5"),
        ((array(3, 3),), "label"),
        ((array(3, 3), 1, "a", "b", "c", "d", "e"), "takes"),
        ((array(3, 3).astype(np.float32), 1), "an array of float32 of shape (3, 3); bytes"),
        ((array(2, 3, 3, 3), 1), "of shape (2, 3, 3, 3)"),
        ((array(3, 0), 1), "has no pixels"),
        (([1, 2], 1), "of type list; bytes"),
        ((Image.new("F", (2, 2)), 1), "a PIL image of mode F"),
    ],
)
def test_a_bad_sample_is_named(tmp_path: Path, sample: Any, sentence: str) -> None:
    """One sentence with the sample's number, and no list that would be taken for a whole one."""
    with pytest.raises(DataError, match=r"^sample 1 cannot be used: ") as caught:
        keep_samples([(array(3, 3), 1), sample], tmp_path)
    assert sentence in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_no_samples_are_refused(tmp_path: Path) -> None:
    """An exhausted iterator, say, is no data set."""
    with pytest.raises(DataError, match="there are no samples"):
        keep_samples(iter([]), tmp_path)


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    """The line that is damaged is said."""
    keep_samples([(array(3, 3), 1), (array(3, 3), 1)], tmp_path)
    text = (tmp_path / from_samples.LIST).read_text()
    (tmp_path / from_samples.LIST).write_text(text[:-9])
    with pytest.raises(DataError, match=r"samples.jsonl: sample 1 is damaged"):
        read(tmp_path)
