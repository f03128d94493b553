"""What a built data set holds: counts, sizes and entries of its splits, as numbers and as CSV rows."""

from __future__ import annotations

import json
import sys
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from recipes.common.errors import DataError
from sharding.format.dataset import Dataset, Split

GROUP_NAMES = ("many", "medium", "few")
OWN = frozenset(("id", "source", "label", "group", "attribute"))
LIST = "attributes"  # the entry that lists an image's attributes
DISTINCT = 1000  # an entry with more values is a name or a number of its own, no attribute
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True, eq=False)
class Contents:
    """What a split holds: `counts` [K, 4] int64 images by class and attribute group (last: none); `sizes` [N, 2] int32, width and height in
    pixels as the images' headers say; `bytes` [N] int64; `entries`: name of a KEY.json entry beyond the index that says what kind of image it
    is (`look`, `cluster`, the items of `attributes`) -> value -> images that have it."""

    counts: np.ndarray
    sizes: np.ndarray
    bytes: np.ndarray
    entries: dict[str, Counter[Any]]

    @property
    def groups(self) -> np.ndarray:
        """Images of each attribute group [3] int64."""
        return self.counts[:, :3].sum(0)


def contents(split: Split, num_classes: int, bar: tqdm) -> Contents:
    """Reads a split's tars once: headers of tar and images, and every KEY.json; not the pixels. Raises DataError for an image without a header."""
    index = split.index
    counts, sizes = np.zeros((num_classes, 4), np.int64), np.zeros((len(index), 2), np.int32)
    np.add.at(counts, (index.label, index.attribute), 1)
    row_of = {key: row for row, key in enumerate(index.key.tolist())}
    entries: dict[str, Counter[Any]] = {}
    for name in index.shard_name.tolist():
        with tarfile.open(split.folder / name, "r:") as tar:
            for member in tar:
                key, _, part = member.name.partition(".")
                if part == "jpg":
                    sizes[row_of[key]] = _header_size(
                        tar.extractfile(member), f"{split.folder / name}: the image of key {key!r}"
                    )
                    bar.update()
                elif part == "json":
                    _count(json.load(tar.extractfile(member)), entries)
    return Contents(
        counts,
        sizes,
        index.size,
        {word: counter for word, counter in sorted(entries.items()) if len(counter) <= DISTINCT},
    )


def _count(entry: dict[str, Any], entries: dict[str, Counter[Any]]) -> None:
    for word, value in entry.items():
        if word == LIST and isinstance(value, list):
            entries.setdefault(word, Counter()).update(value)
        elif word not in OWN and isinstance(value, str | int) and len(entries.setdefault(word, Counter())) <= DISTINCT:
            entries[word][value] += 1


def _header_size(file: Any, what: str) -> tuple[int, int]:
    from PIL import Image

    try:
        return Image.open(file, formats=["JPEG", "PNG"]).size
    except Exception as error:  # damaged bytes make Pillow raise some ten unrelated types
        raise DataError(
            f"{what} has no readable header ({' '.join(str(error).split())}); python -m sharding.verify finds what is damaged"
        ) from error


def share_std(counts: Sequence[int] | np.ndarray) -> float:
    """The reference's measure of how uneven attributes are: the standard deviation, over the attributes, of counts / (sum of counts + 1e-9)."""
    values = np.asarray(counts, np.float64)
    return float((values / (values.sum() + 1e-9)).std())


def numbers(dataset: Dataset, splits: dict[str, Contents]) -> dict[str, Any]:
    """All that is said about a data set, as JSON values: names, and for each split counts, shares, the attributes' std, sizes.

    The std is taken over a list's attributes where the samples have lists (all that dataset.json names, else all that occur anywhere in the
    data set: the same number for every split), over the three attribute groups' shares where not; `of` says over what.
    """
    values = attribute_values(dataset, splits)
    described = {}
    for relative, split in splits.items():
        listed = [split.entries.get(LIST, Counter())[value] for value in values]
        has = bool(sum(listed))
        described[relative] = {
            "images": int(split.counts.sum()),
            "per_class": split.counts.sum(1).tolist(),
            "per_class_attribute": split.counts[:, :3].tolist(),
            "attribute_groups": split.groups.tolist(),
            "without_attribute": int(split.counts[:, 3].sum()),
            "attributes_std": {
                "value": share_std(listed if has else split.groups),
                "of": f"{len(values)} attributes" if has else "3 attribute groups",
            },
            "entries": {
                word: {str(value): counter[value] for value in sorted(counter, key=str)}
                for word, counter in split.entries.items()
            },
            "sizes": {what: _quantiles(array) for what, array in measures(split).items()},
        }
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "class_names": dataset.class_names,
        "class_groups": dataset.class_groups,
        "editions": dataset.editions,
        "attribute_names": attribute_names(dataset, values),
        "splits": described,
    }


def attribute_values(dataset: Dataset, splits: dict[str, Contents]) -> list[Any]:
    """The attributes that lists may name: ids 0 to A - 1 where dataset.json names A attributes, else those that occur, sorted."""
    named = dataset.meta.get("notes", {}).get("attribute_names")
    return (
        list(range(len(named)))
        if named
        else sorted(
            {value for split in splits.values() for value in split.entries.get(LIST, ())},
            key=lambda value: (isinstance(value, str), value),
        )
    )


def attribute_names(dataset: Dataset, values: Sequence[Any]) -> list[str]:
    """A name for each of `attribute_values`."""
    return [str(name) for name in dataset.meta.get("notes", {}).get("attribute_names") or values]


def measures(split: Contents) -> dict[str, np.ndarray]:
    """Of each image its width, height, shorter side and bytes, [N] each."""
    return {
        "width": split.sizes[:, 0],
        "height": split.sizes[:, 1],
        "shorter side": split.sizes.min(1),
        "bytes": split.bytes,
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    points = np.percentile(values, QUANTILES, method="nearest").tolist()
    return {
        **{f"p{quantile}": point for quantile, point in zip(QUANTILES, points)},
        "mean": round(float(values.mean()), 2),
    }


def tables(said: dict[str, Any]) -> dict[str, list[list[Any]]]:
    """The CSV files: name -> rows, the first one the header."""
    classes: list[list[Any]] = [["split", "class", "name", "group", "images", *GROUP_NAMES, "none"]]
    attributes: list[list[Any]] = [["split", "entry", "value", "name", "images", "share"]]
    sizes: list[list[Any]] = [["split", "measure", *(f"p{quantile}" for quantile in QUANTILES), "mean"]]
    for relative, split in said["splits"].items():
        for label, (images, groups) in enumerate(zip(split["per_class"], split["per_class_attribute"])):
            classes.append(
                [
                    relative,
                    label,
                    said["class_names"][label],
                    GROUP_NAMES[said["class_groups"][label]],
                    images,
                    *groups,
                    images - sum(groups),
                ]
            )
        counted = {"attribute group": dict(zip(range(3), split["attribute_groups"])), **split["entries"]}
        for entry, values in counted.items():
            whole = sum(values.values()) or 1
            for value, images in values.items():
                name = (
                    GROUP_NAMES[value]
                    if entry == "attribute group"
                    else _listed_name(said["attribute_names"], entry, value)
                )
                attributes.append([relative, entry, value, name, images, f"{images / whole:.6f}"])
        sizes += [[relative, what, *values.values()] for what, values in split["sizes"].items()]
    return {"classes": classes, "attributes": attributes, "images": sizes}


def _listed_name(names: Sequence[str], entry: str, value: str) -> str:
    return names[int(value)] if entry == LIST and value.isdigit() and int(value) < len(names) else value


def spread(counts: Sequence[int] | np.ndarray, wanted: int) -> list[int]:
    """At most `wanted` class ids, from the most to the least frequent (as many images: by id), evenly spaced in that order, both ends among them."""
    order = np.argsort(-np.asarray(counts), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(wanted, len(order))).round().astype(int))
    return order[places].tolist()


def read(dataset: Dataset) -> tuple[dict[str, Split], dict[str, Contents]]:
    """folder -> split, opened, and folder -> what it holds; each folder once, training before validation before tests."""
    places = {
        relative: (edition, split) for edition, named in dataset.editions.items() for split, relative in named.items()
    }
    opened = {
        relative: dataset.split(*place) for relative, place in sorted(places.items(), key=lambda item: _rank(item[0]))
    }
    with tqdm(
        total=sum(map(len, opened.values())),
        desc=f"reading {dataset.name}",
        unit="img",
        mininterval=0.5 if sys.stderr.isatty() else 30,
    ) as bar:
        return opened, {relative: contents(split, dataset.num_classes, bar) for relative, split in opened.items()}


def _rank(relative: str) -> tuple[int, str]:
    """Splits in the order of reading: training, validation, tests."""
    order = (
        "glt/train",
        "glt/val",
        "glt/test_glt",
        "glt/test_cbl",
        "glt/test_gbl",
        "cbl/train",
        "cbl/val",
        "cbl/test_cbl",
        "cbl/test_gbl",
        "shared/test_cbl",
        "shared/test_gbl",
    )
    return (order.index(relative) if relative in order else len(order), relative)
