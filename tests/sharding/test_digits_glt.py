"""The bundled data set and the shard format: what a build promises and how damage is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from recipes.common.errors import DataError
from sharding import build as build_module
from sharding.datasets.digits_glt import build, looks
from sharding.format.dataset import Dataset, Split
from sharding.format.index import load_index, save_index
from sharding.format.shards import Sample, write_split
from sharding.open import open_dataset
from tests.helpers.paths import PROJECT

FINGERPRINT = "7cb2a4f49575a5290b18c9d12ec369e1ea52f299cb22a0344643075da57c8856"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """DATA_ROOT of a second build, under way in a process with another hash seed, locale and time zone."""
    out = tmp_path_factory.mktemp("twin")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sharding.build", "data=digits_glt", f"out={out}"],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield out, process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def root(twin: tuple[Path, subprocess.Popen[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA_ROOT with digits_glt of seed 0, built once by the command line's own entry (the twin runs beside it)."""
    out = tmp_path_factory.mktemp("data")
    assert build_module.main(["data=digits_glt", f"out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(root, "digits_glt")


@pytest.fixture()
def copy(root: Path, tmp_path: Path) -> Path:
    """A DATA_ROOT that may be damaged: hard links cost nothing, `rewrite` breaks them."""
    shutil.copytree(root / "digits_glt", tmp_path / "digits_glt", copy_function=os.link)
    return tmp_path


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def splits_of(dataset: Dataset) -> Iterator[tuple[str, str, Split]]:
    for edition, splits in dataset.editions.items():
        for split in splits:
            yield edition, split, dataset.split(edition, split)


def tree_digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "JPEG")
    return buffer.getvalue()


def some_samples(count: int) -> Iterator[Sample]:
    for i in range(count):
        yield Sample(f"k-{i:03d}", f"s-{i}", jpeg(i), i % 3, 0, i % 3, {"look": "pen"})


def test_same_seed_same_bytes(root: Path, twin: tuple[Path, subprocess.Popen[bytes]]) -> None:
    """A build in another process, with another hash seed, locale and time zone, gives every file byte for byte."""
    out, process = twin
    assert process.wait(timeout=120) == 0
    assert tree_digest(out / "digits_glt") == tree_digest(root / "digits_glt")


def test_other_seed_other_images() -> None:
    """Another seed draws other scans, in another order, into other images."""
    first, second = [], []
    for seed, found in ((0, first), (1, second)):
        scans, pools = build._load_scans(seed)
        found.extend(build._samples("cbl/val", 4, scans, pools, seed))
    assert [s.source for s in first] != [s.source for s in second]
    assert not {s.jpg for s in first} & {s.jpg for s in second}


def test_recorded_fingerprint(dataset: Dataset) -> None:
    """The frozen data set: whoever changes a byte of it must raise VERSION and measure the phenomenon again."""
    assert dataset.fingerprint == FINGERPRINT


def test_fingerprint_follows_content(dataset: Dataset, tmp_path: Path) -> None:
    """A split's fingerprint changes with any field and survives the file; fingerprint_of tells the splits used."""
    index = dataset.split("glt", "val").index
    save_index(tmp_path, index)
    assert load_index(tmp_path).fingerprint == index.fingerprint
    fields = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    for name, array in fields.items():
        if name == "shard":
            continue  # val has one shard: there is no other legal value
        changed = array.copy()
        if array.dtype.kind == "U":
            changed[-1] = "x"
        else:
            changed[-1] = (array[-1] + 1) % 3 if name in ("group", "attribute") else array[-1] + 1
        assert type(index)(**{**fields, name: changed}).fingerprint != index.fingerprint, name
    used = dataset.fingerprint_of("glt", ["train", "val"])
    assert used == dataset.fingerprint_of("glt", ["val", "train"])
    assert used not in (dataset.fingerprint_of("glt", ["train"]), dataset.fingerprint_of("cbl", ["train", "val"]))


def test_editions_counts_and_groups(dataset: Dataset) -> None:
    """Editions, splits, class groups 4/4/2, both long tails and both balances are those of the benchmark."""
    assert {e: set(s) for e, s in dataset.editions.items()} == {
        "glt": {"train", "val", "test_glt", "test_cbl", "test_gbl"},
        "cbl": {"train", "val", "test_cbl", "test_gbl"},
    }
    assert dataset.class_groups == [0] * 4 + [1] * 4 + [2] * 2 and dataset.num_classes == 10
    assert sorted(dataset.class_names) == [f"digit {d}" for d in range(10)]
    tables = {}
    for edition, split, opened in splits_of(dataset):
        index = opened.index
        table = np.zeros((10, 3), int)
        np.add.at(table, (index.label, index.attribute), 1)
        tables[edition, split] = table
        assert (np.array(dataset.class_groups)[index.label] == index.group).all()
        recorded = dataset.meta["splits"][dataset.editions[edition][split]]
        assert recorded["per_class_attribute"] == table.tolist() and recorded["per_class"] == table.sum(1).tolist()
    train = tables["glt", "train"].sum(1)
    assert (np.diff(train) < 0).all() and train.max() / train.min() >= 50 and 4000 <= train.sum() <= 4400
    for key in (("glt", "train"), ("cbl", "train"), ("cbl", "val"), ("glt", "test_cbl")):  # 7:2:1 in every class
        share = tables[key] / tables[key].sum(1, keepdims=True)
        assert np.abs(share - [0.7, 0.2, 0.1]).max() <= 0.5 / tables[key].sum(1).min() + 0.02, key
    assert set(tables["cbl", "train"].sum(1)) == {420} and len(set(tables["cbl", "val"].sum(1))) == 1
    assert set(tables["glt", "test_cbl"].sum(1)) == {240} and set(tables["glt", "test_gbl"].ravel()) == {80}
    for split in ("val", "test_glt"):  # iid with Train-GLT
        share = tables["glt", split].sum(1) / tables["glt", split].sum()
        assert np.abs(share - train / train.sum()).max() < 0.01


def test_looks_rank_differently(dataset: Dataset) -> None:
    """Looks correlate with classes in training and not in Test-GBL; ranks in pairs are the attribute groups."""
    assert len(set(build.RANKS)) == 10 and all(sorted(ranks) == list(range(6)) for ranks in build.RANKS)
    shares = {}
    for split in ("train", "test_gbl"):
        opened = dataset.split("cbl", split)
        counts = np.zeros((10, 6), int)
        for name in opened.index.shard_name:
            with tarfile.open(opened.folder / str(name)) as tar:
                for member in tar:
                    if member.name.endswith(".json"):
                        entry = json.load(tar.extractfile(member))
                        look = looks.LOOKS.index(entry["look"])
                        counts[entry["label"], look] += 1
                        assert entry["attribute"] == build.RANKS[entry["label"]].index(look) // 2
        shares[split] = counts / counts.sum(1, keepdims=True)
    assert shares["train"].max() > 0.4 and shares["test_gbl"].max() < 0.21


def test_no_source_in_two_splits(dataset: Dataset) -> None:
    """No scan occurs in two splits of an edition, and the writer refuses a data set in which one does."""
    for edition, splits in dataset.editions.items():
        sources = [set(dataset.split(edition, split).index.source.tolist()) for split in splits]
        assert sum(map(len, sources)) == len(set.union(*sources)), edition


def test_leak_is_refused(tmp_path: Path) -> None:
    """finish_dataset names the source that lies in two splits of one edition, and nothing opens then."""
    from sharding.format.dataset_json import begin_dataset, finish_dataset

    folder = begin_dataset(tmp_path, "leaky")
    for split in ("train", "val"):
        write_split(folder / "glt" / split, some_samples(3))
    with pytest.raises(DataError, match="'s-0' occurs in train and val of edition glt"):
        finish_dataset(
            tmp_path,
            "leaky",
            class_names=["a", "b", "c"],
            class_groups=[0, 0, 0],
            options={},
            statistics={},
            editions={"glt": {"train": "glt/train", "val": "glt/val"}},
        )
    with pytest.raises(DataError, match="not finished"):
        open_dataset(tmp_path, "leaky")


def test_plain_webdataset_reads_every_shard(dataset: Dataset) -> None:
    """webdataset alone gives the index's keys, labels and images in the index's order, decodable at 32x32 RGB."""
    for opened in {split.folder: split for _, _, split in splits_of(dataset)}.values():
        urls = [str(opened.folder / str(name)) for name in opened.index.shard_name]
        found = list(webdataset.WebDataset(urls, shardshuffle=False))
        assert [sample["__key__"] for sample in found] == opened.index.key.tolist()
        assert [int(sample["cls"]) for sample in found] == opened.index.label.tolist()
        assert all(
            hashlib.sha256(s["jpg"]).digest() == d.tobytes() for s, d in zip(found, opened.index.sha256, strict=True)
        )
        entry = json.loads(found[-1]["json"])
        assert set(entry) == {"id", "source", "label", "group", "attribute", "look"} and entry["id"] == len(found) - 1
        image = Image.open(io.BytesIO(found[-1]["jpg"]))
        assert image.size == (32, 32) and image.mode == "RGB"


def test_offsets_are_tarfiles(dataset: Dataset) -> None:
    """A positioned read at the index's offset gives the bytes that tarfile gives for that member."""
    opened = dataset.split("glt", "val")
    for i in range(len(opened)):
        assert opened.read(i)[:2] == b"\xff\xd8"
    with tarfile.open(opened.folder / str(opened.index.shard_name[0])) as tar:
        for i in np.flatnonzero(opened.index.shard == 0).tolist():
            assert opened.read(i) == tar.extractfile(f"{opened.index.key[i]}.jpg").read()


def _digests(split: Split, rows: list[int]) -> list[str]:
    return [hashlib.sha256(split.read(i)).hexdigest() for i in rows]


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_reads_in_other_processes(dataset: Dataset, how: str) -> None:
    """An opened split reads right in forked and in spawned processes, while the parent reads too."""
    opened = dataset.split("glt", "val")
    rows = list(range(0, len(opened), 40))
    here = _digests(opened, rows)
    if how == "spawn":
        assert _digests(pickle.loads(pickle.dumps(opened)), rows) == here
        return
    with multiprocessing.get_context(how).Pool(2) as pool:
        there = [pool.apply_async(_digests, (opened, rows)) for _ in range(4)]
        assert _digests(opened, rows) == here and all(result.get(30) == here for result in there)


def test_flipped_byte_is_refused(copy: Path) -> None:
    """One flipped bit in an image is refused at its read, naming shard, key and offset; other images still read."""
    opened = open_dataset(copy, "digits_glt").split("glt", "val")
    path = opened.folder / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[int(opened.index.offset[5]) + 100] ^= 1
    rewrite(path, bytes(data))
    opened = open_dataset(copy, "digits_glt").split("glt", "val")
    assert opened.read(4) and opened.read(6)
    with pytest.raises(DataError) as refused:
        opened.read(5)
    for part in (str(path), repr(str(opened.index.key[5])), f"offset {opened.index.offset[5]}"):
        assert part in str(refused.value)


def test_truncated_and_missing_shards_are_refused(copy: Path) -> None:
    """Opening a split names the shard that is too short or not there."""
    dataset = open_dataset(copy, "digits_glt")
    path = copy / "digits_glt/glt/train/shard-000003.tar"
    whole = path.read_bytes()
    rewrite(path, whole[:-512])
    with pytest.raises(DataError, match=f"{path} is truncated.*{len(whole) - 512}.*{len(whole)}"):
        dataset.split("glt", "train")
    path.unlink()
    with pytest.raises(DataError, match=f"{path} is missing"):
        dataset.split("glt", "train")
    assert len(dataset.split("cbl", "train")) == 4200  # untouched splits still open


def test_damaged_and_foreign_index_are_refused(copy: Path) -> None:
    """A cut index.npz, a missing one, and one of another build are each refused by name."""
    dataset = open_dataset(copy, "digits_glt")
    path = copy / "digits_glt/glt/val/index.npz"
    whole = path.read_bytes()
    rewrite(path, whole[: len(whole) // 2])
    with pytest.raises(DataError, match=f"{path} cannot be used"):
        dataset.split("glt", "val")
    rewrite(path, (copy / "digits_glt/cbl/val/index.npz").read_bytes())
    with pytest.raises(DataError, match=r"glt/val has fingerprint .* records"):
        dataset.split("glt", "val")
    path.unlink()
    with pytest.raises(DataError, match=f"{path} is missing"):
        dataset.split("glt", "val")


def test_missing_data_names_the_command(tmp_path: Path, dataset: Dataset) -> None:
    """Data that is not there is refused with the command that builds it; unknown editions and splits with the
    nearest.
    """
    with pytest.raises(DataError, match=f"python -m sharding.build data=digits_glt out={tmp_path}$"):
        open_dataset(tmp_path, "digits_glt")
    with pytest.raises(DataError, match="did you mean test_gbl"):
        dataset.split("glt", "test_gb")
    with pytest.raises(DataError, match="legal: "):
        dataset.split("cbll", "train")
    with pytest.raises(DataError, match="edition cbl of digits_glt has no split 'test_glt'"):
        dataset.split("cbl", "test_glt")


def test_rebuild_does_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Building again says in one line that the build is there and touches no file."""
    before = {path: path.stat().st_mtime_ns for path in (root / "digits_glt").rglob("*")}
    assert build_module.main(["data=digits_glt", f"out={root}"]) == 0
    printed = capsys.readouterr().out
    assert "already" in printed and printed.count("\n") == 1
    assert before == {path: path.stat().st_mtime_ns for path in (root / "digits_glt").rglob("*")}


def test_killed_build_leaves_nothing_that_opens(copy: Path) -> None:
    """kill -9 in mid-build, over an older finished build: the data set does not open and no half split stands there."""
    command = [sys.executable, "-m", "sharding.build", "data=digits_glt", f"out={copy}", "seed=5"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = copy / "digits_glt"
    deadline = time.monotonic() + 60
    while not list(folder.glob("*/.*.building/shard-000001.tar")) and time.monotonic() < deadline:
        assert process.poll() is None, "the build ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(DataError, match="not finished"):
        open_dataset(copy, "digits_glt")
    half = list(folder.glob("*/.*.building"))
    assert half and not any((path / "index.npz").exists() for path in half)
    for path in folder.glob("*/*/index.npz"):  # what stands in a split's place is whole
        Split(path.parent, load_index(path.parent)).check_shards()


def test_failed_split_leaves_the_old_one(tmp_path: Path) -> None:
    """A split whose samples fail half-way leaves the folder as it was, and no temporary folder."""
    write_split(tmp_path / "s", some_samples(4), 2)
    before = tree_digest(tmp_path)

    def failing() -> Iterator[Sample]:
        yield from some_samples(3)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_split(tmp_path / "s", failing(), 2)
    assert tree_digest(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_new_split_leaves_what_others_put_there(tmp_path: Path) -> None:
    """A split that is written again has its own files and no older ones, and a stranger's file and folder."""
    write_split(tmp_path / "s", some_samples(6), 2)
    (tmp_path / "s" / "notes").mkdir()
    (tmp_path / "s" / "my_features.npy").write_bytes(b"mine")
    write_split(tmp_path / "s", some_samples(4), 2)
    names = ["index.npz", "my_features.npy", "notes", "shard-000000.tar", "shard-000001.tar"]
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == names


@pytest.mark.parametrize("key", ["a.b", "", "a b", "/a", "a/", "a//b", "ä", "../a"])
def test_illegal_keys_are_refused(tmp_path: Path, key: str) -> None:
    """A key that webdataset would cut or a path would twist is refused by name."""
    with pytest.raises(DataError, match="is not legal"):
        write_split(tmp_path / "s", [Sample(key, "s", jpeg(1), 0, 0)])


def test_bad_samples_are_refused(tmp_path: Path) -> None:
    """A repeated key, an image that is no JPEG, an extra entry that hides a fixed one and an empty split are
    refused.
    """
    with pytest.raises(DataError, match="'k-000' occurs twice"):
        write_split(tmp_path / "s", [*some_samples(2), *some_samples(1)], 1)
    with pytest.raises(DataError, match="not a JPEG"):
        write_split(tmp_path / "s", [Sample("k", "s", b"\x89PNG", 0, 0)])
    with pytest.raises(DataError, match="'label' of key 'k'"):
        write_split(tmp_path / "s", [Sample("k", "s", jpeg(1), 0, 0, extra={"label": 3})])
    with pytest.raises(DataError, match="no samples"):
        write_split(tmp_path / "s", [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data=digit_glt", "out=D"], ["data=digit_glt", "did you mean digits_glt", "legal: "]),
        (["data=digits_glt", "out=D", "sed=1"], ["'sed'", "did you mean seed"]),
        (["data=digits_glt", "out=D", "seed=x"], ["seed=x"]),
        (["data=digits_glt", "out=D", "seed=1", "seed=2"], ["'seed' is given twice"]),
        (["data=digits_glt"], ["out= is missing"]),
        (["data=digits_glt", "out=D", "preview=no/such/x.png"], ["preview="]),
        (["data=digits_glt", "out=D", "source=raw"], ["source=raw"]),
    ],
)
def test_command_line_refuses(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wrong arguments end in one sentence that names key and value and what would be legal; nothing is built."""
    monkeypatch.chdir(tmp_path)
    assert build_module.main(arguments) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words) and error.count("\n") == 1
    assert not (tmp_path / "D" / "digits_glt").exists()


def test_preview_shows_classes_and_looks(root: Path, tmp_path: Path) -> None:
    """preview= draws the contact sheet for data that is already there, without building it again."""
    before = (root / "digits_glt" / "dataset.json").stat().st_mtime_ns
    assert build_module.main(["data=digits_glt", f"out={root}", f"preview={tmp_path / 'sheet.png'}"]) == 0
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.format == "PNG" and min(sheet.size) > 900
    assert (root / "digits_glt" / "dataset.json").stat().st_mtime_ns == before
