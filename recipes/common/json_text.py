"""JSON that is read back, whatever became of its bytes on the disk or on its way. Standard library only."""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Tuple, Union

from recipes.common.errors import DataError, one_line

GZIP = b"\x1f\x8b"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<half>u[dD][89a-fA-F]..)|.)")
"""A pair of surrogates, which is a character; one without the other; or any other escape, such as a backslash's own."""
OF_A_RUN = "put the file back from a copy, or move the run folder away and start the run anew"
"""What to do about a damaged file of a run folder."""


class NotJson(ValueError):
    """Bytes that are no JSON text; the message says why, and where that is known.

    Attributes:
        offset: the byte at which the text ends to be one, -1 where that is not known.
    """

    def __init__(self, why: str, offset: int = -1) -> None:
        super().__init__(f"at byte offset {offset}: {why}" if offset >= 0 else why)
        self.offset = offset


def parse_json(data: bytes, each: "Callable[[dict[str, Any]], Any]" = lambda entry: entry) -> Any:
    """Return the value of a JSON text in UTF-8.

    Args:
        data: the text.
        each: is given every object of it, and returns what to keep of it.

    Raises:
        NotJson: it is none, it is nested too deeply, or an object of it has a key twice, of which Python keeps one.
    """

    def unique(pairs: "list[tuple[str, Any]]") -> Any:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            raise NotJson(_twice([key for key, _ in pairs]))
        return each(entry)

    if data.startswith(GZIP):
        raise NotJson("it is compressed by gzip; the unpacked file would be legal")
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    text = ""
    try:
        text = data[start:].decode()
        value = json.loads(text, object_pairs_hook=unique)
    except NotJson:
        raise
    except UnicodeDecodeError as error:
        raise NotJson(f"byte {data[start + error.start]:#04x} is no text in UTF-8", start + error.start) from None
    except json.JSONDecodeError as error:
        raise NotJson(error.msg, start + len(text[: error.pos].encode())) from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except ValueError:
        raise NotJson("a number in it has more than 4300 digits") from None
    _check_surrogates(data)
    return value


def _check_surrogates(data: bytes) -> None:
    """Check that no escape in a JSON text stands for half of a character, which could not be printed or encoded."""
    if _SURROGATE.search(data):  # they are rare, and texts full of other escapes are not
        for escape in _ESCAPE.finditer(data):
            if escape["half"]:
                raise NotJson("it holds half of a character (one surrogate of two)", escape.start())


def _twice(keys: "list[str]") -> str:
    first: "dict[str, int]" = {}
    for number, key in enumerate(keys, 1):
        if first.setdefault(key, number) < number:
            return f"{key!r} is given twice in one object, as its entries {first[key]} and {number}"
    return ""


def read_object(path: Path, kinds: "Mapping[str, type]", remedy: str = OF_A_RUN) -> "dict[str, Any]":
    """Return the object that a JSON file of ours holds.

    Args:
        path: the file.
        kinds: keys that are needed, and of which type their values are.
        remedy: what to do where the file is not what was written, for the end of the sentence.

    Raises:
        DataError: it is missing, damaged or lacks something.
    """
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except NotJson as error:
        raise DataError(one_line(f"{path} is damaged ({error}); {remedy}")) from None
    wrong = wrong_kinds(content, kinds)
    if wrong:
        raise DataError(one_line(f"{path} is damaged ({wrong}); {remedy}"))
    found: "dict[str, Any]" = content
    return found


Kind = Union[type, Tuple[type, ...]]
"""The type of a value, or several."""


def wrong_kinds(content: Any, kinds: "Mapping[str, Kind]") -> str:
    """Say which key an object lacks, or has with a value of another type; empty where all is as it should be."""
    if not isinstance(content, dict):
        return "it does not hold an object"
    missing = [key for key in kinds if key not in content]
    if missing:
        return f"it lacks {', '.join(missing)}"
    other = next((key for key, kind in kinds.items() if not _is_a(content[key], kind)), None)
    return "" if other is None else f"{other} is {type(content[other]).__name__}, not {_name(kinds[other])}"


def _name(kind: Kind) -> str:
    return " or ".join(one.__name__ for one in kind) if isinstance(kind, tuple) else kind.__name__


def _is_a(value: Any, kind: Kind) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def whole_lines(data: bytes) -> "Iterator[dict[str, Any]]":
    """Yield the objects of a text of one a line; lines that a kill or the disk has torn are passed over."""
    for line in data.splitlines():
        try:
            entry = parse_json(line)
        except NotJson:
            continue
        if isinstance(entry, dict):
            yield entry
