"""`python -m sharding.verify`: a whole data set passes, and whatever is wrong with one is found and named."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sharding.verify
from recipes.common.errors import DataError
from sharding.building.notices import ALIKE, Notices
from sharding.checks.dataset import check_across, check_meta, read_index, read_meta, split_folders
from sharding.checks.near_duplicates import alike, thumbnail
from sharding.checks.report import Findings
from sharding.checks.shard import Report, Task, check_shard
from sharding.describe import main as describe_main
from sharding.format.dataset import digest_of, misshapen
from sharding.format.index import load_index, save_index
from sharding.format.shards import Sample, index_of_shards, write_split
from sharding.verify import data_sets, main, shard_tasks, verify
from tests.helpers import toy

SHARD = "glt/train/shard-000001.tar"
LAST = "glt/train/shard-000002.tar"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.build(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A data set of 71 images to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "toy"))


def problems(folder: Path, workers: int = 1, limit: int = 100, strict: bool = True) -> list[str]:
    return [str(finding) for finding in verify(folder, workers, limit, strict).problems.first()]


def warnings(folder: Path) -> list[str]:
    return [str(finding) for finding in verify(folder).warnings.first()]


def of_shard(folder: Path, place: str) -> list[str]:
    """What the check of one shard alone says: the part of `problems` that looks at its bytes."""
    relative = place.rpartition("/")[0]
    task = next(
        task for task in shard_tasks(folder, relative, load_index(folder / relative), 100) if task.place == place
    )
    return [str(finding) for finding in check_shard(task).found]


def of_meta(folder: Path) -> list[str]:
    """What dataset.json and the indices say about each other: the part of `problems` that reads no shard."""
    found = Findings(100)
    meta = read_meta(folder, found)
    indices = {
        relative: read_index(folder, relative, meta["splits"][relative].get("fingerprint") if meta else None, found)
        for relative in split_folders(folder, meta)
    }
    if meta:
        check_meta(folder, meta, {relative: index for relative, index in indices.items() if index}, found)
    return [str(finding) for finding in found.first()]


def flip(path: Path, offset: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= bit
    path.write_bytes(data)


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar}


def text_offset(path: Path, name: str, word: bytes) -> int:
    """Offset in the shard of `word` in the member `name`."""
    member, data = members(path)[name], path.read_bytes()
    return data.index(word, member.offset_data, member.offset_data + member.size)


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """The shard with every member's content as `change(name, content)` gives it; None leaves it out."""
    with tarfile.open(path) as tar:
        parts = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, content in parts:
            if (content := change(member.name, content)) is not None:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def re_indexed(folder: Path, relative: str) -> None:
    """Makes index and dataset.json agree with the shards as they are: damage that was there when the build recorded
    it.
    """
    index = index_of_shards(folder / relative, sorted(path.name for path in (folder / relative).glob("*.tar")))
    save_index(folder / relative, index)
    recorded(
        folder,
        lambda meta: meta["splits"][relative].update(
            fingerprint=index.fingerprint, samples=len(index), shards=len(index.shard_name)
        ),
    )


def recorded(folder: Path, change: Callable[[dict], object], fingerprint: bool = True) -> None:
    meta = json.loads((folder / "dataset.json").read_text())
    change(meta)
    if fingerprint:
        meta["fingerprint"] = digest_of(
            {
                **{key: meta[key] for key in ("name", "class_names", "class_groups", "editions")},
                "splits": {key: entry["fingerprint"] for key, entry in meta["splits"].items()},
            }
        )
    meta["digest"] = digest_of({key: value for key, value in meta.items() if key != "digest"})
    (folder / "dataset.json").write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")


def test_a_whole_data_set_passes(pristine: Path) -> None:
    """No problem, no warning, every image decoded, the fingerprint said."""
    verdict = verify(pristine)
    assert (verdict.problems.count, verdict.warnings.count, verdict.images, verdict.shards) == (0, 0, 71, 10)
    fingerprint = json.loads((pristine / "dataset.json").read_text())["fingerprint"]
    assert verdict.lines() == [
        f"toy: no problems, no warnings; 71 images decoded from 10 shards of {verdict.size / 1e6:.1f} MB; "
        f"fingerprint {fingerprint}"
    ]


def test_long_keys_pass(tmp_path: Path) -> None:
    """Keys too long for a plain tar header, which the writer puts into extended ones, are read like others."""

    def lengthened(relative: str, samples: list[Sample]) -> list[Sample]:
        return [replace(sample, key="k" * 120 + sample.key) for sample in samples]

    assert problems(toy.build(tmp_path, change=lengthened)) == []


# ------------------------------------------------------------------------------------------------------------- one byte
def test_a_flipped_byte_is_named_wherever_it_is(folder: Path) -> None:
    """In every field of a header, the image, the .cls, the .json, the padding and the end mark: by shard, key and, but
    for the image, the very byte.
    """
    path = folder / SHARD
    whole, found = path.read_bytes(), members(path)
    index = load_index(folder / "glt/train")
    rows = np.flatnonzero(index.shard == 1)
    first, key = str(index.key[rows[0]]), str(index.key[rows[3]])
    jpg, cls, entry = (found[f"{key}.{part}"] for part in ("jpg", "cls", "json"))
    exact = {
        jpg.offset + position: f"before {key}.jpg"
        for position in (
            0,
            99,
            100,
            107,
            110,
            124,
            130,
            135,
            136,
            148,
            153,
            154,
            155,
            156,
            157,
            257,
            263,
            265,
            300,
            329,
            345,
            500,
            511,
        )
    }
    exact |= {
        entry.offset + 126: f"before {key}.json",
        cls.offset + 5: f"before {key}.cls",
        0: f"before {first}.cls",
        130: f"before {first}.cls",
    }
    exact |= {
        cls.offset_data: ".cls",
        cls.offset_data + 1: f"padding behind {key}.cls",
        entry.offset_data + entry.size + 9: f"padding behind {key}.json",
        text_offset(path, entry.name, b'"id":') + 5: "cannot be read",
        text_offset(path, entry.name, b'"source":') + 10: "source",
        text_offset(path, entry.name, b'"group":') + 8: "group",
        text_offset(path, entry.name, b'"attribute":') + 12: "attribute",
        entry.offset_data: "cannot be read",
    }
    exact |= {len(whole) - 1: "end is damaged", len(whole) - 5000: "end is damaged"}
    for offset, what in exact.items():
        flip(path, offset)
        lines = of_shard(folder, SHARD)
        owner = "" if "end is" in what else f"key {first!r} " if first in what else f"key {key!r} "
        assert any(
            line.startswith(f"{SHARD}: {owner}") and re.search(rf"\b{offset}\b", line) and what in line
            for line in lines
        ), (offset, what, lines)
        assert f"{SHARD}: the shard's bytes do not have the recorded sha256" in lines
        path.write_bytes(whole)
    flip(path, jpg.offset_data + jpg.size // 2)
    assert problems(folder) == [
        f"{SHARD}: the shard's bytes do not have the recorded sha256",
        f"{SHARD}: key {key!r} at byte offset {jpg.offset_data} has a damaged image: its {jpg.size} bytes do not "
        "have the recorded sha256",
    ]


def test_every_byte_of_a_shard_counts(folder: Path) -> None:
    """A byte flipped anywhere, at 60 places drawn over a whole shard, is found, and in that shard."""
    path = folder / SHARD
    whole = path.read_bytes()
    for offset in np.random.default_rng(0).integers(0, len(whole), 60).tolist():
        flip(path, offset, 0x20)
        lines = of_shard(folder, SHARD)
        assert lines and all(line.startswith(SHARD) for line in lines), offset
        path.write_bytes(whole)


def test_damage_beyond_the_index_is_narrowed_down(tmp_path: Path) -> None:
    """A word in a .json that the index does not repeat: the shard's digest tells, and the odd one out is named with key
    and offset.
    """
    looks = toy.build(
        tmp_path,
        per_class=(30, 20, 10, 3),
        shard_samples=30,
        extra=lambda number, label, attribute: {"look": ("pen", "chalk")[number % 2]},
    )
    path = looks / "glt/train/shard-000001.tar"
    key = str(load_index(looks / "glt/train").key[35])
    offset = text_offset(path, f"{key}.json", b'"look"')
    flip(path, offset + 8)
    (line,) = problems(looks)
    assert (
        "all that the index records is as it should be" in line
        and f"key {key!r} at byte offset {offset} ('look')" in line
    )


def test_a_flipped_byte_of_the_index_is_named(folder: Path) -> None:
    """index.npz: the file and the offset, wherever it is; the shards are checked all the same, by the index that they
    give.
    """
    path = folder / "glt/val/index.npz"
    whole = path.read_bytes()
    for offset in (
        0,
        14,
        40,
        whole.index("n00000000".encode("utf-32-le")),
        len(whole) // 2,
        whole.index(b"PK\x01\x02") + 12,
        len(whole) - 1,
    ):
        flip(path, offset)
        (line,) = of_meta(folder)
        assert line.startswith("glt/val/index.npz: ") and re.search(rf"offset {offset}\b", line), (offset, line)
        path.write_bytes(whole)
    flip(path, len(whole) // 2)
    flip(folder / "glt/val/shard-000000.tar", 6)
    assert [line.partition(":")[0] for line in of_meta(folder)] == ["glt/val/index.npz"]  # nor can it be made anew
    path.unlink()
    shutil.copy(folder / "glt/train/shard-000001.tar", folder / "glt/val/shard-000000.tar")
    assert any("not the recorded one" in line for line in of_meta(folder))


def test_a_flipped_byte_of_dataset_json_is_named(folder: Path) -> None:
    """Counts, classes, groups, editions, fingerprints and the syntax: each a sentence about dataset.json."""
    path = folder / "dataset.json"
    whole = path.read_bytes()
    for word, shift, said in (
        (b'"class_groups"', 20, "class"),
        (b'"class 1"', 7, "fingerprint"),
        (b'"samples"', 11, "samples"),
        (b'"shards"', 10, "shards"),
        (b'"per_class"', 19, "per_class"),
        (b'"per_class_attribute"', 36, "per_class_attribute"),
        (b'"name"', 9, "name"),
        (b'"format"', 12, "format"),
        (b'"mean"', 0, "offset"),
        (b'"mean"', 1, "mean"),
        (b"\n", 1, "offset 2"),
        (b'"editions"', 18, "fingerprint"),
        (b'"mean"', whole.index(b"0.", whole.index(b'"mean"')) + 2 - whole.index(b'"mean"'), "its own digest"),
    ):
        offset = whole.index(word) + shift
        flip(path, offset)
        lines = of_meta(folder)
        assert any("dataset.json" in line and said in line for line in lines), (
            word,
            lines,
            path.read_bytes()[offset - 20 : offset + 20],
        )
        path.write_bytes(whole)
    flip(path, whole.rindex(b'"fingerprint"') + 20)
    assert any("index has fingerprint" in line for line in of_meta(folder))
    path.write_bytes(whole[: len(whole) // 2])
    flip(folder / SHARD, 600)
    assert {line.partition(":")[0] for line in problems(folder)} == {
        "dataset.json",
        SHARD,
    }  # the shards are checked all the same


# --------------------------------------------------------------------------------------------------------- whole things
def test_swapped_images_are_told(folder: Path) -> None:
    """Two images in each other's place: each is said to be the other's."""
    path, index = folder / SHARD, load_index(folder / "glt/train")
    rows = np.flatnonzero(index.shard == 1)
    a, b = (f"{index.key[row]}" for row in rows[:2])
    with tarfile.open(path) as tar:
        images = {key: tar.extractfile(f"{key}.jpg").read() for key in (a, b)}
    rewritten(path, lambda name, content: {f"{a}.jpg": images[b], f"{b}.jpg": images[a]}.get(name, content))
    lines = problems(folder)
    assert any(f"key {a!r}" in line and f"holds the image of key {b!r}" in line for line in lines)
    assert any(f"key {b!r}" in line and f"holds the image of key {a!r}" in line for line in lines)


def test_a_wrong_label_is_told(folder: Path) -> None:
    """In the tar alone: .cls and .json against the index. In the index too: the class's group and the counts of
    dataset.json.
    """
    key = str(load_index(folder / "glt/train").key[9])
    wrong = {
        f"{key}.cls": lambda content: b"3",
        f"{key}.json": lambda content: content.replace(b'"label":0', b'"label":3'),
    }
    rewritten(folder / SHARD, lambda name, content: wrong.get(name, lambda content: content)(content))
    lines = problems(folder)
    assert any(f"key {key!r}" in line and "has '3' in its .cls; the index says 0" in line for line in lines)
    assert any(f"key {key!r}" in line and "label 3 instead of 0" in line for line in lines)
    re_indexed(folder, "glt/train")
    lines = problems(folder)
    assert any(f"key {key!r}" in line and "has group 0; its class 3 has 2" in line for line in lines)
    assert any("per_class 10, its index 9, for class 0 (and 1 more classes)" in line for line in lines)


def test_a_label_beyond_the_classes_is_told(folder: Path) -> None:
    """A class that is not there."""
    recorded(folder, lambda meta: (meta["class_names"].pop(), meta["class_groups"].pop()))
    assert any("has label 3; there are 3 classes" in line for line in problems(folder))


def test_shards_that_lack_or_are_too_many(folder: Path) -> None:
    """A missing one, one that the index does not name, and one that is too long or cut off, each by its name."""
    (folder / SHARD).rename(folder / "glt/train/shard-000009.tar")
    assert problems(folder) == [
        f"{SHARD}: the shard is missing, with its 8 samples",
        "glt/train/shard-000009.tar: the shard is not in the index",
    ]
    (folder / "glt/train/shard-000009.tar").rename(folder / SHARD)
    with open(folder / SHARD, "ab") as file:
        file.write(bytes(512))
    assert any(f"{SHARD}: the shard is too long" in line for line in problems(folder))


@pytest.mark.parametrize("where", ["in a header", "in an image", "between", "end mark", "everything"])
def test_truncated_shards_are_told(folder: Path, where: str) -> None:
    """How many bytes there are, which samples are lost, and that plain webdataset reads fewer, perhaps without a
    word.
    """
    path, index = folder / SHARD, load_index(folder / "glt/train")
    row = np.flatnonzero(index.shard == 1)[3]
    found, last = members(path)[f"{index.key[row]}.cls"], list(members(path).values())[-1]
    keep = {
        "in a header": found.offset + 100,
        "in an image": int(index.offset[row]) + 100,
        "between": found.offset,
        "everything": 0,
        "end mark": last.offset_data + -(-last.size // 512) * 512,
    }[where]
    path.write_bytes(path.read_bytes()[:keep])
    lines = problems(folder)
    assert any(
        f"the shard is truncated: it has {keep} bytes, the index records {index.shard_size[1]}" in line
        for line in lines
    )
    if where == "end mark":
        assert any("without the mark of a tar's end" in line for line in lines)
    else:
        lost = {"everything": index.key[np.flatnonzero(index.shard == 1)[0]]}.get(
            where, index.key[row] if where != "in an image" else index.key[row + 1]
        )
        assert any(str(lost) in line and "not in the tar" in line for line in lines), lines
        assert any("plain webdataset" in line for line in lines)


def test_an_image_that_was_never_readable(tmp_path: Path) -> None:
    """The digests are right, the build recorded it so: it does not decode, and the key is named."""

    def broken(relative: str, samples: list[Sample]) -> list[Sample]:
        if relative == "cbl/val":
            samples[1] = replace(samples[1], jpg=samples[1].jpg[: len(samples[1].jpg) // 2])
        return samples

    folder = toy.build(tmp_path, change=broken)
    index = load_index(folder / "cbl/val")
    (line,) = problems(folder)
    assert line.startswith(
        f"cbl/val/shard-000000.tar: key {str(index.key[1])!r} at byte offset {index.offset[1]} has an image that "
        "does not decode"
    )


def test_parts_that_lack_or_are_too_many(folder: Path) -> None:
    """A sample without its .cls, one more part, a sample more, a sample twice: what plain webdataset would read is what
    the index says, or it is told.
    """
    index = load_index(folder / "glt/train")
    key, other = (str(index.key[row]) for row in (9, 10))
    whole = (folder / SHARD).read_bytes()
    rewritten(folder / SHARD, lambda name, content: None if name == f"{key}.cls" else content)
    lines = problems(folder)
    assert any(f"key {key!r}" in line and "lacks its .cls" in line for line in lines) and any(
        "plain webdataset reads" in line for line in lines
    )
    for name, said in (
        (f"{other}.txt", "unknown part"),
        ("stranger.jpg", "is not in the index"),
        (f"{key}.jpg", "occurs twice"),
    ):
        (folder / SHARD).write_bytes(whole)
        with tarfile.open(folder / SHARD, "a") as tar:
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
        lines = problems(folder)
        assert any(repr(name.partition(".")[0]) in line and said in line for line in lines), lines


def lost(task: Task) -> Report:
    """A worker that ends in place of a check."""
    if (code := int(os.environ["END"])) > 0:
        os._exit(code)
    os.kill(os.getpid(), -code)
    raise AssertionError


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (3, "ended by itself with exit code 3, "),
        (-signal.SIGTERM, "was killed by SIGTERM"),
        (-signal.SIGKILL, "memory"),
    ],
)
def test_a_lost_worker_is_named_by_its_end(
    code: int, said: str, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the processes of a check, too: an exit code or the signal, and memory only where it was SIGKILL."""
    monkeypatch.setenv("END", str(int(code)))
    monkeypatch.setattr(sharding.verify, "check_shard", lost)
    with pytest.raises(DataError, match=r"^one of 2 worker processes ") as caught:
        verify(pristine, workers=2)
    assert said in str(caught.value) and ("memory" in str(caught.value)) == (code == -signal.SIGKILL)


def test_plain_webdataset_is_really_asked(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebDataset that skips a sample, or stops, is a problem even where all bytes are right."""
    import webdataset

    plain = webdataset.WebDataset
    monkeypatch.setattr(webdataset, "WebDataset", lambda *args, **kwargs: list(plain(*args, **kwargs))[:-1])
    assert "reads 7 samples of 8, without an error" in problems(pristine)[0]
    monkeypatch.setattr(webdataset, "WebDataset", lambda *args, **kwargs: list(plain(*args, **kwargs))[1:])
    assert "unlike the index" in problems(pristine)[0]
    monkeypatch.setattr(webdataset, "WebDataset", lambda *args, **kwargs: 1 / 0)
    assert "stops behind sample 0 of 8: ZeroDivisionError" in problems(pristine)[0]


# -------------------------------------------------------------------------------------------------------- across splits
def placed(
    target: str, make: Callable[[dict[str, list[Sample]]], Sample], tmp_path: Path, size: tuple[int, int] = (48, 36)
) -> Path:
    """A data set in which `make(the samples so far, by split)` replaces the second sample of `target`."""
    seen: dict[str, list[Sample]] = {}

    def change(relative: str, samples: list[Sample]) -> list[Sample]:
        seen[relative] = samples
        if relative == target:
            samples[1] = make(seen)
        return samples

    return toy.build(tmp_path, change=change, size=size)


def test_the_same_image_in_two_splits(tmp_path: Path) -> None:
    """Byte for byte under another source: a problem, or a warning where the user says so; in splits of different
    editions it is neither.
    """
    folder = placed("glt/val", lambda seen: replace(seen["glt/val"][1], jpg=seen["glt/train"][0].jpg), tmp_path / "a")
    a, b = load_index(folder / "glt/train").key[0], load_index(folder / "glt/val").key[1]
    assert problems(folder) == [
        f"glt/train: the image of key {str(a)!r} is, byte for byte, also that of key {str(b)!r} in glt/val, both of "
        "edition glt"
    ]
    assert problems(folder, strict=False) == [] and warnings(folder) == []
    assert verify(folder, strict=False).warnings.count == 1
    assert (
        problems(
            placed(
                "cbl/train", lambda seen: replace(seen["cbl/train"][1], jpg=seen["glt/train"][0].jpg), tmp_path / "b"
            )
        )
        == []
    )


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda old: {"key": old.key.upper()}, "key 'n00000000_100000', as 'N00000000_100000', is also in"),
        (lambda old: {"key": f"copy/{old.key}"}, "as 'copy/n00000000_100000', is also in"),
        (lambda old: {"key": old.key}, "key 'n00000000_100000' is also in"),
        (lambda old: {"source": old.source.lower()}, "as 'n00000000/n00000000_100000.jpeg', is also in"),
        (lambda old: {"source": old.source.replace(".JPEG", ".png")}, "is also in"),
        (lambda old: {"source": old.source.replace(".JPEG", ".WebP")}, "is also in"),
        (lambda old: {"source": f"a/b/{old.source.lower().replace('.jpeg', '.tif')}"}, "is also in"),
        (
            lambda old: {"source": f"/data/ILSVRC/{old.source}"},
            "as '/data/ILSVRC/n00000000/n00000000_100000.JPEG', is also in",
        ),
    ],
)
def test_near_duplicate_names(tmp_path: Path, change: Callable[[Sample], dict], said: str) -> None:
    """A key or source of a training image in the test split, in other case, with other folders in front or with another
    extension.
    """
    folder = placed(
        "shared/test_cbl", lambda seen: replace(seen["shared/test_cbl"][1], **change(seen["glt/train"][0])), tmp_path
    )
    (line,) = problems(folder)
    assert line.startswith("glt/train: ") and said in line and "shared/test_cbl" in line and "edition glt" in line


@pytest.mark.parametrize(
    ("jpg", "listed", "verdict"),
    [
        (lambda image: None, True, "warning"),
        (lambda image: None, False, "problem"),
        (lambda image: toy.encoded(image), True, "problem"),
        (lambda image: toy.encoded(image, 60), True, "problem"),
    ],
    ids=["other pictures", "a name the build did not count", "equal bytes", "encoded again"],
)
def test_two_files_whose_names_are_alike(
    jpg: Callable[[Image.Image], bytes | None], listed: bool, verdict: str, tmp_path: Path
) -> None:
    """Two files of one class folder that differ in case and extension, which the build counted, in two splits: named by
    a warning, as by the build, and a problem where their bytes are equal or they look alike.
    """
    size = (160, 120)

    def twin(seen: dict[str, list[Sample]]) -> Sample:
        data = jpg(toy.picture(100_000, 0, 0, size)) or seen["glt/val"][1].jpg
        return replace(seen["glt/val"][1], source="n00000000/N00000000_100000.jpg", jpg=data)

    folder, notices = placed("glt/val", twin, tmp_path, size), Notices()
    notices.doubt(ALIKE, "n00000000/n00000000_100000.JPEG", f"n00000000/{'N' if listed else 'x'}00000000_100000.jpg")
    recorded(folder, lambda meta: meta["notes"].update(notices.added_to({})))
    found = verify(folder)
    (line,) = map(str, found.problems.first() if verdict == "problem" else found.warnings.first()[1:])
    assert found.problems.count == (verdict == "problem") and line.startswith("glt/train: ")
    names = "source 'n00000000/n00000000_100000.JPEG' is, but for case or extension, 'n00000000/N00000000_100000.jpg'"
    assert (names in line) == (verdict == "warning")


def test_an_equal_source_is_found_beside_one_that_is_alike(tmp_path: Path) -> None:
    """A training image that is in val, too, and stands there behind another file whose name is alike."""
    samples = list(toy.samples("glt/train", [3], (0,), toy.clusters, 1, (48, 36)))
    a, b, c = (replace(samples[i], source=f"n00000000/{name}") for i, name in enumerate(("a.jpg", "A.jpg", "a.png")))
    indices = {
        relative: write_split(tmp_path / relative, several)
        for relative, several in (("train", [a, b]), ("val", [c, b]))
    }
    notices, found, doubts = Notices(), Findings(9), Findings(9)
    notices.doubt(ALIKE, a.source, b.source, c.source)
    meta = {"editions": {"glt": {"train": "train", "val": "val"}}, "notes": notices.added_to({})}
    assert check_across(meta, indices, found, Findings(9), doubts) == {(("train", 0), ("val", 0))} and doubts.count == 1
    (line,) = map(str, found.first())
    assert "source 'n00000000/A.jpg' is also in val" in line


def test_names_that_only_end_alike_are_different(tmp_path: Path) -> None:
    """`cat/001.jpg` and `dog/001.jpg` are two sources; so are `1` and `11`, `a.001` and `a.002`."""
    names = iter(f"{'cat' if number % 2 else 'dog'}/{number // 2:03d}.jpg" for number in range(1000))
    numbers = iter(range(1000))

    def change(relative: str, samples: list[Sample]) -> list[Sample]:
        more = {"shared/test_cbl": lambda: f"a.{next(numbers):03d}"}.get(relative, lambda: next(names))
        return [replace(sample, source=more()) for sample in samples]

    assert problems(toy.build(tmp_path, change=change)) == []


def test_a_class_folder_whose_path_ends_as_anothers(tmp_path: Path) -> None:
    """Images of two classes are two, though `pets/dog/1.jpg` and `dog/1.jpg`, or `dog/2.jpg` and `Dog/2.jpg`, lie in
    two splits; within a class they are a problem, also behind one of another class.
    """
    train = [("pets/dog/1.jpg", 1), ("dog/2.jpg", 0), ("pets/dog/3.jpg", 1), ("x/Dog/3.jpg", 2), ("dog/4.jpg", 3)]
    test = [("dog/1.jpg", 0), ("Dog/2.jpg", 1), ("dog/3.jpg", 2), ("Dog/4.jpg", 3)]
    samples = toy.samples("glt/train", [len(train) + len(test)], (0,), toy.clusters, 1, (48, 36))
    indices = {
        relative: write_split(
            tmp_path / relative,
            [replace(next(samples), source=source, label=label) for source, label in named],
        )
        for relative, named in (("train", train), ("test", test))
    }
    found, doubts = Findings(9), Findings(9)
    check_across({"editions": {"glt": {"train": "train", "test": "test"}}}, indices, found, Findings(9), doubts)
    assert [str(finding).partition(" is also")[0] for finding in found.first()] == [
        "test: source 'dog/3.jpg', as 'x/Dog/3.jpg',",
        "test: source 'Dog/4.jpg', as 'dog/4.jpg',",
    ]
    assert doubts.count == 0


def test_a_data_set_behind_a_link(pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link may be called as the data set, or lead to a folder that is; pictures and numbers have the link's name."""
    shutil.copytree(pristine, tmp_path / "store" / "v3")
    (tmp_path / "toy").symlink_to(tmp_path / "store" / "v3")
    (tmp_path / "latest").symlink_to(pristine)
    for name in ("toy", "latest"):
        assert problems(tmp_path / name) == [] and verify(tmp_path / name).name == name
    assert problems(tmp_path / "store" / "v3") == ["dataset.json: the data set's name is 'toy', its folder's 'v3'"]
    assert describe_main([str(tmp_path / "toy"), f"out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out.startswith("toy: ")


def test_the_same_source_in_two_splits(folder: Path) -> None:
    """The writer refuses it; a data set from elsewhere is caught."""
    source = str(load_index(folder / "glt/train").source[0])
    index = load_index(folder / "glt/val")
    old = str(index.source[0]).encode()
    rewritten(folder / "glt/val/shard-000000.tar", lambda name, content: content.replace(old, source.encode()))
    re_indexed(folder, "glt/val")
    (line,) = problems(folder)
    assert (
        line.startswith(f"glt/train: source {source!r} is also in glt/val (keys ")
        and "in edition glt it may be in one split only" in line
    )


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: toy.encoded(image, 60),
        lambda image: toy.encoded(image.resize((240, 180), Image.Resampling.BICUBIC)),
        lambda image: toy.encoded(image.resize((80, 60)), 80),
    ],
    ids=["encoded again", "larger", "smaller"],
)
def test_images_that_look_alike_are_doubted(tmp_path: Path, copy: Callable[[Image.Image], bytes]) -> None:
    """A copy of a training image in another quality or size is a warning that names both keys; it is no problem."""
    folder = placed(
        "shared/test_gbl",
        lambda seen: replace(seen["shared/test_gbl"][1], jpg=copy(toy.picture(100_000, 0, 0, (160, 120)))),
        tmp_path,
        (160, 120),
    )
    a, b = load_index(folder / "glt/train").key[0], load_index(folder / "shared/test_gbl").key[1]
    assert problems(folder) == []
    (line,) = warnings(folder)
    assert line.startswith(
        f"glt/train: the image of key {str(a)!r} looks like that of key {str(b)!r} in shared/test_gbl"
    )


def test_look_alikes_equal_their_definition() -> None:
    """Found by bands as by comparing all pairs, on 600 thumbnails of which many are slight changes of others; plain
    grounds match nothing.
    """
    from sharding.checks.near_duplicates import BITS, LEVELS, signatures

    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (150, 8, 8, 3))
    thumbs = np.clip(
        np.concatenate([base + rng.integers(-spread, spread + 1, base.shape) for spread in (0, 1, 3, 8)]), 0, 255
    ).astype(np.uint8)
    thumbs[[3, 200, 400]] = 128
    owner = rng.integers(0, 3, len(thumbs))
    bits, featured = signatures(thumbs)
    wanted = [
        (a, b)
        for a in range(600)
        for b in range(600)
        if owner[a] < owner[b]
        and featured[a]
        and featured[b]
        and np.bitwise_count(bits[a] ^ bits[b]).sum() <= BITS
        and np.abs(thumbs[a].astype(int) - thumbs[b]).mean() <= LEVELS
    ]
    pairs, whole = alike(thumbs, np.ones(600, bool), owner)
    assert whole and sorted(map(tuple, pairs.tolist())) == sorted(wanted) and len(wanted) > 100
    assert not {3, 200, 400} & set(pairs.ravel().tolist())
    assert thumbnail(Image.new("RGB", (30, 7), (1, 2, 3))).tolist() == [[[1, 2, 3]] * 8] * 8


# ------------------------------------------------------------------------------------------------------------- the rest
def test_counts_of_the_plan(tmp_path: Path) -> None:
    """Where the build recorded its plan, as totals, by class or by class and attribute group, the splits must have
    it.
    """
    plan = {"glt/train": [10, 6, 4, 3], "glt/val": 8, "shared/test_gbl": [[1, 1, 1]] * 4}
    assert problems(toy.build(tmp_path / "a", options={"plan": plan})) == []
    wrong = {
        "glt/train": [10, 6, 5, 2],
        "glt/val": 9,
        "shared/test_gbl": [[1, 1, 1]] * 3 + [[3, 0, 0]],
        "glt/test_glt": 4,
    }
    assert problems(toy.build(tmp_path / "b", options={"plan": wrong})) == [
        "dataset.json: the build planned 5 samples for split glt/train, its index has 4, for class 2 (and 1 more "
        "classes)",
        "dataset.json: the build planned 9 samples for split glt/val, its index has 8",
        "dataset.json: the build planned [3, 0, 0] samples for split shared/test_gbl, its index has [1, 1, 1], for "
        "class 3",
        "dataset.json: the build planned split glt/test_glt, which is not there",
    ]


def test_files_that_do_not_belong_are_doubted(folder: Path) -> None:
    """A note beside the shards, or a split that dataset.json does not name: warnings. What begins with a dot is a
    build's own.
    """
    (folder / "glt/train/notes.txt").write_text("x")
    (folder / ".work").mkdir()
    shutil.copytree(folder / "glt/val", folder / "old/val")
    assert problems(folder) == []
    assert warnings(folder) == [
        "glt/train/notes.txt: the file is no part of a split",
        "old/val: the folder holds a split that dataset.json does not name",
    ]


def test_all_problems_are_counted_and_listed_to_the_limit(folder: Path) -> None:
    """Not only the first one: 23 flipped images give their 23 sentences and three shards'; with a limit, the first ones
    and the number of the rest.
    """
    index = load_index(folder / "glt/train")
    for shard, offset in zip(index.shard.tolist(), index.offset.tolist(), strict=True):
        flip(folder / f"glt/train/shard-{shard:06d}.tar", offset + 20)
    every = problems(folder)
    assert len(every) == 26 and all(any(repr(str(key)) in line for line in every) for key in index.key)
    cut = verify(folder, limit=5)
    assert [str(finding) for finding in cut.problems.first()] == every[:5] and "... and 21 more problems" in cut.lines()


def test_the_number_of_workers_changes_nothing(folder: Path) -> None:
    """1 and 4 workers give the same report, of a data set with damage in many places."""
    for relative, offset in (
        (SHARD, 3000),
        (LAST, 0),
        ("cbl/val/shard-000000.tar", 700),
        ("shared/test_cbl/index.npz", 300),
    ):
        flip(folder / relative, offset)
    one, four = verify(folder, 1, 3), verify(folder, 4, 3)
    assert one.lines() == four.lines() and one.problems.count > 5


def test_findings_keep_the_first_by_order() -> None:
    """Whatever the order of coming, and however many: the same first ones."""
    names = [f"p{number:03d}" for number in np.random.default_rng(1).permutation(500)]
    found = Findings(7)
    for name in names:
        found.add(name, "x")
    assert (
        found.count == 500
        and [finding.place for finding in found.first()] == [f"p{number:03d}" for number in range(7)]
        and len(found._kept) <= 15
    )


# ---------------------------------------------------------------------------------------------------------- the command
def test_the_command(pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a DATA_ROOT with two data sets, one of them damaged: status 1, a report of each on standard output, the speed
    on standard error; status 0 where all is well.
    """
    shutil.copytree(pristine, tmp_path / "toy")
    meta = json.loads((Path(shutil.copytree(pristine, tmp_path / "ruin")) / "dataset.json").read_text())
    flip(tmp_path / "ruin" / SHARD, 600)
    assert main([str(tmp_path), "workers=2", "limit=2"]) == 1
    out, err = capsys.readouterr()
    assert (
        out.startswith("problem: ruin/dataset.json: the data set's name is 'toy', its folder's 'ruin'")
        and "\nproblem: ruin/glt/train/shard-000001.tar: " in out
    )
    assert out.splitlines()[-1].startswith("toy: no problems, no warnings; 71 images") and out.endswith(
        f"{meta['fingerprint']}\n"
    )
    assert len(re.findall(r"images/s, [0-9.]+ GB/s", err)) == 2
    assert main([str(pristine)]) == 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["{}", "worker=2"], "unknown key 'worker'; did you mean workers?"),
        (["{}", "workers=0"], "workers=0 is not legal; a whole number from 1 is"),
        (["{}", "limit=x"], "limit=x is not legal"),
        (["{}", "workers="], "has no value"),
        (["{}", "workers=1", "workers=2"], "is given twice"),
        (["{}", "{}"], "2 folders are given"),
        (["workers=1"], "0 folders are given"),
        (["{}/nowhere"], "is not a folder"),
        (["{}"], "there is no data set in"),
        (["{}", "duplicates=maybe"], "problem or warning is"),
    ],
)
def test_bad_words_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Status 2 and one line."""
    assert main([word.format(tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sharding.verify: ") and said in error and error.count("\n") == 1


def test_an_unfinished_build_is_checked_and_told(folder: Path) -> None:
    """Without dataset.json the shards are checked against their indices, and that it is missing is a problem."""
    (folder / "dataset.json").unlink()
    assert data_sets(folder) == data_sets(folder.parent) == [folder]
    assert problems(folder) == [
        "dataset.json: the file is missing, so the build was not finished; the shards were checked against their "
        "indices alone"
    ]


def test_what_the_build_left_out_or_doubted_is_a_warning_with_names(folder: Path) -> None:
    """verify cannot stay silent about what a build did not take, however long ago it was."""
    notices = Notices()
    notices.leave_out("hard links in class tars", *(f"n1/{i}.JPEG" for i in range(25)))
    notices.doubt("JPEGs with a damaged stretch", "a.JPEG")
    recorded(folder, lambda meta: meta.update(notes=notices.added_to(meta["notes"])), fingerprint=False)
    assert problems(folder) == []
    assert [text.partition(": by the build, ")[2] for text in warnings(folder)] == [
        "1 taken, but doubtful: JPEGs with a damaged stretch (a.JPEG)",
        f"25 left out: hard links in class tars ({', '.join(f'n1/{i}.JPEG' for i in range(20))} and 5 more)",
    ]
    recorded(folder, lambda meta: meta["notes"].update(left_out=[3]), fingerprint=False)
    assert len(warnings(folder)) == 1


def test_a_lost_digest_is_a_warning_where_a_build_wrote_one(folder: Path) -> None:
    """A damaged key leaves an entry that no build writes, and a set with its plan was never without a digest; the sets
    of the first versions have none.
    """
    path = folder / "dataset.json"

    def rewritten(**changes: Any) -> list[str]:
        meta = json.loads(whole) | changes
        del meta["digest"]
        path.write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
        return [text for text in warnings(folder) if "digest" in text]

    whole = path.read_text()
    meta = json.loads(whole)
    assert rewritten() == []
    assert rewritten(digesu=meta["digest"]) == [
        "dataset.json: the file has no digest of its own, and 'digesu', which no build writes: a change in it may be "
        "unseen"
    ]
    assert rewritten(notes={"plan": {}}) == [
        "dataset.json: the file has no digest of its own: a change in it may be unseen"
    ]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"notes": []}, "notes is list, not dict"),
        ({"notes": None}, "notes is NoneType, not dict"),
        ({"notes": {"attribute_names": 3}}, "notes.attribute_names is int, not list"),
        ({"editions": {}}, "it names no edition"),
        ({"editions": {"glt": {}}}, "it records no samples and fingerprint of the split glt/"),
    ],
)
def test_optional_entries_of_the_wrong_kind_are_refused(changes: dict[str, Any], said: str, pristine: Path) -> None:
    """Also of a set without a digest, which would have seen it first."""
    meta = json.loads((pristine / "dataset.json").read_text()) | changes
    del meta["digest"]
    assert misshapen(meta) == said
