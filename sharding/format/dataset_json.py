"""Writes `dataset.json`, which turns a folder of splits into a data set, and says whether a build exists already."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import sync_folder, whole_file
from sharding.format.croissant import describe_again
from sharding.format.dataset import DATASET_FILE, DIGEST, digest_of, read_dataset
from sharding.format.index import FORMAT, Index, load_index


def begin_dataset(root: Path, name: str) -> Path:
    """Prepare `root/name` for a (re)build and return it; it cannot be opened until `finish_dataset`."""
    folder = Path(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DATASET_FILE).unlink(missing_ok=True)  # an old one would seem to describe a mixture of old and new splits
    return folder


class More(TypedDict, total=False):
    """What a build may say besides, none of it part of the fingerprint.

    Attributes:
        notes: findings of the build, for people and for pictures; JSON values.
        values: what recipes on these data start from, nested as a recipe's sections are (recipes/dataset_values.py);
            where it is not there, a file of recipes/data says it.
        kind: `small` chooses the recipes' blocks `on: small`.
    """

    notes: Mapping[str, Any] | None
    values: Mapping[str, Any] | None
    kind: Literal["small", "large"] | None


def finish_dataset(
    root: Path,
    name: str,
    *,
    class_names: Sequence[str],
    class_groups: Sequence[int],
    editions: Mapping[str, Mapping[str, str]],
    statistics: Mapping[str, Mapping[str, Sequence[float]]],
    options: Mapping[str, Any],
    **more: Unpack[More],
) -> dict[str, Any]:
    """Check the written splits against each other, write `root/name/dataset.json` atomically, and return it.

    Beside it comes croissant.json, which says the same to other programs.

    Args:
        root: DATA_ROOT.
        name: the data set's.
        class_names: the name of each class, by class id [K].
        class_groups: the frequency group of each class, by class id [K]: 0 many, 1 medium, 2 few.
        editions: edition -> split -> folder relative to `root/name`.
        statistics: edition -> {"mean": [3], "std": [3]} of RGB in 0 to 1.
        options: what the build depends on (builder, version, seed ...).
        more: see `More`.

    Raises:
        DataError: a source occurs in two splits of an edition, or labels or groups do not fit the classes.
    """
    folder, count = Path(root) / name, len(class_names)
    relatives = sorted({relative for splits in editions.values() for relative in splits.values()})
    indices = {relative: load_index(folder / relative) for relative in relatives}
    _check_splits(editions, indices, class_groups, count)
    splits = {
        relative: {**index.counts(count), "fingerprint": index.fingerprint} for relative, index in indices.items()
    }
    meta: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "class_names": list(class_names),
        "class_groups": [int(g) for g in class_groups],
        "editions": {edition: dict(named) for edition, named in editions.items()},
        "splits": splits,
        "statistics": {edition: {k: list(v) for k, v in entry.items()} for edition, entry in statistics.items()},
        "build": dict(options),
        "notes": dict(more.get("notes") or {}),
        **({} if (values := more.get("values")) is None else {"values": dict(values)}),
        **({} if (kind := more.get("kind")) is None else {"kind": kind}),
    }
    meta["fingerprint"] = digest_of(
        {
            **{key: meta[key] for key in ("name", "class_names", "class_groups", "editions")},
            "splits": {key: entry["fingerprint"] for key, entry in splits.items()},
        }
    )
    meta[DIGEST] = digest_of(meta)  # of all of the above, so that a damaged byte of this file is noticed
    describe_again(folder, meta, indices)
    with whole_file(folder / DATASET_FILE) as file:
        file.write((json.dumps(meta, indent=1, sort_keys=True) + "\n").encode())
    sync_folder(folder)
    return meta


def _check_splits(
    editions: Mapping[str, Mapping[str, str]], indices: Mapping[str, Index], class_groups: Sequence[int], count: int
) -> None:
    groups = np.asarray(class_groups)
    if groups.shape != (count,):
        raise DataError(f"class_groups has {len(groups)} entries for {count} classes; one for each would be legal")
    for relative, index in indices.items():
        if index.label.max() >= count or (groups[index.label] != index.group).any():
            raise DataError(f"split {relative} has labels or groups that do not fit the {count} classes")
    for edition, splits in editions.items():
        sources = {split: np.unique(indices[relative].source) for split, relative in splits.items()}
        for one, other in itertools.combinations(splits, 2):
            both = np.intersect1d(sources[one], sources[other], assume_unique=True)
            if len(both):
                raise DataError(
                    f"source {str(both[0])!r} occurs in {one} and {other} of edition {edition}; one source may lie in "
                    "one split only"
                )


def is_built(root: Path, name: str, options: Mapping[str, Any]) -> bool:
    """Return whether `root/name` is a finished build with these options, and all files have their recorded sizes."""
    try:
        dataset = read_dataset(Path(root), name)
        if dataset.meta["build"] != dict(options):
            return False
        for edition, splits in dataset.editions.items():
            for split in splits:
                dataset.split(edition, split).close()
    except DataError:
        return False
    return True
