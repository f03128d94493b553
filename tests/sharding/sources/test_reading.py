"""How a format is chosen, and what is kept while a source streams by."""

from __future__ import annotations

import json
import shutil
import tarfile
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from recipes.common.errors import DataError
from sharding.building.raw_files import Place
from sharding.sources import reading
from sharding.sources.from_samples import keep_samples
from sharding.sources.reading import class_order, format_of, formats, rows_of
from sharding.sources.row_checks import RowChecks
from sharding.sources.rows import Asked, Row
from tests.helpers.labelled import asked, owls, picture, put, read


def test_formats_are_found_by_their_place() -> None:
    """Each file with a `rows` is a format, and helpers beside them are none."""
    assert {"archive", "folder", "lists", "tables"} <= set(formats())
    assert not {"rows", "reading", "row_checks", "class_folders", "list_paths"} & set(formats())


def test_the_same_images_by_folder_list_and_table(tmp_path: Path) -> None:
    """A folder, a list and a table of the same images say the same of them."""
    root = owls(tmp_path / "owls")
    folder = {(row.name, row.label) for row in read(root)}
    (root / "list.txt").write_text("".join(f"{name}\t{label}\n" for name, label in folder))
    (root / "table.csv").write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in folder))
    assert {(row.name, row.label) for row in read(root / "list.txt")} == folder
    assert {(row.name, row.label) for row in read(root / "table.csv")} == folder


def test_what_no_format_knows(tmp_path: Path) -> None:
    """A source that is in no format is refused with all of them; so are a wrong name and a missing file."""
    (tmp_path / "x.bin").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match=r"x.bin is in no format that is known; legal: archive \(a tar or zip"):
        read(tmp_path / "x.bin")
    with pytest.raises(DataError, match=r"format=folders is none; did you mean folder\?"):
        read(tmp_path / "x.bin", format="folders")
    with pytest.raises(DataError, match=r"source=.*/y does not exist"):
        read(tmp_path / "y")


def test_what_two_formats_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two formats recognise a source, the word that settles it is named."""
    put(tmp_path, "a/1.png", "b/1.png")
    modules = {name: reading._module(name) for name in ("folder", "lists")}
    monkeypatch.setattr(modules["lists"], "recognises", lambda path: True)
    with pytest.raises(DataError, match=r"may be folder .*, lists .*; format=NAME says which"):
        format_of(asked(tmp_path))


def in_every_form(tmp_path: Path) -> dict[str, Path]:
    """The same two images that are said to be of val, by each form that may say so."""
    tree = put(tmp_path / "folder", "Validation/ant/a.png", "Validation/bee/b.png")
    lines = [f"Validation/{name},{name[:3]},VALID" for name in ("ant/a.png", "bee/b.png")]
    (tree.parent / "table.csv").write_text("\n".join(["path,label,split", *lines]))
    with tarfile.open(tmp_path / "webdataset.tar", "w") as tar:
        for file in sorted(tree.rglob("*.png")):
            tar.add(file, f"{file.stem}.png")
            (about := file.with_suffix(".json")).write_text(json.dumps({"label": file.parent.name, "split": "valid"}))
            tar.add(about, about.name)
            about.unlink()
    return {
        "folder": tree,
        "archive": Path(shutil.make_archive(str(tmp_path / "archive"), "zip", tree)),
        "tables": tmp_path / "table.csv",
        "webdataset": tmp_path / "webdataset.tar",
        "from_samples": keep_samples([(picture(n), n, "", "val") for n in range(2)], tmp_path / "kept"),
    }


@pytest.mark.parametrize("form", ["folder", "archive", "tables", "webdataset", "from_samples"])
def test_a_split_of_source_and_one_that_the_source_says_agree(form: str, tmp_path: Path) -> None:
    """What source=SPLIT: and the source say of an image is the same, or is refused with its place. Neither wins in
    silence, so no test list is trained on.
    """
    path = in_every_form(tmp_path)[form]
    columns = {"label": "label", "split": "split"} if form == "webdataset" else {}
    images = tmp_path / "folder" if form == "tables" else None

    def splits(asked: str) -> list[str]:
        return [row.split for row in reading._module(form).rows(Asked(((path, asked),), tmp_path, images, columns))]

    assert splits("") == splits("val") == ["val", "val"]
    with pytest.raises(DataError, match=r"(?i): the source says split val\w*, and source=train:\.\.\. says train; one"):
        splits("train")


@pytest.mark.parametrize("name", formats())
@pytest.mark.parametrize(("word", "value"), [("columns", {"split": "part"}), ("images", Path()), ("classes", "leaf")])
def test_words_that_a_format_does_not_read_are_refused(name: str, word: str, value: Any, tmp_path: Path) -> None:
    """None is dropped in silence: a format names in TAKES what its file reads."""
    reads = f"asked.{word}" in Path(str(reading._module(name).__file__)).read_text()
    with nullcontext() if reads else pytest.raises(DataError) as refused:
        rows_of(asked(tmp_path, **{word: value}), name)
    if refused:
        assert str(refused.value).startswith(
            f"{word}= does not go with source={tmp_path}, which is in the format {name}"
        )


def test_classes_are_ordered_as_numbers() -> None:
    """Numbers are in the order of numbers, and words of text."""
    assert class_order({"10", "9", "-1"}) == ["-1", "9", "10"]
    assert class_order({"10", "9", "b"}) == ["10", "9", "b"]
    assert class_order({"1", "01", "0"}) == ["0", "01", "1"]
    assert class_order({"10", "9" * 5000}) == ["10", "9" * 5000]


def test_memory_of_an_image(tmp_path: Path) -> None:
    """While images stream by, 28 bytes of each are kept, and what arrays hold in reserve."""
    file = str(put(tmp_path, "1.png") / "1.png")
    many = 20_000
    rows = (Row(f"{number}.png", Place(file, number, 1), str(number % 7)) for number in range(many))
    checks = RowChecks()
    for _ in checks.passed(iter([Row("x.png", Place(file, many, 1), "x")])):
        pass
    tracemalloc.start()
    for _ in checks.passed(rows):
        pass
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 28 <= kept / many <= 28 * 9 / 8 + 8
