"""imagenet_glt from raw sources of ILSVRC's shape: what a build promises, what it refuses, and the paper's counts."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset

from recipes.common.errors import DataError
from recipes.common.files import file_digest
from sharding import build
from sharding.datasets.imagenet_glt import clustering, features
from sharding.datasets.imagenet_glt.annotations import Annotation, read, write
from sharding.datasets.imagenet_glt.archive import list_classes
from sharding.datasets.imagenet_glt.splits import POOL, TARGETS, class_group, class_order, curve, long_tail, split
from sharding.format.dataset import Dataset
from sharding.format.index import load_index
from sharding.open import open_dataset
from tests.helpers import sources
from tests.helpers.imagenet import SIZES, authors_files, built, content, plant, refused, words
from tests.helpers.paths import PROJECT


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(root, "imagenet_glt")


# ---------------------------------------------------------------------------------------------------------- the result
def test_tree_and_tar_give_the_same_bytes(root: Path, raw: Path, tmp_path: Path) -> None:
    """Class folders and the tar of tars give the same data set byte for byte."""
    assert content(built(raw, tmp_path, "train.tar")) == content(root)


def test_stages_and_parts_give_the_same_bytes(root: Path, raw: Path, tmp_path: Path) -> None:
    """The stages one by one, those that can in three parts, as an array of jobs does them."""
    plant(raw, tmp_path)
    for stage in ("index", "clusters", "split", "pack", "finish"):
        parts = [f"part={i}/3" for i in (2, 3, 1)] if stage in ("clusters", "pack") else [None]
        for part in parts:
            assert build.main(words(raw, tmp_path, "tree", f"stage={stage}", *([part] if part else []))) == 0
    assert content(tmp_path) == content(root)


def test_another_seed_is_another_split(root: Path, raw: Path, tmp_path: Path) -> None:
    """The seed decides which images are tested."""
    built(raw, tmp_path, "tree", "seed=1")
    first, second = (
        set(open_dataset(where, "imagenet_glt").split("glt", "test_gbl").index.source.tolist())
        for where in (root, tmp_path)
    )
    assert first != second


def test_shards_hold_the_sources_bytes(dataset: Dataset, raw: Path) -> None:
    """Every image is the source's file bit for bit, but for the PNG, which is encoded and says so; plain webdataset
    reads all.
    """
    seen, encoded = set(), 0
    for relative, info in dataset.meta["splits"].items():
        samples = list(
            webdataset.WebDataset(
                [str(dataset.folder / relative / f"shard-{i:06d}.tar") for i in range(info["shards"])],
                shardshuffle=False,
                empty_check=False,
            )
        )
        assert len(samples) == info["samples"]
        for sample in samples:
            entry = json.loads(sample["json"])
            original = (raw / "tree" / entry["source"]).read_bytes()
            assert (
                entry["source"].endswith(f"{sample['__key__']}.JPEG")
                and int(sample["cls"]) == entry["label"]
                and entry["cluster"] // 2 == entry["attribute"]
            )
            if "stored" in entry:
                encoded += 1
                assert original[:4] == b"\x89PNG" and sample["jpg"][:2] == b"\xff\xd8"
            else:
                assert sample["jpg"] == original
            seen.add(entry["source"])
    oddities = {f"n00000003/n00000003_{i}.JPEG" for i in range(4)}
    assert encoded and oddities & seen


def test_editions_share_their_tests(dataset: Dataset) -> None:
    """Test-CBL and Test-GBL are stored once; classes are numbered by size; no source lies in two splits of an
    edition.
    """
    assert dataset.editions == {
        "glt": {
            "train": "glt/train",
            "val": "glt/val",
            "test_glt": "glt/test_glt",
            "test_cbl": "shared/test_cbl",
            "test_gbl": "shared/test_gbl",
        },
        "cbl": {"train": "cbl/train", "val": "cbl/val", "test_cbl": "shared/test_cbl", "test_gbl": "shared/test_gbl"},
    }
    assert [SIZES[name] for name in dataset.class_names] == sorted(
        SIZES.values(), reverse=True
    ) and dataset.class_groups == [0, 0, 1, 1, 1]
    for edition, splits in dataset.editions.items():
        found = [dataset.split(edition, name).index.source.tolist() for name in splits]
        assert sum(map(len, found)) == len(set().union(*found))


def test_test_gbl_is_more_even_than_test_cbl(dataset: Dataset) -> None:
    """Within each class Test-GBL has its attribute groups equally, Test-CBL 7:2:1 as nearly as a fifth of the paper's
    counts can, train and val a tail.
    """
    gbl, cbl, train = (
        np.array(dataset.meta["splits"][relative]["per_class_attribute"])
        for relative in ("shared/test_gbl", "shared/test_cbl", "cbl/train")
    )

    def std(table: np.ndarray) -> float:
        return float((table / table.sum(1, keepdims=True)).std(1).mean())

    assert (gbl.std(1) == 0).all() and (cbl == [8, 2, 1]).all() and (np.diff(train, axis=1) < 0).all()
    assert std(gbl) < std(cbl) and std(gbl) < std(train)


def test_building_again_does_nothing(root: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command says that all is there and touches no file."""
    before = {path: path.stat().st_mtime_ns for path in (root / "imagenet_glt").rglob("*") if path.is_file()}
    assert build.main(words(raw, root)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (root / "imagenet_glt").rglob("*") if path.is_file()}


def test_a_stage_refuses_what_another_made_of_other_bytes(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image is replaced between the stages: no stage goes on from outdated features and clusters, in parts neither
    where the part has the class; once these are made again, all go on.
    """
    shutil.copytree(raw / "tree", tmp_path / "raw" / "tree")
    shutil.copy(raw / "weights.pth", tmp_path / "raw")

    def stage(name: str, *part: str) -> str:
        status = build.main(words(tmp_path / "raw", tmp_path / "out", "tree", f"stage={name}", *part))
        said = capsys.readouterr()
        return "" if status == 0 else said.out + said.err

    plant(tmp_path / "raw", tmp_path / "out")
    assert not any(map(stage, ("clusters", "split", "pack")))
    (tmp_path / "raw" / "tree" / "n00000011" / "n00000011_5.JPEG").write_bytes(sources.jpeg(4242))
    changed = "images of class n00000011 changed since stage=features: run it again, and then the stages up to stage="
    for name in ("clusters", "split", "pack", "finish"):
        assert changed + name in stage(name)
    assert not stage("pack", "part=1/2") and changed in stage("pack", "part=2/2")
    plant(tmp_path / "raw", tmp_path / "out")
    assert "glt.json was made from other clusters: stage=split comes before stage=pack" in stage("pack")
    assert not any(map(stage, ("clusters", "split", "pack")))


def test_a_repaired_image_is_built_in(
    root: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished build that is asked for again finds nothing to do where its source was moved or is gone; where an
    image was replaced, the features of its class and its shards are made again.
    """
    monkeypatch.setattr(features, "_network", lambda weights: lambda pixels: pixels.reshape(len(pixels), -1)[:, :2048])
    shutil.copytree(raw, tmp_path / "raw")
    shutil.copytree(root, tmp_path / "out")
    command = words(tmp_path / "raw", tmp_path / "out")
    assert build.main(command) == 0 and "nothing to do" in capsys.readouterr().out
    source = str(open_dataset(root, "imagenet_glt").split("glt", "train").index.source[0])
    (tmp_path / "raw" / "tree" / source).write_bytes(sources.jpeg(4242))
    assert build.main(command) == 0
    said = capsys.readouterr().out
    assert "features of 1 of 5 classes are made again because their source changed" in said and "images in" in said
    digests = {
        data.tobytes()
        for relative in ("glt/train", "cbl/train", "shared/test_cbl", "shared/test_gbl")
        for data in load_index(tmp_path / "out" / "imagenet_glt" / relative).sha256
    }
    before = open_dataset(root, "imagenet_glt").split("glt", "train").index.sha256[0].tobytes()
    assert before not in digests
    shutil.rmtree(tmp_path / "raw" / "tree")
    assert build.main(command) == 0 and "nothing to do" in capsys.readouterr().out


def test_stored_size_is_part_of_the_build(root: Path, raw: Path, tmp_path: Path) -> None:
    """resize_short= makes other images of the same split; features and clusters are taken over, the fingerprint
    differs.
    """
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    assert build.main(words(raw, tmp_path, "tree", "resize_short=20", "quality=70")) == 0
    small, full = open_dataset(tmp_path, "imagenet_glt"), open_dataset(root, "imagenet_glt")
    assert small.fingerprint != full.fingerprint and small.meta["build"] == {
        **full.meta["build"],
        "resize_short": 20,
        "quality": 70,
    }
    one, other = small.split("glt", "train"), full.split("glt", "train")
    assert one.index.source.tolist() == other.index.source.tolist() and one.index.size.sum() < other.index.size.sum()


def test_kill_and_go_on(root: Path, raw: Path, tmp_path: Path) -> None:
    """kill -9 in mid-build: nothing opens, and the same command keeps the finished shards and ends with the same
    bytes.
    """
    plant(raw, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "sharding.build", *words(raw, tmp_path)],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    records = tmp_path / "imagenet_glt" / ".work" / "shards"
    deadline = time.monotonic() + 120
    while len(list(records.rglob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the build ended before it could be killed"
    with pytest.raises(DataError, match="not finished"):
        open_dataset(tmp_path, "imagenet_glt")
    kept = {
        record.relative_to(records).with_suffix(""): (
            tmp_path / "imagenet_glt" / record.relative_to(records).with_suffix("")
        )
        .stat()
        .st_ino
        for record in records.rglob("*.json")
    }
    assert len(kept) >= 2
    assert build.main(words(raw, tmp_path)) == 0
    assert content(tmp_path) == content(root)
    assert {path: (tmp_path / "imagenet_glt" / path).stat().st_ino for path in kept} == kept


# --------------------------------------------------------------------------------------------- the authors' split files
@pytest.fixture(scope="module")
def authors(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return authors_files(root, tmp_path_factory.mktemp("authors"))


@pytest.mark.parametrize(
    "prefix", [[], ["prefix=/theirs/ILSVRC/train/="]], ids=["by the last two parts", "with a prefix"]
)
@pytest.mark.parametrize("source", ["tree", "train.tar"])
def test_the_authors_files_decide(
    source: str, prefix: list[str], authors: list[Path], raw: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """annotation= gives the splits, labels and attributes of the files, without weights or clusters, and shares the
    tests.
    """
    assert (
        build.main(
            [
                "data=imagenet_glt",
                f"source={raw / source}",
                f"out={tmp_path}",
                "workers=1",
                f"annotation={authors[0]},{authors[1]}",
                *prefix,
            ]
        )
        == 0
    )
    theirs = open_dataset(tmp_path, "imagenet_glt")
    assert (
        theirs.editions == dataset.editions
        and theirs.class_names == dataset.class_names
        and theirs.class_groups == dataset.class_groups
    )
    for edition, splits in dataset.editions.items():
        for name in splits:
            one, other = theirs.split(edition, name).index, dataset.split(edition, name).index
            assert [array.tolist() for array in (one.source, one.label, one.group, one.attribute)] == [
                array.tolist() for array in (other.source, other.label, other.group, other.attribute)
            ]


def test_one_edition_alone(authors: list[Path], raw: Path, tmp_path: Path) -> None:
    """With one file one edition is built."""
    assert (
        build.main(
            ["data=imagenet_glt", f"source={raw / 'tree'}", f"out={tmp_path}", "workers=1", f"annotation={authors[1]}"]
        )
        == 0
    )
    assert open_dataset(tmp_path, "imagenet_glt").editions == {
        "cbl": {name: f"cbl/{name}" for name in ("train", "val", "test_cbl", "test_gbl")}
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda found: found.pop("test_bbl"), "lacks test_bbl: the authors' split file"),
        (lambda found: found["val"].pop("attribute"), "lacks val.attribute"),
        (lambda found: found["val"]["attribute"].popitem(), "of val needs label, frequency and attribute"),
        *(
            (
                lambda found, value=value: found["val"]["attribute"].update({min(found["val"]["attribute"]): value}),
                "of val needs label, frequency and attribute, whole numbers all",
            )
            for value in (float("inf"), 0.5, True, 1e300)
        ),
        (lambda found: found["val"].update(cluster=[1]), "lacks val.cluster"),
        (lambda found: found["id2cat"].update({"²": "n99999999"}), "do not name the classes"),
        (
            lambda found: found["val"]["attribute"].update({min(found["val"]["attribute"]): 3}),
            "attribute 3; 0 to 4, 0 to 2, 0 to 2 are legal",
        ),
        (lambda found: found["val"]["frequency"].update({min(found["val"]["label"]): 2}), "is of frequency"),
        (lambda found: found["cat2id"].update({"n00000003": "99"}), "do not name the classes 0 to 4 alike"),
        (lambda found: found["id2cat"].update({"01": found["id2cat"]["1"]}), "do not name the classes 0 to 5 alike"),
        (
            lambda found: found["val"]["attribute"].update({min(found["val"]["label"]): 1.5}),
            "needs label, frequency and attribute, whole numbers all",
        ),
        (lambda found: found["val"]["label"].pop(min(found["val"]["label"])), "and no label of it"),
        (
            lambda found: [
                found["val"][field].update(
                    {
                        "/theirs/ILSVRC/train/n00000011/none.JPEG": {
                            "label": found["cat2id"]["n00000011"],
                            "frequency": found["val"]["frequency"][
                                next(p for p in found["val"]["label"] if "n00000011" in p)
                            ],
                            "attribute": 0,
                        }[field]
                    }
                )
                for field in ("label", "frequency", "attribute")
            ],
            "has no such image",
        ),
        (lambda found: found["id2cat"].update({"5": "n99999999"}), "do not name the classes"),
        (
            lambda found: [
                found["val"][field].update(
                    {min(found["train"]["label"]): found["train"][field][min(found["train"]["label"])]}
                )
                for field in ("label", "frequency", "attribute")
            ],
            "is in train and in val; it may be in one split",
        ),
        (
            lambda found: [
                found["val"][field].update(
                    {
                        min(found["val"]["attribute"]).replace("/theirs/", "/other/"): found["val"][field][
                            min(found["val"]["attribute"])
                        ]
                    }
                )
                for field in ("label", "frequency", "attribute")
            ],
            "is in val and in val; it may be in one split of an edition, and once",
        ),
    ],
    ids=[
        "split",
        "field",
        "entry",
        "infinite",
        "half",
        "bool",
        "huge",
        "clusters",
        "odd digit",
        "range",
        "frequency",
        "class ids",
        "one class id twice",
        "no whole number",
        "no label",
        "missing image",
        "extra class",
        "two splits",
        "twice",
    ],
)
def test_a_wrong_split_file_is_refused(
    change, sentence: str, authors: list[Path], raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A split file that is incomplete, contradicts itself or names a missing image ends in one sentence that names it,
    and nothing is packed.
    """
    found = json.loads(authors[0].read_text())
    change(found)
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(found))
    assert (
        build.main(
            ["data=imagenet_glt", f"source={raw / 'tree'}", f"out={tmp_path}", "workers=1", f"annotation={file}"]
        )
        == 2
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert sentence in error and str(file) in error
    assert not list(tmp_path.rglob("shard-*"))


def test_a_prefix_that_does_not_fit_is_refused(authors: list[Path], tmp_path: Path) -> None:
    """A path that begins otherwise, and one that a prefix does not bring to CLASS/FILE."""
    with pytest.raises(DataError, match="begins with none of /mine/; prefix=OLD=NEW"):
        read(authors[0], [("/mine/", "")])
    with pytest.raises(DataError, match=r"a path becomes train/n0.*CLASS/FILE, as in the source"):
        read(authors[0], [("/theirs/ILSVRC/", "")])


def test_split_files_come_back(root: Path, tmp_path: Path) -> None:
    """What is written in the authors' format is read back equal."""
    one = read(root / "imagenet_glt" / ".work" / "glt.json")
    write(tmp_path / "again.json", Annotation(one.edition, one.classes, one.groups, one.splits, one.build))
    again = read(tmp_path / "again.json")
    assert (again.edition, again.classes, again.groups, again.build) == (
        one.edition,
        one.classes,
        one.groups,
        one.build,
    ) and set(again.splits) == set(one.splits)
    assert all(
        rows.same(one.splits[name]) and rows.cluster.tolist() == one.splits[name].cluster.tolist() and len(rows)
        for name, rows in again.splits.items()
    )


def test_our_own_split_files_vouch_for_themselves(
    root: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit of a kept split file, an attribute "0" that becomes "1": stage pack packs nothing and says what makes the
    file again. A file of an earlier version, without a digest, is taken.
    """
    shutil.copytree(root / "imagenet_glt" / ".work", tmp_path / "imagenet_glt" / ".work")
    file = tmp_path / "imagenet_glt" / ".work" / "glt.json"
    before, _, attributes = file.read_text().partition('"attribute": {')
    file.write_text(before + '"attribute": {' + attributes.replace('": 0', '": 1', 1))
    said = refused(capsys, words(raw, tmp_path, "tree", "stage=pack"))
    assert f"{file} is not as it was written, by its own digest" in said and said.endswith(
        "stage=split writes it again"
    )
    assert not list(tmp_path.rglob("shard-*.tar"))
    content = json.loads(file.read_text())
    del content["digest"]
    file.write_text(json.dumps(content))
    assert read(file).edition == "glt"


# ---------------------------------------------------------------------------------------------------------- bad sources
def test_bad_sources_are_one_sentence(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, foreign, incomplete and damaged sources are named with what would be legal."""
    out, weights = f"out={tmp_path / 'out'}", f"weights={raw / 'weights.pth'}"
    base = ["data=imagenet_glt", out, weights, "workers=1"]
    assert "source= is missing; legal is ILSVRC2012_img_train.tar" in refused(capsys, base)
    assert "does not exist" in refused(capsys, [*base, f"source={tmp_path / 'no'}"])
    assert "has no class folders" in refused(capsys, [*base, f"source={raw}"])
    assert "has 5 class folders (n00000003 to n00000044), ILSVRC2012 has 1000" in refused(
        capsys, [*base, f"source={raw / 'tree'}"]
    )
    assert "has 5 inner class tars" in refused(capsys, [*base, f"source={raw / 'train.tar'}"])
    assert "is not a tar, or not a whole one" in refused(capsys, [*base, f"source={raw / 'tree' / 'README.txt'}"])
    (tmp_path / "empty" / "n00000001").mkdir(parents=True)
    assert "class n00000001 of" in refused(capsys, [*base, f"source={tmp_path / 'empty'}", "scale=0.1"])
    whole = (raw / "train.tar").read_bytes()
    (tmp_path / "short.tar").write_bytes(whole[: len(whole) * 2 // 3])
    end = f"(unexpected end of data in or behind n00000030.tar, at byte {len(whole) * 2 // 3})"
    assert f"short.tar is not a tar, or not a whole one {end}" in refused(
        capsys, [*base, f"source={tmp_path / 'short.tar'}", "scale=0.1"]
    )
    inner = sources.inner_tar({f"n00000009_{i}.JPEG": sources.jpeg(i) for i in range(9)})
    sources.tar_of_tars(tmp_path / "cut.tar", {})
    with tarfile.open(tmp_path / "cut.tar", "w") as outer:
        member = tarfile.TarInfo("n00000009.tar")
        member.size = len(inner) // 2 // 512 * 512 + 100
        outer.addfile(member, io.BytesIO(inner))
    assert (
        "cut.tar: its inner tar n00000009.tar is not a tar, or not a whole one (unexpected end of data in or behind "
        f"n00000009_6.JPEG, at byte {512 + member.size})"
    ) in refused(capsys, [*base, f"source={tmp_path / 'cut.tar'}", "scale=0.1"])


def test_bad_words_and_weights_are_one_sentence(
    raw: Path, tmp_path: Path, authors: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are not there or are others, a file that is not there, words that do not go together, stages out of
    order.
    """
    base = ["data=imagenet_glt", f"source={raw / 'tree'}", f"out={tmp_path}", "workers=1", "scale=0.2"]
    assert "weights=none.pth does not exist" in refused(capsys, [*base, "weights=none.pth"])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    assert f"not in torch's cache ({tmp_path / 'hub'}" in refused(capsys, base)
    assert "are not those of torchvision's ResNet-50" in refused(capsys, [*base, f"weights={raw / 'weights.pth'}"])
    assert "annotation=no.json does not exist" in refused(capsys, [*base[:4], "annotation=no.json"])
    assert "weights= and scale= cannot be used with annotation=" in refused(capsys, [*base, f"annotation={authors[0]}"])
    assert "it needs annotation=" in refused(capsys, [*base, "prefix=a=b"])
    assert "stage=features comes first" in refused(capsys, [*base, f"weights={raw / 'weights.pth'}", "stage=clusters"])
    assert "stage=clusters comes first" in refused(capsys, [*base, f"weights={raw / 'weights.pth'}", "stage=split"])
    assert "stage=split comes before stage=pack" in refused(
        capsys, [*base, f"weights={raw / 'weights.pth'}", "stage=pack"]
    )
    assert "part=1/2 needs stage=features or stage=clusters or stage=pack" in refused(
        capsys, [*base, "part=1/2", "stage=split"]
    )
    assert "part=3/2 is not legal; I/N with I from 1 to N" in refused(capsys, [*base, "part=3/2", "stage=pack"])
    assert "no stage=pak; did you mean pack" in refused(capsys, [*base, "stage=pak"])
    assert "resize_short=big is not legal; a whole number from 1" in refused(capsys, [*base, "resize_short=big"])
    assert "attributes=x cannot be used: imagenet_glt takes" in refused(capsys, [*base, "attributes=x"])


@pytest.mark.parametrize(
    ("source", "name"), [("tree", "tree/n00000002/{}"), ("train.tar", "train.tar, member n00000002/{}")]
)
def test_damaged_images_are_told_at_once_and_cost_their_class_alone(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truncated JPEGs are named by the features stage, all of them, in the tar by their members; classes without one
    have their features, which a later start keeps.
    """
    images = sources.images_of({"n00000001": 5, "n00000002": 70, "n00000003": 5})
    for i in (7, 66):
        images["n00000002"][f"n00000002_{i}.JPEG"] = images["n00000002"][f"n00000002_{i}.JPEG"][:-150]
    sources.tree(tmp_path / "tree", images)
    sources.tar_of_tars(tmp_path / "train.tar", images)
    (weights := tmp_path / "w.pth").write_bytes(b"weights")
    classes = list(list_classes(tmp_path / source, tmp_path, 1).values())
    decoded: list[int] = []

    def seen(pixels: np.ndarray) -> np.ndarray:
        decoded.append(len(pixels))
        return np.ones((len(pixels), features.WIDTH))

    monkeypatch.setattr(features, "_network", lambda weights: seen)
    with pytest.raises(DataError) as refused:
        features.extract(classes, tmp_path / "features", weights, 1)
    names = ", ".join(f"{tmp_path}/{name}".format(f"n00000002_{i}.JPEG") for i in (66, 7))
    assert str(refused.value).startswith(f"2 images cannot be taken: {names}; of the first: not a whole JPEG")
    assert [path.stem for path in sorted((tmp_path / "features").iterdir())] == ["n00000001", "n00000003"]
    decoded.clear()
    with pytest.raises(DataError, match="2 images cannot be taken"):
        features.extract(classes, tmp_path / "features", weights, 1)
    assert not decoded


def test_a_source_that_changed_is_listed_again(tmp_path: Path) -> None:
    """What was found is taken over while the source stays as it is, and no longer."""
    sources.tree(tmp_path / "tree", sources.images_of({"n00000001": 8, "n00000002": 5}))
    first = list_classes(tmp_path / "tree", tmp_path, 1)
    stamp = (tmp_path / "source" / "n00000002.npz").stat().st_mtime_ns
    (tmp_path / "tree" / "n00000001" / "n00000001_99.JPEG").write_bytes(sources.jpeg(1))
    second = list_classes(tmp_path / "tree", tmp_path, 1)
    assert (
        len(second["n00000001"]) == len(first["n00000001"]) + 1
        and (tmp_path / "source" / "n00000002.npz").stat().st_mtime_ns == stamp
    )


# ------------------------------------------------------------------------------------------------ features and clusters
def test_features_are_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resize(260), CenterCrop(256), ToTensor, no normalisation, ResNet-50 up to its pooling, float16; classes that are
    there are not made again.
    """
    import torch

    from sharding.images.torchvision_cpu import torchvision

    transforms = torchvision.transforms
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    sources.tree(tmp_path / "tree", sources.images_of({"n00000001": 5}))
    images = list_classes(tmp_path / "tree", tmp_path, 1)["n00000001"]
    features.extract([images], tmp_path / "features", tmp_path / "weights.pth", 1)
    found = features.read(tmp_path / "features", images, file_digest(tmp_path / "weights.pth"))
    network.fc = torch.nn.ReLU()
    view = transforms.Compose([transforms.Resize(260), transforms.CenterCrop(256), transforms.ToTensor()])
    from sharding.images.decoders import decode

    with torch.inference_mode():
        expected = network(torch.stack([view(decode(images.place(i).read())) for i in range(5)])).numpy()
    assert found.dtype == np.float16 and found.shape == (5, 2048)
    assert np.allclose(found, expected, rtol=2e-3, atol=2e-3 * expected.max()) and expected.std() > 0
    monkeypatch.setattr(features, "_network", lambda weights: pytest.fail("made again"))
    features.extract([images], tmp_path / "features", tmp_path / "weights.pth", 1)


def test_clustering_recovers_planted_attributes() -> None:
    """The clusters are the planted attributes, ranked by their sizes; a seed gives the same ones again."""
    for number in range(3):
        found, planted = sources.planted(5, number, 300)
        assert np.bincount(planted).tolist() == sorted(np.bincount(planted).tolist(), reverse=True)
        assert (
            clustering.cluster(found, 0, number).tolist()
            == planted.tolist()
            == clustering.cluster(found, 0, number).tolist()
        )


# ------------------------------------------------------------------------------------------------------------ the cut
def test_the_long_tail_is_the_published_one() -> None:
    """The curve is monotone, goes through the sheet's points and has its two sums, for clusters of other shares too."""
    for shares in ((0.46, 0.32, 0.22), (0.52, 0.29, 0.19), (0.40, 0.33, 0.27)):
        room = np.outer([1300] * 895 + [1120] * 105, shares).astype(int) - [62, 32, 26]
        target, given = long_tail(room)
        assert (
            target[[0, 1, 2, 3, 4, 399, 849, 999]].tolist() == [1500] * 5 + [181, 46, 18]
            and (np.diff(target) <= 0).all()
        )
        assert abs(target.sum() - TARGETS) <= 1 and abs(given.sum() - POOL) <= 20
        assert (given <= room).all() and (given <= target[:, None] * [7, 2, 1] // 10).all()
    assert curve(0.5, 4.0)[0] == 1500


def test_the_papers_counts_come_out() -> None:
    """1,000 classes of ILSVRC's sizes: every count that does not depend on the curve is the paper's, and Train-GLT is
    within 1 %.
    """
    rng = np.random.default_rng(0)
    sizes = [1300] * 895 + np.linspace(732, 1299, 105).astype(int).tolist()
    ranks = [np.sort(rng.choice(6, size, p=sources.SHARES)) for size in sizes]
    splits, short = split(ranks, 0)
    counts = {
        f"{edition}/{name}": sum(len(part.rows) for part in parts)
        for edition, named in splits.items()
        for name, parts in named.items()
    }
    assert abs(counts.pop("glt/train") - 113_460) < 20 and short == []
    assert counts == {
        "glt/val": 30_000,
        "glt/test_glt": 60_000,
        "glt/test_cbl": 60_000,
        "glt/test_gbl": 60_000,
        "cbl/train": 114_000,
        "cbl/val": 30_000,
        "cbl/test_cbl": 60_000,
        "cbl/test_gbl": 60_000,
    }
    for parts, by_group in (
        (splits["glt"]["test_gbl"], [20, 20, 20]),
        (splits["glt"]["test_cbl"], [42, 12, 6]),
        (splits["cbl"]["train"], [80, 23, 11]),
        (splits["cbl"]["val"], [21, 6, 3]),
    ):
        assert all(np.bincount(part.attribute, minlength=3).tolist() == by_group for part in parts)
    for label, named in enumerate(zip(*splits["glt"].values(), strict=True)):
        rows = np.concatenate([part.rows for part in named])
        assert len(rows) == len(set(rows.tolist())) and all(
            (ranks[label][part.rows] // 2 == part.attribute).all() for part in named
        )
    train = [len(part.rows) for part in splits["glt"]["train"]]
    assert (
        500 < max(train) < 650
        and 2 <= min(train) <= 12
        and 75 < np.mean(train[395:405]) < 125
        and 18 < np.mean(train[845:855]) < 35
    )


def test_both_clusters_of_a_group_are_tested() -> None:
    """The seeded shuffle draws Test-GBL from both clusters of a group, where the paper's order would take the larger
    alone.
    """
    ranks = [np.sort(np.random.default_rng(1).choice(6, 1300, p=sources.SHARES)) for _ in range(12)]
    found = split(ranks, 0, 0.2)[0]["glt"]["test_gbl"]
    assert set(np.concatenate([rank[part.rows] for rank, part in zip(ranks, found, strict=True)]).tolist()) == set(
        range(6)
    )


def test_what_is_short_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A class with too small a group gives what it has, and is named; one without images for a test is refused."""
    ranks = [
        np.repeat(np.arange(6), (300, 200, 150, 150, 20, 20)),
        *(np.repeat(np.arange(6), (300, 200, 150, 150, 100, 100)) for _ in range(400)),
    ]
    splits, short = split(ranks, 0, 1.0, [f"c{k}" for k in range(401)])
    assert short == ["class c0, attribute group 2: 40 images, 80 are needed"]
    assert np.bincount(splits["glt"]["test_gbl"][0].attribute).tolist() == [10, 10, 10]
    with pytest.raises(DataError, match=r"class c0 has 303 images, in attribute groups of .200, 100, 3."):
        split([np.repeat(np.arange(6), (100, 100, 50, 50, 2, 1))], 0, 1.0, ["c0"])


def test_class_order_and_groups() -> None:
    """Larger classes first, equal ones in an order of the seed's; 400, 450 and 150 classes of the groups."""
    sizes = [5, 9, 5, 9, 9, 1]
    orders = [class_order(sizes, seed).tolist() for seed in range(6)]
    assert all([sizes[k] for k in order] == [9, 9, 9, 5, 5, 1] for order in orders) and len(set(map(tuple, orders))) > 1
    assert [class_group(k) for k in (0, 399, 400, 849, 850, 999)] == [0, 0, 1, 1, 2, 2]
    assert np.bincount([class_group(k) for k in range(1000)]).tolist() == [400, 450, 150]


@pytest.mark.full
def test_the_papers_network_trains_on_it(root: Path, tmp_path: Path) -> None:
    """What was built passes `sharding.verify`; glt_randaug_ifl takes two steps on it, IFL in the second, and judges
    every split.
    """
    from sharding.verify import main as verify
    from tests.helpers.mini import two_steps

    assert verify([str(root)]) == 0
    recipe = two_steps(root, "imagenet_glt", tmp_path)
    assert {path.stem for path in (recipe.run_folder / "preds" / "last").glob("*.npz")} == {
        "val",
        "test_glt",
        "test_cbl",
        "test_gbl",
    }
