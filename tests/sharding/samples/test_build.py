"""Any labelled images: built by words, the same from every form and in stages, and again where a source changed."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from recipes.common.errors import DataError
from recipes.common.files import file_digest
from sharding.build import run
from sharding.building.packing import WORK
from sharding.datasets.samples.listed.index import write_names
from sharding.datasets.samples.listed.texts import GrowingTexts
from sharding.datasets.samples.stages import features
from sharding.describe import describe
from sharding.format.index import load_index
from sharding.open import open_dataset
from sharding.verify import verify
from tests.helpers import forms, sources
from tests.helpers.labelled import put


def built(source: Path | str, out: Path, *words: str, name: str = "birds") -> Path:
    """Build and return `out`."""
    run([f"data={name}", f"source={source}", f"out={out}", "workers=1", *words])
    return out


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forms.folder(tmp_path_factory.mktemp("raw") / "birds")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forms.idx(tmp_path_factory.mktemp("idx") / "digits")


# --------------------------------------------------------------------------------------------------------------- forms
TAIL = ("long_tail=3", "val=2", "test_cbl=3", "seed=5")


@pytest.fixture(scope="module")
def from_folder(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tree, tmp_path_factory.mktemp("folder"), *TAIL)


@pytest.mark.parametrize("form", ["list", "csv", "parquet", "webdataset", "zip"])
def test_every_form_gives_the_same_images_in_the_same_splits(
    form: str, tree: Path, from_folder: Path, tmp_path: Path
) -> None:
    """Class folders, an OLTR list, a CSV, a Parquet file, WebDataset's own shards and a zip, each with a file that is
    no image, give the same bytes under the same names and labels in the same order of the same splits.
    """
    make = {
        "list": lambda: (forms.oltr(tree, tmp_path / "birds.txt"), f"images={tree}"),
        "csv": lambda: (forms.table(tree, tmp_path / "birds.csv"), f"images={tree}", "columns=path:file,label:species"),
        "parquet": lambda: (
            forms.table(tree, tmp_path / "birds.parquet"),
            f"images={tree}",
            "columns=path:file,label:species",
        ),
        "webdataset": lambda: (forms.shards(tree, tmp_path / "shards"), "columns=label:species"),
        "zip": lambda: (forms.zipped(tree, tmp_path / "birds.zip"),),
    }[form]
    source, *more = make()
    built(source, tmp_path / "data", *more, *TAIL)
    numbers = {str(number): name for number, name in enumerate(sorted(forms.CLASSES))}
    found = {
        folder: [(name, sha256, label, numbers.get(text, text)) for name, sha256, label, text in images]
        for folder, images in forms.contents(tmp_path / "data", "birds").items()
    }
    assert found == forms.contents(from_folder, "birds")
    left_out = forms.meta(tmp_path / "data", "birds")["notes"]["left_out"]
    assert [name for one in left_out.values() for name in one["first"]] == [forms.BROKEN]


def test_the_cut_is_what_was_asked_for(from_folder: Path) -> None:
    """Counts, names from head to tail, both kinds of groups and what was left out stand in dataset.json."""
    meta = forms.meta(from_folder, "birds")
    assert meta["class_names"] == ["Äpfel rot", "birds", "猫"] and meta["class_groups"] == [0, 1, 2]
    assert meta["notes"]["groups"] == {"thirds": [0, 1, 2], "shots": [1, 2, 2]}
    assert meta["notes"]["plan"] == {folder: split["per_class"] for folder, split in meta["splits"].items()}
    assert list(meta["editions"]) == ["glt"] and set(meta["editions"]["glt"]) == {"train", "val", "test_cbl"}
    train, val, test = (meta["splits"][meta["editions"]["glt"][split]] for split in ("train", "val", "test_cbl"))
    assert train["per_class"][0] // train["per_class"][2] == 3
    assert val["per_class"] == [2, 2, 2] and test["per_class"] == [3, 3, 3]


@pytest.mark.parametrize("words", [["head={order}"], ["attributes=column", "attribute_tail=7:2:1", "test_gbl=3"]])
def test_many_is_where_the_training_images_are(words: list[str], tmp_path: Path) -> None:
    """Many, Medium and Few go by the images in Train-GLT, also where a file's order of the classes, or their sizes
    before the attribute tail, say otherwise.
    """
    weather = {"ant": (30, 2, 2), "bee": (20, 6, 4), "cow": (13, 5, 3)}
    kinds = {name: np.repeat(("sun", "rain", "snow"), counts).tolist() for name, counts in weather.items()}
    put(tmp_path, *(f"{name}/{i}.png" for name, several in kinds.items() for i in range(len(several))))
    lines = [f"{name}/{i}.png,{name},{kind}" for name, several in kinds.items() for i, kind in enumerate(several)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,attribute", *lines]) + "\n")
    (order := tmp_path / "order").write_text("cow\nant\nbee\n")
    words = [word.format(order=order) for word in words]
    built(tmp_path / "list.csv", tmp_path / "data", "val=1", "test_cbl=1", *words)
    meta = forms.meta(tmp_path / "data", "birds")
    counts, groups = meta["splits"]["glt/train"]["per_class"], meta["class_groups"]
    assert groups == meta["notes"]["groups"]["thirds"] != [0, 1, 2]
    assert [groups[k] for k in np.argsort(counts)[::-1]] == [0, 1, 2] and len(set(counts)) == 3


def test_verify_and_describe_take_it(from_folder: Path, tmp_path: Path) -> None:
    """`verify` finds no problem and repeats what was left out; `describe` draws its contact sheet."""
    report = verify(from_folder / "birds", workers=1)
    assert report.problems.count == 0 and report.warnings.count == 1 and forms.BROKEN in str(report.lines())
    assert any(path.name == "contact-glt-train.png" for path in describe(from_folder, "birds", tmp_path / "out"))


def test_one_image_under_two_labels_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy of an image in another class is counted by name, in dataset.json and by the build."""
    source = put(tmp_path / "raw", *(f"{name}/{number}.png" for name in ("ant", "bee") for number in range(6)))
    (source / "bee" / "0.png").write_bytes((source / "ant" / "3.png").read_bytes())
    built(source, tmp_path / "data", "val=1", "test_cbl=1")
    doubtful = forms.meta(tmp_path / "data", "birds")["notes"]["doubtful"]
    assert [one["count"] for one in doubtful.values()] == [1]
    assert next(iter(doubtful.values()))["first"][0] in ("bee/0.png of class bee", "ant/3.png of class ant")
    assert "with another label" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------------- stages
CLUSTERS = ("attributes=clusters", "clusters=3", "long_tail=2")


@pytest.fixture(scope="module")
def clustered(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(digits, tmp_path_factory.mktemp("clustered"), *CLUSTERS, name="tiny")


def test_clusters_make_both_editions(clustered: Path) -> None:
    """With attributes there are both editions with all splits; each image says its cluster, which its group is made of,
    and Test-GBL has equal parts of the groups.
    """
    dataset = open_dataset(clustered, "tiny")
    assert {edition: set(splits) for edition, splits in dataset.editions.items()} == {
        edition: {"train", "val", "test_cbl", "test_gbl"} for edition in ("glt", "cbl")
    }
    table = dataset.meta["splits"]["shared/test_gbl"]["per_class_attribute"]
    assert all(len(set(groups)) == 1 and groups[0] > 0 for groups in table)
    assert len(dataset.meta["notes"]["kinds"]) == 3
    assert verify(clustered / "tiny", workers=1).problems.count == 0


def test_stages_and_parts_give_the_same_bytes(
    clustered: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage by stage, in parts where a stage has them, every file comes out as from one command. Pieces of features go
    when no part of a stage can read them any more.
    """
    monkeypatch.setattr(features, "PIECE", 128)
    kept = {}
    for stage, parts in (("index", 1), ("features", 2), ("clusters", 2), ("split", 1), ("pack", 2), ("finish", 1)):
        for part in range(parts, 0, -1):
            words = [f"part={part}/{parts}"] if parts > 1 else []
            built(digits, tmp_path, *CLUSTERS, f"stage={stage}", *words, name="tiny")
        kept[stage] = len(list((tmp_path / "tiny" / ".work" / "features" / "pieces").glob("*.npy")))
    assert kept == {"index": 0, "features": 3, "clusters": 3, "split": 0, "pack": 0, "finish": 0}
    assert forms.files_of(tmp_path / "tiny") == forms.files_of(clustered / "tiny")


def test_parts_do_not_list_a_source(digits: Path, tmp_path: Path) -> None:
    """Parts, which run side by side, are refused until stage=index has run."""
    with pytest.raises(DataError, match="stage=index comes before parts"):
        built(digits, tmp_path, *CLUSTERS, "stage=features", "part=1/2", name="tiny")


def test_names_are_a_line_each(tmp_path: Path) -> None:
    """A line break in a name does not shift the lines behind it in names.txt."""
    names = GrowingTexts()
    for name in ("a\nb.png", "c\u2028\r.png", "ü d.png"):
        names.add(name)
    (tmp_path / "index").mkdir()
    write_names(SimpleNamespace(names=names.texts()), tmp_path)  # type: ignore[arg-type]
    lines = (tmp_path / "index" / "names.txt").read_text().splitlines()
    assert lines == ["a\\nb.png", "c\\u2028\\r.png", "ü d.png"]


def test_features_of_ones_own(clustered: Path, digits: Path, tmp_path: Path) -> None:
    """An array with a row for each line of names.txt, which stage=index writes, is what is clustered."""
    built(digits, tmp_path, *CLUSTERS, "stage=index", name="tiny")
    names = (tmp_path / "tiny" / ".work" / "index" / "names.txt").read_text().splitlines()
    assert len(set(names)) == len(names) == 300
    kinds = np.array([int(name.rpartition("-")[2].removesuffix(".png")) // 3 % 5 for name in names])
    np.save(tmp_path / "mine.npy", np.eye(3)[np.array([0, 0, 1, 1, 2])[kinds]])
    words = ["attributes=clusters", "clusters=3", "long_tail=2", f"features={tmp_path / 'mine.npy'}"]
    built(digits, tmp_path, *words, name="tiny")
    for split in ("glt/train", "shared/test_gbl"):
        index = load_index(tmp_path / "tiny" / split)
        kind = [int(name.rpartition("-")[2].removesuffix(".png")) // 3 % 5 for name in index.source.tolist()]
        assert all((index.attribute[i] == 2) == (kind[i] == 4) for i in range(len(index)))
    assert forms.files_of(tmp_path / "tiny") != forms.files_of(clustered / "tiny")


@pytest.mark.full
def test_clusters_by_a_network_of_timm(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two builds by the same file of weights give the same bytes, wherever the file lies, and the second of one folder
    does nothing; another file is noticed. dataset.json names network and digest."""
    from sharding.images.torchvision_operators import define_missing

    define_missing()
    import timm
    import torch

    words = [*CLUSTERS, "features=timm:test_vit"]
    for name, seed in (("a", 0), ("c", 1)):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_vit").state_dict(), tmp_path / f"{name}.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.pth")
    for name in ("a", "b"):
        built(digits, tmp_path / name, *words, f"weights={tmp_path / name}.pth", name="tiny")
    assert forms.files_of(tmp_path / "a" / "tiny") == forms.files_of(tmp_path / "b" / "tiny")
    options = forms.meta(tmp_path / "a", "tiny")["build"]
    assert options["features"] == "timm:test_vit" and options["weights"] == {"sha256": file_digest(tmp_path / "b.pth")}
    capsys.readouterr()
    built(digits, tmp_path / "a", *words, f"weights={tmp_path / 'b'}.pth", name="tiny")
    assert "nothing to do" in capsys.readouterr().out
    built(digits, tmp_path / "a", *words, f"weights={tmp_path / 'c'}.pth", name="tiny")
    assert "nothing to do" not in capsys.readouterr().out
    assert forms.meta(tmp_path / "a", "tiny")["build"]["weights"] == {"sha256": file_digest(tmp_path / "c.pth")}


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [("clusters", "stage=features comes before"), ("split", "stage=features comes before"), ("pack", "stage=features")],
)
def test_a_stage_says_which_one_comes_first(stage: str, sentence: str, digits: Path, tmp_path: Path) -> None:
    """A stage whose work is not there yet is refused with the one that makes it."""
    with pytest.raises(DataError, match=sentence):
        built(digits, tmp_path, *CLUSTERS, f"stage={stage}", name="tiny")


# ------------------------------------------------------------------------------------------------------ changed sources
def test_the_same_build_again(digits: Path, clustered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command does nothing, and lists nothing again; a contact sheet is drawn if one is asked for."""
    index, sheet = clustered / "tiny" / ".work" / "index" / "said.json", clustered / "sheet.png"
    before = index.stat().st_mtime_ns
    built(digits, clustered, *CLUSTERS, f"preview={sheet}", name="tiny")
    assert Image.open(sheet).size > (500, 100)
    assert "nothing to do" in capsys.readouterr().out and index.stat().st_mtime_ns == before


def test_only_other_bytes_are_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A touched or moved source makes nothing anew; a replaced image makes its shard; a new one is taken in."""
    tree = forms.folder(tmp_path / "birds")
    forms.repaired(tree)
    out = built(tree, tmp_path / "data", *TAIL)
    good = forms.contents(out, "birds")
    later = time.time_ns() + 10**9
    for path in tree.rglob("*"):
        os.utime(path, ns=(later, later))
    built(forms.moved(tree, tmp_path / "moved"), out, *TAIL)
    assert forms.contents(out, "birds") == good and "were made again" not in capsys.readouterr().out
    name = next(iter(good["glt/val"]))[0]
    file = next((tmp_path / "moved").glob(f"{name}.*"))
    file.write_bytes(forms.picture())
    built(tmp_path / "moved", out, *TAIL)
    changed = forms.contents(out, "birds")
    assert "1 of 3 shards were made again because their source changed" in capsys.readouterr().out
    assert [one[1] for one in changed["glt/val"]] != [one[1] for one in good["glt/val"]]
    assert changed["glt/train"] == good["glt/train"]
    (tmp_path / "moved" / "猫" / "new.jpg").write_bytes(forms.picture(30))
    built(tmp_path / "moved", out, *TAIL)
    assert "73 images of 3 classes" in capsys.readouterr().out


def test_a_new_image_behind_a_link_is_taken_in(tmp_path: Path) -> None:
    """Class folders may be links: what changes in the folders that they lead to is noticed; a circle is no trouble."""
    there = some(tmp_path / "elsewhere")
    (tree := tmp_path / "birds").mkdir()
    for folder in there.iterdir():
        (tree / folder.name).symlink_to(folder)
    (there / "ant" / "circle").symlink_to(tree)
    out = built(tree, tmp_path / "data", "val=2", "test_cbl=2")
    before = forms.meta(out, "birds")["splits"]["glt/train"]["samples"]
    (there / "ant" / "new.jpg").write_bytes(forms.picture(30))
    built(tree, out, "val=2", "test_cbl=2")
    assert forms.meta(out, "birds")["splits"]["glt/train"]["samples"] == before + 1


def test_a_test_list_without_a_class(tmp_path: Path) -> None:
    """A given test list that lacks a class is refused by a sentence that says so."""
    tree = some(tmp_path / "birds")
    lines = [f"{file.relative_to(tree)},{file.parent.name},train" for file in sorted(tree.glob("*/*"))]
    (tmp_path / "list.csv").write_text(
        "\n".join(["path,label,split", *lines[:-3], *(line.replace("train", "test") for line in lines[-3:])]) + "\n"
    )
    with pytest.raises(DataError, match="class 'ant' has no image in the given test list, which val and test_cbl are"):
        built(tmp_path / "list.csv", tmp_path / "data", f"images={tree}")


@pytest.mark.parametrize("is_whole", [True, False])
def test_other_words_leave_no_split_behind(is_whole: bool, digits: Path, tmp_path: Path) -> None:
    """A set that is built again without attributes loses the splits that it had with them, and nothing that others put
    there: shards beside its splits, and a file in one of these. So it does without its records.
    """
    built(digits, tmp_path, *CLUSTERS, name="tiny")
    mine = [tmp_path / "tiny" / "cbl/train" / "notes.md", tmp_path / "tiny" / "raw/train" / "shard-000000.tar"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    if not is_whole:
        shutil.rmtree(tmp_path / "tiny" / WORK)
    built(digits, tmp_path, name="tiny")
    left = [path for part in ("cbl", "raw") for path in (tmp_path / "tiny" / part).rglob("*") if path.is_file()]
    assert sorted(left) == mine and all(path.read_text() == "mine" for path in mine)
    for part in ("cbl", "raw"):
        shutil.rmtree(tmp_path / "tiny" / part)
    report = verify(tmp_path / "tiny", workers=1)
    assert report.problems.count == report.warnings.count == 0


def test_the_index_says_what_the_files_say(clustered: Path) -> None:
    """Keys of bare pixels are the names of the files' images, unique in their split."""
    index = load_index(clustered / "tiny" / "glt/train")
    assert len(set(index.key.tolist())) == len(index) and str(index.key[0]).startswith("train-")


# ----------------------------------------------------------------------------------------------------------- bad images
def some(tree: Path, *classes: str, each: int = 12) -> Path:
    """Write class folders of small pictures."""
    for name in classes or ("ant", "bee"):
        for number in range(each):
            (tree / name).mkdir(parents=True, exist_ok=True)
            (tree / name / f"{number}.jpg").write_bytes(forms.picture(10 + number))
    return tree


def test_an_image_that_is_damaged_inside_stops_the_build(tmp_path: Path) -> None:
    """What a header does not show is told with the image's name when it is packed; once it is out, the command goes
    on.
    """
    tree = some(tmp_path / "raw")
    whole = sources.jpeg(3, size=(200, 150))
    (tree / "bee" / "3.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"bee/3\.jpg: .*"):
        built(tree, tmp_path / "data", "val=2", "test_cbl=2")
    (tree / "bee" / "3.jpg").unlink()
    built(tree, tmp_path / "data", "val=2", "test_cbl=2")
    assert forms.meta(tmp_path / "data", "birds")["splits"]["glt/train"]["per_class"] == [8, 7]


def test_files_that_are_no_images(tmp_path: Path) -> None:
    """A class of such files alone, and more than ten of them, are refused; so is an image of one pixel."""
    tree = some(tmp_path / "one")
    (tree / "cow").mkdir()
    (tree / "cow" / "0.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match="class 'cow' has no image: 1 left out: files that are no image"):
        built(tree, tmp_path / "data")
    tree = some(tmp_path / "many")
    for number in range(11):
        (tree / "ant" / f"x{number}.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"of 35 images 11 left out: .*; one in 100 may be so"):
        built(tree, tmp_path / "data")
    tree = some(tmp_path / "dot")
    (tree / "ant" / "dot.jpg").write_bytes(forms.picture(1))
    with pytest.raises(DataError, match=r"ant/dot\.jpg: an image of 1x1 pixels"):
        built(tree, tmp_path / "data")


@pytest.mark.parametrize("packed", [False, True])
def test_archives_are_looked_at_by_their_heads(packed: bool, tmp_path: Path) -> None:
    """The size of an image in an archive is found in its first bytes, deflated or not."""
    tree = some(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "raw.zip", "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for file in sorted(tree.rglob("*.jpg")):
            archive.write(file, file.relative_to(tree))
    built(tmp_path / "raw.zip", tmp_path / "data", "val=2", "test_cbl=2")
    assert forms.meta(tmp_path / "data", "birds")["values"]["data"]["image_size"] == 21


def test_a_wrong_byte_in_a_zip_stops_the_build(tmp_path: Path) -> None:
    """The checksums that a zip has of its members are kept with their places, of those that it only stores as well."""
    tree = some(tmp_path / "raw")
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for file in sorted(tree.rglob("*.jpg")):
            archive.write(file, file.relative_to(tree))
    data, image = (tmp_path / "raw.zip").read_bytes(), (tree / "ant" / "3.jpg").read_bytes()
    at = data.index(image) + len(image) - 9
    (tmp_path / "raw.zip").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(DataError, match=r"raw.zip, member ant/3\.jpg: damaged in the archive"):
        built(tmp_path / "raw.zip", tmp_path / "data", "val=2", "test_cbl=2")


def test_a_folder_above_an_archive_may_have_any_name(tmp_path: Path) -> None:
    """A path is bytes, which need not be UTF-8, as names inside of a data set must be."""
    tree, folder = some(tmp_path / "raw"), Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe9tes"))
    folder.mkdir()
    archive = shutil.make_archive(str(folder / "raw"), "tar", tree)
    built(archive, tmp_path / "data", "val=2", "test_cbl=2")
    assert forms.meta(tmp_path / "data", "birds")["splits"]["glt/train"]["per_class"] == [8, 8]


def test_a_column_of_attributes(tmp_path: Path) -> None:
    """The values of a column become groups by their sizes within a class, and each image says its own."""
    tree = some(tmp_path / "raw", each=40)
    weather = ["sun"] * 22 + ["rain"] * 11 + ["snow"] * 7
    lines = [f"{name}/{number}.jpg,{name},{weather[number]}" for name in ("ant", "bee") for number in range(40)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,attribute", *lines]) + "\n")
    words = [f"images={tree}", "attributes=column", "val=3", "test_cbl=3", "test_gbl=3"]
    built(tmp_path / "list.csv", tmp_path / "data", *words)
    split = open_dataset(tmp_path / "data", "birds").split("glt", "test_gbl")
    with tarfile.open(split.folder / "shard-000000.tar") as shard:
        entries = [json.load(shard.extractfile(one)) for one in shard.getmembers() if one.name.endswith(".json")]
    assert {(one["attribute_value"], one["attribute"]) for one in entries} == {("sun", 0), ("rain", 1), ("snow", 2)}
    assert forms.meta(tmp_path / "data", "birds")["notes"]["kinds"] == [[22, 11, 7]] * 2
    with pytest.raises(DataError, match="the source says no attribute of its images"):
        built(tree, tmp_path / "other", "attributes=column")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("photo", "photo"), "the attribute column says 'photo' of every image"),
        (("photo", ""), r"no attribute is said of bee/\d.jpg and 9 more; one of every image .*, or attributes=none"),
        (("photo", "a\nb"), r"the attribute a\\nb is not one line of UTF-8"),
        (("photo", "\ud800"), r"the attribute \\ud800 is not one line of UTF-8"),
    ],
    ids=["one value", "of some images", "two lines", "not UTF-8"],
)
def test_a_column_of_attributes_is_checked_where_it_is_used(
    values: tuple[str, str], sentence: str, tmp_path: Path
) -> None:
    """A column that happens to be called attribute is nothing to a build without attributes=column."""
    tree = some(tmp_path / "raw")
    lines = [
        json.dumps({"path": f"{name}/{number}.jpg", "label": name, "attribute": value})
        for name, value in zip(("ant", "bee"), values, strict=True)
        for number in range(10)
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    words = [f"images={tree}", "val=1", "test_cbl=1"]
    with pytest.raises(DataError, match=sentence):
        built(tmp_path / "list.jsonl", tmp_path / "data", *words, "attributes=column")
    built(tmp_path / "list.jsonl", tmp_path / "data", *words)
    assert forms.meta(tmp_path / "data", "birds")["splits"]["glt/train"]["per_class"] == [8, 8]


def test_images_of_one_source_stay_together(tmp_path: Path) -> None:
    """A column says what images were made from: a source lies in one split, and is the samples' source."""
    tree = some(tmp_path / "raw", each=40)
    lines = [f"{name}/{number}.jpg,{name},{name} {number // 4}" for name in ("ant", "bee") for number in range(40)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,source", *lines]) + "\n")
    built(tmp_path / "list.csv", tmp_path / "data", f"images={tree}", "val=4", "test_cbl=4")
    splits = open_dataset(tmp_path / "data", "birds").editions["glt"].values()
    sources_of = [set(load_index(tmp_path / "data" / "birds" / split).source.tolist()) for split in splits]
    assert sum(map(len, sources_of)) == len(set().union(*sources_of)) and "ant 3" in set().union(*sources_of)
