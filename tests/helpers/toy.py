"""Small data sets of the shapes of ImageNet-GLT (clusters) and MSCOCO-GLT (attribute lists), written by the project's
own writer.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sharding.format.dataset_json import begin_dataset, finish_dataset
from sharding.format.shards import Sample, write_split

SPLITS = ("glt/train", "glt/val", "cbl/train", "cbl/val", "shared/test_cbl", "shared/test_gbl")
EDITIONS = {
    edition: {
        "train": f"{edition}/train",
        "val": f"{edition}/val",
        "test_cbl": "shared/test_cbl",
        "test_gbl": "shared/test_gbl",
    }
    for edition in ("glt", "cbl")
}


def picture(number: int, label: int, attribute: int, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """Draw a picture that is different for every number: a smooth ground, tinted by attribute, with discs by class."""
    rng = np.random.default_rng(number)
    ground = Image.fromarray(rng.integers(40, 216, (4, 5, 3)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(ground)
    for disc in range(label % 7 + 1):
        x, y, r = int(rng.integers(0, size[0])), int(rng.integers(0, size[1])), int(rng.integers(2, 3 + min(size) // 6))
        pen.ellipse(
            (x - r, y - r, x + r, y + r),
            fill=((230, 60, 40), (60, 190, 80), (50, 90, 220))[attribute],
            outline="white" if disc % 2 else "black",
        )
    return ground


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def samples(
    relative: str,
    per_class: Sequence[int],
    groups: Sequence[int],
    extra: Callable[[int, int, int], dict[str, Any]],
    first: int,
    size: tuple[int, int],
) -> Iterator[Sample]:
    """Yield the samples of a split: attribute groups 7:2:1 (equal in Test-GBL).

    `first` numbers the sources over all splits.
    """
    number = first
    for label, count in enumerate(per_class):
        for i in range(count):
            attribute = i % 3 if relative.endswith("test_gbl") else int(np.searchsorted((0.7, 0.9), (i + 0.5) / count))
            wnid = f"n{label:08d}"
            yield Sample(
                f"{wnid}_{number}",
                f"{wnid}/{wnid}_{number}.JPEG",
                encoded(picture(number, label, attribute, size)),
                label,
                groups[label],
                attribute,
                extra(number, label, attribute),
            )
            number += 1


def clusters(number: int, label: int, attribute: int) -> dict[str, Any]:
    """Return the extra entries of ImageNet-GLT's samples."""
    return {"cluster": 2 * attribute + number % 2}


def attribute_lists(number: int, label: int, attribute: int) -> dict[str, Any]:
    """Return the extra entries of MSCOCO-GLT's samples: which of 12 attributes an object has."""
    rng = np.random.default_rng([number, 7])
    return {"attributes": np.flatnonzero(rng.random(12) < 0.6 / (1 + np.arange(12)) + 0.1 * attribute).tolist()}


def build(  # noqa: PLR0913 -- each test changes one or two of them
    root: Path,
    name: str = "toy",
    per_class: Sequence[int] = (10, 6, 4, 3),
    groups: Sequence[int] = (0, 0, 1, 2),
    extra: Callable[[int, int, int], dict[str, Any]] = clusters,
    change: Callable[[str, list[Sample]], list[Sample]] | None = None,
    shard_samples: int = 8,
    options: dict[str, Any] | None = None,
    size: tuple[int, int] = (48, 36),
) -> Path:
    """Build `root/name` and return it; `change(relative, samples)` may replace a split's samples."""
    folder = begin_dataset(root, name)
    for place, relative in enumerate(SPLITS):
        counts = (
            per_class
            if relative == "glt/train"
            else [3] * len(per_class)
            if "test" in relative
            else [max(2, per_class[-1] - 1)] * len(per_class)
        )
        written = samples(relative, counts, groups, extra, 100_000 * (place + 1), size)
        write_split(folder / relative, change(relative, list(written)) if change else written, shard_samples)
    statistics = {edition: {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]} for edition in EDITIONS}
    finish_dataset(
        root,
        name,
        class_names=[f"class {label}" for label in range(len(per_class))],
        class_groups=list(groups),
        editions=EDITIONS,
        statistics=statistics,
        options=options or {"builder": name, "seed": 0},
    )
    return folder


def described(root: Path, name: str = "toy", **more: Any) -> dict[str, Any]:
    """Write the dataset.json of a data set of `build` again, with `values` and `kind`; returns it."""
    meta = json.loads((root / name / "dataset.json").read_text())
    kept = {key: meta[key] for key in ("class_names", "class_groups", "editions", "statistics")}
    return finish_dataset(root, name, **kept, options=meta["build"], **more)
