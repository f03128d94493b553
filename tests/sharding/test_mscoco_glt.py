"""The builder of MSCOCO-GLT on a small source in COCO's formats: what is built, the same bytes whatever the way, the
authors' files, and refusals.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from sharding import build as build_module
from sharding.building.notices import sentences
from sharding.checks.dataset import check_notices
from sharding.checks.report import Findings
from sharding.datasets.mscoco_glt.splits import PAPER, class_group
from sharding.format.dataset import Dataset
from sharding.images.damage import EMPTY, WARNED
from sharding.open import open_dataset
from tests.helpers import coco_source
from tests.helpers.paths import PROJECT

SIZES = [n + 13 for n in (17, 15, 13, 12, 11, *range(10, 0, -1), *[0] * 14)]
"""Enough for a hundredth of the paper's balanced edition."""
WORDS = ("scale=0.01", "workers=1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 483 objects."""
    root = tmp_path_factory.mktemp("coco")
    coco_source.write(root, SIZES)
    return root


def made(source: Path | None, out: Path, *words: str) -> Dataset:
    """Built by the command line's own entry."""
    given = {word.partition("=")[0] for word in words}
    assert (
        build_module.main(
            [
                "data=mscoco_glt",
                f"out={out}",
                *([f"source={source}"] if source else []),
                *words,
                *(word for word in WORDS if word.partition("=")[0] not in given and (source or "scale" not in word)),
            ]
        )
        == 0
    )
    return open_dataset(out, "mscoco_glt")


@pytest.fixture(scope="module")
def root(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    with open(out / "said.txt", "w") as said, contextlib.redirect_stdout(said):
        made(source, out)
    return out


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(root, "mscoco_glt")


def digests(out: Path) -> dict[str, str]:
    """sha256 of every file of the data set, without what the stages hand on."""
    folder = out / "mscoco_glt"
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }


def samples(dataset: Dataset, relative: str) -> dict[str, dict[str, Any]]:
    """KEY -> its parts, by plain webdataset."""
    urls = [str(path) for path in sorted((dataset.folder / relative).glob("shard-*.tar"))]
    return {
        sample["__key__"]: sample
        for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    }  # .decode() without arguments: cls and json, not images


def raw(dataset: Dataset, relative: str) -> dict[str, tuple[bytes, dict[str, Any]]]:
    edition, split = relative.split("/")
    opened = dataset.split(edition, split)
    entries = samples(dataset, relative)
    return {str(key): (opened.read(i), entries[str(key)]["json"]) for i, key in enumerate(opened.index.key)}


# ------------------------------------------------------------------------------------------------------- what is built
def test_editions_and_counts(dataset: Dataset) -> None:
    """Each edition has its own folders, as its tests are not the other's; counts follow the paper's sizes, a hundredth
    of them.
    """
    assert dataset.editions == {
        "glt": {name: f"glt/{name}" for name in ("train", "val", "test_glt", "test_cbl", "test_gbl")},
        "cbl": {name: f"cbl/{name}" for name in ("train", "val", "test_cbl", "test_gbl")},
    }
    assert dataset.class_names == list(coco_source.SIZES)[:15] + sorted(
        list(coco_source.SIZES)[15:]
    ) and dataset.class_groups == [class_group(k) for k in range(29)]
    glt, cbl = (PAPER[edition].times(0.01) for edition in ("glt", "cbl"))
    count = {relative: entry["per_class"] for relative, entry in dataset.meta["splits"].items()}
    assert count["glt/test_cbl"] == count["glt/test_gbl"] == [glt.test] * 29 == [2] * 29
    assert count["cbl/test_cbl"] == count["cbl/test_gbl"] == [cbl.test] * 29 == [1] * 29
    assert sum(count["glt/val"]) == 29 and sum(count["glt/test_glt"]) == 58 and sum(count["cbl/val"]) == 29
    assert (np.array(count["cbl/train"]) + count["cbl/val"]).tolist() == [11] * 29
    assert (np.array(count["glt/train"]) + count["glt/val"] + count["glt/test_glt"]).tolist() == [
        min(int(646 * 0.005 ** (c / 28)), n - 4) for c, n in enumerate(SIZES)
    ]
    assert set(dataset.meta["statistics"]) == {"glt", "cbl"} and all(
        0 < value < 1 for entry in dataset.meta["statistics"].values() for values in entry.values() for value in values
    )


def test_every_sample_is_its_object(source: Path, dataset: Dataset) -> None:
    """By plain webdataset: key and source are the patch, the JPEG is the crop of the annotation's box by the rule,
    KEY.json has image, box and attributes.
    """
    import joblib

    content = joblib.load(source / "cocottributes_py3.jbl")
    documents = [
        json.loads((source / "annotations" / f"instances_{part}.json").read_text()) for part in ("train2014", "val2014")
    ]
    annotations = {entry["id"]: entry for document in documents for entry in document["annotations"]}
    files = {
        entry["id"]: source / part / entry["file_name"]
        for document, part in zip(documents, ("train2014", "val2014"), strict=True)
        for entry in document["images"]
    }
    names = {entry["id"]: entry["name"] for entry in documents[0]["categories"]}
    seen = 0
    for relative in ("glt/test_gbl", "glt/val", "cbl/test_cbl"):
        for key, (jpg, entry) in raw(dataset, relative).items():
            annotation = annotations[content["patch_id_to_ann_id"][int(key)]]
            assert entry["source"] == f"object-{key}" and (entry["annotation"], entry["image"], entry["box"]) == (
                annotation["id"],
                annotation["image_id"],
                annotation["bbox"],
            )
            assert entry["attributes"] == np.flatnonzero(content["ann_vecs"][int(key)] > 0.5).tolist()
            assert (
                dataset.class_names[entry["label"]] == names[annotation["category_id"]]
                and entry["group"] == class_group(entry["label"])
                and entry["attribute"] in (0, 1, 2)
            )
            assert jpg == reference_crop(files[annotation["image_id"]], annotation["bbox"])
            seen += 1
    assert seen == 58 + 29 + 29


def reference_crop(file: Path, box: list[float]) -> bytes:
    """The rule again, by arrays: surroundings, clipping, black square, Pillow's default JPEG."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    spans = []
    for start, size, limit in ((box[1], box[3], pixels.shape[0]), (box[0], box[2], pixels.shape[1])):
        more = 50 if size < 100 else size / 5
        spans.append((int(np.rint(max(start - more, 0))), int(np.rint(min(start + size + more, limit)))))
    part = pixels[slice(*spans[0]), slice(*spans[1])]
    side = max(part.shape)
    # what the square adds shows the image where there is some, black outside
    down, right = (side - part.shape[0]) // 2, (side - part.shape[1]) // 2
    square = np.zeros((side, side, 3), np.uint8)
    for y in range(side):
        row = spans[0][0] - down + y
        if 0 <= row < pixels.shape[0]:
            columns = np.arange(side) + spans[1][0] - right
            inside = (columns >= 0) & (columns < pixels.shape[1])
            square[y, inside] = pixels[row, columns[inside]]
    buffer = io.BytesIO()
    Image.fromarray(square).save(buffer, "JPEG")
    return buffer.getvalue()


def test_images_with_objects_in_several_splits_are_counted(dataset: Dataset, root: Path) -> None:
    """The paper splits objects, so images recur: how many is printed and stands in dataset.json; the attributes' names
    stand there too.
    """
    notes = dataset.meta["notes"]
    for edition, splits in dataset.editions.items():
        where: dict[int, set[str]] = {}
        for relative in splits.values():
            for entry in samples(dataset, relative).values():
                where.setdefault(entry["json"]["image"], set()).add(relative)
        assert notes["images_in_several_splits"][edition] == sum(len(found) > 1 for found in where.values()) > 0
        assert notes["of_these_in_train"][edition] == sum(
            len(found) > 1 and f"{edition}/train" in found for found in where.values()
        )
        assert notes["images"][edition] == len(where)
        assert notes["attribute_std"][f"{edition}/test_gbl"] < notes["attribute_std"][f"{edition}/test_cbl"]
    assert len(notes["attribute_names"]) == 204
    assert (
        f"{notes['images_in_several_splits']['glt']} of {notes['images']['glt']} images have objects in several "
        "splits of edition glt" in (root / "said.txt").read_text()
    )


# ------------------------------------------------------------------------------------------------------ the same bytes
def test_bytes_do_not_depend_on_workers_hash_seed_or_parts(root: Path, source: Path, tmp_path: Path) -> None:
    """Four workers in a process with another hash seed, and stages in three parts, from the arrays and from a moved
    source, give the bytes of one process.
    """
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    command = [
        sys.executable,
        "-m",
        "sharding.build",
        "data=mscoco_glt",
        f"out={tmp_path / 'four'}",
        f"source={source}",
        "scale=0.01",
        "workers=4",
    ]
    subprocess.run(
        command,
        cwd=PROJECT,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=300,
    )
    assert digests(tmp_path / "four") == digests(root)
    moved = tmp_path / "elsewhere"
    os.symlink(source, moved)
    words = [f"source={moved}", f"attributes={root / 'mscoco_glt/.work/coco_attributes.npz'}", *WORDS]
    for stage in (
        ["stage=attributes"],
        ["stage=split"],
        ["stage=pack", "part=3/3"],
        ["stage=pack", "part=1/3"],
        ["stage=pack", "part=2/3"],
        ["stage=finish"],
    ):
        assert build_module.main(["data=mscoco_glt", f"out={tmp_path / 'parts'}", *words, *stage]) == 0
    assert digests(tmp_path / "parts") == digests(root)


def test_seed(dataset: Dataset, source: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same words again do nothing; another seed is another data set, of the same counts and the same Test-GBL."""
    before = {path: path.stat().st_mtime_ns for path in (root / "mscoco_glt").rglob("*.*") if ".work" not in path.parts}
    made(source, root)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {
        path: path.stat().st_mtime_ns for path in (root / "mscoco_glt").rglob("*.*") if ".work" not in path.parts
    }
    other = made(source, tmp_path, "seed=1")
    assert other.fingerprint != dataset.fingerprint
    for relative, entry in dataset.meta["splits"].items():
        assert (
            other.meta["splits"][relative]["samples"] == entry["samples"]
            and other.meta["splits"][relative]["fingerprint"] != entry["fingerprint"]
        )
    assert set(samples(other, "glt/test_gbl")) == set(samples(dataset, "glt/test_gbl"))


def test_a_source_that_is_gone_is_not_needed(
    dataset: Dataset, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished data set by the same words has nothing to do then; other words or a stage need the source."""
    gone = tmp_path / "gone"
    assert made(gone, root).fingerprint == dataset.fingerprint
    assert f"source={gone} is gone: nothing to do" in capsys.readouterr().out
    for word in ("seed=1", "resize_short=64", "stage=split", f"attributes={tmp_path / 'other.npz'}"):
        assert build_module.main(["data=mscoco_glt", f"out={root}", f"source={gone}", *WORDS, word]) == 2
        assert "nothing to do" not in capsys.readouterr().out


def test_resumes_after_kill(root: Path, source: Path, tmp_path: Path) -> None:
    """A build that is killed by SIGKILL in mid-packing does not open, and the same command keeps every finished shard
    and ends with the same bytes.
    """
    command = [
        sys.executable,
        "-m",
        "sharding.build",
        "data=mscoco_glt",
        f"out={tmp_path}",
        f"source={source}",
        "scale=0.01",
        "workers=1",
    ]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (kept := list((tmp_path / "mscoco_glt").glob(".work/shards/*/*/*.json"))) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert kept and not (tmp_path / "mscoco_glt" / "dataset.json").exists()
    finished = [
        tmp_path / "mscoco_glt" / path.relative_to(tmp_path / "mscoco_glt/.work/shards").with_suffix("")
        for path in (tmp_path / "mscoco_glt").glob(".work/shards/*/*/*.json")
    ]
    assert 0 < len(finished) < 9
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}
    made(source, tmp_path)
    assert before == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}
    assert digests(tmp_path) == digests(root)


@pytest.mark.parametrize("words, side, quality", [(("quality=40",), None, 40), (("resize_short=64",), 64, 75)])
def test_stored_size(
    words: tuple[str, ...], side: int | None, quality: int, dataset: Dataset, source: Path, tmp_path: Path
) -> None:
    """resize_short= bounds the crop's side, quality= is the JPEG's; both stand in the build's options and change the
    fingerprint, not the splits.
    """
    other = made(source, tmp_path, *words)
    assert other.fingerprint != dataset.fingerprint and other.meta["build"] == {
        **dataset.meta["build"],
        **{key: int(value) for key, _, value in (word.partition("=") for word in words)},
    }
    mine, theirs = raw(other, "cbl/test_cbl"), raw(dataset, "cbl/test_cbl")
    assert list(mine) == list(theirs)
    for key, (jpg, entry) in mine.items():
        image, whole = Image.open(io.BytesIO(jpg)), Image.open(io.BytesIO(theirs[key][0]))
        assert image.size == tuple(min(n, side or n) for n in whole.size) and entry == theirs[key][1]
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        assert image.quantization == Image.open(buffer).quantization


# --------------------------------------------------------------------------------------------------- the authors' files
@pytest.fixture(scope="module")
def authors(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with glt.json and cbl.json in the authors' format, saying what the built data set is, and their crops in
    crops/.
    """
    folder = tmp_path_factory.mktemp("authors")
    theirs = {"train": "train", "val": "val", "test_glt": "test_lt", "test_cbl": "test_bl", "test_gbl": "test_bbl"}
    for edition, splits in dataset.editions.items():
        document: dict[str, Any] = {
            "cat2id": {name: k for k, name in enumerate(dataset.class_names)},
            "id2cat": {str(k): name for k, name in enumerate(dataset.class_names)},
            "key2path": {},
            "test_lt": {"label": {}, "frequency": {}, "attribute": {}, "path": {}, "attribute_score": {}},
        }
        for split, relative in splits.items():
            entries = raw(dataset, relative)
            (folder / "crops" / edition).mkdir(parents=True, exist_ok=True)
            for key, (jpg, _) in entries.items():
                (folder / "crops" / edition / f"{key}.jpg").write_bytes(jpg)
            document[theirs[split]] = {
                "label": {key: entry["label"] for key, (_, entry) in entries.items()},
                "frequency": {key: entry["group"] for key, (_, entry) in entries.items()},
                "attribute": {key: entry["attribute"] for key, (_, entry) in entries.items()},
                "path": {key: f"/data4/coco_{edition}/{key}.jpg" for key in entries},
                "attribute_score": {key: entry["attribute_score"] for key, (_, entry) in entries.items()},
                "attribute_dist": {str(k): [0] * 204 for k in range(29)},
            }
        (folder / f"{edition}.json").write_text(json.dumps(document))
    return folder


def test_the_authors_splits_and_crops(authors: Path, dataset: Dataset, tmp_path: Path) -> None:
    """annotation= with prefix=: their samples in their order, labels, groups and scores as the files say, crops copied
    bit by bit.
    """
    found = made(
        None,
        tmp_path,
        f"annotation={authors}/cbl.json,{authors}/glt.json",
        f"prefix=/data4/coco_glt/={authors}/crops/glt/,/data4/coco_cbl/={authors}/crops/cbl/",
    )
    assert (
        found.editions == dataset.editions
        and found.class_names == dataset.class_names
        and found.class_groups == dataset.class_groups
    )
    for relative in dataset.meta["splits"]:
        mine, theirs = raw(found, relative), raw(dataset, relative)
        assert list(mine) == list(theirs) and all(mine[key][0] == theirs[key][0] for key in theirs)
        for key in theirs:
            assert mine[key][1] == {
                name: value
                for name, value in theirs[key][1].items()
                if name not in ("image", "annotation", "box", "attributes")
            }


def test_crops_elsewhere_are_built_in(authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another prefix= leads to crops of the same names and other bytes: they are taken as a fresh build takes them. To
    the same bytes it leads without a shard made again.
    """
    shutil.copytree(authors / "crops" / "cbl", tmp_path / "same")
    (tmp_path / "other").mkdir()
    for path in (authors / "crops" / "cbl").iterdir():
        with Image.open(path) as crop:
            crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "other" / path.name)

    def fingerprint(out: Path, folder: Path) -> str:
        words = (f"annotation={authors}/cbl.json", f"prefix=/data4/coco_cbl/={folder}/")
        return str(made(None, out, *words).meta["fingerprint"])

    first = fingerprint(tmp_path / "out", authors / "crops" / "cbl")
    assert fingerprint(tmp_path / "out", tmp_path / "same") == first
    assert "were made again" not in capsys.readouterr().out
    other = fingerprint(tmp_path / "out", tmp_path / "other")
    assert other == fingerprint(tmp_path / "fresh", tmp_path / "other") != first


def test_the_authors_splits_with_crops_cut_here(authors: Path, source: Path, dataset: Dataset, tmp_path: Path) -> None:
    """annotation= with source=: their splits, our crops of the same objects. One file builds its edition alone."""
    found = made(source, tmp_path, f"annotation={authors}/cbl.json", "scale=1")
    assert found.editions == {"cbl": dataset.editions["cbl"]}
    for relative in dataset.editions["cbl"].values():
        assert found.meta["splits"][relative] == dataset.meta["splits"][relative]
        assert raw(found, relative) == raw(dataset, relative)


def test_an_object_under_two_ids_is_counted(authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ids of one crop, in two splits: said on the last line, kept in dataset.json, and repeated by verify."""
    document = json.loads((authors / "cbl.json").read_text())
    one, two = min(document["train"]["path"]), min(document["val"]["path"])
    document["val"]["path"][two] = document["train"]["path"][one]
    (tmp_path / "twin.json").write_text(json.dumps(document))
    found = made(None, tmp_path, f"annotation={tmp_path}/twin.json", f"prefix=/data4/coco_cbl/={authors}/crops/cbl/")
    line = f"1 taken, but doubtful: objects under two ids in two splits of edition cbl ({two} in val, {one} in train)"
    assert capsys.readouterr().out.splitlines()[-1] == line
    assert list(sentences(found.meta["notes"])) == [line]
    warnings = Findings(9)
    check_notices(found.meta["notes"], warnings)
    assert [str(warning) for warning in warnings.first()] == [f"dataset.json: by the build, {line}"]


def test_every_stages_doubts_are_told_once(
    authors: Path, source: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of stage `split` an object under two ids, of `pack` a lost page, of `finish` a photo under two names: each has
    one line, and no stage's counts replace another's.
    """
    coco = shutil.copytree(source, tmp_path / "coco")
    with np.load(root / "mscoco_glt" / ".work" / "split.npz") as dealt:
        columns = [dealt[name].tolist() for name in ("key", "file", "annotation", "image", "box", "size")]
    known = {row[0]: row[1:] for row in zip(*columns, strict=True) if row[1].startswith("train2014/")}
    document, files = json.loads((authors / "cbl.json").read_text()), {}
    for split in ("train", "val", "test_bl", "test_bbl"):  # four objects of each, of as many photos
        for key in document[split]["path"]:
            if key in known and len([k for k in files if k in document[split]["path"]]) < 4:
                files |= {} if known[key][0] in files.values() else {key: known[key][0]}
        for table in ("label", "frequency", "attribute", "path", "attribute_score"):
            document[split][table] = {key: value for key, value in document[split][table].items() if key in files}
    (tmp_path / "few.json").write_text(json.dumps(document))
    (twin, copied, torn, _), (other, whole, *_) = document["train"]["path"], document["val"]["path"]

    path = coco / "annotations" / "instances_train2014.json"
    instances = json.loads(path.read_text())
    entry = {one["id"]: one for one in instances["annotations"]}
    entry[known[other][1]] |= {"image_id": known[twin][2], "bbox": known[twin][3]}
    entry[known[copied][1]] |= {"image_id": 3, "bbox": known[whole][3]}
    of_whole = next(image for image in instances["images"] if image["id"] == known[whole][2])
    instances["images"].append({**of_whole, "id": 3, "file_name": "copy.jpg"})
    shutil.copy(coco / known[whole][0], coco / "train2014" / "copy.jpg")
    path.write_text(json.dumps(instances))
    width, height = known[torn][4]
    grain = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    grain.save(coco / known[torn][0], quality=100, subsampling=0)
    data = (coco / known[torn][0]).read_bytes()
    (coco / known[torn][0]).write_bytes(data[:4096] + bytes(4096) + data[8192:])

    found = made(coco, tmp_path, f"annotation={tmp_path}/few.json", "scale=1")
    lines = [line for line in capsys.readouterr().out.splitlines() if "doubtful" in line]
    assert lines == list(sentences(found.meta["notes"]))
    where = "two splits of edition cbl"
    assert [line.removeprefix("1 taken, but doubtful: ") for line in lines] == [
        f"{WARNED} ({known[torn][0]})",
        f"{EMPTY} ({known[torn][0]})",
        f"objects under two ids in {where} ({other} in val, {twin} in train)",
        f"photos under two names in {where} (train2014/copy.jpg in train and {known[whole][0]} in val)",
    ]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence with which the command is refused, exit code 2, and nothing that opens is left."""
    assert build_module.main(["data=mscoco_glt", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("sharding.build: ")
    out = Path(next(word for word in words if word.startswith("out=")).partition("=")[2])
    assert not (out / "mscoco_glt" / "dataset.json").exists()
    return error


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda d: d.pop("test_bl"), "is not MSCOCO-GLT's annotation file: it lacks test_bl"),
        (lambda d: d["val"].pop("path"), "split val lacks path"),
        (lambda d: d["id2cat"].update({"29": "toaster"}), "30 classes, 29 would be legal"),
        (lambda d: d["val"]["label"].update({next(iter(d["val"]["label"])): 29}), "has label 29"),
        (lambda d: d["val"]["attribute"].update({next(iter(d["val"]["label"])): 3}), "attribute 3"),
        (lambda d: [d["val"]["frequency"].update({key: 2}) for key in d["val"]["label"]], "has frequency 2; class"),
        (lambda d: d["val"].update(d["test_bl"]), "is in val and test_cbl of"),
        (
            lambda d: d.update(train={"label": {}, "frequency": {}, "attribute": {}, "path": {}}),
            "has no samples in split train",
        ),
        (
            lambda d: d["val"]["label"].update({next(iter(d["val"]["label"])): None}),
            "of val has the label None, not a whole number from 0 to",
        ),
        (
            lambda d: [d[name]["path"].pop(next(iter(d[name]["path"]))) for name in ("val",)],
            "of val lacks path",
        ),
        (lambda d: d["val"]["label"].pop(min(d["val"]["label"])), "and no label of it"),
        (lambda d: d["val"]["label"].update({min(d["val"]["label"]): 2.5}), "has the label 2.5, not a whole number"),
        (lambda d: d["val"]["label"].update({min(d["val"]["label"]): True}), "has the label True, not a whole number"),
        (
            lambda d: d["val"]["attribute_score"].update({min(d["val"]["label"]): float("inf")}),
            "has the attribute_score inf, not a number from",
        ),
        (lambda d: d["val"].update(path=[]), "split val has the path list, not an object"),
        (lambda d: d["id2cat"].update({"28": d["id2cat"]["0"]}), "id2cat names class"),
    ],
)
def test_wrong_authors_files(
    change: Callable[[dict[str, Any]], Any],
    sentence: str,
    authors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = json.loads((authors / "cbl.json").read_text())
    change(document)
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    assert sentence in refused(capsys, f"out={tmp_path}", f"annotation={tmp_path / 'wrong.json'}")


def test_refusals(authors: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Words that do not go together, files that are not there, crops that are not there, stages out of order: one
    sentence each.
    """
    glt, out = f"annotation={authors}/glt.json", f"out={tmp_path / 'out'}"
    assert "source= is missing; legal is the folder" in refused(capsys, out)
    assert "seed= and scale= cannot be used with annotation=" in refused(capsys, out, glt, "seed=1")
    assert "prefix= maps the paths" in refused(capsys, out, f"source={source}", "prefix=/a=/b")
    assert "cannot be used without source=" in refused(capsys, out, glt, "attributes=x.jbl")
    assert "none.json cannot be read (No such file" in refused(capsys, out, f"annotation={tmp_path}/none.json")
    assert "are both of edition glt" in refused(capsys, out, f"{glt},{authors}/glt.json")
    assert (
        "/data4/coco_glt/" in (sentence := refused(capsys, out, glt, "workers=1"))
        and "cannot be read (No such file or directory)" in sentence
    )
    assert "begins with none of /data5/; prefix=OLD=NEW" in refused(capsys, out, glt, "prefix=/data5/=/x/")
    assert "weights=x cannot be used: mscoco_glt takes" in refused(capsys, out, "weights=x")
    assert "split.npz is missing: stage=split comes before stage=pack" in refused(
        capsys, f"out={tmp_path / 'fresh'}", f"source={source}", "stage=pack"
    )
    assert build_module.main(["data=mscoco_glt", out, f"source={source}", "stage=split", "scale=0.01"]) == 0
    assert "stage=split was run with seed=0, stage=pack with another" in refused(
        capsys, out, f"source={source}", "stage=pack", "scale=0.01", "seed=3"
    )
    repaired = shutil.copytree(source, tmp_path / "repaired")
    with open(repaired / "annotations" / "instances_val2014.json", "a") as file:
        file.write(" ")
    assert "instances_val2014.json changed since stage=split, which comes before stage=pack" in refused(
        capsys, out, f"source={repaired}", "stage=pack", "scale=0.01"
    )
    assert (
        "class 'person' is too small for Test-GBL: "
        in (sentence := refused(capsys, f"out={tmp_path / 'whole'}", f"source={source}"))
        and "200 are needed" in sentence
    )


def test_bad_sources(source: Path, authors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated image, one of another size than its annotation says, and an attribute file that is cut off, through
    the whole command.
    """
    copy, out = tmp_path / "coco", f"out={tmp_path / 'out'}"
    shutil.copytree(source, copy)
    image = max((copy / "train2014").iterdir(), key=lambda path: path.stat().st_size)
    data = image.read_bytes()
    image.write_bytes(data[: len(data) // 2])
    assert (
        f"{image}, annotation " in (sentence := refused(capsys, out, f"source={copy}", *WORDS))
        and "not a whole JPEG or PNG image" in sentence
    )
    Image.new("RGB", (17, 19)).save(image)
    assert "the image has 17x19 pixels, its annotation says" in refused(capsys, out, f"source={copy}", *WORDS)
    image.write_bytes(data)
    path = copy / "cocottributes_py3.jbl"
    path.write_bytes(path.read_bytes()[:-2000])
    assert "cocottributes_py3.jbl is cut off, damaged or no joblib pickle" in refused(
        capsys, out, f"source={copy}", *WORDS
    )
    path.unlink()
    assert "cocottributes_py3.jbl cannot be read (No such file or directory); attributes= names" in refused(
        capsys, out, f"source={copy}", *WORDS
    )


@pytest.mark.full
def test_the_papers_network_trains_on_it(root: Path, tmp_path: Path) -> None:
    """What was built passes `sharding.verify` (large objects of one image may have the same crop, which is a warning
    here); glt_randaug_ifl takes two steps on it, IFL in the second, and judges every split."""
    from sharding.verify import main as verify
    from tests.helpers.mini import two_steps

    assert verify([str(root)]) == 0 and verify([str(root), "duplicates=problem"]) == 1
    recipe = two_steps(root, "mscoco_glt", tmp_path)
    assert {path.stem for path in (recipe.run_folder / "preds" / "last").glob("*.npz")} == {
        "val",
        "test_glt",
        "test_cbl",
        "test_gbl",
    }
