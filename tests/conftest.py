"""Data for the tests: the bundled data set, built once, and a twentieth of it. And: no skipped test in CI."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ["GLT_SITE"] = ""  # a developer's own site file is not the tests'

from sharding.format.dataset_json import begin_dataset, finish_dataset
from sharding.format.shards import Sample, write_split
from sharding.open import open_dataset


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """In CI everything that a test may need is installed, so a skipped test is a failure there."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds the whole of digits_glt."""
    return digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def tiny_root(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that holds a twentieth of digits_glt."""
    return twentieth(digits_root, tmp_path_factory.mktemp("tiny"))


def digits(root: Path) -> Path:
    """Fill `root` with the whole of digits_glt."""
    from sharding.building.request import Request
    from sharding.datasets.digits_glt.build import build

    build(Request(root))
    return root


def twentieth(digits_root: Path, root: Path, shard_samples: int = 64) -> Path:
    """Fill `root` with the same editions, splits and classes, and at least three samples a class of each split: enough
    to train some steps and evaluate in a second."""
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
