"""Text lists with a path and a label a line, as CIFAR-LT, ImageNet-LT, Places-LT and iNaturalist 2018 are passed on.

    train/n01440764/n01440764_190.JPEG 0

The last tab of a line parts the two, in a line without tabs the last blank or comma; it is the same in all lines of a
list. So paths may hold blanks, and behind a tab labels, too. A list whose name ends in _train, _val or _test has that
split, unless another is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recipes.common.errors import DataError
from sharding.building.listing import shown
from sharding.sources.row_checks import is_number
from sharding.sources.rows import Asked, Row
from sharding.sources.shared.list_paths import Images, first_line, is_header, label_of, split_of_name, text_lines

SAYS = "text lists of `path label`"
TAKES = ("images",)
_SEPARATORS = {" ": "a blank", "\t": "a tab", ",": "a comma"}
_OTHERS = {".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".pq"}


def recognises(path: Path) -> bool:
    """Return whether the first line of a text file is a path and a label."""
    if not path.is_file() or path.suffix.lower() in _OTHERS:
        return False
    line = first_line(path).rstrip()
    separator = _separator(line)
    return bool(separator) and line[0] not in "{[" and (separator == " " or not is_header(line.split(separator)))


def rows(asked: Asked) -> Iterator[Row]:
    """Yield the images list by list, line by line.

    Raises:
        DataError: a line is not `path label` as the others are, or numbers of classes cannot be; one sentence.
    """
    highest = _Highest()
    for path, split in asked.paths:
        images = Images(asked.images or path.parent)
        first, named = "", split or split_of_name(path.stem)
        for number, raw in text_lines(path):
            at, line = f"{path}, line {number}", raw.rstrip()
            separator = _separator(line)
            if not separator:
                raise DataError(f"{at}: {shown(line)} is no path and label with a blank, tab or comma between them")
            if first and separator != first:
                raise DataError(
                    f"{at}: has {_SEPARATORS[separator]} before the label, and the lines above "
                    f"{_SEPARATORS[first]}; one separator for the whole list would be legal"
                )
            file, _, text = line.rpartition(separator)
            if not first and is_header([file, text]):
                raise DataError(
                    f"{at}: is a header ({shown(line)}), and a list has none; take the line away, or use format=tables "
                    "for columns parted by comma, semicolon or tab"
                )
            first = separator
            label = label_of(text.strip())
            highest.see(label, at)
            name, place = images.find(file.strip(), at)
            yield Row(name, place, label, split=named, line=number, listed_in=str(path))
    highest.check()


def _separator(line: str) -> str:
    """Return what parts a line into path and label; empty where nothing does."""
    last = line.rfind("\t") if "\t" in line else max(line.rfind(" "), line.rfind(","))
    return line[last] if last > 0 else ""


class _Highest:
    """The labels of a list, and where the highest number is: lists count classes from 0, so it cannot stand far out."""

    def __init__(self) -> None:
        self._labels: set[str] = set()
        self._highest, self._at = -1, ""

    def see(self, label: str, at: str) -> None:
        if label not in self._labels:
            self._labels.add(label)
            if is_number(label) and int(label) > self._highest:
                self._highest, self._at = int(label), at

    def check(self) -> None:
        """Check it.

        Raises:
            DataError: more than half of the numbers up to it do not occur.
        """
        if self._highest >= 2 * len(self._labels) and all(map(is_number, self._labels)):
            raise DataError(
                f"{self._at}: label {self._highest} is out of range: a list counts its classes from 0, and only "
                f"{len(self._labels)} numbers occur; ids that are no such numbers are legal in a table (format=tables)"
            )
