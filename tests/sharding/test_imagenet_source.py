"""What lies in ILSVRC's folders or archive is an image of the data set, is named and counted, or ends the build."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from recipes.common.errors import DataError
from sharding import build
from sharding.building.listing import DEAD_LINKS, FOLDERS, NOT_PLAIN
from sharding.building.notices import ALIKE
from sharding.checks.dataset import check_across, check_notices
from sharding.checks.report import Findings
from sharding.datasets.imagenet_glt.archive import BESIDE, NO_IMAGES, list_classes
from sharding.open import open_dataset
from tests.helpers import sources
from tests.helpers.imagenet import SIZES, authors_files, built, content, plant, refused, words


@pytest.fixture(scope="module")
def authors(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return authors_files(root, tmp_path_factory.mktemp("authors"))


LEFT_OUT = {
    DEAD_LINKS: ["n00000099", "n00000003/dead.JPEG"],
    NOT_PLAIN: ["n00000003/pipe.JPEG"],
    FOLDERS: ["n00000003/more"],
    NO_IMAGES: ["n00000003/.hidden.JPEG", "n00000003/a.webp", "n00000003/caf\\xe9.txt"],
    BESIDE: ["N00000002", "README.txt", "n00000002.TAR", "n00000002.tar.gz"],
}
"""What `littered` lays beside classes and images, by reason."""


@pytest.fixture()
def littered(raw: Path, tmp_path: Path) -> Path:
    """A copy of the planted folders with what people's folders hold besides."""
    source = tmp_path / "source" / "tree"
    shutil.copytree(raw / "tree", source)
    shutil.copy(raw / "weights.pth", source.parent)
    (source / "n00000099").symlink_to("nowhere")
    (source / "N00000002").mkdir()
    for name in ("n00000002.TAR", "n00000002.tar.gz"):
        (source / name).write_bytes(b"")
    one = source / "n00000003"
    (one / "dead.JPEG").symlink_to("none.JPEG")
    os.mkfifo(one / "pipe.JPEG")
    (one / "more").mkdir()
    for name in (".hidden.JPEG", "a.webp", os.fsdecode(b"caf\xe9.txt")):
        (one / name).write_bytes(b"")
    return source.parent


def test_what_is_left_out_is_named_for_ever(
    littered: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a folder holds besides is named and counted by the first stage, by the last lines of the last one, in
    dataset.json and by verify as warnings; the shards are those of the images alone.
    """
    plant(littered, tmp_path)
    lines = {f"{len(names)} left out: {reason} ({', '.join(names)})" for reason, names in LEFT_OUT.items()}
    assert build.main(words(littered, tmp_path, "tree", "stage=index")) == 0
    assert set(capsys.readouterr().out.splitlines()) == lines
    for stage in ("clusters", "split", "pack", "finish"):
        assert build.main(words(littered, tmp_path, "tree", f"stage={stage}")) == 0
    assert set(capsys.readouterr().out.splitlines()[-1 - len(lines) : -1]) == lines
    notes = open_dataset(tmp_path, "imagenet_glt").meta["notes"]
    assert (
        notes["left_out"] == {reason: {"count": len(names), "first": names} for reason, names in LEFT_OUT.items()}
        and "doubtful" not in notes
    )
    found = Findings(100)
    check_notices(notes, found)
    assert {str(finding).partition("by the build, ")[2] for finding in found.first()} == lines
    other = content(root)
    assert {name: digest for name, digest in content(tmp_path).items() if other[name] != digest}.keys() == {
        "dataset.json"
    }


def test_an_image_that_was_left_out_is_not_called_missing(
    littered: Path, authors: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the authors' files need it, the sentence says why it was left out; so with a class."""
    base = [
        "data=imagenet_glt",
        f"source={littered / 'tree'}",
        f"out={tmp_path}",
        "workers=1",
        f"annotation={authors[0]}",
    ]
    needed = next(iter(json.loads(authors[0].read_text())["train"]["label"])).removeprefix("/theirs/ILSVRC/train/")
    image = littered / "tree" / needed
    image.rename(image.with_suffix(".kept"))
    image.symlink_to("nowhere")
    why = f"has no such image: {needed} is among the {DEAD_LINKS} (named by annotation="
    assert why in refused(capsys, base)
    folder = image.parent
    folder.rename(folder.with_name("elsewhere"))
    (folder.parent / f"{folder.name}.tar.gz").write_bytes(b"")
    assert f"has no class {folder.name}: {folder.name}.tar.gz is among the {BESIDE}" in refused(capsys, base)


def test_a_link_that_is_mended_is_seen(littered: Path, tmp_path: Path) -> None:
    """A folder of which something was left out is listed at every start: its time does not tell that a link leads
    somewhere now. So is one that an older version listed.
    """
    tree, work = littered / "tree", tmp_path / "work"
    before = len(list_classes(tree, work, 1)["n00000003"])
    whole = tmp_path / "whole.JPEG"
    os.rename(tree / "n00000003" / "dead.JPEG", whole)
    whole.unlink()
    (tree / "n00000003" / "late.JPEG").symlink_to(whole)
    assert len(list_classes(tree, work, 1)["n00000003"]) == before
    whole.write_bytes(sources.jpeg(1))
    assert len(list_classes(tree, work, 1)["n00000003"]) == before + 1
    with np.load(work / "source" / "n00000011.npz") as kept:
        old = {name: kept[name] for name in kept.files if name != "left_out"}
    np.savez(work / "source" / "n00000011.npz", **old)
    list_classes(tree, work, 1)
    with np.load(work / "source" / "n00000011.npz") as kept:
        assert "left_out" in kept.files


def test_links_in_class_tars_are_images(tmp_path: Path) -> None:
    """Hard and symbolic links are the images that they lead to, in the inner tars and between these; an image or class
    tar that tar was told twice, which is a link to itself, is one; what leads nowhere is left out by name.
    """
    jpeg = sources.jpeg(3)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as inner:
        sources._add(inner, "0.JPEG", jpeg)
        for name, kind, target in (
            ("0.JPEG", tarfile.LNKTYPE, "0.JPEG"),
            ("x/0.JPEG", tarfile.LNKTYPE, "0.JPEG"),
            ("1.JPEG", tarfile.LNKTYPE, "0.JPEG"),
            ("2.JPEG", tarfile.SYMTYPE, "1.JPEG"),
            ("3.JPEG", tarfile.SYMTYPE, "../0.JPEG"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            inner.addfile(link)
    with tarfile.open(tmp_path / "train.tar", "w") as outer:
        sources._add(outer, "n00000001.tar", buffer.getvalue())
        for name, kind in (("n00000002.tar", tarfile.SYMTYPE), ("n00000001.tar", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "n00000001.tar"
            outer.addfile(link)
    classes = list_classes(tmp_path / "train.tar", tmp_path, 1)
    for name in ("n00000001", "n00000002"):
        assert classes[name].names == ("0.JPEG", "1.JPEG", "2.JPEG")
        assert [classes[name].place(i).read() for i in range(3)] == [jpeg] * 3
    assert classes.notices().added_to({}) == {
        "left_out": {DEAD_LINKS: {"count": 2, "first": ["n00000001/3.JPEG", "n00000002/3.JPEG"]}}
    }


@pytest.mark.parametrize("words", [["scale=0.2"], ["annotation"]], ids=["our splits", "the authors' splits"])
def test_a_damaged_archive_is_refused_by_file_tar_and_byte(
    words: list[str], raw: Path, authors: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit of a header's checksum, of an image in a class tar or of a class tar: the build ends with the file, the
    tar and the byte, and no image is called missing.
    """
    source = tmp_path / "train.tar"
    words = [f"annotation={authors[0]}"] if words == ["annotation"] else [*words, f"weights={raw / 'weights.pth'}"]
    base = ["data=imagenet_glt", f"source={source}", f"out={tmp_path}", "workers=1", *words]
    with tarfile.open(raw / "train.tar") as outer:
        tar = outer.getmember("n00000020.tar")
        with tarfile.open(fileobj=outer.extractfile(tar)) as inner:
            image = inner.getmember("n00000020_7.JPEG")
    for at, sentence in (
        (
            tar.offset_data + image.offset,
            f"{source}: its inner tar n00000020.tar is not a tar, or not a whole one (damaged header behind "
            "n00000020_6.JPEG",
        ),
        (tar.offset, f"source={source} is not a tar, or not a whole one (damaged header behind n00000011.tar"),
    ):
        data = bytearray((raw / "train.tar").read_bytes())
        data[at + 150] ^= 1
        source.write_bytes(data)
        assert f"{sentence}, at byte {at})" in refused(capsys, base)


def test_images_that_cannot_be_told_apart_or_named_are_refused(tmp_path: Path) -> None:
    """Two of one name in a class tar, two tars of one class, and a name that is not UTF-8: at the listing, with both
    places, or the name written out and what to do.
    """
    jpeg = sources.jpeg(1)

    def listed(*inner: str) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in inner:
                sources._add(tar, name, jpeg)
        with tarfile.open(tmp_path / "train.tar", "w") as outer:
            sources._add(outer, "n00000001.tar", buffer.getvalue())
        list_classes(tmp_path / "train.tar", tmp_path / "work", 1)

    with pytest.raises(
        DataError, match=r"class n00000001 of .*two images of one name, x/a.JPEG at byte 1024 and y/a.JPEG"
    ):
        listed("x/a.JPEG", "y/a.JPEG")
    with pytest.raises(
        DataError, match=r"class n00000001 of .* an image named caf\\xe9.JPEG, which is not UTF-8; renamed"
    ):
        listed(os.fsdecode(b"caf\xe9.JPEG"))
    with pytest.raises(
        DataError, match=r"class n00000001 of .* has no images \(1 other .*, such as n00000001/a.webp\)"
    ):
        listed("a.webp")
    (tmp_path / "tree" / "n00000001").mkdir(parents=True)
    (tmp_path / "tree" / "n00000001" / os.fsdecode(b"caf\xe9.JPEG")).write_bytes(jpeg)
    with pytest.raises(DataError, match=r"an image named caf\\xe9.JPEG, which is not UTF-8"):
        list_classes(tmp_path / "tree", tmp_path / "work", 1)
    with tarfile.open(tmp_path / "two.tar", "w") as outer:
        for name in ("x/n00000001.tar", "y/n00000001.tar"):
            sources._add(outer, name, sources.inner_tar({"a.JPEG": jpeg}))
    with pytest.raises(
        DataError, match=r"two tars of class n00000001, x/n00000001.tar at byte 512 and y/n00000001.tar at"
    ):
        list_classes(tmp_path / "two.tar", tmp_path / "work", 1)
    with tarfile.open(tmp_path / "nothing.tar", "w") as outer:
        sources._add(outer, "n00000001.tar", b"")
    with pytest.raises(DataError, match=r"inner tar n00000001.tar is not a tar, or not a whole one \(empty file"):
        list_classes(tmp_path / "nothing.tar", tmp_path / "work", 1)


def test_equal_file_names_in_all_classes_make_a_whole_data_set(raw: Path, tmp_path: Path) -> None:
    """0.JPEG in every class, names without a letter that keys may have, and two names of one class that differ in case
    or extension: keys are told apart, the build ends, verify finds nothing in keys, and it is said that the names are
    alike.
    """
    for number, name in enumerate(SIZES):
        (tmp_path / "tree" / name).mkdir(parents=True)
        for i, path in enumerate(sorted((raw / "tree" / name).iterdir())):
            letter = chr(0x4E00 + i % 90) + ("" if i < 90 else "x")
            (tmp_path / "tree" / name / f"{letter if number else i}.JPEG").write_bytes(path.read_bytes())
    files = sorted((tmp_path / "tree" / "n00000003").iterdir())
    files[1].rename(files[0].with_suffix(".jpg"))
    (tmp_path / "weights.pth").write_bytes(b"planted")
    built(tmp_path, tmp_path, "tree")
    dataset = open_dataset(tmp_path, "imagenet_glt")
    assert dataset.meta["notes"]["doubtful"] == {ALIKE: {"count": 2, "first": ["n00000003/0.JPEG", "n00000003/0.jpg"]}}
    indices = {
        relative: dataset.split(edition, name).index
        for edition, splits in dataset.editions.items()
        for name, relative in splits.items()
    }
    found = Findings(1000)
    check_across(dataset.meta, indices, found, Findings(1), Findings(1))
    assert not [finding for finding in found.first() if finding.text.startswith("key ")]
