"""What was made from a source knows that source: an image that was replaced is built in, one that was moved or touched
costs nothing again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from recipes.common.errors import DataError
from sharding.building import packing
from sharding.building.packing import Copies, Planned, channel_statistics, finish, pack, source_changed
from sharding.building.raw_files import Place
from sharding.building.source_stamps import any_changed
from sharding.datasets.imagenet_glt import clustering, features
from sharding.datasets.imagenet_glt.archive import ClassImages, list_classes
from sharding.format.dataset import DATASET_FILE
from sharding.images.decoders import decode
from sharding.images.encoding import StoredSize
from tests.helpers import sources

IMAGES, IN_A_SHARD = 12, 3
AGAIN = "1 of 4 shards were made again because their source changed"
ORIGINAL = StoredSize()
KEPT = "4 of 4 shards were there already, checked and kept"


def folder_of(path: Path) -> Path:
    path.mkdir()
    for i in range(IMAGES):
        (path / f"{i}.jpg").write_bytes(sources.jpeg(i))
    return path


def in_folder(folder: Path) -> list[Place]:
    return [Place(str(folder / f"{i}.jpg"), root=str(folder)) for i in range(IMAGES)]


def in_archive(path: Path) -> list[Place]:
    images = list_classes(path, path.parent / f"work of {path.name}", 1)["n00000001"]
    return [images.place(i) for i in range(IMAGES)]


def packed(out: Path, places: Sequence[Place], stored: StoredSize = ORIGINAL) -> dict[str, list[float]]:
    """Pack one split of four shards, and return its statistics."""
    plan = {"glt/train": [Planned(f"k-{i}", f"s-{i}", place, i % 2, 0) for i, place in enumerate(places)]}
    indices = pack(out, plan, Copies(stored), options={}, workers=1, shard_samples=IN_A_SHARD)
    finish(out, indices)
    return channel_statistics(out / "glt/train", indices["glt/train"], 1)


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "glt/train").iterdir())}


def test_a_replaced_image_makes_its_shard_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A build refuses a bad image, and packs what it may; it and one that was packed already are replaced: the same
    command gives the bytes and statistics of a fresh build, says that one shard was made again, and the next keeps all.
    """
    raw = folder_of(tmp_path / "raw")
    (raw / "7.jpg").write_bytes(sources.jpeg(7)[:-150])
    with pytest.raises(DataError, match=r"7\.jpg: not a whole JPEG"):
        packed(tmp_path / "out", in_folder(raw))
    for i in (0, 7):
        (raw / f"{i}.jpg").write_bytes(sources.jpeg(100 + i))
    found = packed(tmp_path / "out", in_folder(raw))
    said = capsys.readouterr().out
    assert AGAIN in said and "2 of 4 shards were there already" in said
    assert found == packed(tmp_path / "fresh", in_folder(raw)) and shards(tmp_path / "out") == shards(
        tmp_path / "fresh"
    )
    packed(tmp_path / "out", in_folder(raw))
    assert KEPT in capsys.readouterr().out


def test_a_source_that_went_bad_takes_nothing_away(tmp_path: Path) -> None:
    """A finished data set whose source was damaged later stays as it is until a new shard is ready to take an old
    one's place.
    """
    raw = folder_of(tmp_path / "raw")
    packed(tmp_path / "out", in_folder(raw))
    (tmp_path / "out" / DATASET_FILE).write_text("{}")
    before = shards(tmp_path / "out")
    (raw / "1.jpg").write_bytes(sources.jpeg(1)[:-150])
    with pytest.raises(DataError, match=r"1\.jpg: not a whole JPEG"):
        packed(tmp_path / "out", in_folder(raw))
    assert shards(tmp_path / "out") == before and (tmp_path / "out" / DATASET_FILE).exists()
    (raw / "1.jpg").write_bytes(sources.jpeg(101))
    plan = {"glt/train": [Planned(f"k-{i}", f"s-{i}", where, i % 2, 0) for i, where in enumerate(in_folder(raw))]}
    pack(tmp_path / "out", plan, Copies(ORIGINAL), options={}, workers=1, shard_samples=IN_A_SHARD)
    assert not (tmp_path / "out" / DATASET_FILE).exists() and "index.npz" not in shards(tmp_path / "out")


def test_a_moved_or_touched_source_is_read_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other times and another place with the same bytes keep every shard: the images are read once more, and not again
    at the start after; images that are gone keep them, too.
    """
    packed(tmp_path / "out", in_folder(folder_of(tmp_path / "raw")))
    (tmp_path / "raw").rename(tmp_path / "moved")
    for i in range(IMAGES):
        os.utime(tmp_path / "moved" / f"{i}.jpg", ns=(10**9, i * 10**9))
    assert source_changed(tmp_path / "out", tmp_path / "moved")
    packed(tmp_path / "out", in_folder(tmp_path / "moved"))
    monkeypatch.setattr(Place, "traced", lambda place: pytest.fail(f"{place} is read again"))
    assert not source_changed(tmp_path / "out", tmp_path / "moved")
    packed(tmp_path / "out", in_folder(tmp_path / "moved"))
    shutil.rmtree(tmp_path / "moved")
    packed(tmp_path / "out", in_folder(tmp_path / "moved"))
    assert not source_changed(tmp_path / "out", tmp_path / "moved")
    assert capsys.readouterr().out.count(KEPT) == 3


def test_a_file_with_two_records_is_as_neither_if_it_changed_between(tmp_path: Path) -> None:
    """An image that two shards hold, replaced after the first was packed: the second's record does not vouch for the
    first. More files than one thread asks for are all looked at.
    """
    places = [Place(str(tmp_path / f"{i}"), root=str(tmp_path)) for i in range(200)]
    for place in places:
        Path(place.path).write_bytes(b"before")
    origins = [place.traced()[1] for place in places]
    assert not any_changed(tmp_path, origins)
    Path(places[180].path).write_bytes(b"behind it")
    assert any_changed(tmp_path, [*origins, places[180].traced()[1]])


def test_an_archive_is_compared_image_by_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another tar with one other image makes that image's shard again and keeps the rest; class folders with the same
    bytes keep all.
    """
    files = {f"n00000001_{i:02}.JPEG": sources.jpeg(i) for i in range(IMAGES)}
    packed(tmp_path / "out", in_archive(sources.tar_of_tars(tmp_path / "one.tar", {"n00000001": files})))
    files["n00000001_04.JPEG"] = sources.jpeg(104)
    other = in_archive(sources.tar_of_tars(tmp_path / "two.tar", {"n00000001": files}))
    packed(tmp_path / "out", other)
    assert AGAIN in (said := capsys.readouterr().out) and "3 of 4 shards were there already" in said
    tree = sources.tree(tmp_path / "tree", {"n00000001": files})
    packed(tmp_path / "out", in_archive(tree))
    assert KEPT in capsys.readouterr().out
    packed(tmp_path / "fresh", other)
    assert shards(tmp_path / "out") == shards(tmp_path / "fresh")


def test_an_archive_is_not_the_folder_that_was_packed(tmp_path: Path) -> None:
    """Class folders and the archive at whose path the source is now, each packed and then replaced by the other: no
    record of a file can be one of the new source. Nor is a file of a source without a folder any other file.
    """
    tree = folder_of(tmp_path / "raw")
    tar = sources.tar_of_tars(
        tmp_path / "one.tar", {"n00000001": {f"n{i:02}.JPEG": sources.jpeg(i) for i in range(12)}}
    )
    packed(tmp_path / "of folder", in_folder(tree))
    assert source_changed(tmp_path / "of folder", tar) and not source_changed(tmp_path / "of folder", tree)
    packed(tmp_path / "of tar", in_archive(tar))
    assert source_changed(tmp_path / "of tar", tree) and not source_changed(tmp_path / "of tar", tar)
    whole = [Place(str(tree / f"{i}.jpg")) for i in range(IMAGES)]
    packed(tmp_path / "of files", whole)
    assert not source_changed(tmp_path / "of files", None, [place.path for place in whole])
    shutil.rmtree(tree)
    assert not source_changed(tmp_path / "of files", None, [place.path for place in whole])
    assert source_changed(tmp_path / "of files", None, [place.path for place in whole[1:]])


def test_records_of_an_earlier_version_are_made_again_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shards that do not say what they were made from, or not in words of ours, are made again, in one line; a finished
    data set of such shards says that it cannot know.
    """
    places = in_folder(folder_of(tmp_path / "raw"))
    packed(tmp_path / "out", places)
    before = shards(tmp_path / "out")
    strange = ({}, {"sources": [[1, 2]] * 3, "doubtful": {}}, {"sources": [], "doubtful": {"odd": 1}}, {"sources": {}})
    records = sorted((tmp_path / "out" / packing.WORK / "shards").rglob("*.json"))
    for path, more in zip(records, strange, strict=True):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({"plan": record["plan"], "sha256": record["sha256"], **more}))
    assert not source_changed(tmp_path / "out", tmp_path / "raw")
    assert capsys.readouterr().out.startswith(
        "4 of 4 shards have no record of what they were made from (glt/train/shard-"
    )
    packed(tmp_path / "out", places)
    assert "4 of 4 shards were made again because an earlier version did not record" in capsys.readouterr().out
    packed(tmp_path / "out", places)
    assert KEPT in capsys.readouterr().out and shards(tmp_path / "out") == before


def test_one_damaged_record_is_said_of_its_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A record of four that is damaged, or gone: the sentence names its shard alone and what makes it whole, and a
    change behind another shard is seen as before.
    """
    raw = folder_of(tmp_path / "raw")
    packed(tmp_path / "out", in_folder(raw))
    record = sorted((tmp_path / "out" / packing.WORK / "shards").rglob("*.json"))[2]
    for damage in (lambda: record.write_bytes(b"\xff" + record.read_bytes()[1:]), record.unlink):
        damage()
        capsys.readouterr()
        assert not source_changed(tmp_path / "out", raw)
        said = capsys.readouterr().out
        assert "1 of 4 shards have no record of what they were made from (glt/train/shard-000002.tar), so" in said
        assert said.endswith("deleted, they are made again by the same command\n")
    os.utime(raw / "0.jpg", ns=(0, 0))
    assert source_changed(tmp_path / "out", raw)
    (tmp_path / "out" / "glt/train/shard-000002.tar").unlink()
    packed(tmp_path / "out", in_folder(raw))
    capsys.readouterr()
    assert not source_changed(tmp_path / "out", raw) and capsys.readouterr().out == ""


@pytest.mark.parametrize("stored", [StoredSize(), StoredSize(resize_short=16)], ids=["as they are", "resized"])
def test_statistics_of_the_shards_are_those_of_the_source(stored: StoredSize, tmp_path: Path) -> None:
    """To the digit: CMYK, grayscale, turned images and a PNG under a JPEG's name among them."""
    raw = folder_of(tmp_path / "raw")
    for i, data in enumerate(sources.odd(1).values()):
        (raw / f"{i}.jpg").write_bytes(data)
    found = packed(tmp_path / "out", in_folder(raw), stored)
    sums, squares, pixels = [0] * 3, [0] * 3, 0
    for place in in_folder(raw):
        image = np.asarray(decode(stored(place.read())[0])).reshape(-1, 3).astype(np.int64)
        pixels += len(image)
        sums = [a + int(b) for a, b in zip(sums, image.sum(0), strict=True)]
        squares = [a + int(b) for a, b in zip(squares, (image * image).sum(0), strict=True)]
    variance = [(v * pixels - s * s) / (255 * pixels) ** 2 for s, v in zip(sums, squares, strict=True)]
    assert found["mean"] == [round(s / (255 * pixels), 4) for s in sums]
    assert found["std"] == [round(v**0.5, 4) for v in variance]


# ------------------------------------------------------------------------------------------------ features and clusters
@pytest.fixture()
def classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ClassImages]:
    """Two classes of eight images; features are 2,048 of the pixels."""
    (tmp_path / "weights").write_bytes(b"weights")
    monkeypatch.setattr(
        features, "_network", lambda weights: lambda pixels: pixels.reshape(len(pixels), -1)[:, 90_000:92_048]
    )
    tree = sources.tree(tmp_path / "tree", sources.images_of({"n00000001": 8, "n00000002": 8}))
    return list(list_classes(tree, tmp_path, 1).values())


def test_features_and_clusters_follow_a_replaced_image(
    classes: list[ClassImages], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class of a replaced image gets new features, and with them new clusters; the other one keeps both, and so do
    touched files. Features of an earlier version are made again once.
    """
    digest = features.file_digest(tmp_path / "weights")

    def extracted() -> str:
        features.extract(classes, tmp_path / "features", tmp_path / "weights", 1)
        return capsys.readouterr().out

    assert extracted() == ""
    clustering.cluster_all(classes, [0, 1], tmp_path, digest, 0, 1)
    before = features.read(tmp_path / "features", classes[1], digest)
    os.utime(classes[0].place(3).path, ns=(0, 0))
    assert extracted() == "features of 2 of 2 classes are there already\n"
    Path(classes[1].place(3).path).write_bytes(sources.jpeg(77))
    assert features.read(tmp_path / "features", classes[1], digest) is None
    assert features.source_changed(tmp_path / "tree", tmp_path, 1)
    assert "1 of 2 classes are made again because their source changed" in extracted()
    assert not features.source_changed(tmp_path / "tree", tmp_path, 1)
    after = features.read(tmp_path / "features", classes[1], digest)
    assert [(a != b).any() for a, b in zip(before, after, strict=True)] == [i == 3 for i in range(8)]
    assert clustering.read(tmp_path, classes[0], digest, 0) is not None
    assert clustering.read(tmp_path, classes[1], digest, 0) is None
    assert clustering.digest(classes, tmp_path, digest, 0) == "outdated"
    old = tmp_path / "features" / "n00000002.npz"
    np.savez(old, features=after, names=np.array(classes[1].names), weights=digest)
    assert "1 of 2 classes are made again because an earlier version did not record" in extracted()


def test_an_image_more_is_noticed(classes: list[ClassImages], tmp_path: Path) -> None:
    """A finished build looks for images that came to its source, too; a source that is gone it does not need."""
    features.extract(classes, tmp_path / "features", tmp_path / "weights", 1)
    assert not features.source_changed(tmp_path / "tree", tmp_path, 1)
    (tmp_path / "tree" / "n00000001" / "n00000001_99.JPEG").write_bytes(sources.jpeg(1))
    assert features.source_changed(tmp_path / "tree", tmp_path, 1)
    shutil.rmtree(tmp_path / "tree")
    assert not features.source_changed(tmp_path / "tree", tmp_path, 1)
    (tmp_path / "tree").mkdir()
    assert not features.source_changed(tmp_path / "tree", tmp_path, 1)
