"""Every recipe of recipes/*.yaml resolves, builds, and trains on the bundled data into a complete run folder."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ranks import PROJECT, started
from recipes.resolve import load_resolved, resolve
from recipes.schema import Recipe
from slurm.folder import prepare

RECIPES = sorted(path.stem for path in (PROJECT / "recipes").glob("*.yaml"))
DATA = sorted(path.stem for path in (PROJECT / "recipes" / "data").glob("*.yaml"))
SPLITS = ("val", "test_cbl", "test_gbl", "test_glt")
GROUPS = {"overall", "many", "medium", "few"}


def trained(folder: str) -> bool:
    """In a rank: train the recipe of a prepared run folder, as the job does."""
    from ifl.train import train

    return train(load_resolved(Path(folder) / "recipe.yaml"), Path(folder))


@cache
def _run(name: str, root: Path) -> tuple[Recipe, Path]:
    """Train a recipe for three epochs of one step; the run folder. All recipes share one process."""
    words = [f"recipe={name}", "data=digits_glt", f"data.root={root}", f"runs={tempfile.mkdtemp()}", "schedule.epochs=3", "batch.draws_per_epoch=0.3", "log.every=1", "log.eval_test_every=2"]
    if resolve(words[:2]).ifl:
        words += ["ifl.milestones=[0,1]", "ifl.alpha=[0.01,0.05]"]
    recipe = resolve(words)
    prepare(recipe, recipe.run_folder)
    assert started(1).run(trained, str(recipe.run_folder)) == [True]
    return recipe, recipe.run_folder


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_resolves_for_every_data_set(name: str) -> None:
    """With each data set and preset, and back from what it wrote down."""
    for data in DATA:
        for preset in ("paper", "corrected"):
            recipe = resolve([f"recipe={name}", f"data={data}", f"preset={preset}"])
            assert (recipe.recipe, recipe.data.name, recipe.preset) == (name, data, preset)
            assert recipe.batch.replacement is not None and recipe.optim.momentum is not None
            assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))).hash8 == recipe.hash8


@pytest.mark.parametrize("data", ["imagenet_glt", "mscoco_glt"])
def test_paper_networks_take_a_step(data: str) -> None:
    """Each distinct network and method of the recipes on the paper's data sets: forward and backward of a tiny batch at
    112 x 112, with a gradient for every parameter and a finite loss of each row."""
    from ifl.method import Output, Task, load_method
    from ifl.network import Network, build_backbone
    from sharding.reader import Batch

    resolved = {(recipe.model.name, recipe.method.name): recipe for recipe in (resolve([f"recipe={name}", f"data={data}"]) for name in RECIPES)}
    assert resolved
    for (model, method_name), recipe in resolved.items():
        counts = np.array([500, 60, 5])
        backbone = build_backbone(model)
        method = load_method(method_name, Task(counts, backbone.feature_dim, recipe.schedule.epochs))
        network = Network(backbone, method.head(), recipe.data.mean, recipe.data.std)
        labels = torch.tensor([2, 0])
        batch = Batch(torch.randint(0, 256, (2, 3, recipe.data.image_size, recipe.data.image_size), dtype=torch.uint8), labels, torch.arange(2), torch.zeros(2, dtype=torch.int64))
        assert batch.images.shape[2:] == (112, 112)
        output = Output(*network(batch.images))
        assert output.features_BD.shape == (2, 2048) and (output.features_BD >= 0).all()  # pooled after a ReLU, as the paper's
        losses = method.losses(output, batch, 0)
        assert losses.shape == (2,) and torch.isfinite(losses).all() and method.predict(output).shape == (2, 3)
        losses.sum().backward()
        assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in network.parameters())
        assert sum(parameter.numel() for parameter in backbone.parameters()) == 22_979_904  # ResNeXt-50 32x4d without its classifier


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_into_a_complete_run_folder(name: str, tiny_root: Path) -> None:
    """Three real steps through the loop; afterwards everything stands in the run folder that others rely on, with the
    shapes and meanings they rely on."""
    recipe, folder = _run(name, tiny_root)
    samples = {"val": 35, "test_cbl": 120, "test_gbl": 120, "test_glt": 60}

    assert folder.name == f"{name}-digits_glt-glt-s0-{recipe.hash8}"
    assert load_resolved(folder / "recipe.yaml") == recipe
    meta = json.loads((folder / "meta.json").read_text())
    assert {"commit", "versions", "world", "argv", "data_fingerprint", "class_names", "class_counts", "decoder"} <= meta.keys()
    assert meta["world"] == 1 and sum(meta["class_counts"]) == 209 and len(meta["class_names"]) == 10
    done = json.loads((folder / "done").read_text())
    assert done["epochs"] == 3 and 0 <= done["best_epoch"] < 3

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [(line["epoch"], line["step"]) for line in train] == [(0, 1), (1, 2), (2, 3)]
    assert all(np.isfinite(line["loss"]) for line in train)
    assert [line["alpha"] for line in train] == ([0.01, 0.05, 0.05] if recipe.ifl else [0, 0, 0])
    looks = [(line["epoch"], line["split"]) for line in lines if line["kind"] == "eval"]
    assert looks == [(0, "val"), *((epoch, split) for epoch in (1, 2) for split in SPLITS)]  # eval_test_every=2, and the last
    for line in lines:
        if line["kind"] == "eval":
            assert GROUPS <= line["accuracy"].keys() and GROUPS <= line["precision"].keys()

    for which in ("last", "best"):
        for split in SPLITS:
            with np.load(folder / "preds" / which / f"{split}.npz", allow_pickle=False) as arrays:
                preds = dict(arrays)
            assert set(preds) == {"id", "label", "group", "attribute", "prediction", "confidence"}
            assert preds["id"].tolist() == list(range(samples[split])), f"{which} {split}"
            assert all(len(column) == samples[split] for column in preds.values())
            assert set(preds["group"].tolist()) <= {0, 1, 2} and set(preds["attribute"].tolist()) <= {-1, 0, 1, 2}
            assert ((preds["confidence"] > 0.09) & (preds["confidence"] <= 1)).all() and set(preds["prediction"].tolist()) <= set(range(10))
    _check_evaluations(folder, lines, done)
    _check_environments(folder, recipe)
    manifests = sorted(path.parent.name for path in folder.glob("ckpt/step-*/MANIFEST.json"))
    assert manifests[-1] == "step-000000003" and not list(folder.glob("ckpt/tmp-*"))


def _check_evaluations(folder: Path, lines: list[dict[str, Any]], done: dict[str, Any]) -> None:
    """The last epoch's lines are those of preds/last, and the best epoch is the first of the highest accuracy on val."""
    for line in lines:
        if line["kind"] == "eval" and line["epoch"] == 2:
            with np.load(folder / "preds" / "last" / f"{line['split']}.npz") as preds:
                assert line["accuracy"]["overall"] == np.mean(preds["prediction"] == preds["label"])
    accuracies = [line["accuracy"]["overall"] for line in lines if line["kind"] == "eval" and line["split"] == "val"]
    assert done["best_epoch"] == accuracies.index(max(accuracies)) and done["best_val_accuracy"] == max(accuracies)
    with np.load(folder / "preds" / "best" / "val.npz") as best, np.load(folder / "preds" / "last" / "val.npz") as last:
        assert np.mean(best["prediction"] == best["label"]) == max(accuracies)
        assert np.array_equal(best["confidence"], last["confidence"]) == (done["best_epoch"] == 2)


def _check_environments(folder: Path, recipe: Recipe) -> None:
    """IFL leaves its environments of each milestone, others leave none."""
    names = sorted(path.name for path in (folder / "env").glob("*")) if (folder / "env").exists() else []
    if not recipe.ifl or recipe.ifl.environments == 1:
        assert names == []
        return
    assert names == ["epoch-000.npz", "epoch-001.npz"]
    for name in names:
        with np.load(folder / "env" / name, allow_pickle=False) as arrays:
            assert arrays["ids"].tolist() == list(range(209)) and arrays["weights"].shape == (recipe.ifl.environments, 209)
            assert (arrays["weights"][0] == 1).all() and (arrays["weights"][1:] >= 0).all() and arrays["weights"][1].std() > 0
            assert arrays["thumbnails"].dtype == np.uint8 and arrays["thumbnails"].shape[2:] == (6, 32, 32, 3)
            assert arrays["extremes"].shape == arrays["thumbnails"].shape[:3]
