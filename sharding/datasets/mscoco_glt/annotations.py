"""MSCOCO-GLT's published split files (annotation.json of an edition) in place of our own splitting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError, one_line
from sharding.datasets.mscoco_glt.objects import CLASSES
from sharding.datasets.mscoco_glt.splits import class_group

SPLITS = {"train": "train", "val": "val", "test_lt": "test_glt", "test_bl": "test_cbl", "test_bbl": "test_gbl"}
"""The file's names of the splits, and ours. test_lt is empty in the balanced edition's file."""
_FIELDS = ("label", "frequency", "attribute", "path")


@dataclass(frozen=True, eq=False)
class Authors:
    """N samples of all splits of the files, in their order. `relatives`: folder of each split; `split` [N] int64, row in it; `key`, `path` [N] text;
    `label`, `attribute` [N] int64; `score` [N] float64; `names` [K]: classes by id."""

    relatives: list[str]
    names: list[str]
    split: np.ndarray
    key: np.ndarray
    path: np.ndarray
    label: np.ndarray
    attribute: np.ndarray
    score: np.ndarray


def read_authors(files: Sequence[Path], prefix: Sequence[tuple[str, str]] = ()) -> Authors:
    """Reads one file for each edition, in any order; `prefix`: (old, new) beginnings of paths, of which each path has one; the first that fits is replaced.

    Raises DataError, one sentence, for a file that is missing, damaged, of another data set or of an edition that was there already, for files with
    different classes, an id in two splits, groups that do not follow from the class, and a path that begins with no `old`.
    """
    editions: dict[str, tuple[Path, list[str], list[tuple[str, list[tuple[Any, ...]]]]]] = {}
    for path in files:
        edition, names, splits = _read(path)
        if edition in editions:
            raise DataError(
                f"{editions[edition][0]} and {path} are both of edition {edition}; one file for each edition is legal"
            )
        if editions and names != next(iter(editions.values()))[1]:
            raise DataError(
                f"{next(iter(editions.values()))[0]} and {path} have different classes; the files of one data set share them"
            )
        editions[edition] = path, names, splits
    tables = {
        f"{edition}/{name}": rows for edition in sorted(editions, reverse=True) for name, rows in editions[edition][2]
    }
    numbers = np.repeat(np.arange(len(tables)), [len(rows) for rows in tables.values()])
    keys, labels, attributes, paths, scores = zip(*(row for rows in tables.values() for row in rows))
    return Authors(
        list(tables),
        names,
        numbers,
        np.array(keys),
        np.array([_mapped(path, prefix) for path in paths]),
        np.array(labels, np.int64),
        np.array(attributes, np.int64),
        np.array(scores, np.float64),
    )


def _mapped(path: str, prefix: Sequence[tuple[str, str]]) -> str:
    fitting = [new + path[len(old) :] for old, new in prefix if path.startswith(old)]
    if prefix and not fitting:
        raise DataError(
            f"path {path} in the authors' files begins with none of {', '.join(old for old, _ in prefix)}; "
            f"prefix=OLD=NEW with a beginning of it would be legal"
        )
    return fitting[0] if prefix else path


def _read(path: Path) -> tuple[str, list[str], list[tuple[str, list[tuple[Any, ...]]]]]:
    """(edition, class names, our name of each split that has samples -> its (key, label, attribute, path, score) in the file's order)."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); annotation= names the authors' files") from None
    except ValueError as error:
        raise DataError(one_line(f"{path} is no whole JSON file: {error}")) from None
    missing = [name for name in ("id2cat", *SPLITS) if not isinstance(document, dict) or name not in document]
    if missing:
        raise DataError(f"{path} is not MSCOCO-GLT's annotation file: it lacks {', '.join(missing)}")
    try:
        names = [str(document["id2cat"][str(k)]) for k in range(len(document["id2cat"]))]
        splits = [
            (ours, rows)
            for theirs, ours in SPLITS.items()
            if (rows := _rows(document[theirs], theirs, len(names), path))
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            one_line(f"{path} is not MSCOCO-GLT's annotation file: {type(error).__name__} {error}")
        ) from None
    if len(names) != CLASSES:
        raise DataError(
            f"{path} is not MSCOCO-GLT's annotation file: it has {len(names)} classes, {CLASSES} would be legal"
        )
    lacking = [name for name in ("train", "val", "test_cbl", "test_gbl") if name not in dict(splits)]
    if lacking:
        raise DataError(f"{path} has no samples in split {lacking[0]}; at least one is needed")
    owner: dict[str, str] = {}
    for name, rows in splits:
        for key, *_ in rows:
            if owner.setdefault(key, name) != name:
                raise DataError(f"id {key} is in {owner[key]} and {name} of {path}; one split is legal")
    return "glt" if "test_glt" in dict(splits) else "cbl", names, splits


def _rows(table: Any, name: str, classes: int, path: Path) -> list[tuple[Any, ...]]:
    missing = [field for field in _FIELDS if field not in table]
    if missing and table.get("label", True):
        raise DataError(f"{path} is not MSCOCO-GLT's annotation file: split {name} lacks {', '.join(missing)}")
    rows, scores = [], table.get("attribute_score", {})
    for key, value in table.get("label", {}).items():
        label, frequency, attribute = int(value), int(table["frequency"][key]), int(table["attribute"][key])
        if not 0 <= label < classes or attribute not in (0, 1, 2):
            raise DataError(
                f"{path}: id {key} of {name} has label {value} and attribute {attribute}; 0 to {classes - 1} and 0 to 2 are legal"
            )
        if frequency != class_group(label):
            raise DataError(
                f"{path}: id {key} of {name} has frequency {frequency}; class {label} is in group {class_group(label)}"
            )
        rows.append((str(key), label, attribute, str(table["path"][key]), float(scores.get(key, 0.0))))
    return rows
