"""Which image goes where: classes from head to tail, attribute groups, splits. Kept in `.work/split.npz`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import file_digest
from sharding.building.keys import digest64
from sharding.building.listing import shown
from sharding.building.request import Request
from sharding.building.samples_words import file_of
from sharding.datasets.samples import attributes, groups, heads
from sharding.datasets.samples.listed.arrays import Listed
from sharding.datasets.samples.listed.plan import Labelled
from sharding.datasets.samples.long_tail import LongTail, parsed
from sharding.datasets.samples.splits import Pool, Wishes, cut
from sharding.datasets.samples.stages.clusters import clusters_of
from sharding.format.dataset import digest_of, read_dataset
from sharding.format.index import kept_arrays, save_npz
from sharding.sources.row_checks import is_line

FILE = "split.npz"
_ARRAYS = ("order", "attribute", "kind", "said")
_NOTED_KINDS = 1000
"""Classes whose kinds are counted in dataset.json; of more it would grow large."""


@dataclass(frozen=True, eq=False)
class Decided:
    """What the stage `split` decided.

    Attributes:
        classes: names from head to tail [K].
        images: all images with their class and attribute group.
        editions: edition -> split -> folder.
        rows: folder -> its images in the order of packing, int64 [n].
        notes: for dataset.json.
        sentences: what limits the tails, and what is left out.
    """

    classes: Sequence[str]
    images: Labelled
    editions: Mapping[str, Mapping[str, str]]
    rows: Mapping[str, np.ndarray] = field(repr=False)
    notes: Mapping[str, Any]
    sentences: Sequence[str]


def decided(request: Request, found: Listed, work: Path) -> Decided | None:
    """Run the stages `features`, `clusters` and `split` as far as they are asked for, and return what they decided.

    Returns:
        None if no stage from `split` on is asked for.

    Raises:
        DataError: a class cannot give what is wished, or an earlier stage has not run.
    """
    clusters = clusters_of(request, found, work) if request.samples.attributes == "clusters" else None
    if not any(map(request.does, ("split", "pack", "finish"))):
        return None
    made = _made_from(request, found, clusters)
    path = work / FILE
    kept = _kept(path, found, made)
    if request.does("split") and kept is None:
        _say_if_cut_again(request, found, path)
        _keep(path, _cut(request, found, clusters), made)
        kept = _kept(path, found, made)
    if kept is None:
        raise DataError(
            f"{path} is missing or was made from another source or with other words: stage=split comes before "
            f"stage={request.stage}"
        )
    return kept


def _made_from(request: Request, found: Listed, clusters: np.ndarray | None) -> str:
    """Return a digest of what the splits depend on."""
    words = request.samples
    files = {
        word: file_digest(path)
        for word in ("long_tail", "head")
        if (path := file_of(word, getattr(words, word))) is not None
    }
    chosen = [words.long_tail, words.head, words.groups, words.attributes, words.attribute_tail]
    wishes = [words.val, words.test_cbl, words.test_gbl]
    kinds = None if clusters is None else hashlib.sha256(clusters.tobytes()).hexdigest()
    return digest_of([found.digest, request.seed, files, chosen, wishes, kinds])


def _say_if_cut_again(request: Request, found: Listed, path: Path) -> None:
    """Tell that splits are cut again, and why, where there are earlier ones or a finished data set of other images."""
    arrays = kept_arrays(path, "said")
    count, images = _said(arrays).get("images", (None, None)) if arrays else (None, None)
    try:
        built = read_dataset(request.out, request.name).meta["build"].get("images")
    except DataError:
        built = None
    if {images, built} - {None, found.digest}:
        numbers = f"{len(found):,}" + (f", {count:,} before" if count is not None else "")
        why = f"the source has other images or labels than before ({numbers})"
    elif arrays:
        why = "clusters, or words of the command, are others than before"
    else:
        return
    print(f"{why}: all splits are cut again, and models trained on the old ones have seen images of the new tests")


def _cut(request: Request, found: Listed, clusters: np.ndarray | None) -> dict[str, Any]:
    """Decide: name -> array, and `said`, which holds JSON values."""
    words, names = request.samples, found.classes
    tail = parsed(words.long_tail, names)
    order = heads.order(_frequencies(found, tail), words.head, request.seed, names)
    label = _places(order)[found.label]
    ordered = [names[number] for number in order.tolist()]
    grouped = _attributes(words.attributes, found, label, ordered, clusters)
    pool = Pool(
        tuple(ordered),
        label,
        None if grouped is None else grouped.group,
        found.split.astype(np.uint8) if found.split.any() else None,
        _numbered_sources(found) if len(found.source) else None,
    )
    wishes = Wishes(tail, words.attribute_tail, words.val, words.test_cbl, words.test_gbl)
    done = cut(pool, wishes, request.seed)
    said = {
        "images": [len(found), found.digest],
        "editions": done.editions,
        "chosen": words.groups,
        "by_column": words.attributes == "column",
        "sentences": list(done.report.notes),
        "kinds": [] if grouped is None else [sizes.tolist() for sizes in grouped.sizes[:_NOTED_KINDS]],
    }
    nothing = np.empty(0, np.int8)
    kind = found.attribute if words.attributes == "column" else clusters
    return {
        "order": order,
        "attribute": nothing if grouped is None else grouped.group,
        "kind": nothing if kind is None else kind,
        "said": said,
        **{f"rows {folder}": rows for folder, rows in done.rows.items()},
    }


def _frequencies(found: Listed, tail: LongTail) -> np.ndarray:
    """Count the images of each class that are not of a given val or test list, or that a file wants: int64 [K]."""
    if tail.counts is not None:
        return np.array([tail.counts[name] for name in found.classes], np.int64)
    return np.bincount(found.label[found.split <= 1], minlength=len(found.classes))


def _places(order: np.ndarray) -> np.ndarray:
    """Return the place of each class in the order, int32 [K]."""
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order))
    return places


def _attributes(
    how: str, found: Listed, label: np.ndarray, names: Sequence[str], clusters: np.ndarray | None
) -> attributes.Attributes | None:
    if how == "column":
        _check_column(found)
        return attributes.by_column(found.attribute, label, names, found.kinds)
    return None if clusters is None else attributes.by_clusters(clusters, label, names)


def _check_column(found: Listed) -> None:
    """Refuse attributes that are not said of every image, or not in one line."""
    without = np.flatnonzero(found.attribute < 0)
    if len(without) == len(found):
        raise DataError(
            "attributes=column: the source says no attribute of its images; a list with such a column, named by "
            "columns=...,attribute:NAME, would be legal"
        )
    if len(without):
        name = shown(str(found.names[int(without[0])]))
        more = f" and {len(without) - 1:,} more" if len(without) > 1 else ""
        raise DataError(
            f"attributes=column: no attribute is said of {name}{more}; one of every image would be legal, or "
            "attributes=none"
        )
    if wrong := next((kind for kind in found.kinds if not is_line(kind)), None):
        raise DataError(
            f"attributes=column: the attribute {shown(wrong)} is not one line of UTF-8, which would be legal, as "
            "attributes=none would"
        )


def _numbered_sources(found: Listed) -> np.ndarray:
    """Return a number for what each image was made from, int64 [N]; an image itself counts by its name."""
    digests = np.fromiter((digest64(found.source_of(row)) for row in range(len(found))), np.uint64, len(found))
    numbers: np.ndarray = np.unique(digests, return_inverse=True)[1].astype(np.int64)
    return numbers


def _keep(path: Path, arrays: Mapping[str, Any], made: str) -> None:
    said = np.frombuffer(json.dumps({**arrays["said"], "made": made}).encode(), np.uint8)
    save_npz(path, {**arrays, "said": said})


def _said(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(arrays["said"].tobytes())
    return said


def _kept(path: Path, found: Listed, made: str) -> Decided | None:
    """Read what was decided, if it was made from the same."""
    arrays = kept_arrays(path, *_ARRAYS)
    if not arrays or (said := _said(arrays))["made"] != made:
        return None
    folders = list(dict.fromkeys(folder for splits in said["editions"].values() for folder in splits.values()))
    rows = kept_arrays(path, *(f"rows {folder}" for folder in folders))
    if not rows:
        return None
    order = arrays["order"]
    label = _places(order)[found.label]
    counts = np.bincount(label[rows["rows glt/train"]], minlength=len(order))
    grouped = {"thirds": groups.thirds(counts).tolist(), "shots": groups.shots(counts).tolist()}
    with_attributes = len(arrays["attribute"]) > 0
    names = [found.classes[number] for number in order.tolist()]
    images = Labelled(
        found,
        label,
        grouped[said["chosen"]],
        arrays["attribute"] if with_attributes else None,
        arrays["kind"] if with_attributes else None,
        found.kinds if said["by_column"] else None,
    )
    notes: dict[str, Any] = {"groups": grouped, "cut": said["sentences"]}
    if with_attributes:
        notes["kinds"] = said["kinds"]
    of_folder = {folder: rows[f"rows {folder}"] for folder in folders}
    return Decided(names, images, said["editions"], of_folder, notes, said["sentences"])
