"""Text lists of `path label` as a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.common.errors import DataError
from sharding.building.notices import Notices
from tests.helpers.labelled import put, read

NAMES = ("train/a b.png", "train/c.png", "val/ü.png", "val/猫.png")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return put(tmp_path, *NAMES)


def listed(images: Path, *lines: str, name: str = "list.txt") -> Path:
    path = images / name
    path.write_text("".join(lines), newline="")
    return path


@pytest.mark.parametrize("separator", [" ", "\t", ","])
def test_lists_of_any_separator(images: Path, separator: str) -> None:
    """The last blank, tab or comma of a line is the separator; paths may hold blanks."""
    path = listed(images, *(f"{name}{separator}{number % 2}\n" for number, name in enumerate(NAMES)))
    assert [(row.name, row.label, row.line) for row in read(path)] == [
        (name, str(number % 2), number + 1) for number, name in enumerate(NAMES)
    ]


def test_bom_crlf_and_blank_lines(images: Path) -> None:
    """What editors put into a list does no harm."""
    path = listed(images, "\ufeff./train/c.png 0\r\n", "\r\n", "val/ü.png 01 \r\n", "\n")
    assert [(row.name, row.label, row.line) for row in read(path)] == [("train/c.png", "0", 1), ("val/ü.png", "1", 3)]


def test_splits_by_the_lists_names(images: Path) -> None:
    """Lists of splits are told by their names, as ImageNet-LT's are."""
    train = listed(images, "train/c.png 0\n", "train/a b.png 1\n", name="Owls_LT_train.txt")
    val = listed(images, "val/ü.png 0\n", name="Owls_LT_val.txt")
    assert [(row.name, row.split) for row in read(train, val)] == [
        ("train/c.png", "train"),
        ("train/a b.png", "train"),
        ("val/ü.png", "val"),
    ]


def test_images_elsewhere(images: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The folder of the images can be named; absolute paths inside of it are legal."""
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_text(f"train/c.png 0\n{images}/val/ü.png 1\n")
    assert [row.name for row in read(path, images=images)] == ["train/c.png", "val/ü.png"]


def test_gaps_between_numbers_are_said(images: Path) -> None:
    """Numbers that no image has are counted, in stretches."""
    notices = Notices()
    read(listed(images, "train/c.png 1\n", "train/a b.png 3\n", "val/ü.png 4\n"), notices=notices)
    assert notices.lines() == ["2 left out: gaps between the numbers of classes (0, 2)"]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (("train/c.png 0\n", "train/d.png 1\n"), r"list.txt, line 2: .*/train/d.png does not exist; its paths start"),
        (("train/c.png 0\n", "../x.png 1\n"), r"line 2: ../x.png leaves the source"),
        (("train/c.png 0\n", "/etc/passwd 1\n"), r"line 2: /etc/passwd leaves the source"),
        (("train 0\n", "train/c.png 1\n"), r"line 1: .*/train is no plain file"),
        (
            ("train/c.png 0\n", "val/ü.png 1\n", "./train/c.png 0\n"),
            r"line 3: train/c.png is there twice, first at .*1;",
        ),
        (("train/c.png 0\n", "val/ü.png,1\n"), r"line 2: has a comma before the label, and the lines above a blank"),
        (("path label\n", "train/c.png 0\n"), r"line 1: is a header \(path label\), and a list has none"),
        (("train/c.png 0\n", "val/ü.png\n"), r"line 2: val/ü.png is no path and label"),
        (("train/c.png,0\n", "val/ü.png,\n"), r"line 2: has no label"),
        (("train/c.png 0\n", "val/ü.png -1\n"), r"line 2: label -1 is negative"),
        (("train/c.png 0\n", "val/ü.png 255\n"), r"line 2: label 255 is out of range"),
        (("train/c.png 0\n", "val/ü.png 0\n"), r"one class alone, 0"),
    ],
)
def test_what_a_list_may_not_hold(images: Path, lines: tuple[str, ...], sentence: str) -> None:
    """Each fault is one sentence with the line."""
    with pytest.raises(DataError, match=sentence):
        read(listed(images, *lines), format="lists")


def test_a_label_that_only_a_later_list_has(images: Path) -> None:
    """A label of the validation list that no image of the train list has is out of range; the line is named."""
    train = listed(images, "train/c.png 0\n", "train/a b.png 1\n", name="a_train.txt")
    val = listed(images, "val/ü.png 0\n", "val/猫.png 2\n", name="a_val.txt")
    with pytest.raises(DataError, match=r"a_val.txt, line 2: class 2 has images of val alone"):
        read(train, val)


def test_an_image_of_two_lists(images: Path) -> None:
    """An image in two lists is named with both lines."""
    train = listed(images, "train/c.png 0\n", "train/a b.png 1\n", name="a_train.txt")
    val = listed(images, "train/c.png 0\n", name="a_val.txt")
    with pytest.raises(
        DataError, match=r"a_val.txt, line 1: train/c.png is there twice, first at .*a_train.txt, line 1"
    ):
        read(train, val)


def test_one_file_under_two_labels(images: Path) -> None:
    """Two names of one file cannot have different labels."""
    (images / "val" / "link.png").symlink_to("../train/c.png")
    with pytest.raises(DataError, match=r"line 3: the image val/link.png has label 1, and at .*line 1 as train/c.png"):
        read(listed(images, "train/c.png 0\n", "val/ü.png 1\n", "val/link.png 1\n"))


def test_a_list_that_is_not_utf8(images: Path) -> None:
    """Bytes that are not UTF-8 are refused with their line."""
    path = images / "list.txt"
    path.write_bytes(b"train/c.png 0\nval/\xfc.png 1\n")
    with pytest.raises(DataError, match="line 2: is not UTF-8"):
        read(path)
