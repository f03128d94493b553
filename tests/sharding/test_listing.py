"""What lies in a folder or a tar is taken, counted by name and reason, or refused: nothing is lost without a word."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import tarfile
import zipfile
from pathlib import Path

import pytest

from recipes.common.errors import DataError
from sharding.building.listing import (
    DEAD_LINKS,
    FOLDERS,
    MOST_ZEROS,
    NOT_PLAIN,
    File,
    is_utf8,
    list_folder,
    list_tar,
    shown,
)
from sharding.building.raw_files import Place

BLOCK = tarfile.BLOCKSIZE


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def packed(*members: tarfile.TarInfo | bytes, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of these members; a file's bytes are its name, over and over, and raw bytes stand for themselves."""
    parts = []
    for one in members:
        if isinstance(one, bytes):
            parts.append(one)
        else:
            parts.append(one.tobuf(form, "utf-8", "surrogateescape") + content(one.name, one.size))
            parts.append(b"\0" * (-one.size % BLOCK))
    return b"".join(parts) + b"\0" * 2 * BLOCK


def content(name: str, size: int) -> bytes:
    return (os.fsencode(name) * (size // len(os.fsencode(name)) + 1))[:size]


def files(count: int) -> list[tarfile.TarInfo]:
    return [member(f"{i}.JPEG", size=700) for i in range(count)]


@pytest.fixture()
def tar(tmp_path: Path):
    """Lists a tar of the given bytes as it is, or between other bytes of a larger file: the same, or the same sentence
    with the bytes counted in the file.
    """

    def listed(data: bytes, before: int = 0) -> list[File]:
        (tmp_path / "a.tar").write_bytes(b"x" * before + data + b"x" * before)
        found = list_tar(tmp_path / "a.tar", "it", before, len(data))
        assert found == found.sorted() and (before or found == list_tar(tmp_path / "a.tar", "it"))
        for file in found.files:
            place = Place(str(tmp_path / "a.tar"), file.offset, file.size)
            assert len(place.read()) == file.size
        return found

    return listed


def test_a_tar_in_a_tar_gives_every_file_its_bytes(tar, tmp_path: Path) -> None:
    """Plain files in folders, with names of any length and alphabet in both formats, a contiguous one, an empty one and
    sizes in base 256: all are there, in the order of their names, and the places hold their bytes.
    """
    odd = packed(member("base256", size=900))[: 2 * BLOCK + BLOCK]
    header = bytearray(odd[:BLOCK])
    header[124:136] = b"\x80" + (900).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        names = ["a.JPEG", "d/" * 60 + "long.JPEG", "犬/猫.JPEG", "x" * 200, "empty"]
        members = [member(name, size=0 if name == "empty" else 600) for name in names]
        data = packed(
            member("d", tarfile.DIRTYPE),
            *members,
            member("c", tarfile.CONTTYPE, size=3),
            bytes(header) + odd[BLOCK:],
            form=form,
        )
        found = tar(data, before=4096)
        assert [file.name for file in found.files] == sorted([*names, "c", "base256"]) and found.others == []
        for name, offset, size in found.files:
            assert (tmp_path / "a.tar").read_bytes()[offset : offset + size] == content(name, size)


def test_links_are_the_files_that_they_lead_to(tar) -> None:
    """Hard and symbolic links, relative, over several steps and before their file, have their file's bytes; one that
    leads out of the tar, nowhere, to a folder or in a circle is named with the reason.
    """
    found = tar(
        packed(
            member("n/early", tarfile.SYMTYPE, "late"),
            member("n/a", size=700),
            member("./n/hard", tarfile.LNKTYPE, "n/a"),
            member("n/soft", tarfile.SYMTYPE, "../n/hard"),
            member("n/late", size=300),
            member("n/out", tarfile.SYMTYPE, "/n/a"),
            member("n/none", tarfile.LNKTYPE, "a"),
            member("n/folder", tarfile.SYMTYPE, "."),
            member("n/round", tarfile.SYMTYPE, "round"),
        )
    )
    place = {file.name: (file.offset, file.size) for file in found.files}
    assert place["./n/hard"] == place["n/soft"] == place["n/a"] and place["n/early"] == place["n/late"]
    assert found.others == [(f"n/{name}", DEAD_LINKS) for name in ("folder", "none", "out", "round")]


def test_what_is_no_file_is_named(tar) -> None:
    """Pipes, devices and kinds that Python's tarfile does not know are named with the reason; folders, those of an
    incremental backup too, and a volume's label are not.
    """
    kinds = {"pipe": tarfile.FIFOTYPE, "disk": tarfile.BLKTYPE, "tty": tarfile.CHRTYPE, "other": b"Z"}
    folders = member("d", tarfile.DIRTYPE), member("backup", b"D", size=20), member("label", b"V")
    found = tar(packed(*(member(name, kind) for name, kind in kinds.items()), *files(1), *folders))
    assert [file.name for file in found.files] == ["0.JPEG"]
    assert found.others == [(name, NOT_PLAIN) for name in sorted(kinds)]


HEADER = 3 * (BLOCK + 1024)
"""Where the header of the fourth of `files` begins."""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: flip(data, HEADER + 148), f"damaged header behind 2.JPEG, at byte {HEADER + 512}"),
        (lambda data: flip(data, HEADER + 20), f"damaged header behind 2.JPEG, at byte {HEADER + 512}"),
        (lambda data: flip(data, 148), "bad checksum, at byte 512"),
        (
            lambda data: data[:HEADER] + b"\0" * BLOCK + data[HEADER + BLOCK :],
            f"zeros where a header is due, at byte {HEADER + 512}, and more behind them, at byte {HEADER + 1024}",
        ),
        (
            lambda data: data + packed(*files(2)),
            f"zeros where a header is due, at byte {2 * HEADER + 512}, and more behind them, at byte "
            f"{2 * HEADER + 1536}",
        ),
        (lambda data: data[:HEADER], f"no end mark, two blocks of zeros, behind 2.JPEG, at byte {HEADER + 512}, so"),
        (
            lambda data: data[: -2 * BLOCK],
            f"no end mark, two blocks of zeros, behind 5.JPEG, at byte {2 * HEADER + 512},",
        ),
        (lambda data: data[:-BLOCK], "no end mark, two blocks of zeros, behind 5.JPEG"),
        (lambda data: data[: HEADER + 30], f"unexpected end of data in a header behind 2.JPEG, at byte {HEADER + 542}"),
        (lambda data: data[: HEADER - 30], f"unexpected end of data in or behind 2.JPEG, at byte {HEADER + 482}"),
        (lambda data: data[:HEADER] + long_name()[:700], "unexpected end of data in or behind 2.JPEG"),
        (
            lambda data: data[:HEADER] + flip(long_name(), 1024 + 148) + data[HEADER:],
            f"bad checksum, at byte {HEADER + 512 + 1024}",
        ),
        (
            lambda data: data[:HEADER] + sized(-512) + data[HEADER:],
            f"damaged header behind 2.JPEG, at byte {HEADER + 512}",
        ),
        (
            lambda data: data[: -2 * BLOCK] + packed(lost(-5)),
            f"damaged header behind 5.JPEG, at byte {2 * HEADER + 512}",
        ),
        (
            lambda data: data[:HEADER] + long_name()[:512] + bytes(512) + long_name()[1024:] + data[HEADER:],
            f"no name of what is behind 2.JPEG, at byte {HEADER + 512}",
        ),
        (lambda data: b"", "empty file, at byte 512"),
        (lambda data: b"no tar", "truncated header, at byte 512"),
    ],
    ids=[
        "a bit of a checksum",
        "a bit of a name",
        "a bit of the first header",
        "a header of zeros",
        "two tars",
        "cut before a header",
        "no end mark",
        "half an end mark",
        "cut in a header",
        "cut in a file",
        "cut in a long name",
        "damage behind a long name",
        "a size below 0",
        "a size below 0 of the last, by an extended header",
        "a name of zeros",
        "nothing",
        "something else",
    ],
)
def test_a_damaged_tar_is_refused(change, sentence: str, tar) -> None:
    """One bit, a stretch of zeros, a lost end, more behind the end: the sentence says what and at which byte of the
    file, and no image is listed.
    """
    data = packed(*files(6))
    assert len(tar(data, before=512).files) == 6
    with pytest.raises(DataError) as caught:
        tar(change(data), before=512)
    assert f"it is not a tar, or not a whole one ({sentence}" in str(caught.value), str(caught.value)


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def long_name() -> bytes:
    """A member whose long name fills a block of its own."""
    return member("y" * 300, size=10).tobuf(tarfile.GNU_FORMAT, "utf-8") + b"\0" * BLOCK


def sized(size: int) -> bytes:
    """A header, whole by its checksum, of a member of that size in base 256."""
    header = bytearray(member("back").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def lost(size: int) -> bytes:
    """A member of 700 bytes whose extended header says another size: where tarfile refuses it, it stands behind it."""
    info = member("lost.JPEG", size=700)
    info.pax_headers = {"size": str(size)}
    return info.tobuf(tarfile.PAX_FORMAT) + content(info.name, info.size) + b"\0" * (-info.size % BLOCK)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_sparse_member_is_refused(form: str, tar) -> None:
    """Its bytes do not lie in one stretch, so they would be read wrongly."""
    if form == "gnu":
        header = bytearray(member("hole.JPEG", tarfile.GNUTYPE_SPARSE, size=512).tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"%011o\0%011o\0" % (4096, 512)
        header[483:495] = b"%011o\0" % 4608
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data = bytes(header) + b"x" * 512
    else:
        info = member("hole.JPEG", size=512)
        info.pax_headers = {"GNU.sparse.map": "4096,512", "GNU.sparse.size": "4608"}
        data = info.tobuf(tarfile.PAX_FORMAT) + b"x" * 512
    with pytest.raises(
        DataError, match=r"^it has a sparse member .hole.JPEG, at byte 1224.; one made by tar without --"
    ):
        tar(packed(data), before=1224)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_later_volume_is_refused(form: str, tar) -> None:
    """The last of several volumes begins with the rest of a file, which is no image."""
    info = member("0.JPEG", b"M", size=300) if form == "gnu" else member("GNUFileParts/0.JPEG.2", size=300)
    info.pax_headers = {} if form == "gnu" else {"GNU.volume.filename": "0.JPEG", "GNU.volume.offset": "724"}
    first = info.tobuf(tarfile.GNU_FORMAT if form == "gnu" else tarfile.PAX_FORMAT) + b"x" * 300 + b"\0" * 212
    sentence = (
        r"^it is a volume of several .*0.JPEG.*, at byte 1224, began in the one before.; unpack all by tar --multi"
    )
    with pytest.raises(DataError, match=sentence):
        tar(packed(first, *files(2)), before=1224)


@pytest.mark.parametrize("program", ["gzip", "bzip2", "xz", "zip"])
def test_a_compressed_tar_is_called_so(program: str, tar) -> None:
    """A .tgz and its like; a damaged tar whose first name begins like theirs is not."""
    whole, buffer = packed(*files(2)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.tar", whole)
    data = {"gzip": gzip.compress(whole), "bzip2": bz2.compress(whole), "xz": lzma.compress(whole)}.get(
        program, buffer.getvalue()
    )
    with pytest.raises(DataError, match=f"^it is compressed by {program}; unpack it first$"):
        tar(data, before=512)
    named = packed(member("BZh.JPEG", size=10))
    assert len(tar(named).files) == 1
    with pytest.raises(DataError, match="bad checksum"):
        tar(flip(named, 150))


def test_zeros_behind_the_end_mark_are_a_record_at_most(tar) -> None:
    """`tar -b 2048` fills up to 1 MiB behind the end mark's first block; more than that is refused with what to do."""
    data = packed(*files(3))[: -2 * BLOCK]
    assert len(tar(data + bytes(MOST_ZEROS)).files) == 3
    with pytest.raises(DataError) as caught:
        tar(data + bytes(MOST_ZEROS + 1), before=512)
    assert f"more than {2049 * BLOCK} zeros where a header or the end is due, at byte {HEADER + 512}," in str(
        caught.value
    )
    assert str(caught.value).endswith("publisher's, unpack it and pack it again by tar")


def test_a_folder_is_listed_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links count as what they lead to; pipes, sockets, dead and circular links and folders are named with the reason,
    and no pipe is opened to wait for its writer, not even where a file was when the folder was listed.
    """
    (tmp_path / "b.JPEG").write_bytes(b"image")
    (tmp_path / "a.JPEG").symlink_to("b.JPEG")
    (tmp_path / "dead.JPEG").symlink_to("none.JPEG")
    (tmp_path / "round.JPEG").symlink_to("round.JPEG")
    (tmp_path / "folder.JPEG").mkdir()
    os.mkfifo(tmp_path / "pipe.JPEG")
    (tmp_path / "to-pipe.JPEG").symlink_to("pipe.JPEG")
    monkeypatch.chdir(tmp_path)  # a socket's path may have some 100 bytes
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("socket.JPEG")
    found = list_folder(tmp_path)
    assert [file.name for file in found.files] == ["a.JPEG", "b.JPEG"]
    assert dict(found.others) == {
        "dead.JPEG": DEAD_LINKS,
        "folder.JPEG": FOLDERS,
        "pipe.JPEG": NOT_PLAIN,
        "round.JPEG": DEAD_LINKS,
        "socket.JPEG": NOT_PLAIN,
        "to-pipe.JPEG": NOT_PLAIN,
    }
    assert Place(str(tmp_path / "a.JPEG")).read() == b"image"
    with pytest.raises(DataError, match=r"pipe.JPEG: is no plain file; an image's bytes are looked for"):
        Place(str(tmp_path / "pipe.JPEG")).read()
    with pytest.raises(DataError, match=r"none: cannot be read .No such file"):
        list_folder(tmp_path / "none")


def test_any_name_can_be_shown() -> None:
    """A byte that is not UTF-8, half a pair of surrogates from a JSON file, a line's end: written out; others stay."""
    assert shown(os.fsdecode(b"caf\xe9\n.JPEG")) == r"caf\xe9\n.JPEG" and shown("\ud800") == r"\ud800"
    assert shown("猫 é.JPEG") == "猫 é.JPEG" and is_utf8("猫 é.JPEG") and not is_utf8(os.fsdecode(b"caf\xe9.JPEG"))


def test_pythons_own_tars_are_whole(tar) -> None:
    """What tarfile writes, in each of its formats, is listed to its end."""
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers={"comment": "of all"}) as one:
            for info in files(3):
                one.addfile(info, io.BytesIO(content(info.name, info.size)))
        assert len(tar(buffer.getvalue()).files) == 3
