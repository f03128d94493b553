"""Each row of the paper's tables 1 to 4 trains, on shards of ImageNet-GLT's and of MSCOCO-GLT's shape: 112 x 112, 1,000
and 29 classes, the paper's networks. The batch is small, so that a step takes seconds on a CPU; nothing else is shrunk
but the data."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.declarations import declaration
from recipes.resolve import resolve
from recipes.schema import Recipe
from recipes.table_layout import load_layout
from sharding.format.dataset_json import begin_dataset, finish_dataset
from sharding.format.shards import Sample, write_split
from slurm.run_folder import prepare
from tests.helpers.mini import trained
from tests.helpers.paths import PROJECT
from tests.helpers.ranks import started

CLASSES = {"imagenet_glt": (1000, (400, 450, 150)), "mscoco_glt": (29, (11, 12, 6))}
TABLES = ("imagenet_clt_glt", "imagenet_alt", "mscoco", "ablation")
ROWS = sorted(
    {row.recipe for table in TABLES for row in load_layout(PROJECT / "recipes" / "tables" / f"{table}.yaml").rows}
)
EDITIONS = {
    "glt": {"train": "glt/train", "val": "glt/val", "test_cbl": "shared/test_cbl", "test_gbl": "shared/test_gbl"},
    "cbl": {"train": "cbl/train", "val": "cbl/val", "test_cbl": "shared/test_cbl", "test_gbl": "shared/test_gbl"},
}
PER_STREAM = 8


@cache
def build(root: Path, name: str) -> Path:
    """A data set of `name`'s classes and groups: 1,200 noisy images to train on, long-tailed and at least one of each
    class, and eight of each other split."""
    classes, groups = CLASSES[name]
    class_groups = np.repeat(np.arange(3), groups)
    rng = np.random.default_rng(0)
    folder = begin_dataset(root, name)
    for split in sorted({relative for splits in EDITIONS.values() for relative in splits.values()}):
        labels = (
            np.concatenate([np.arange(classes), np.sort(classes * rng.random(1200 - classes) ** 3).astype(int)])
            if split.endswith("train")
            else rng.integers(classes, size=8)
        )

        def samples(split: str = split, labels: np.ndarray = labels):
            for number, label in enumerate(labels.tolist()):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((150, 125)).save(
                    buffer, "JPEG"
                )
                yield Sample(
                    f"{split.replace('/', '-')}-{number}",
                    f"{split}-{number}",
                    buffer.getvalue(),
                    label,
                    int(class_groups[label]),
                    number % 3,
                )

        write_split(folder / split, samples())
    finish_dataset(
        root,
        name,
        class_names=[f"class {k}" for k in range(classes)],
        class_groups=class_groups.tolist(),
        editions=EDITIONS,
        statistics={edition: {"mean": [0.5] * 3, "std": [0.25] * 3} for edition in EDITIONS},
        options={"builder": name, "synthetic": True},
    )
    return root


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@cache
def run(name: str, data: str, root: Path) -> Recipe:
    """Train two steps, each an epoch so that IFL builds its environments between them, after the run that the row
    builds on.
    """
    row = resolve([f"recipe={name}", f"data={data}"])
    size = PER_STREAM * row.streams
    words = [
        f"recipe={name}",
        f"data={data}",
        f"data.root={build(root, data)}",
        f"runs={root / 'runs'}",
        "data.workers=0",
        "tasks_per_node=1",
        "cluster=local",
    ]
    if not row.method.eval_of:
        words += [
            f"batch.size={size}",
            f"batch.bn={size}",
            f"batch.draws_per_epoch={PER_STREAM / 1200}",
            "schedule.epochs=2",
            "log.every=1",
        ]
    if row.ifl and row.ifl.milestones:
        words += ["ifl.milestones=[0,1]", f"ifl.alpha={row.ifl.alpha}"]
    for key in ("init_from", "eval_of"):
        if source := getattr(row.method, key):
            words.append(f"method.{key}={run(source.partition('-')[0], data, root).run_name}")
    recipe = resolve(words)
    prepare(recipe, recipe.run_folder)
    assert started(1).run(trained, str(recipe.run_folder), timeout=900) == [True]
    return recipe


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param(
            name, data, marks=[] if (name, data) == ("glt_randaug_ifl", "imagenet_glt") else [pytest.mark.full]
        )
        for data in CLASSES
        for name in ROWS
    ],
)
def test_row_takes_two_steps_on_the_papers_shapes(name: str, data: str, shards: Path) -> None:
    """Two real steps through the loop (or a judgement of another row's weights): finite losses, the paper's network and
    classes, predictions of every split.
    """
    recipe = run(name, data, shards)
    folder, (classes, _) = recipe.run_folder, CLASSES[data]
    meta = json.loads((folder / "meta.json").read_text())
    assert len(meta["class_counts"]) == classes and min(meta["class_counts"]) >= 1 and recipe.data.image_size == 112
    assert recipe.model.name == ("resnet50" if recipe.method.name == "bbn" else "resnext50_32x4d")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == (0 if recipe.method.eval_of else 2) and all(np.isfinite(losses))
    if recipe.ifl and recipe.ifl.environments > 1:
        assert [path.name for path in sorted((folder / "env").iterdir())] == ["epoch-000.npz", "epoch-001.npz"]
    assert declaration(recipe.method.name).TRAINS == "head" or recipe.method.eval_of or losses[0] > 0
    for split in EDITIONS["glt"].keys() - {"train"}:
        with np.load(folder / "preds" / "last" / f"{split}.npz") as predictions:
            assert len(predictions["prediction"]) == 8 and (predictions["prediction"] < classes).all()
