"""The split files of ImageNet-GLT, in the format of the paper's authors; ours are written in it, too.

One JSON file an edition: `cat2id` {WordNet id: "i"}, `id2cat` {"i": WordNet id}, and `train`, `val`, `test_lt`,
`test_bl`, `test_bbl`, each {`label`: {path: "i"}, `frequency`: {path: 0-2}, `attribute`: {path: 0-2}}. An empty test_lt
marks the balanced edition. Our files add `cluster` {path: 0-5} to each split, `build`: what they depend on, and
`digest`: that of all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import whole_file
from sharding.building.foreign_json import read_foreign, whole_number
from sharding.format.dataset import changed, digest_of

SPLITS = {"train": "train", "val": "val", "test_lt": "test_glt", "test_bl": "test_cbl", "test_bbl": "test_gbl"}
"""The authors' names of the splits -> ours."""
_OF_AN_IMAGE = ("label", "frequency", "attribute")
_OURS = {"cat2id", "id2cat", *SPLITS, "build", "digest"}


@dataclass(frozen=True, eq=False)
class Rows:
    """The n images of a split.

    Attributes:
        source: CLASS/FILE, text [n].
        label: int64 [n].
        attribute: int64 [n].
        cluster: int64 [n], -1 where none is known.
    """

    source: np.ndarray
    label: np.ndarray
    attribute: np.ndarray
    cluster: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def same(self, other: Rows) -> bool:
        """Return whether both have the same images with the same labels and attributes."""
        return all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ("source", "label", "attribute")
        )


@dataclass(frozen=True, eq=False)
class Annotation:
    """One edition's split file.

    Attributes:
        edition: glt or cbl.
        classes: WordNet ids by class id [K].
        groups: the classes' frequency groups [K].
        splits: our name of each split -> its rows.
        build: what the splits depend on; empty in the authors' files.
    """

    edition: str
    classes: tuple[str, ...]
    groups: tuple[int, ...]
    splits: dict[str, Rows]
    build: Mapping[str, Any]


def read(path: Path, prefixes: Sequence[tuple[str, str]] = ()) -> Annotation:
    """Read a split file; each split's rows come in the order of their sources.

    Only the last two parts of a path count, CLASS/FILE. With `prefixes`, (OLD, NEW) pairs, each path must begin with an
    OLD, which is replaced by NEW; the result must be CLASS/FILE, relative to the source.

    Raises:
        DataError: the file, which the sentence names, is missing, damaged or not a split file.
    """
    found = read_foreign(path, "annotation= names the authors' split files")
    if isinstance(found, dict) and (changed(found) or ("build" in found and not found.keys() <= _OURS)):
        raise DataError(
            f"annotation={path} is not as it was written, by its own digest (one that was changed on purpose is legal "
            "without its entry digest)"
        )
    needed = ("cat2id", "id2cat", *SPLITS)
    missing = [key for key in needed if not isinstance(found, dict) or not isinstance(found.get(key), dict)]
    missing += [
        f"{key}.{field}"
        for key in SPLITS
        if not missing
        for field in (*_OF_AN_IMAGE, "cluster")
        if not isinstance(found[key].get(field, {} if field == "cluster" else None), dict)
    ]
    if missing:
        raise DataError(
            f"annotation={path} lacks {', '.join(missing)}: the authors' split file of ImageNet-GLT is looked for"
        )
    classes = tuple(str(found["id2cat"].get(str(number))) for number in range(len(found["id2cat"])))
    if any(str(found["cat2id"].get(name)) != str(number) for number, name in enumerate(classes)):
        raise DataError(
            f"annotation={path}: id2cat and cat2id do not name the classes 0 to {len(found['id2cat']) - 1} alike"
        )
    splits, groups = {}, np.full(len(classes), -1)
    for theirs, ours in SPLITS.items():
        splits[ours] = _rows(path, theirs, found[theirs], prefixes, classes, groups)
    edition = "glt" if len(splits["test_glt"]) else "cbl"
    if edition == "cbl":
        del splits["test_glt"]
    owner: dict[str, str] = {}
    for name, rows in splits.items():
        for source in rows.source.tolist():
            if source in owner:  # checked here, since the last check of a build would refuse it only hours later
                raise DataError(
                    f"annotation={path}: image {source} is in {owner[source]} and in {name}; it may be in one split "
                    "of an edition, and once"
                )
            owner[source] = name
    empty = [name for name, rows in splits.items() if not len(rows)]
    if empty or (groups < 0).any():
        raise DataError(
            f"annotation={path} has no images of "
            + (f"split {empty[0]}" if empty else f"class {classes[int(np.argmin(groups))]}")
        )
    build = found.get("build", {})
    return Annotation(edition, classes, tuple(groups.tolist()), splits, build if isinstance(build, dict) else {})


def _rows(
    path: Path,
    split: str,
    found: Mapping[str, Mapping[str, Any]],
    prefixes: Sequence[tuple[str, str]],
    classes: Sequence[str],
    groups: np.ndarray,
) -> Rows:
    """Read a split's rows, and write the classes' frequency groups into `groups` [K]."""
    names = sorted(found["label"])
    clusters = found.get("cluster", {})
    for field in _OF_AN_IMAGE:
        if unknown := found[field].keys() - found["label"].keys():
            raise DataError(f"annotation={path}: {split} has the {field} of image {min(unknown)}, and no label of it")
    sources, table = [], np.empty((len(names), 3), np.int64)
    for row, name in enumerate(names):
        try:
            label, group, attribute = (whole_number(found[field][name]) for field in _OF_AN_IMAGE)
            cluster = whole_number(clusters.get(name, -1), low=-1)
        except (KeyError, AttributeError, ValueError):
            raise DataError(
                f"annotation={path}: image {name} of {split} needs label, frequency and attribute, whole numbers all"
            ) from None
        if not (0 <= label < len(classes) and 0 <= group <= 2 and 0 <= attribute <= 2):
            raise DataError(
                f"annotation={path}: image {name} of {split} has label {label}, frequency {group}, attribute "
                f"{attribute}; 0 to {len(classes) - 1}, 0 to 2, 0 to 2 are legal"
            )
        if groups[label] not in (-1, group):
            raise DataError(
                f"annotation={path}: class {classes[label]} is of frequency {groups[label]} and of {group}; one of "
                "them is legal"
            )
        groups[label] = group
        source = mapped(name, prefixes, path)
        if source.partition("/")[0] != classes[label]:
            raise DataError(
                f"annotation={path}: image {name} of {split} has label {label}, which is class {classes[label]}, and "
                "lies elsewhere"
            )
        sources.append(source)
        table[row] = label, attribute, cluster
    order = np.argsort(np.array(sources), kind="stable") if sources else np.zeros(0, np.int64)
    return Rows(np.array(sources, dtype=np.str_)[order], *table[order].T)


def mapped(name: str, prefixes: Sequence[tuple[str, str]], file: Path) -> str:
    """Return CLASS/FILE for a path in a split file (see `read`).

    Raises:
        DataError: the path does not begin with any prefix's OLD, or does not become CLASS/FILE.
    """
    if prefixes:
        fitting = [(old, new) for old, new in prefixes if name.startswith(old)]
        if not fitting:
            raise DataError(
                f"annotation={file}: path {name} begins with none of {', '.join(old for old, _ in prefixes)}; "
                "prefix=OLD=NEW with a beginning of it would be legal"
            )
        old, new = fitting[0]
        name = (new + name[len(old) :]).lstrip("/")
        if name.count("/") != 1:
            raise DataError(
                f"annotation={file}: with prefix={old}={new} a path becomes {name}; CLASS/FILE, as in the source, "
                "would be legal"
            )
    return "/".join(name.split("/")[-2:])


def write(path: Path, annotation: Annotation) -> None:
    """Write a split file, which `read` can read."""
    theirs = {ours: name for name, ours in SPLITS.items()}
    content: dict[str, Any] = {
        "cat2id": {name: str(k) for k, name in enumerate(annotation.classes)},
        "id2cat": {str(k): name for k, name in enumerate(annotation.classes)},
        **{name: {field: {} for field in _OF_AN_IMAGE} for name in SPLITS},
        "build": dict(annotation.build),
    }
    for ours, rows in annotation.splits.items():
        sources = rows.source.tolist()
        content[theirs[ours]] = {
            "label": dict(zip(sources, map(str, rows.label.tolist()), strict=True)),
            "frequency": dict(zip(sources, np.array(annotation.groups)[rows.label].tolist(), strict=True)),
            "attribute": dict(zip(sources, rows.attribute.tolist(), strict=True)),
            "cluster": dict(zip(sources, rows.cluster.tolist(), strict=True)),
        }
    content["digest"] = digest_of(content)
    with whole_file(path) as file:
        file.write(json.dumps(content).encode())
