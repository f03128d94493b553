"""CSV, Parquet and JSON lines as a source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.common.errors import DataError
from sharding.sources import tables
from sharding.sources.rows import Asked
from tests.helpers.labelled import put, read

ROWS = [
    ("a, b.png", "barn owl", "day", "train", "s1"),
    ("c.png", "Käuzchen", "night", "train", "s1"),
    ("d.png", "barn owl", "night", "valid", "s2"),
]
EXPECTED = [(*row[:3], {"valid": "val"}.get(row[3], row[3]), row[4]) for row in ROWS]
FIELDS = ("filename", "Category", "attribute", "split", "source")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return put(tmp_path, *(row[0] for row in ROWS))


def written(images: Path, text: str, name: str = "table.csv") -> Path:
    (images / name).write_text(text, newline="")
    return images / name


def values(path: Path, **others) -> list[tuple[str, ...]]:
    return [(row.name, row.label, row.attribute, row.split, row.source) for row in read(path, **others)]


def test_a_column_for_the_split_left_over_in_a_test_table(images: Path) -> None:
    """train:a.csv,test:b.csv, both cut from a table whose column says train: the second is refused with its line, and
    not trained on. The name of a file gives way to both.
    """
    (one, other) = (
        written(images, f"path,label,split\n{name},{label},{split}\n", f"{name[0]}_val.csv")
        for name, label, split in (("c.png", "owl", ""), ("d.png", "kite", "train"))
    )
    with pytest.raises(DataError, match=r"d_val.csv, line 2: the source says split train, and source=test:\.\.\. says"):
        list(tables.rows(Asked(((one, "train"), (other, "test")), images)))
    for asked, splits in ((("train", "train"), ["train", "train"]), (("test", ""), ["test", "train"])):
        paths = tuple(zip((one, other), asked, strict=True))
        assert [row.split for row in tables.rows(Asked(paths, images))] == splits
    assert [row.split for row in tables.rows(Asked(((one, ""),), images))] == ["val"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv(images: Path, separator: str) -> None:
    """Columns are found by usual names in any case, in any order, with BOM and CRLF."""
    lines = [separator.join(f'"{cell}"' for cell in row[::-1]) for row in (FIELDS, *ROWS)]
    path = written(images, "\ufeff" + "\r\n".join(lines) + "\r\n\r\n")
    assert values(path) == EXPECTED


def test_json_lines(images: Path) -> None:
    """A JSON object a line is a row; whole numbers are labels, too."""
    lines = [json.dumps(dict(zip(FIELDS, row, strict=True))) for row in ROWS]
    assert values(written(images, "\n".join(lines), "table.jsonl")) == EXPECTED
    rows = "\n".join(json.dumps({"path": row[0], "label": number % 2}) for number, row in enumerate(ROWS))
    assert [row.label for row in read(written(images, rows, "table.jsonl"))] == ["0", "1", "0"]


def test_a_line_of_json_may_leave_out_what_it_has_no_value_for(images: Path) -> None:
    """A field that a later line names is a column as any other; the lines without it say nothing of it."""
    lines = [
        {"path": "c.png", "label": "owl"},
        {"path": "a, b.png", "label": "owl", "source": "s1", "split": "test"},
        {"path": "d.png", "label": "kite", "split": None},
    ]
    path = written(images, "\n".join(map(json.dumps, lines)), "table.jsonl")
    assert values(path) == [
        ("c.png", "owl", "", "", ""),
        ("a, b.png", "owl", "", "test", "s1"),
        ("d.png", "kite", "", "", ""),
    ]
    assert [row.split for row in read(path, columns={"split": "split"})] == ["", "test", ""]


def test_parquet(images: Path) -> None:
    """Of a Parquet file only the columns of a row's fields are read."""
    import pyarrow
    import pyarrow.parquet

    columns = {name: list(column) for name, column in zip(FIELDS, zip(*ROWS, strict=True), strict=True)}
    table = pyarrow.table(columns | {"pixels": [[1, 2]] * len(ROWS)})
    pyarrow.parquet.write_table(table, images / "table.parquet")
    assert values(images / "table.parquet") == EXPECTED


def test_named_columns(images: Path) -> None:
    """Columns of any name can be named; rows carry the number of their line."""
    path = written(images, "bird,where\nowl,c.png\n\nkite,d.png\n")
    rows = read(path, columns={"path": "where", "label": "bird"})
    assert [(row.name, row.label, row.line) for row in rows] == [("c.png", "owl", 2), ("d.png", "kite", 4)]


@pytest.mark.parametrize(
    ("text", "columns", "sentence"),
    [
        ("path,labell\nc.png,a\n", {}, r"names no column label, class or category, .*did you mean labell\?"),
        ("path,label\nc.png,a\n", {"attribute": "lable"}, r"has no column lable for .*did you mean label\?"),
        ("c.png,a\nd.png,b\n", {}, r"names no column path.* `path,label` without a first line .* by format=lists$"),
        (
            "c.png,a\nd.png,b\n",
            {"path": "c.png", "label": "a"},
            r"column c.png is called like an image: .*format=lists",
        ),
        ("path,labell\nc.png,a\n", {}, r"labell$"),
        ("path,file,label\nc.png,c.png,a\n", {}, r"columns path and file may both be the path"),
        ("path,label,label\nc.png,a,b\n", {}, r"has two columns label"),
        ("path,label\nc.png,a\nd.png;b\n", {}, r"line 3: has 1 columns, and the first line 2"),
        ("path,label\nc.png,a\nd.png,\n", {}, r"line 3: has no label"),
        ("path,label\nc.png,a\n,b\n", {}, r"line 3: column path is empty"),
        ("path,label,split\nc.png,a,trian\n", {}, r"line 2: split trian is none; did you mean train\?"),
        ('path,label\nc.png,"a\nb"\n', {}, r"line 2: label a\\nb is not one line"),
        ('path,label\nc.png,"a\n', {}, r"line 2: is not CSV"),
    ],
)
def test_what_a_table_may_not_hold(images: Path, text: str, columns: dict[str, str], sentence: str) -> None:
    """Each fault is one sentence with the line or the nearest column."""
    with pytest.raises(DataError, match=sentence):
        read(written(images, text), columns=columns)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]\n", "line 1: is no JSON object"),
        (
            '{"images": [], "annotations": [], "categories": []}\n',
            "COCO's, a table with a row an image, of path and label",
        ),
        ('{"path": "c.png", "label": "a"}\nx\n', "line 2: is not JSON"),
        ('{"path": {}, "label": "a"}\n', "line 1: column path holds a dict"),
        ('{"path": "c.png", "label": "a", "source": "\\ud800"}\n', r"line 1: the source \\ud800 is not UTF-8"),
    ],
)
def test_what_json_lines_may_not_hold(images: Path, text: str, sentence: str) -> None:
    """So it is with JSON."""
    with pytest.raises(DataError, match=sentence):
        read(written(images, text, "table.jsonl"))


def test_a_damaged_parquet_file(images: Path) -> None:
    """A file that is Parquet by its name alone is refused."""
    with pytest.raises(DataError, match="is not Parquet, or not a whole file"):
        read(written(images, "PAR1, but no more", "table.parquet"))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("table.csv", "", "is empty; a first line that names its columns"),
        ("table.jsonl", '{"path": "c.png", "label": true}', "column label holds a bool"),
        ("table.jsonl", f'{{"path": "c.png", "label": {"1" * 5001}}}', "line 1: holds a number of too many digits$"),
    ],
)
def test_odd_tables_have_their_own_sentence(images: Path, name: str, text: str, says: str) -> None:
    """An empty table, a truth value as a label and a number without end are told as such."""
    with pytest.raises(DataError, match=says):
        values(written(images, text, name))
