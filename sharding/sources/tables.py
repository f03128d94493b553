"""Tables with a row an image: CSV, Parquet and JSON lines, read row by row or, of Parquet, batch by batch.

Columns are found by their usual names (path, label, attribute, split, source and some others) or by those asked for. A
table whose name ends in _train, _val or _test gives that split to images of which neither source= nor a column says
one.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from recipes.common.cli import nearest
from recipes.common.errors import DataError
from sharding.building.listing import shown
from sharding.images.any_image import is_image
from sharding.sources.rows import Asked, Row, split_of
from sharding.sources.shared.list_paths import (
    COLUMNS,
    Images,
    first_line,
    is_header,
    label_of,
    split_of_name,
    text_lines,
)

SAYS = "CSV, Parquet or JSON lines with a row an image"
TAKES = ("columns", "images")
_SEPARATORS = ",;\t"
_CSV = {".csv", ".tsv"}
_JSON_LINES = {".jsonl", ".ndjson"}
_PARQUET = {".parquet", ".pq"}
PYARROW = "pyarrow==26.0.1"
_NO_HEADER = "a file of `path,label` without a first line of names is read by format=lists"
_BATCH = 8192
"""Rows of a Parquet file that are in memory at a time."""


def recognises(path: Path) -> bool:
    """Return whether a file is a table by its extension, or a text that begins with names of columns or a brace."""
    if not path.is_file():
        return False
    if path.suffix.lower() in _CSV | _JSON_LINES | _PARQUET:
        return True
    line = first_line(path)
    return line.startswith("{") or any(is_header(line.split(separator)) for separator in _SEPARATORS)


def rows(asked: Asked) -> Iterator[Row]:
    """Yield the images table by table, row by row.

    Raises:
        DataError: a column is not there, or a row is not as the table's others; one sentence.
    """
    for path, split in asked.paths:
        images = Images(asked.images or path.parent)
        table = _opened(path)
        columns = _columns(table.columns, asked, path)
        usual = split_of_name(path.stem)
        for line, values in table.rows(list(columns.values())):
            at = f"{path}, line {line}"
            said = {
                field: _text(value, column, at) for (field, column), value in zip(columns.items(), values, strict=True)
            }
            if not said["path"]:
                raise DataError(f"{at}: column {shown(columns['path'])} is empty; every row needs an image")
            name, place = images.find(said["path"], at)
            yield Row(
                name,
                place,
                label_of(said["label"]),
                said.get("attribute", ""),
                split_of(split, said.get("split", ""), at) or usual,
                said.get("source", ""),
                line,
                str(path),
            )


# ------------------------------------------------------------------------------------------------------------ columns
def _columns(there: Sequence[str], asked: Asked, path: Path) -> dict[str, str]:
    """Return field -> the table's column, of those fields that it has."""
    if not there:
        raise DataError(f"{path}: is empty; a first line that names its columns, such as path and label, is needed")
    if twice := [name for name, times in Counter(there).items() if times > 1]:
        raise DataError(f"{path}: has two columns {shown(twice[0])}; one would be legal")
    found = {}
    for field, names in COLUMNS.items():
        if field in asked.columns:
            if asked.columns[field] not in there:
                raise DataError(
                    f"{path}: has no column {shown(asked.columns[field])} for columns={field}:; "
                    f"{shown(nearest(asked.columns[field], there))}"
                )
            found[field] = asked.columns[field]
            if field == "path" and is_image(found[field]):  # the first image would be lost
                raise DataError(f"{path}: column {shown(found[field])} is called like an image: {_NO_HEADER}")
            continue
        fitting = [column for name in names for column in there if column.strip().lower() == name]
        if len(fitting) > 1:
            raise DataError(
                f"{path}: columns {' and '.join(fitting)} may both be the {field}; columns={field}:NAME says which"
            )
        if not fitting and field in ("path", "label"):
            raise DataError(
                f"{path}: its first row names no column {', '.join(names[:-1])} or {names[-1]}, and columns={field}:"
                f"NAME none; {shown(nearest(field, there))}{_instead(there)}"
            )
        if fitting:
            found[field] = fitting[0]
    return found


def _instead(there: Sequence[str]) -> str:
    """Return what else a table without the usual columns may be, for the end of a sentence."""
    if "annotations" in there:
        return "; of a file of annotations, as COCO's, a table with a row an image, of path and label, is needed"
    has_usual = {column.strip().lower() for column in there} & {name for names in COLUMNS.values() for name in names}
    return "" if has_usual else f"; {_NO_HEADER}"


def _text(value: Any, column: str, at: str) -> str:
    """Return a cell as text: whole numbers without a point, nothing as an empty text."""
    if value is None or value != value:  # NaN is how pandas writes that there is nothing
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"{at}: column {shown(column)} holds a {type(value).__name__}; text or a number would be legal")
    return str(value).strip()


# -------------------------------------------------------------------------------------------------------------- files
class _Table(Protocol):
    """An open table."""

    columns: list[str]

    def rows(self, columns: list[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Yield each row's number, counted from 1 as the file's lines are, and its values of some columns."""
        ...


def _opened(path: Path) -> _Table:
    """Open a table of whatever kind."""
    try:
        with open(path, "rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if begins == b"PAR1" or path.suffix.lower() in _PARQUET:
        return _Parquet(path)
    return _JsonLines(path) if path.suffix.lower() in _JSON_LINES or begins[:1] == b"{" else _Csv(path)


class _Csv:
    """A CSV file: columns parted by what its first line has most of: commas, semicolons or tabs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        line = first_line(path)
        self._separator = max(_SEPARATORS, key=line.count)
        _, self.columns = next(self._cells(), (0, []))

    def rows(self, columns: list[str]) -> Iterator[tuple[int, list[str]]]:
        places = [self.columns.index(column) for column in columns]
        cells = self._cells()
        next(cells)
        for line, values in cells:
            if len(values) != len(self.columns):
                raise DataError(
                    f"{self._path}, line {line}: has {len(values)} columns, and the first line {len(self.columns)}; "
                    "the same number and separator in all lines would be legal"
                )
            yield line, [values[place] for place in places]

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        try:
            with open(self._path, encoding="utf-8-sig", newline="") as file:
                reader, line = csv.reader(file, delimiter=self._separator, strict=True), 1
                for values in reader:
                    if any(value.strip() for value in values):
                        yield line, values
                    line = reader.line_num + 1
        except UnicodeDecodeError:
            raise DataError(f"{self._path}, behind line {line}: is not UTF-8, which tables must be") from None
        except csv.Error as error:
            raise DataError(f"{self._path}, line {line}: is not CSV ({error})") from None
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read ({error.strerror})") from None


class _JsonLines:
    """A file of one JSON object a line; its columns are those of all lines, since lines may leave out empty ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.columns = list(dict.fromkeys(column for _, found in self._objects() for column in found))

    def rows(self, columns: list[str]) -> Iterator[tuple[int, list[Any]]]:
        for line, found in self._objects():
            yield line, [found.get(column) for column in columns]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, text in text_lines(self._path):
            try:
                found = json.loads(text)
            except (ValueError, RecursionError) as error:
                if not isinstance(error, (json.JSONDecodeError, RecursionError)):  # Python's own is about its settings
                    raise DataError(f"{self._path}, line {line}: holds a number of too many digits") from None
                raise DataError(f"{self._path}, line {line}: is not JSON ({error}); one object a line is") from None
            if not isinstance(found, dict):
                raise DataError(f'{self._path}, line {line}: is no JSON object; {{"path": ..., "label": ...}} is')
            yield line, found


class _Parquet:
    """A Parquet file; rows are counted from 1."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            import pyarrow.parquet
        except ImportError:
            raise DataError(f"{path}: reading Parquet needs pyarrow; pip install {PYARROW}") from None
        self._damage = (OSError, pyarrow.ArrowException)
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except self._damage as error:
            raise DataError(f"{path}: is not Parquet, or not a whole file ({error})") from None
        self.columns = list(self._file.schema_arrow.names)

    def rows(self, columns: list[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        line = 0
        try:
            for batch in self._file.iter_batches(_BATCH, columns=columns, use_threads=False):
                for values in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    yield (line := line + 1), values
        except self._damage as error:
            raise DataError(f"{self._path}, behind row {line}: is damaged ({error})") from None
