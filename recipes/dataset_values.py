"""What a data set says of itself in its dataset.json: values that recipes on it start from, its kind, its counts."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.common.errors import RecipeError
from recipes.common.json_text import NotJson, parse_json

FILE = "dataset.json"
SMALL, LARGE = KINDS = ("small", "large")
"""A data set of the kind `small` takes the recipes' blocks `on: small`."""
SECTIONS = ("data", "augment", "model", "optim", "schedule", "batch", "log")
"""The sections of a recipe in which a data set may set values."""
FILE_ALONE = ("kind", "tried")
"""Keys of a file in recipes/data that are no values of a recipe: `kind`, and among how many values val chose (see
`recipes.table_layout.tried_in`)."""
NOT_ITS_OWN = ("name", "root", "decoder", "cache", "cache_folder", "cache_gb")
"""Keys of the section `data` that are not a data set's to say."""
CLASS_AWARE = "class_aware"
"""`batch.draws_per_epoch: class_aware` is computed from the counts of the training set: `class_aware_draws`."""


@dataclass(frozen=True)
class Described:
    """What a data set says of itself; nothing where it says nothing.

    Attributes:
        origin: names the file in sentences.
        values: nested as a recipe's sections are; None where the file holds none.
        kind: one of `KINDS`, None where it does not say.
        counts: training edition -> training images of each class.
    """

    origin: str = ""
    values: Mapping[str, Any] | None = None
    kind: str | None = None
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)


def described(root: str, name: str) -> Described | None:
    """Return what `root/name/dataset.json` says, of a data root that is a folder; None where there is no such file.

    Raises:
        RecipeError: it cannot be read, or its values are not legal; one sentence that names file and key.
    """
    path = Path(root) / name / FILE
    try:
        state = path.stat()
        return _read(path, state.st_mtime_ns, state.st_size)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from None


@functools.cache  # a table has many recipes on one data set
def _read(path: Path, mtime_ns: int, size: int) -> Described:
    try:
        meta = parse_json(path.read_bytes())
    except NotJson as error:
        raise RecipeError(f"{path} is damaged ({error}): build the data set again, or put the file back") from None
    if not isinstance(meta, dict):
        raise RecipeError(f"{path} is damaged (it does not hold an object): build the data set again")
    if wrong := wrong_values(meta):
        raise RecipeError(f"{path}: {wrong}")
    return Described(str(path), meta.get("values"), meta.get("kind"), _counts(meta))


def _counts(meta: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the images of each class of the training splits, as far as they are there."""
    found: dict[str, list[int]] = {}
    try:
        for edition, splits in meta["editions"].items():
            found[edition] = [int(count) for count in meta["splits"][splits["train"]]["per_class"]]
    except (LookupError, TypeError, ValueError, AttributeError):
        pass  # opening the data set says what is wrong with it
    return found


def wrong_values(meta: Mapping[str, Any]) -> str:
    """Say what is wrong with the values and the kind of a dataset.json; empty where nothing is.

    Whether a section has such a key and takes such a value is the schema's to say, once they are merged.
    """
    values, kind = meta.get("values", {}), meta.get("kind", KINDS[0])
    if kind not in KINDS:
        return f"kind={kind!r} is not legal: {', '.join(KINDS)} are"
    if not isinstance(values, dict):
        return f"values={values!r} is not legal: a mapping of a recipe's sections is, such as {', '.join(SECTIONS)}"
    for section, own in values.items():
        if section not in SECTIONS:
            return f"values.{section} is not legal: a data set may set values in {', '.join(SECTIONS)}"
        if not isinstance(own, dict):
            return f"values.{section}={own!r} is not legal: a mapping of the keys of that section is"
    if key := next((key for key in NOT_ITS_OWN if key in values.get("data", {})), None):
        return f"values.data.{key} is not legal: it is not a data set's to say"
    return ""


def sets_in(root: str) -> list[str]:
    """List the data sets that are in a folder, by the names that are legal ones."""
    try:
        names = [path.parent.name for path in Path(root).glob(f"*/{FILE}")]
    except OSError:
        return []
    return sorted(filter(is_name, names))


def is_name(name: Any) -> bool:
    """Say whether a data set may be called so."""
    return isinstance(name, str) and re.fullmatch("[a-z0-9][a-z0-9_]{0,99}", name) is not None


def class_aware_draws(counts: Sequence[int]) -> float:
    """Return the draws of an epoch of class-aware sampling in units of the training set: min(K max n_c, 4 N) / N."""
    total = sum(counts)
    return min(len(counts) * max(counts), 4 * total) / total
