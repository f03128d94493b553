"""What lists and tables share: the files that their paths name, the splits that they mean, labels that are numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from recipes.common.errors import DataError
from sharding.building.listing import shown
from sharding.building.raw_files import Place
from sharding.sources.row_checks import is_number
from sharding.sources.rows import SPLIT_WORDS

COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class", "category"),
    "attribute": ("attribute",),
    "split": ("split",),
    "source": ("source",),
}
"""Field of a row -> usual names of its column, in any case."""
_SPLIT_AT_END = re.compile(rf"(?:^|[_\-. ])({'|'.join(SPLIT_WORDS)})$", re.IGNORECASE)


def split_of_name(stem: str) -> str:
    """Return the split that a file's name ends in, as ImageNet_LT_train does; empty where it names none."""
    found = _SPLIT_AT_END.search(stem)
    return SPLIT_WORDS[found[1].lower()] if found else ""


class Images:
    """The folder that the paths of a list start from."""

    def __init__(self, folder: Path) -> None:
        self._root = os.path.abspath(folder)
        self._start = self._root.rstrip("/") + "/"

    def find(self, path: str, at: str) -> tuple[str, Place]:
        """Return an image's name, its path below the folder, and its place.

        Raises:
            DataError: the path leads out of the folder; the sentence begins with `at`.
        """
        plain = os.path.normpath(os.path.join(self._root, path))
        if not plain.startswith(self._start):
            raise DataError(
                f"{at}: {shown(path)} leaves the source {self._root}; a path inside of it would be legal, or another "
                "folder as images=FOLDER"
            )
        return plain[len(self._start) :], Place(plain, root=self._root)


def label_of(text: str) -> str:
    """Return the class that a label means: `007` and `7` are one."""
    return str(int(text)) if is_number(text) else text


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1, without BOM and line ends; blank ones are skipped.

    Raises:
        DataError: it cannot be read, or a line is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, 1):
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                try:
                    line = raw.decode().rstrip("\r\n")
                except UnicodeDecodeError:
                    raise DataError(f"{path}, line {number}: is not UTF-8, which lists must be") from None
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def first_line(path: Path) -> str:
    """Return the first line of a text file that is not blank; empty of what is no text in UTF-8."""
    try:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
        lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        first = next((line for line in lines if line.strip()), b"")
        return "" if b"\0" in head else first.decode().rstrip("\r")
    except (OSError, UnicodeDecodeError):
        return ""


def is_header(words: list[str]) -> bool:
    """Return whether the words of a line are usual names of a path's and of a label's column."""
    plain = {word.strip().strip('"').lower() for word in words}
    return all(plain & set(COLUMNS[field]) for field in ("path", "label"))
