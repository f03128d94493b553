"""MSCOCO-GLT's published split files (annotation.json of an edition) in place of our own splitting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError, one_line
from sharding.building.foreign_json import Entry, mapping, read_foreign, real_number, text, whole_number
from sharding.datasets.mscoco_glt.objects import CLASSES
from sharding.datasets.mscoco_glt.splits import class_group

SPLITS = {"train": "train", "val": "val", "test_lt": "test_glt", "test_bl": "test_cbl", "test_bbl": "test_gbl"}
"""The file's names of the splits -> ours. test_lt is empty in the balanced edition's file."""
_FIELDS = ("label", "frequency", "attribute", "path")
_SCORE = "attribute_score"
"""The only entry that may be missing from a file."""


@dataclass(frozen=True, eq=False)
class Authors:
    """N samples of all splits of the files, in their order.

    Attributes:
        relatives: folder of each split, EDITION/SPLIT.
        names: classes by id [K].
        split: int64 [N], row in `relatives`.
        key: patch ids, text [N].
        path: the crops' files, text [N].
        label: class ids, int64 [N].
        attribute: attribute groups, int64 [N].
        score: attribute_score, float64 [N].
    """

    relatives: list[str]
    names: list[str]
    split: np.ndarray
    key: np.ndarray
    path: np.ndarray
    label: np.ndarray
    attribute: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class _Sample:
    """One sample of an annotation file; `score` is its attribute_score."""

    key: str
    label: int
    attribute: int
    path: str
    score: float


@dataclass(frozen=True)
class _Edition:
    """One annotation file: class names by id, and our name of each split with samples -> its samples, in file order."""

    file: Path
    names: list[str]
    splits: dict[str, list[_Sample]]

    @property
    def name(self) -> str:
        return "glt" if "test_glt" in self.splits else "cbl"


def read_authors(files: Sequence[Path], prefix: Sequence[tuple[str, str]] = ()) -> Authors:
    """Read the authors' annotation files, at least one, one for each edition, in any order.

    Args:
        files: the annotation files.
        prefix: (old, new) beginnings of paths; in each path the first `old` that matches is replaced.

    Raises:
        DataError: a file is missing, damaged, of another data set or of the same edition as another file; the files
            have different classes; an id occurs twice, is in two splits or has two classes; a group does not follow
            from the class; or a path does not begin with any `old`. One sentence.
    """
    editions: dict[str, _Edition] = {}
    for file in files:
        edition = _read(file)
        if edition.name in editions:
            raise DataError(
                f"{editions[edition.name].file} and {file} are both of edition {edition.name}; one file for each "
                "edition is legal"
            )
        first = next(iter(editions.values()), edition)
        if edition.names != first.names:
            raise DataError(f"{first.file} and {file} have different classes; the files of one data set share them")
        editions[edition.name] = edition
    tables = {
        f"{name}/{split}": samples
        for name in sorted(editions, reverse=True)
        for split, samples in editions[name].splits.items()
    }
    _check_across(editions.values())
    samples = [sample for table in tables.values() for sample in table]
    return Authors(
        relatives=list(tables),
        names=next(iter(editions.values())).names,
        split=np.repeat(np.arange(len(tables)), [len(table) for table in tables.values()]),
        key=np.array([sample.key for sample in samples]),
        path=np.array([_mapped(sample.path, prefix) for sample in samples]),
        label=np.array([sample.label for sample in samples], np.int64),
        attribute=np.array([sample.attribute for sample in samples], np.int64),
        score=np.array([sample.score for sample in samples], np.float64),
    )


def _mapped(path: str, prefix: Sequence[tuple[str, str]]) -> str:
    fitting = [new + path[len(old) :] for old, new in prefix if path.startswith(old)]
    if prefix and not fitting:
        raise DataError(
            f"path {path} in the authors' files begins with none of {', '.join(old for old, _ in prefix)}; "
            f"prefix=OLD=NEW with a beginning of it would be legal"
        )
    return fitting[0] if prefix else path


def _read(path: Path) -> _Edition:
    document = read_foreign(path, "annotation= names the authors' files")
    missing = [name for name in ("id2cat", *SPLITS) if not isinstance(document, dict) or name not in document]
    if missing:
        raise DataError(f"{path} is not MSCOCO-GLT's annotation file: it lacks {', '.join(missing)}")
    classes = Entry(path, "id2cat", document["id2cat"])
    names = [classes.get(str(k), text) for k in range(len(document["id2cat"]))]
    splits = {ours: _samples(document[theirs], theirs, len(names), path) for theirs, ours in SPLITS.items()}
    edition = _Edition(path, names, {name: samples for name, samples in splits.items() if samples})
    _check(edition)
    return edition


def _check(edition: _Edition) -> None:
    """Check an edition's classes, that no split lacks samples, and that no id is in two splits."""
    path = edition.file
    if len(edition.names) != CLASSES:
        raise DataError(
            f"{path} is not MSCOCO-GLT's annotation file: it has {len(edition.names)} classes, {CLASSES} would be legal"
        )
    lacking = [name for name in ("train", "val", "test_cbl", "test_gbl") if name not in edition.splits]
    if lacking:
        raise DataError(f"{path} has no samples in split {lacking[0]}; at least one is needed")
    if twice := sorted({name for name in edition.names if edition.names.count(name) > 1}):
        raise DataError(one_line(f"{path}: id2cat names class {twice[0]!r} twice; once would be legal"))
    owner: dict[str, str] = {}
    for name, samples in edition.splits.items():
        for sample in samples:
            if owner.setdefault(sample.key, name) != name:
                raise DataError(
                    one_line(f"id {sample.key} is in {owner[sample.key]} and {name} of {path}; one split is legal")
                )


def _check_across(editions: Iterable[_Edition]) -> None:
    """Check that an id in two editions has the same class in both."""
    first: dict[str, tuple[int, Path]] = {}
    for edition in editions:
        for sample in (sample for samples in edition.splits.values() for sample in samples):
            label, file = first.setdefault(sample.key, (sample.label, edition.file))
            if label != sample.label:
                raise DataError(
                    one_line(
                        f"id {sample.key} has label {label} in {file} and {sample.label} in {edition.file}; one class "
                        "is legal"
                    )
                )


def _samples(table: Any, name: str, classes: int, path: Path) -> list[_Sample]:
    """Read one split's samples, in the file's order; `name` is the file's name of the split."""
    split = Entry(path, f"split {name}", table)
    missing = [field for field in _FIELDS if field not in table]
    if missing and table.get("label", True):
        raise DataError(f"{path} is not MSCOCO-GLT's annotation file: split {name} lacks {', '.join(missing)}")
    tables = {field: split.get(field, mapping) for field in (*_FIELDS, _SCORE) if field in table}
    labels = tables.get("label", {})
    for field in _FIELDS:
        if unknown := tables.get(field, {}).keys() - labels.keys():
            raise DataError(one_line(f"{path}: {name} has the {field} of id {min(unknown)}, and no label of it"))
    samples: list[_Sample] = []
    for key in labels:
        entry = Entry(
            path, f"id {key} of {name}", {field: values[key] for field, values in tables.items() if key in values}
        )
        label, attribute = entry.get("label", whole_number), entry.get("attribute", whole_number)
        frequency, there = entry.get("frequency", whole_number), entry.get("path", text)
        if not 0 <= label < classes or attribute not in (0, 1, 2):
            raise DataError(
                one_line(
                    f"{path}: {entry.place} has label {label} and attribute {attribute}; 0 to {classes - 1} and 0 to 2 "
                    "are legal"
                )
            )
        if frequency != class_group(label):
            raise DataError(
                one_line(
                    f"{path}: {entry.place} has frequency {frequency}; class {label} is in group {class_group(label)}"
                )
            )
        score = entry.get(_SCORE, real_number) if key in tables.get(_SCORE, {}) else 0.0
        samples.append(_Sample(key, label, attribute, there, score))
    return samples
