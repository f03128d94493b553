"""A data set of 32 training images in four classes, and runs on it of a few steps, for the tests of every method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.declarations import declaration
from recipes.resolve import load_resolved, resolve
from recipes.schema import Recipe
from sharding.format.dataset_json import begin_dataset, finish_dataset
from sharding.format.shards import Sample, write_split
from sharding.open import open_dataset
from slurm.run_folder import prepare
from tests.helpers.paths import PROJECT
from tests.helpers.ranks import my_rank, started

COUNTS = (14, 9, 6, 3)
EPOCHS, STEPS = 5, 2
WORDS = (
    "data=digits_glt",
    f"schedule.epochs={EPOCHS}",
    "batch.size=16",
    "batch.bn=8",
    "batch.draws_per_epoch=1",
    "batch.budget=matched",
    "augment.crop_scale=[1,1]",
    "log.every=1",
    "log.save_every_steps=1000",
    "log.save_every_s=10000",
    "log.eval_test_every=1000",
    "log.digest_every=3",
)


def build(digits_root: Path, root: Path) -> Path:
    """Fill `root` with a small digits_glt: four classes, `COUNTS` images for training, three each elsewhere."""
    whole = open_dataset(digits_root, "digits_glt")
    folder = begin_dataset(root, "digits_glt")
    for relative in sorted({relative for splits in whole.editions.values() for relative in splits.values()}):
        edition, name = next((e, s) for e, splits in whole.editions.items() for s, r in splits.items() if r == relative)
        split = whole.split(edition, name)
        index = split.index
        chosen = np.sort(
            np.concatenate(
                [np.flatnonzero(index.label == k)[: COUNTS[k] if name == "train" else 3] for k in range(len(COUNTS))]
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
        write_split(folder / relative, samples, shard_samples=64)
    finish_dataset(
        root,
        "digits_glt",
        class_names=whole.class_names[: len(COUNTS)],
        class_groups=whole.class_groups[: len(COUNTS)],
        editions=whole.editions,
        statistics=whole.meta["statistics"],
        options={"builder": "digits_glt", "seed": 0, "mini": True},
    )
    return root


def recipe_of(root: Path, runs: Path, *words: str) -> Recipe:
    """Return a recipe of 5 epochs of 2 steps, with two groups a step, and make its run folder."""
    given = {word.partition("=")[0] for word in words}
    if "data.features=once" in words:
        given.add("augment.crop_scale")  # clean views are no crops, and refuse to be told of them
    recipe = resolve(
        [
            *(() if "recipe" in given else ("recipe=glt_baseline",)),
            *(word for word in WORDS if word.partition("=")[0] not in given),
            f"data.root={root}",
            f"runs={runs}",
            *words,
        ]
    )
    prepare(recipe, recipe.run_folder)
    return recipe


# --------------------------------------------------------------------------------------------------- in the processes
def trained(folder: str, stop_at: int | None = None, method: tuple[str, str] | None = None) -> bool | str:
    """Train the recipe of a prepared run folder, in a rank; return the error's sentence if it fails.

    At step `stop_at` the last rank asks to stop. `method` is (name, file) of a method that is not in `ifl/methods`.
    """
    import importlib.util
    import sys

    from ifl.saving.checkpoint import CheckpointError
    from ifl.train import train

    if method:
        spec = importlib.util.spec_from_file_location(f"ifl.methods.{method[0]}", method[1])
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    steps = iter(range(1, 10**9))
    last = my_rank() + 1 == torch.distributed.get_world_size()
    try:
        return train(
            load_resolved(Path(folder) / "recipe.yaml"),
            Path(folder),
            lambda: stop_at is not None and last and next(steps) >= stop_at,
        )
    except (CheckpointError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def two_steps(root: Path, data: str, runs: Path) -> Recipe:
    """Train glt_randaug_ifl, the paper's network at 112 x 112, for two epochs of one step, the second with IFL.

    It trains on a data set built in `root`, and returns the recipe.
    """
    samples = len(open_dataset(root, data).split("glt", "train"))
    recipe = resolve(
        [
            "recipe=glt_randaug_ifl",
            f"data={data}",
            f"data.root={root}",
            f"runs={runs}",
            "schedule.epochs=2",
            "batch.size=16",
            "batch.bn=8",
            f"batch.draws_per_epoch={8 / samples}",
            "ifl.milestones=[1]",
            "ifl.alpha=[0.001]",
            "log.every=1",
            "data.workers=0",
            "cluster=local",
        ]
    )
    assert (recipe.model.name, recipe.data.image_size) == ("resnext50_32x4d", 112)
    prepare(recipe, recipe.run_folder)
    assert started(1).run(trained, str(recipe.run_folder), timeout=900) == [True]
    assert len(lines(recipe.run_folder, "train")) == 2 and (recipe.run_folder / "done").exists()
    return recipe


# ------------------------------------------------------------------------------------------------------- what came out
def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [
        line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if line["kind"] == kind
    ]


def final(folder: Path) -> dict[str, np.ndarray]:
    """Return all tensors of the newest checkpoint (network, optimizer, centers, weights, memory) and predictions."""
    newest = sorted(folder.glob("ckpt/step-*"))[-1]
    stored = torch.load(newest / "engine" / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)
    found = _tensors(
        {
            "network": stored["module"],
            "optimizer": stored["optimizer"],
            "suite": torch.load(newest / "suite.pt", weights_only=True),
        }
    )
    for path in sorted(folder.glob("preds/*/*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.parent.name}/{path.name}/{key}": value for key, value in arrays.items()}
    return found


def _tensors(value: Any, path: str = "") -> dict[str, np.ndarray]:
    if isinstance(value, torch.Tensor):
        return {path: value.numpy()}
    items: Sequence[tuple[Any, Any]] = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list | tuple)
        else []
    )
    return {key: tensor for name, inner in items for key, tensor in _tensors(inner, f"{path}.{name}").items()}


def same_bits(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> list[str]:
    """Return the names of arrays that are not equal to the last bit."""
    return sorted(
        key
        for key in one.keys() | two.keys()
        if key not in one or key not in two or one[key].tobytes() != two[key].tobytes()
    )


METHODS = sorted(
    path.stem
    for path in (PROJECT / "ifl" / "methods").glob("*.py")
    if not path.stem.startswith("_") and declaration(path.stem).TRAINS != "nothing"
)
"""The methods that train."""
IFL = ("ifl.environments=2", "ifl.milestones=[2,3]", "ifl.alpha=[0.001,0.002]")
"""So the skewed environments act in the last epoch."""
