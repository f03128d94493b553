"""`python -m sharding.describe`: its numbers are those of the data, its pictures show them, and the same data give the
same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sharding.checks.figures import CELL, class_histogram, contact_sheet
from sharding.checks.statistics import numbers, read, share_std, spread, tables
from sharding.describe import main
from sharding.format.index import load_index
from sharding.open import open_dataset
from tests.helpers import toy

FILES = {
    "describe.json",
    "classes.csv",
    "attributes.csv",
    "images.csv",
    *(
        f"{name}.{kind}"
        for name in (
            "classes",
            "attributes",
            "sizes",
            "contact-glt-train",
            "contact-cbl-train",
            "contact-shared-test_gbl",
        )
        for kind in ("pdf", "png")
    ),
}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data set of the shape of MSCOCO-GLT, its description)."""
    folder = toy.build(tmp_path_factory.mktemp("sets"), extra=toy.attribute_lists)
    out = tmp_path_factory.mktemp("out") / "made"
    assert main([str(folder), f"out={out}", "classes=3", "images=2"]) == 0
    return folder, out


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


def described(folder: Path) -> dict[str, Any]:
    """The numbers alone."""
    dataset = open_dataset(folder.parent, folder.name)
    return numbers(dataset, read(dataset)[1])


def test_the_files(listed: tuple[Path, Path]) -> None:
    """Numbers as JSON and CSV, pictures as PDF and PNG, nothing else."""
    assert {path.name for path in listed[1].iterdir()} == FILES
    assert all(Image.open(path).size[0] == 1440 for path in listed[1].glob("*.png"))


def test_the_same_data_give_the_same_bytes(listed: tuple[Path, Path], tmp_path: Path) -> None:
    """Described twice, to the last byte of every picture: no date, no version, no order of a hash."""
    assert main([str(listed[0]), f"out={tmp_path}", "classes=3", "images=2"]) == 0
    assert [name for name in sorted(FILES) if (tmp_path / name).read_bytes() != (listed[1] / name).read_bytes()] == []


def test_numbers_equal_the_data(listed: tuple[Path, Path]) -> None:
    """Counts by class and attribute group, the sizes and bytes, and the attributes' counts, against the index and the
    samples as they were made.
    """
    folder, out = listed
    index = load_index(folder / "glt/train")
    mine = [row for row in rows(out / "classes.csv") if row["split"] == "glt/train"]
    assert [(int(row["images"]), row["group"]) for row in mine] == list(
        zip((10, 6, 4, 3), ("many", "many", "medium", "few"), strict=True)
    )
    for row in mine:
        chosen = index.attribute[index.label == int(row["class"])]
        assert [int(row[name]) for name in ("many", "medium", "few", "none")] == [
            *np.bincount(chosen, minlength=3).tolist(),
            0,
        ]
    counts = np.zeros(12, int)
    for sample in toy.samples("glt/train", (10, 6, 4, 3), (0, 0, 1, 2), toy.attribute_lists, 100_000, (48, 36)):
        counts[sample.extra["attributes"]] += 1
    found = {
        row["value"]: int(row["images"])
        for row in rows(out / "attributes.csv")
        if row["split"] == "glt/train" and row["entry"] == "attributes"
    }
    assert found == {str(attribute): count for attribute, count in enumerate(counts.tolist()) if count}
    said = json.loads((out / "describe.json").read_text())["splits"]["glt/train"]
    assert said["attributes_std"] == {
        "value": pytest.approx((counts / counts.sum()).std(), rel=1e-6),
        "of": "12 attributes",
    }
    sizes = {row["measure"]: row for row in rows(out / "images.csv") if row["split"] == "glt/train"}
    assert (sizes["width"]["p0"], sizes["width"]["p100"], sizes["height"]["p50"], sizes["shorter side"]["p50"]) == (
        "48",
        "48",
        "36",
        "36",
    )
    assert int(float(sizes["bytes"]["p100"])) == index.size.max() and float(sizes["bytes"]["mean"]) == pytest.approx(
        index.size.mean(), abs=0.01
    )


def test_std_counts_attributes_that_never_occur(tmp_path: Path) -> None:
    """Where dataset.json names all attributes, the std is over all of them; where samples have no lists, over the three
    groups' shares.
    """
    assert share_std([3, 1, 0, 0]) == pytest.approx(np.std([0.75, 0.25, 0, 0])) and share_std([0, 0]) == 0
    folder = toy.build(tmp_path / "a", extra=toy.attribute_lists)
    meta = json.loads((folder / "dataset.json").read_text())
    del meta["digest"]  # which would show the change
    (folder / "dataset.json").write_text(
        json.dumps({**meta, "notes": {"attribute_names": [f"attribute {n}" for n in range(40)]}})
    )
    said = described(folder)
    assert (
        said["splits"]["glt/train"]["attributes_std"]["of"] == "40 attributes"
        and said["attribute_names"][39] == "attribute 39"
    )
    assert ["glt/train", "attributes", "3", "attribute 3"] in [row[:4] for row in tables(said)["attributes"]]
    splits = described(toy.build(tmp_path / "b"))["splits"]
    assert splits["shared/test_gbl"]["attributes_std"] == {
        "value": pytest.approx(0, abs=1e-9),
        "of": "3 attribute groups",
    }
    groups = np.array(splits["glt/train"]["attribute_groups"])
    assert splits["glt/train"]["attributes_std"]["value"] == pytest.approx((groups / groups.sum()).std()) and set(
        splits["glt/train"]["entries"]
    ) == {"cluster"}


def test_classes_are_spread_along_the_tail() -> None:
    """Of 10, 29 and 1,000 classes: the most and the least frequent, and in even steps between; all where there are no
    more.
    """
    assert spread(list(range(1000, 0, -1)), 10) == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert (
        spread([5, 9, 7], 10) == [1, 2, 0]
        and spread([4] * 29, 10)[0] == 0
        and spread([4] * 29, 10)[-1] == 28
        and len(spread([4] * 29, 10)) == 10
    )
    assert spread([1, 2], 1) == [1]


def test_the_sheet_shows_the_split_s_own_images(listed: tuple[Path, Path]) -> None:
    """The first cell of the first row is the first image of the most frequent class's first group."""
    folder, out = listed
    split = open_dataset(folder.parent, folder.name).split("glt", "train")
    figure = contact_sheet(split, json.loads((out / "describe.json").read_text()), "glt/train", [0, 3], 2)
    sheet = figure.axes[0].images[0].get_array()
    first = int(np.flatnonzero((split.index.label == 0) & (split.index.attribute == 0))[0])
    tile = np.asarray(Image.open(io.BytesIO(split.read(first))).resize((96, 72), Image.Resampling.NEAREST))
    assert (sheet[(CELL - 72) // 2 :, (CELL - 96) // 2 :][:72, :96] == tile).all()
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "class 0\nMany, 10",
        "class 3\nFew, 3",
        "Many_A",
        "Medium_A",
        "Few_A",
    ]


@pytest.mark.parametrize("classes", [10, 29, 1000])
def test_the_long_tail_is_drawn_whatever_the_number_of_classes(classes: int) -> None:
    """A bar for each class, as high as its count; names where there is room for them."""
    counts = [max(1, 500 - 400 * k // classes) for k in range(classes)]
    said = {
        "name": "$tail$",
        "class_names": [f"c{k}" for k in range(classes)],
        "class_groups": [3 * k // classes for k in range(classes)],
        "editions": {"glt": {"train": "glt/train"}},
        "splits": {"glt/train": {"per_class": counts}},
    }
    figure = class_histogram(said)
    assert isinstance(figure, Figure)
    bars = figure.axes[0].patches
    assert sorted((round(bar.get_x() + bar.get_width() / 2), bar.get_height()) for bar in bars) == list(
        enumerate(counts)
    )
    assert (figure.axes[0].get_xlabel() == "class id") == (classes > 40)


@pytest.mark.parametrize(
    "words, said",
    [
        (["{}/toy"], "out= is missing"),
        (["{}/toy", "out={}/o", "class=2"], "unknown key 'class'; did you mean classes?"),
        (["{}/toy", "out={}/o", "classes=0"], "from 1 is"),
        (["{}/none", "out={}/o"], "is not a folder"),
        (["{}", "out={}/o"], "no "),
        (["out={}/o"], "0 folders are given"),
        (["{}/toy", "out={}/toy/x/dataset.json/y"], "dataset.json"),
    ],
)
def test_bad_words_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """Status 2 and one line."""
    (tmp_path / "toy/x").mkdir(parents=True)
    (tmp_path / "toy/x/dataset.json").write_text("")
    assert main([word.format(tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sharding.describe: ") and said in error and error.count("\n") == 1


def test_a_damaged_dataset_json_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One flipped bit of it: file, byte offset and what to do."""
    path = toy.build(tmp_path) / "dataset.json"
    data = bytearray(path.read_bytes())
    data[30] ^= 0x80
    path.write_bytes(data)
    assert main([str(path.parent), f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert (
        f"{path} is damaged (at byte offset 30: byte 0x" in error
        and "; run: python -m sharding.build data=toy" in error
    )
    assert error.count("\n") == 1


def test_a_damaged_entry_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A KEY.json that is none: the shard and key, and the command that finds out more."""
    folder = toy.build(tmp_path)
    shard = folder / "glt/train/shard-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b'"label":', b'"l\xe1bel":', 1))
    assert main([str(folder), f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    key = str(load_index(folder / "glt/train").key[0])
    assert f"shard-000000.tar: the .json of key {key!r} is damaged (at byte offset " in error
    assert "is no text in UTF-8); python -m sharding.verify says more" in error


def test_a_damaged_image_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shard and key, and the command that finds out more."""
    folder = toy.build(tmp_path)
    index = load_index(folder / "glt/train")
    data = bytearray((folder / "glt/train/shard-000000.tar").read_bytes())
    data[index.offset[0] : index.offset[0] + 300] = bytes(300)
    (folder / "glt/train/shard-000000.tar").write_bytes(data)
    assert main([str(folder), f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"shard-000000.tar: the image of key {str(index.key[0])!r} has no readable header" in error
        and "sharding.verify" in error
    )
