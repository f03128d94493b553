"""Packing: the same bytes for any number of workers and parts, resumable, finished shards checked and kept; how images
are stored.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.common.errors import DataError
from sharding.building import notices, packing
from sharding.building.packing import Images, Planned, channel_statistics, finish, pack, planned_counts
from sharding.building.raw_files import Place, Zipped
from sharding.format.index import load_index
from sharding.images.decoders import decode
from sharding.images.encoding import StoredSize
from tests.helpers import sources


@dataclass(frozen=True)
class Render:
    """As a builder's; an image whose name ends in `fatal` kills its worker."""

    stored: StoredSize = field(default_factory=StoredSize)

    def __call__(self, planned: Planned, data: bytes) -> tuple[bytes, Mapping[str, object]]:
        if planned.where.path.endswith("fatal"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.stored(data)


@pytest.fixture()
def plan(tmp_path: Path) -> dict[str, list[Planned]]:
    """Two splits of 20 images."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(20):
        (raw / f"{i}.jpg").write_bytes(sources.jpeg(i))
    return {
        relative: [
            Planned(f"k-{i}", f"{relative}-{i}", Place(str(raw / f"{i}.jpg")), i % 3, i % 3, i % 3, {"cluster": i % 6})
            for i in range(20)
        ]
        for relative in ("glt/train", "shared/test_gbl")
    }


def packed(
    folder: Path,
    plan: Mapping[str, list[Planned]],
    render: Render = Render(),
    options: Mapping[str, object] = {"seed": 0},
    workers: int = 1,
    part: tuple[int, int] = (1, 1),
) -> None:
    indices = pack(folder, plan, render, options=options, workers=workers, shard_samples=6, part=part)
    if part == (1, 1):
        finish(folder, indices)


def content(folder: Path) -> dict[str, str]:
    """Digest of every file, the build's own among them."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells whether a shard was written again: its inode and time."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*.tar"))
    }


@pytest.mark.full
def test_same_bytes_for_any_number_of_workers_and_parts(plan: dict[str, list[Planned]], tmp_path: Path) -> None:
    """One worker, four, and three parts in any order with a last look give every file byte for byte; so do the
    statistics.
    """
    packed(tmp_path / "one", plan)
    packed(tmp_path / "four", plan, workers=4)
    for part in (3, 1, 2):
        packed(tmp_path / "parts", plan, part=(part, 3))
        assert not list((tmp_path / "parts").rglob("index.npz"))
    before = written(tmp_path / "parts")
    packed(tmp_path / "parts", plan)
    assert before == written(tmp_path / "parts") and len(before) == 8
    assert content(tmp_path / "one") == content(tmp_path / "four") == content(tmp_path / "parts")
    train = tmp_path / "one" / "glt/train"
    assert channel_statistics(train, load_index(train), 1) == channel_statistics(train, load_index(train), 2)


def test_statistics_are_those_of_the_pixels(plan: dict[str, list[Planned]], tmp_path: Path) -> None:
    """Mean and standard deviation are numpy's over all pixels of what is stored, which the source is not asked for."""
    packed(tmp_path / "out", plan)
    pixels = (
        np.concatenate([np.asarray(decode(planned.where.read())).reshape(-1, 3) for planned in plan["glt/train"]]) / 255
    )
    shutil.rmtree(tmp_path / "raw")
    train = tmp_path / "out" / "glt/train"
    found = channel_statistics(train, load_index(train), 1)
    assert np.allclose(found["mean"], pixels.mean(0), atol=6e-5) and np.allclose(found["std"], pixels.std(0), atol=6e-5)


def test_only_what_is_damaged_or_missing_is_written_again(
    plan: dict[str, list[Planned]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped byte, a shard that is gone and a record that is gone cost these shards alone; half-written files and
    shards of another plan go, what others put into a split's folder stays.
    """
    folder = tmp_path / "out"
    packed(folder, plan)
    good, before = content(folder), written(folder)
    damaged, gone, unrecorded = (
        "glt/train/shard-000001.tar",
        "glt/train/shard-000003.tar",
        "shared/test_gbl/shard-000000.tar",
    )
    data = bytearray((folder / damaged).read_bytes())
    data[5000] ^= 1
    (folder / damaged).write_bytes(data)
    (folder / gone).unlink()
    (folder / packing.WORK / "shards" / f"{unrecorded}.json").unlink()
    (folder / "glt/train/.shard-000000.tar.elsewhere-77.tmp").write_bytes(b"half")
    (folder / "glt/train/shard-000009.tar").write_bytes(b"of an older plan")
    others = {"glt/train/my_features.npy": b"mine", "glt/train/notes/shard-000000.tar": b"a folder of mine"}
    for name, data in others.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    packed(folder, plan)
    assert {name: (folder / name).read_bytes() for name in others} == others
    for name in others:
        (folder / name).unlink()
    assert content(folder) == good
    assert {name for name, stamp in written(folder).items() if before[name] != stamp} == {damaged, gone, unrecorded}
    shown = capsys.readouterr()
    assert "5 of 8 shards" in shown.out and f"{damaged} does not have its recorded digest" in shown.out + shown.err


@pytest.mark.parametrize("change", ["options", "render's options", "label", "extra", "order"])
def test_shards_of_another_plan_are_not_taken_over(change: str, plan: dict[str, list[Planned]], tmp_path: Path) -> None:
    """Other options, labels, entries or another order: every shard is written anew, as in an empty folder."""
    packed(tmp_path / "out", plan)
    render, options, images = Render(), {"seed": 0}, plan["glt/train"]
    if change == "options":
        options = {"seed": 1}
    elif change == "render's options":
        render, options = Render(StoredSize(resize_short=16)), {"seed": 0, "resize_short": 16}
    elif change == "order":
        images = images[::-1]
    else:
        images = [
            Planned(
                p.key,
                p.source,
                p.where,
                p.label + (change == "label"),
                p.group,
                p.attribute,
                {**p.extra, **({"cluster": 5} if change == "extra" else {})},
            )
            for p in images
        ]
    other = {"glt/train": images}
    before = written(tmp_path / "out")
    packed(tmp_path / "out", other, render, options)
    packed(tmp_path / "fresh", other, render, options)
    assert {name: digest for name, digest in content(tmp_path / "out").items() if "glt/train" in name} == content(
        tmp_path / "fresh"
    )
    assert all(written(tmp_path / "out")[name] != before[name] for name in before if "glt/train" in name)


def test_a_moved_source_keeps_the_shards(plan: dict[str, list[Planned]], tmp_path: Path) -> None:
    """Where the raw images lie is no part of the plan."""
    packed(tmp_path / "out", plan)
    before = written(tmp_path / "out")
    (tmp_path / "raw").rename(tmp_path / "moved")
    packed(
        tmp_path / "out",
        {
            relative: [
                Planned(
                    p.key,
                    p.source,
                    Place(p.where.path.replace("/raw/", "/moved/")),
                    p.label,
                    p.group,
                    p.attribute,
                    p.extra,
                )
                for p in images
            ]
            for relative, images in plan.items()
        },
    )
    assert written(tmp_path / "out") == before


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_image_is_named_and_what_is_finished_stays(
    workers: int, plan: dict[str, list[Planned]], tmp_path: Path
) -> None:
    """The sentence names the raw file; earlier shards are kept, and once the file is whole only the rest is written."""
    bad = tmp_path / "raw" / "8.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-200])
    with pytest.raises(DataError, match=f"^{bad}: not a whole JPEG or PNG image .*truncated") as caught:
        packed(tmp_path / "out", plan, workers=workers)
    assert "\n" not in str(caught.value)
    before = written(tmp_path / "out")
    assert (
        "glt/train/shard-000000.tar" in before
        and "glt/train/shard-000001.tar" not in before
        and not list((tmp_path / "out").rglob("index.npz"))
    )
    assert not list((tmp_path / "out").rglob(".shard*"))
    bad.write_bytes(whole)
    packed(tmp_path / "out", plan)
    assert before.items() <= written(tmp_path / "out").items()


def test_damaged_images_are_told_at_once(plan: dict[str, list[Planned]], tmp_path: Path) -> None:
    """Those of all shards, the first 20 by name; shards without one are finished and kept. An image that is in two
    splits counts once. Of one whose damage a zip's checksum tells it is the same.
    """
    raw = tmp_path / "raw"
    for i in (1, 2, 13):
        (raw / f"{i}.jpg").write_bytes((raw / f"{i}.jpg").read_bytes()[:-200])
    (tmp_path / "a.zip").write_bytes(sources.jpeg(3))
    wrong = Zipped(str(tmp_path / "a.zip"), 0, 10, "b.jpg", whole_size=10, crc32=1)
    plan["shared/test_gbl"][14] = dataclasses.replace(plan["shared/test_gbl"][14], where=wrong)
    with pytest.raises(DataError) as refused:
        packed(tmp_path / "out", plan)
    names = ", ".join([*(f"{raw / str(i)}.jpg" for i in (1, 2, 13)), f"{tmp_path}/a.zip, member b.jpg"])
    assert str(refused.value).startswith(f"4 images cannot be taken: {names}; of the first: not a whole JPEG")
    assert str(refused.value).endswith("once all are replaced or taken out, the same command goes on")
    before = written(tmp_path / "out")
    assert sorted(before) == sorted(f"{split}/shard-00000{n}.tar" for split in plan for n in (1, 3))
    for i in (1, 2, 13):
        (raw / f"{i}.jpg").write_bytes(sources.jpeg(i))
    plan["shared/test_gbl"][14] = dataclasses.replace(plan["shared/test_gbl"][14], where=Place(str(raw / "14.jpg")))
    packed(tmp_path / "out", plan)
    assert before.items() <= written(tmp_path / "out").items()
    packed(tmp_path / "fresh", plan)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_source_of_damaged_images_is_not_looked_through(
    plan: dict[str, list[Planned]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a thousand damaged images (10 here) no more are looked for, and no more than 20 are named."""
    monkeypatch.setattr(packing, "ENOUGH", 10)
    monkeypatch.setattr(notices, "ENOUGH", 10)
    monkeypatch.setattr(notices, "NAMED", 5)
    for i in range(20):
        (tmp_path / "raw" / f"{i}.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(
        DataError, match=r"^12 or more images cannot be taken: \S*0.jpg, .*4.jpg and 7 more; of the first: "
    ):
        packed(tmp_path / "out", plan)


def test_a_missing_image_and_a_short_archive_are_named(tmp_path: Path) -> None:
    """A file that is not there, and an archive that ends before its member does."""
    with pytest.raises(DataError, match=r"no.jpg: cannot be read .No such file"):
        Place(str(tmp_path / "no.jpg")).read()
    (tmp_path / "a.tar").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match=r"a.tar, member n1/x.JPEG: the archive ends 30 bytes before"):
        Place(str(tmp_path / "a.tar"), 90, 40, "n1/x.JPEG").read()


def test_a_killed_worker_is_one_sentence(plan: dict[str, list[Planned]], tmp_path: Path) -> None:
    """A worker that the kernel kills ends the build with a sentence; nothing waits for it."""
    (tmp_path / "fatal").write_bytes(sources.jpeg(9))
    plan["glt/train"][9] = Planned("k-9", "s", Place(str(tmp_path / "fatal")), 0, 0)
    with pytest.raises(DataError, match=r"one of 2 worker processes was killed.*GiB.*the same command goes on"):
        packed(tmp_path / "out", plan, workers=2)


def test_a_full_disk_is_one_sentence(
    plan: dict[str, list[Planned]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills is named with the shard; no half file stays."""
    real = packing.write_shard

    def full(path: Path, samples, first: int) -> None:
        real(path, samples, first)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packing, "write_shard", full)
    with pytest.raises(
        DataError,
        match=r"train/shard-000000.tar cannot be written: no space left on device.*goes on when there is room",
    ):
        packed(tmp_path / "out", plan)
    assert not list((tmp_path / "out").rglob("*shard-*"))


def test_a_disk_that_cannot_be_read_is_told_as_such(
    plan: dict[str, list[Planned]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished shard that the disk does not give back was not one that it did not take."""
    packed(tmp_path / "out", plan)

    def lost(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(packing, "file_digest", lost)
    with pytest.raises(DataError, match=r"train/shard-000000.tar cannot be read: input/output error"):
        packed(tmp_path / "out", plan)


def test_repeated_keys_and_empty_splits_are_refused(plan: dict[str, list[Planned]], tmp_path: Path) -> None:
    """Keys are unique over all shards of a split, which no shard can see alone, and legal before any is written; the
    sentence names the files.
    """
    with pytest.raises(DataError, match=r"'k-3' occurs twice in split glt/train, for \S*/3.jpg and \S*/3.jpg; keys"):
        packed(tmp_path / "out", {"glt/train": [*plan["glt/train"], plan["glt/train"][3]]})
    with pytest.raises(DataError, match="'glt/val' has no samples"):
        packed(tmp_path / "out", {"glt/val": []})
    last = plan["glt/train"][-1]
    with pytest.raises(DataError, match=r"key 'a.b' of \S*/19.jpg in split glt/train is not legal; letters, digits"):
        packed(tmp_path / "out", {"glt/train": [*plan["glt/train"][:-1], dataclasses.replace(last, key="a.b")]})
    assert not list((tmp_path / "out").rglob("*shard-*"))


# -------------------------------------------------------------------------------------------------------- stored images
def test_original_bytes_stay() -> None:
    """By default a JPEG's own bytes are stored, CMYK, grayscale and EXIF-rotated ones too, and the suite's decoder
    reads them as RGB.
    """
    for name, data in sources.odd(1).items():
        stored, entries = StoredSize()(data)
        assert decode(stored).mode == "RGB" and decode(stored).size == (40, 30)
        if name != "png":
            assert (stored, entries) == (data, {}), name


def test_a_png_under_a_jpegs_name_is_encoded_and_says_so() -> None:
    """Shards hold JPEGs: a PNG becomes one, near its pixels, and KEY.json says so."""
    smooth = io.BytesIO()
    decode(sources.jpeg(3)).save(smooth, "PNG")
    stored, entries = StoredSize()(smooth.getvalue())
    assert stored[:2] == b"\xff\xd8" and entries == {"stored": "PNG encoded as JPEG of quality 95"}
    assert np.abs(np.asarray(decode(stored), int) - np.asarray(decode(smooth.getvalue()), int)).mean() < 3


@pytest.mark.parametrize(
    ("size", "expected"), [((40, 30), (21, 16)), ((30, 40), (16, 21)), ((12, 50), (12, 50)), ((16, 16), (16, 16))]
)
def test_resize_short(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """The shorter side has at most N pixels; an image that is small enough keeps its bytes."""
    data = sources.jpeg(4, size=size)
    stored, _ = StoredSize(resize_short=16)(data)
    assert decode(stored).size == expected and (stored == data) == (size == expected)


def test_quality() -> None:
    """quality= alone encodes every image again, in its size; a lower one takes fewer bytes; both are deterministic."""
    data = sources.jpeg(5, size=(200, 150), quality=98)
    high, low = StoredSize(quality=90)(data)[0], StoredSize(quality=40)(data)[0]
    assert (
        decode(low).size == (200, 150) and len(low) < len(high) < len(data) and low == StoredSize(quality=40)(data)[0]
    )
    assert StoredSize(100, 40).options == {"resize_short": 100, "quality": 40} and StoredSize().options == {}


def test_rotation_is_not_applied_when_encoded_again() -> None:
    """What training sees of a turned photograph does not depend on the stored size: its EXIF orientation is ignored
    either way.
    """
    stored = StoredSize(quality=90)(sources.rotated(6))[0]
    assert decode(stored).size == (40, 30) and not Image.open(io.BytesIO(stored)).getexif()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a whole JPEG"),
        (b"GIF89a" + bytes(50), "not a whole JPEG"),
        (sources.jpeg(7)[:-100], "runcated"),
        (sources.png(8)[:500], "not a whole JPEG"),
        (sources.png(8, "I;16"), "16 bits a channel; 8 bits are legal"),
    ],
    ids=["empty", "gif", "cut jpeg", "cut png", "16 bits"],
)
@pytest.mark.parametrize("stored", [StoredSize(), StoredSize(resize_short=8)], ids=["original", "resized"])
def test_bad_images_are_refused(data: bytes, words: str, stored: StoredSize) -> None:
    """What is no whole 8-bit image is refused in one sentence, whether it is copied or encoded again."""
    with pytest.raises(ValueError, match=words) as caught:
        stored(data)
    assert "\n" not in str(caught.value)


def test_the_quick_look_refuses_what_the_decoder_refuses() -> None:
    """Copies are looked at in an eighth of their size: cut anywhere, they are refused exactly where training's decoder
    would refuse them.
    """

    def refused(read, data: bytes) -> bool:
        try:
            read(data)
        except ValueError:
            return True
        return False

    verdicts = set()
    for data in (
        sources.jpeg(9, size=(120, 90)),
        sources.jpeg(9, "CMYK"),
        sources.jpeg(9, "L"),
        sources.jpeg(9, progressive=True, size=(64, 64)),
    ):
        for cut in [*range(0, len(data), len(data) // 15), len(data) - 2, len(data) - 1, len(data)]:
            verdict = refused(StoredSize(), data[:cut])
            assert verdict == refused(decode, data[:cut]), cut
            verdicts.add(verdict)
    assert verdicts == {True, False}


def test_planned_counts() -> None:
    """Images of the plan by class and attribute group; one without an attribute is in no group."""
    some = [
        Planned(str(i), str(i), None, label, 0, attribute)
        for i, (label, attribute) in enumerate([(0, 0), (0, 2), (0, 2), (2, 1), (2, -1)])
    ]
    assert planned_counts({"glt/val": some}, 3) == {"glt/val": [[1, 0, 2], [0, 0, 0], [0, 1, 0]]}


@dataclass(frozen=True, eq=False)
class Lazy(Images):
    """A split whose images are made when they are asked for; it notes how many shards were begun by then."""

    images: list[Planned]
    asked: list[int]
    folder: Path

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i):
        self.asked.append(len(list(self.folder.glob("shard-*.tar"))))
        return self.images[i]

    def keys(self):
        return (planned.key for planned in self.images)


def test_images_are_made_when_their_shard_is_reached(plan: dict[str, list[Planned]], tmp_path: Path) -> None:
    """Of a split that makes its images on demand no more are asked for than the shard that is written next; the bytes
    are those of a list.
    """
    packed(tmp_path / "list", plan)
    folder = tmp_path / "lazy"
    lazy = {relative: Lazy(images, [], folder / relative) for relative, images in plan.items()}
    packed(folder, lazy)
    assert [split.asked for split in lazy.values()] == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert content(folder) == content(tmp_path / "list")
