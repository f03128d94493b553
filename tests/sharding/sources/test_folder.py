"""Class folders as a source."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from recipes.common.errors import DataError
from sharding.building.notices import Notices
from sharding.sources.folder import CIRCLES
from sharding.sources.rows import SPLIT_WORDS
from sharding.sources.shared.class_folders import EMPTY, HIDDEN, NO_CLASS, NO_IMAGES
from tests.helpers.labelled import CLASSES, owls, picture, put, read


def left_out(notices: Notices) -> dict[str, list[str]]:
    return {reason: one["first"] for reason, one in notices.added_to({})["left_out"].items()}


def labels(root: Path, **others) -> dict[str, tuple[str, str]]:
    return {row.name: (row.label, row.split) for row in read(root, format="folder", **others)}


def test_class_folders(tmp_path: Path) -> None:
    """The folders of a source are its classes, whatever letters their names have."""
    rows = read(owls(tmp_path / "owls"))
    assert [(row.name, row.label, row.split) for row in rows] == [
        (f"{name}/{number} x.png", name, "") for name in sorted(CLASSES) for number in range(2)
    ]
    assert rows[0].where.read() == (tmp_path / "owls" / rows[0].name).read_bytes()


def test_splits_are_folders_on_top(tmp_path: Path) -> None:
    """Where all folders on top are called train, val or test in some way, they are splits and classes are below."""
    put(tmp_path, "Train/a/1.png", "Train/b/1.png", "validation/a/2.png", "test/b/3.png")
    assert labels(tmp_path) == {
        "Train/a/1.png": ("a", "train"),
        "Train/b/1.png": ("b", "train"),
        "validation/a/2.png": ("a", "val"),
        "test/b/3.png": ("b", "test"),
    }


def test_training_and_testing_are_splits(tmp_path: Path) -> None:
    """Folders call the splits by the same words as lists do."""
    put(tmp_path, *(f"{word}/{name}/{word}.png" for word in SPLIT_WORDS for name in "ab"))
    assert labels(tmp_path) == {
        f"{word}/{name}/{word}.png": (name, split) for word, split in SPLIT_WORDS.items() for name in "ab"
    }


def test_another_folder_beside_splits_is_refused(tmp_path: Path) -> None:
    """Else the splits would become classes in silence; so it is inside of a lone folder, and in an archive."""
    put(tmp_path, "x/train/a/1.png", "x/train/b/1.png", "x/Test/a/2.png", "x/un labeled/3.png")
    with pytest.raises(DataError, match="folder un labeled lies beside Test, which holds folders of images as a split"):
        read(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in sorted(tmp_path.rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    with pytest.raises(DataError, match=r"x.zip: folder un labeled lies .*; train, training, .*, would be legal"):
        read(tmp_path / "x.zip")
    (tmp_path / "x" / "un labeled" / "3.png").unlink()
    assert set(labels(tmp_path).values()) == {("a", "train"), ("b", "train"), ("a", "test")}


def test_another_folder_beside_makes_them_classes(tmp_path: Path) -> None:
    """A class may be called train, if another is not."""
    put(tmp_path, "train/1.png", "ship/1.png")
    assert labels(tmp_path) == {"train/1.png": ("train", ""), "ship/1.png": ("ship", "")}


def test_a_lone_folder_is_no_class(tmp_path: Path) -> None:
    """The folder in which a data set is passed on is not its only class, and no part of the images' names."""
    put(tmp_path, "birds/images/train/a/1.png", "birds/images/train/b/1.png")
    assert labels(tmp_path) == {"train/a/1.png": ("a", "train"), "train/b/1.png": ("b", "train")}


@pytest.mark.parametrize(
    ("classes", "expected"),
    [("top", ["cat", "cat", "dog", "dog"]), ("leaf", ["cat/young", "tabby", "dog", "dog/young"])],
)
def test_top_or_leaf(tmp_path: Path, classes: str, expected: list[str]) -> None:
    """The class is the first folder, or the last: its name where it is the only one, else its path."""
    put(tmp_path, "cat/young/1.png", "cat/tabby/1.png", "dog/1.png", "dog/young/1.png")
    found = labels(tmp_path, classes=classes)
    names = ["cat/young/1.png", "cat/tabby/1.png", "dog/1.png", "dog/young/1.png"]
    assert [found[name][0] for name in names] == expected


def test_leaf_is_told_below_the_splits(tmp_path: Path) -> None:
    """A folder of that name in two splits is one class."""
    put(tmp_path, "train/x/a/1.png", "train/x/b/1.png", "test/x/a/1.png")
    assert set(labels(tmp_path, classes="leaf").values()) == {("a", "train"), ("b", "train"), ("a", "test")}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """Nothing is passed over in silence."""
    put(tmp_path, "a/1.png", "b/1.JPG", "0.png", "a/.1.png", "a/Thumbs.db", "__MACOSX/a/1.png", "b/notes.txt")
    (tmp_path / "a" / "dead.png").symlink_to("nowhere")
    (tmp_path / "b" / "above").symlink_to("..")
    notices = Notices()
    assert [row.name for row in read(tmp_path, notices=notices)] == ["a/1.png", "b/1.JPG"]
    found = left_out(notices)
    assert found.pop("links that lead to nothing") == ["a/dead.png"]
    assert found == {
        NO_CLASS: ["0.png"],
        HIDDEN: ["__MACOSX", "a/.1.png", "a/Thumbs.db"],
        NO_IMAGES: ["b/notes.txt"],
        CIRCLES: ["b/above"],
    }


def test_an_empty_class_is_refused(tmp_path: Path) -> None:
    """A class folder without images is named; one that is empty in one split alone is counted."""
    put(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/1.png")
    (tmp_path / "test" / "b").mkdir()
    notices = Notices()
    read(tmp_path, notices=notices)
    assert left_out(notices) == {EMPTY: ["test/b"]}
    (tmp_path / "train" / "sea gull").mkdir()
    with pytest.raises(DataError, match=r"class folder train/sea gull holds no image"):
        read(tmp_path)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """A name that shards cannot hold ends the reading, escaped in the sentence."""
    put(tmp_path, "a/1.png", "b/1.png")
    with open(os.fsencode(tmp_path) + b"/a/\xe9.png", "wb") as file:
        file.write(picture(0))
    with pytest.raises(DataError, match=r"a/\\xe9.png is not UTF-8"):
        read(tmp_path)


def test_one_file_under_two_labels_is_refused(tmp_path: Path) -> None:
    """A link is the file that it leads to: the same image cannot have two labels, but two names, which are counted."""
    put(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "again.png").symlink_to("1.png")
    notices = Notices()
    assert len(read(tmp_path, notices=notices)) == 3
    assert [one["first"] for one in notices.added_to({})["doubtful"].values()] == [["a/again.png"]]
    (tmp_path / "b" / "1.png").symlink_to("../a/1.png")
    with pytest.raises(DataError, match=r"b/1.png has label b, and at .*a/again.png label a"):
        read(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    """With one class there is nothing to learn."""
    with pytest.raises(DataError, match="one class alone, a"):
        read(put(tmp_path, "a/1.png"))


def test_no_image_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Images that lie beside each other have no class."""
    with pytest.raises(DataError, match=rf"holds no labelled image: 1 left out: {NO_CLASS} \(1.png\)"):
        read(put(tmp_path, "1.png"), format="folder")


def test_a_class_that_is_only_tested_is_refused(tmp_path: Path) -> None:
    """A class of the test list that is in no other split cannot be learned."""
    with pytest.raises(DataError, match=r"test/c/1.png: class c has images of test alone"):
        read(put(tmp_path, "train/a/1.png", "train/b/1.png", "test/c/1.png"))


def test_names_that_are_nearly_the_same_are_counted(tmp_path: Path) -> None:
    """Images or classes that case, extension or the encoding of accents alone tell apart are taken and counted."""
    put(tmp_path, "a/x.png", "a/X.PNG", "a/k\xe4uz.png", "a/ka\u0308uz.png", "A/1.png")
    notices = Notices()
    assert len(read(tmp_path, notices=notices)) == 5
    assert sorted(sorted(one["first"]) for one in notices.added_to({})["doubtful"].values()) == [
        ["A", "a"],
        ["a/X.PNG", "a/x.png"],
        ["a/ka\u0308uz.png"],
    ]
