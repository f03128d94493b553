"""A tar or zip of class folders as a source."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from recipes.common.errors import DataError
from sharding.building.notices import Notices
from sharding.building.raw_files import Zipped
from tests.helpers.labelled import owls, picture, put, read, said


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    owls(tmp_path / "in" / "owls")
    return tmp_path / "in"


def tarred(tree: Path, name: str, mode: str = "w") -> Path:
    path = tree.parent / name
    with tarfile.open(path, mode) as tar:
        tar.add(tree, ".")
    return path


def zipped(tree: Path, compression: int = zipfile.ZIP_STORED, force_zip64: bool = False) -> Path:
    path = tree.parent / "owls.zip"
    with zipfile.ZipFile(path, "w", compression) as zip_file:
        for file in sorted(tree.rglob("*.png")):
            with zip_file.open(str(file.relative_to(tree)), "w", force_zip64=force_zip64) as member:
                member.write(file.read_bytes())
    return path


def test_a_tar_is_its_folder(tree: Path) -> None:
    """A tar gives the images of its folder, from their places in it."""
    rows = read(tarred(tree, "owls.tar"))
    assert said(rows) == said(read(tree))
    assert {row.where.path for row in rows} == {str(tree.parent / "owls.tar")}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_its_folder(tree: Path, compression: int) -> None:
    """So does a zip, whether its members are stored or deflated."""
    rows = read(zipped(tree, compression))
    assert said(rows) == said(read(tree))
    assert {isinstance(row.where, Zipped) and row.where.deflated for row in rows} == {
        compression == zipfile.ZIP_DEFLATED
    }


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_a_zip_is_named(tree: Path, compression: int) -> None:
    """A zip has the checksum of each member, by which a wrong byte is told whether it is stored or deflated."""
    path = zipped(tree, compression)
    where = read(path)[0].where
    data = bytearray(path.read_bytes())
    data[where.offset + where.size // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"owls.zip, member .*0 x.png: damaged in the archive"):
        where.read()


def test_zip64(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip with more members than 16 bits count, and places that 32 bits do not hold, is read."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 50)
    path = zipped(tree, force_zip64=True)
    assert b"PK\x06\x06" in path.read_bytes()
    assert said(read(path)) == said(read(tree))


def test_a_zip_behind_something_else(tree: Path) -> None:
    """Bytes in front of a zip, as of a program that unpacks it, move all places."""
    path = zipped(tree)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert said(read(path, format="archive")) == said(read(tree))


def test_links_and_empty_classes_of_a_tar(tree: Path) -> None:
    """Links in a tar are the files that they point to; a folder without images is an empty class."""
    (tree / "owls" / "barn owl" / "link.png").symlink_to("0 x.png")
    notices = Notices()
    rows = read(tarred(tree, "owls.tar"), notices=notices)
    assert said(rows) == said(read(tree))
    (tree / "owls" / "none").mkdir()
    with pytest.raises(DataError, match="class folder owls/none holds no image"):
        read(tarred(tree, "owls.tar"))


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_unpacked_once(tree: Path, ending: str) -> None:
    """It is unpacked to a plain tar in the work folder, and again only when its bytes have changed."""
    path = tarred(tree, f"owls.tar.{ending}", f"w:{ending}")
    assert said(read(path)) == said(read(tree))
    (plain,) = (tree.parent / "work" / "unpacked").glob("*-owls.tar")
    first = plain.stat().st_mtime_ns
    os.utime(path, ns=(1, 1))
    read(path)
    assert plain.stat().st_mtime_ns == first
    assert json.loads((plain.parent / f"{path.name}.json").read_text())["stamp"][2] == 1
    put(tree, "owls/new/1.png")
    assert said(read(tarred(tree, path.name, f"w:{ending}"))) == said(read(tree))


def test_a_damaged_compressed_tar_is_refused(tree: Path) -> None:
    """A download that was not finished leaves nothing that a later start could take for whole."""
    path = tarred(tree, "owls.tar.gz", "w:gz")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"owls.tar.gz: is cut off or damaged"):
        read(path, format="archive")
    assert list((tree.parent / "work" / "unpacked").iterdir()) == []


def test_a_tar_that_ends_early_is_still_one(tree: Path) -> None:
    """The sentence tells of the damage, and not of formats, though the format is not named."""
    path = tarred(tree, "owls.tar")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3 - 100])
    with pytest.raises(DataError, match="not a whole one"):
        read(path)


def test_no_room_to_unpack(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What unpacking needs is said before it begins."""
    path = tarred(tree, "owls.tar.gz", "w:gz")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(DataError, match=r"make room, or name a plain file"):
        read(path)


def test_other_compression_in_a_zip_is_refused(tree: Path) -> None:
    """What Python's zlib cannot read is named with what would be legal."""
    with pytest.raises(DataError, match=r"0 x.png: is compressed by bzip2; stored or deflated"):
        read(zipped(tree, zipfile.ZIP_BZIP2))


def test_an_encrypted_zip_is_refused(tree: Path) -> None:
    """A member that needs a password ends the reading."""
    path = zipped(tree)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="is encrypted; a zip without a password"):
        read(path)


def test_a_member_behind_the_end_of_a_zip_is_refused(tree: Path) -> None:
    """A place of 64 bits that no file has ends the reading."""
    path = zipped(tree)
    data = bytearray(path.read_bytes())
    member = data.index(b"PK\x01\x02")
    name = int.from_bytes(data[member + 28 : member + 30], "little")
    data[member + 42 : member + 46] = b"\xff" * 4
    data[member + 30 : member + 32] = (12).to_bytes(2, "little")
    data[member + 46 + name : member + 46 + name] = b"\x01\0\x08\0" + b"\xff" * 8
    end = data.rindex(b"PK\x05\x06") + 12
    data[end : end + 4] = (int.from_bytes(data[end : end + 4], "little") + 12).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="ends behind the end of the file"):
        read(path, format="archive")


@pytest.mark.parametrize("keep", [-3, -200])
def test_a_zip_that_ends_early_is_refused(tree: Path, keep: int) -> None:
    """Of a zip that is not whole nothing is read."""
    path = zipped(tree)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="is not a zip, or not a whole one"):
        read(path)


@pytest.mark.parametrize("name", ["../x/1.png", "/etc/1.png"])
def test_members_outside_are_refused(tmp_path: Path, name: str) -> None:
    """A member whose path leaves the archive ends the reading."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(picture(0))
        tar.addfile(member, io.BytesIO(picture(0)))
    with pytest.raises(DataError, match=f"member {name} leaves the archive"):
        read(path)


def test_shards_are_no_archive_of_class_folders(tmp_path: Path) -> None:
    """A tar with labels beside its images is a WebDataset shard, which another format reads."""
    from sharding.sources import archive

    put(tmp_path / "in", "a/1.png", "a/2.png")
    (tmp_path / "in" / "a" / "1.cls").write_text("0")
    assert not archive.recognises(tarred(tmp_path / "in", "shard.tar"))
