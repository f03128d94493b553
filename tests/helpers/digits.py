"""The bundled data set and a twentieth of it, for tests and benches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sharding.format.dataset_json import begin_dataset, finish_dataset
from sharding.format.shards import Sample, write_split
from sharding.open import open_dataset


def digits(root: Path) -> Path:
    """Fill `root` with the whole of digits_glt."""
    from sharding.building.request import Request
    from sharding.datasets.digits_glt.build import build

    build(Request(root))
    return root


def twentieth(digits_root: Path, root: Path, shard_samples: int = 64) -> Path:
    """Fill `root` with a twentieth of the samples, at least three of each class and split.

    That is enough to train some steps and evaluate in a second.
    """
    whole = open_dataset(digits_root, "digits_glt")
    folder = begin_dataset(root, "digits_glt")
    for relative in sorted({relative for splits in whole.editions.values() for relative in splits.values()}):
        edition, name = next((e, s) for e, splits in whole.editions.items() for s, r in splits.items() if r == relative)
        split = whole.split(edition, name)
        index = split.index
        chosen = np.sort(
            np.concatenate(
                [
                    members[: max(3, len(members) // 20)]
                    for members in (np.flatnonzero(index.label == k) for k in range(whole.num_classes))
                ]
            )
        )
        samples = (
            Sample(
                str(index.key[i]),
                str(index.source[i]),
                split.read(i),
                int(index.label[i]),
                int(index.group[i]),
                int(index.attribute[i]),
            )
            for i in chosen.tolist()
        )
        write_split(folder / relative, samples, shard_samples=shard_samples)
    finish_dataset(
        root,
        "digits_glt",
        class_names=whole.class_names,
        class_groups=whole.class_groups,
        editions=whole.editions,
        statistics=whole.meta["statistics"],
        options={"builder": "digits_glt", "seed": 0, "twentieth": True},
    )
    return root
