"""Counts, sizes and entries of a built data set's splits, as numbers and as CSV rows."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from recipes.common.errors import DataError, one_line
from recipes.common.json_text import NotJson, parse_json, wrong_kinds
from sharding.format.dataset import Dataset, Split
from sharding.format.index import by_class_and_group
from sharding.format.shards import FIELDS
from sharding.progress import ProgressBar

GROUP_NAMES = ("many", "medium", "few")
LIST = "attributes"  # the entry that lists an image's attributes
DISTINCT = 1000  # an entry with more values is an identifier, not an attribute
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass(frozen=True, eq=False)
class Contents:
    """What a split of N images holds.

    Attributes:
        counts: int64 [K, 4], images by class and attribute group; the last column: no attribute.
        sizes: int32 [N, 2], width and height in pixels as the images' headers say.
        bytes: int64 [N].
        entries: name of a KEY.json entry that describes the image (`look`, `cluster`, the items of `attributes`) ->
            value -> number of images that have it.
    """

    counts: np.ndarray
    sizes: np.ndarray
    bytes: np.ndarray
    entries: dict[str, Counter[Any]]

    @property
    def groups(self) -> np.ndarray:
        """Images of each attribute group, int64 [3]."""
        groups: np.ndarray = self.counts[:, :3].sum(0)
        return groups


def contents(split: Split, num_classes: int, bar: tqdm) -> Contents:
    """Read a split's tars once: the headers of tars and images, and every KEY.json, but no pixels.

    Raises:
        DataError: an image's header cannot be read, or a member is not a file.
    """
    index = split.index
    sizes = np.zeros((len(index), 2), np.int32)
    row_of = {key: row for row, key in enumerate(index.key.tolist())}
    entries: dict[str, Counter[Any]] = {}
    for name in index.shard_name.tolist():
        shard = split.folder / name
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, _, part = member.name.partition(".")
                if part == "jpg":
                    image = _opened(tar, member, shard)
                    sizes[row_of[key]] = _header_size(image, f"{shard}: the image of key {key!r}")
                    bar.update()
                elif part == "json":
                    _count(_entry(_opened(tar, member, shard).read(), f"{shard}: the .json of key {key!r}"), entries)
    return Contents(
        by_class_and_group(index.label, index.attribute, num_classes),
        sizes,
        index.size,
        {word: counter for word, counter in sorted(entries.items()) if len(counter) <= DISTINCT},
    )


def _entry(data: bytes, what: str) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = parse_json(data)
    except NotJson as error:
        raise DataError(one_line(f"{what} is damaged ({error}); python -m sharding.verify says more")) from None
    if wrong := wrong_kinds(entry, {}):
        raise DataError(f"{what} is damaged ({wrong}); python -m sharding.verify says more")
    return entry


def _count(entry: dict[str, Any], entries: dict[str, Counter[Any]]) -> None:
    for word, value in entry.items():
        if word == LIST and isinstance(value, list):
            entries.setdefault(word, Counter()).update(value)
        elif word not in FIELDS and isinstance(value, str | int):
            counter = entries.setdefault(word, Counter())
            if len(counter) <= DISTINCT:
                counter[value] += 1


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise DataError(f"{shard}: {member.name} is not a file; python -m sharding.verify finds what is damaged")
    return file


def _header_size(file: IO[bytes], what: str) -> tuple[int, int]:
    from PIL import Image

    try:
        return Image.open(file, formats=["JPEG", "PNG"]).size
    except Exception as error:  # damaged bytes make Pillow raise some ten unrelated types
        raise DataError(
            f"{what} has no readable header ({' '.join(str(error).split())}); python -m sharding.verify finds what "
            "is damaged"
        ) from error


def share_std(counts: Sequence[int] | np.ndarray) -> float:
    """Measure how uneven attributes are, as the paper's code does.

    That is the standard deviation, over the attributes, of counts / (sum of counts + 1e-9).
    """
    values = np.asarray(counts, np.float64)
    return float((values / (values.sum() + 1e-9)).std())


def numbers(dataset: Dataset, splits: dict[str, Contents]) -> dict[str, Any]:
    """Describe a data set as JSON values: names, and for each split counts, shares, the attributes' std, sizes.

    If the samples have attribute lists, the std is taken over the attributes: all that dataset.json names, else all
    that occur in the data set, so that their number is the same for every split. Otherwise it is taken over the shares
    of the three attribute groups. `of` says which.
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
    """List the attributes that samples may have: 0 to A - 1 if dataset.json names A, else those that occur."""
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
    """Return a name for each of `attribute_values`."""
    return [str(name) for name in dataset.meta.get("notes", {}).get("attribute_names") or values]


def measures(split: Contents) -> dict[str, np.ndarray]:
    """Return width, height, shorter side and bytes of every image, [N] each."""
    return {
        "width": split.sizes[:, 0],
        "height": split.sizes[:, 1],
        "shorter side": split.sizes.min(1),
        "bytes": split.bytes,
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    points = np.percentile(values, QUANTILES, method="nearest").tolist()
    return {
        **{f"p{quantile}": point for quantile, point in zip(QUANTILES, points, strict=True)},
        "mean": round(float(values.mean()), 2),
    }


def tables(said: dict[str, Any]) -> dict[str, list[list[Any]]]:
    """Lay out the CSV files: name -> rows, the first one the header."""
    classes: list[list[Any]] = [["split", "class", "name", "group", "images", *GROUP_NAMES, "none"]]
    attributes: list[list[Any]] = [["split", "entry", "value", "name", "images", "share"]]
    sizes: list[list[Any]] = [["split", "measure", *(f"p{quantile}" for quantile in QUANTILES), "mean"]]
    for relative, split in said["splits"].items():
        for label, (images, groups) in enumerate(zip(split["per_class"], split["per_class_attribute"], strict=True)):
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
        counted = {"attribute group": dict(zip(range(3), split["attribute_groups"], strict=True)), **split["entries"]}
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
    """Choose at most `wanted` class ids, evenly spaced from the most to the least frequent, both ends among them.

    Classes with equal counts come in the order of their ids.
    """
    order = np.argsort(-np.asarray(counts), kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(wanted, len(order))).round().astype(int))
    chosen: list[int] = order[places].tolist()
    return chosen


def read(dataset: Dataset) -> tuple[dict[str, Split], dict[str, Contents]]:
    """Open and read each split's folder once, training before validation before tests.

    Returns:
        Folder -> opened split, and folder -> what it holds.
    """
    places = {
        relative: (edition, split) for edition, named in dataset.editions.items() for split, relative in named.items()
    }
    opened = {
        relative: dataset.split(*place) for relative, place in sorted(places.items(), key=lambda item: _rank(item[0]))
    }
    with ProgressBar(sum(map(len, opened.values())), f"reading {dataset.name}", "img") as bar:
        return opened, {relative: contents(split, dataset.num_classes, bar) for relative, split in opened.items()}


def _rank(relative: str) -> tuple[int, str]:
    """Return the sort key of a split's folder: training, validation, tests."""
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
