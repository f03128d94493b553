"""WebDataset shards as a source: images are stretches of the tars, labels come from KEY.cls or KEY.json."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from recipes.common.errors import DataError
from sharding.sources import webdataset
from sharding.sources.rows import Asked, Row
from tests.helpers import sources

JPEG = sources.jpeg(1)
Members = dict[str, bytes | str]


def shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(path: Path, split: str = "", columns: Mapping[str, str] | None = None) -> list[Row]:
    return list(webdataset.rows(Asked(((path, split),), path.parent, columns=columns or {})))


def test_webdatasets_own_writer_is_read(tmp_path: Path) -> None:
    """What webdataset's ShardWriter wrote comes out byte for byte, with labels that it wrote as numbers."""
    writer = pytest.importorskip("webdataset").ShardWriter(str(tmp_path / "birds-%03d.tar"), maxcount=2, verbose=0)
    images = [sources.jpeg(seed) for seed in range(5)]
    with writer:
        for number, image in enumerate(images):
            writer.write({"__key__": f"robin/{number:03d}", "jpg": image, "cls": number % 2})
    assert len(list(tmp_path.glob("*.tar"))) == 3 and webdataset.recognises(tmp_path)
    found = read(tmp_path)
    assert [(row.name, row.label) for row in found] == [(f"robin/{i:03d}.jpg", str(i % 2)) for i in range(5)]
    assert [row.where.read() for row in found] == images
    assert [Path(row.where.path).name for row in found] == [f"birds-00{n}.tar" for n in (0, 0, 1, 1, 2)]


def test_files_that_pillow_cannot_decode_alone_are_no_images(tmp_path: Path) -> None:
    """A sample's HDF5, MPEG or EPS lies beside its image, as in folders and archives."""
    members: Members = {f"x.{end}": b"..." for end in ("h5", "mpg", "eps", "wmf", "npy")}
    path = shard(tmp_path / "a.tar", {**members, "x.jpg": JPEG, "x.cls": "7"})
    assert [row.name for row in read(path)] == ["x.jpg"]


def test_fields_of_json_are_read(tmp_path: Path) -> None:
    """columns= names the fields; they come before a .cls, and numbers become text."""
    said = {"species": "Zaunkönig", "place": 3, "part": "test", "photo": "p1"}
    path = shard(tmp_path / "a.tar", {"x.PNG": JPEG, "x.json": json.dumps(said), "x.cls": "7"})
    (row,) = read(path, "", {"label": "species", "attribute": "place", "split": "part", "source": "photo"})
    assert (row.name, row.label, row.attribute, row.split, row.source) == ("x.png", "Zaunkönig", "3", "test", "p1")
    (row,) = read(path, "val")
    assert (row.label, row.attribute, row.split) == ("7", "", "val")


def test_a_pattern_names_its_shards(tmp_path: Path) -> None:
    """All numbers between the braces, with as many digits; a missing shard is said."""
    for number in range(3):
        shard(tmp_path / f"b-{number:02d}.tar", {f"k{number}.jpg": JPEG, f"k{number}.cls": "1"})
    pattern = tmp_path / "b-{00..02}.tar"
    assert webdataset.recognises(pattern)
    assert [row.name for row in read(pattern)] == ["k0.jpg", "k1.jpg", "k2.jpg"]
    assert [row.name for row in read(tmp_path / "b-{01..02}.tar")] == ["k1.jpg", "k2.jpg"]
    with pytest.raises(DataError, match=r"b-03.tar does not exist; every shard of b-\{00..03\}.tar is needed"):
        read(tmp_path / "b-{00..03}.tar")
    with pytest.raises(DataError, match=r"\{02..00\} is not legal"):
        read(tmp_path / "b-{02..00}.tar")


@pytest.mark.parametrize("form", ["birds-{split}-{number:06d}.tar", "{split}{number}.tar", "{split}/{number:04d}.tar"])
def test_splits_that_shards_are_named_by_are_kept(form: str, tmp_path: Path) -> None:
    """Shards of several splits in one folder, or in a folder each, have the splits of their names, as lists have: what
    is given as val is not trained on.
    """
    for split in ("Training", "val", "extra"):
        for number in (0, 1):
            members: Members = {f"{split}{number}.jpg": JPEG, f"{split}{number}.cls": "1"}
            shard(tmp_path / "all" / form.format(split=split, number=number), members)
    assert webdataset.recognises(tmp_path / "all")
    rows = read(tmp_path / "all")
    assert {row.name: row.split for row in rows} == {
        f"{name}{number}.jpg": split
        for name, split in (("Training", "train"), ("val", "val"), ("extra", ""))
        for number in (0, 1)
    }
    with pytest.raises(DataError, match=r"val.*tar: the source says split val, and source=train:... says train"):
        read(tmp_path / "all", "train")


def test_a_column_says_the_split_before_the_name_of_its_shard(tmp_path: Path) -> None:
    """So it does in a table."""
    for split, part in (("train", "val"), ("test", "test")):
        shard(tmp_path / f"{split}-0.tar", {f"{split}.jpg": JPEG, f"{split}.json": json.dumps({"c": 1, "s": part})})
    assert [row.split for row in read(tmp_path, "", {"label": "c", "split": "s"})] == ["test", "val"]


@pytest.mark.parametrize("names", [("train-0", "train-1"), ("val-0", "val-1"), ("train-0", "more-0"), ("a", "b")])
def test_names_that_tell_no_splits_apart_say_nothing(names: tuple[str, str], tmp_path: Path) -> None:
    """All shards of one split, or of training and no other, are a pool that the build cuts; images keep their names."""
    for number, name in enumerate(names):
        shard(tmp_path / f"{name}.tar", {f"{number}.jpg": JPEG, f"{number}.cls": "1"})
    assert sorted((row.name, row.split) for row in read(tmp_path)) == [("0.jpg", ""), ("1.jpg", "")]


def test_keys_that_are_counted_from_0_in_each_split(tmp_path: Path) -> None:
    """ShardWriter's usual keys come in each split: names begin with the split where an image of another has the same,
    named by source= or by the shards. Where no name comes twice, none is changed.
    """
    for split, count in (("train", 3), ("val", 2)):
        members = {f"{i:06d}.{end}": data for i in range(count) for end, data in (("jpg", JPEG), ("cls", "1"))}
        shard(tmp_path / f"birds-{split}-000000.tar", members)
    expected = [*((f"train/{i:06d}.jpg", "train") for i in range(3)), *((f"val/{i:06d}.jpg", "val") for i in range(2))]
    paths = tuple((tmp_path / f"birds-{split}-{{000000..000000}}.tar", split) for split in ("train", "val"))
    for asked in (Asked(((tmp_path, ""),), tmp_path), Asked(paths, tmp_path)):
        assert [(row.name, row.split) for row in webdataset.rows(asked)] == expected
    shard(
        tmp_path / "birds-val-000000.tar",
        {"9.jpg": JPEG, "9.cls": "1", "000000.png": sources.png(1), "000000.cls": "1"},
    )
    assert [row.name for row in read(tmp_path)] == [*(f"{i:06d}.jpg" for i in range(3)), "000000.png", "9.jpg"]


def test_one_of_several_images_is_chosen(tmp_path: Path) -> None:
    """Which file is the image has to be said where a sample has two."""
    path = shard(tmp_path / "a.tar", {"x.left.jpg": JPEG, "x.right.jpg": b"other", "x.cls": "1"})
    assert read(path, "", {"path": "right.jpg"})[0].where.read() == b"other"
    with pytest.raises(DataError, match=r"a.tar, sample x: has 2 images, .left.jpg, .right.jpg; columns=path:left.jpg"):
        read(path)


def test_what_belongs_to_no_sample_is_counted(tmp_path: Path) -> None:
    """Hidden files and webdataset's own notes are left out, with their names."""
    path = shard(tmp_path / "a.tar", {".hidden": "", "__notes__.json": "{}", "x.jpg": JPEG, "x.cls": "1"})
    asked = Asked(((path, ""),), tmp_path)
    assert len(list(webdataset.rows(asked))) == 1
    assert asked.notices.lines() == [f"2 left out: {webdataset.NO_SAMPLES} (a.tar/.hidden, a.tar/__notes__.json)"]


def test_only_shards_of_samples_are_recognised(tmp_path: Path) -> None:
    """Tars of class folders, empty folders and other files are for other formats."""
    shard(tmp_path / "classes" / "n01.tar", {"robin/1.jpg": JPEG, "robin/2.jpg": JPEG})
    (tmp_path / "list.txt").write_text("a.jpg 1\n")
    (tmp_path / "empty").mkdir()
    for name in ("classes", "classes/n01.tar", "list.txt", "empty", "nothing", "no-{0..3}.tar"):
        assert not webdataset.recognises(tmp_path / name), name


@pytest.mark.parametrize(
    "members, columns, sentence",
    [
        ({"x.cls": "1"}, {}, "a.tar, sample x: has no image beside .cls"),
        ({"x.jpg": JPEG, "x.cls": "1"}, {"path": "png"}, "a.tar, sample x: has no image .png beside .cls, .jpg"),
        ({"x.jpg": JPEG}, {}, "a.tar, sample x: has no label: no .cls beside .jpg"),
        ({"x.jpg": JPEG, "x.json": '{"a": 1, "b": 2}'}, {}, "columns=label:FIELD may name one of a, b"),
        ({"x.jpg": JPEG, "x.cls": " \n"}, {}, "its .cls is empty"),
        ({"x.jpg": JPEG, "x.cls": b"\xff"}, {}, "x.cls is not UTF-8 text"),
        ({"x.jpg": JPEG, "x.json": '{"label": 1}'}, {"label": "lable"}, "its .json has no lable; did you mean label?"),
        ({"x.jpg": JPEG, "x.json": '{"label": null}'}, {"label": "label"}, "label is None; a text or a whole number"),
        ({"x.jpg": JPEG, "x.json": "[1]"}, {"label": "label"}, "its .json is no object"),
        ({"x.jpg": JPEG, "x.json": "{"}, {"label": "label"}, "its .json is no whole JSON"),
        ({"x.jpg": JPEG, "x.JPG": JPEG, "x.cls": "1"}, {}, "has two files .jpg; one is legal"),
    ],
)
def test_a_bad_sample_is_named(tmp_path: Path, members: Members, columns: dict[str, str], sentence: str) -> None:
    """One sentence with the tar and the key."""
    path = shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError) as caught:
        read(path, "", columns)
    assert sentence in str(caught.value) and f"{path}, sample x" in str(caught.value)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    """format=webdataset of a folder that has no tars."""
    with pytest.raises(DataError, match=r"holds no .tar files, nor a folder train, val or test with some"):
        read(tmp_path)
