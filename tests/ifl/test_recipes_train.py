"""Every recipe of recipes/*.yaml resolves, builds, and trains on the bundled data into a complete run folder."""

from __future__ import annotations

import itertools
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from recipes.declarations import declaration
from recipes.resolve import load_resolved, resolve
from recipes.schema import Recipe
from slurm.run_folder import prepare
from tests.helpers.ranks import started
from tests.helpers.shipped import DATA, RECIPES

SPLITS = ("val", "test_cbl", "test_gbl", "test_glt")
GROUPS = {"overall", "many", "medium", "few"}


def trained(folder: str) -> bool:
    """In a rank: train the recipe of a prepared run folder, as the job does."""
    from ifl.train import train

    return train(load_resolved(Path(folder) / "recipe.yaml"), Path(folder))


@cache
def _run(name: str, root: Path) -> tuple[Recipe, Path]:
    """Train a recipe for three epochs of a step or two, after its first stage; the run folder. All recipes share one
    process.
    """
    stands = resolve([f"recipe={name}", "data=digits_glt"])
    words = [
        f"recipe={name}",
        "data=digits_glt",
        f"data.root={root}",
        f"runs={_runs()}",
        "schedule.epochs=3",
        "batch.draws_per_epoch=0.3",
        "log.every=1",
        "log.eval_test_every=2",
    ]
    if stands.ifl and stands.ifl.milestones:
        words += ["ifl.milestones=[1,2]", f"ifl.alpha={[0.01, 0.05] if any(stands.ifl.alpha) else [0, 0]}"]
    for key in ("init_from", "eval_of"):
        if source := getattr(stands.method, key):
            words.append(f"method.{key}={_run(source.partition('-')[0], root)[1].name}")
    recipe = resolve(words)
    prepare(recipe, recipe.run_folder)
    assert started(1).run(trained, str(recipe.run_folder)) == [True]
    return recipe, recipe.run_folder


@cache
def _runs() -> str:
    return tempfile.mkdtemp()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_resolves_for_every_data_set(name: str) -> None:
    """With each data set, edition and preset, and back from what it wrote down."""
    for data, train, preset in itertools.product(DATA, ("glt", "cbl"), ("paper", "corrected")):
        recipe = resolve([f"recipe={name}", f"data={data}", f"train={train}", f"preset={preset}"])
        assert (recipe.recipe, recipe.data.name, recipe.train, recipe.preset) == (name, data, train, preset)
        assert recipe.batch.replacement is not None and recipe.optim.momentum is not None
        assert (
            Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))).hash8 == recipe.hash8
        )


def _of_methods(data: str) -> list[Any]:
    """(data, recipe) for each distinct network and method; all but the first are for the full suite."""
    seen, found = set(), []
    for name in RECIPES:
        recipe = resolve([f"recipe={name}", f"data={data}"])
        form = recipe.model.name, declaration(recipe.method.name).FORM
        if (*form, recipe.method.name) not in seen:
            found.append(
                pytest.param(data, name, marks=[] if not found and data == "imagenet_glt" else [pytest.mark.full])
            )
        seen.add((*form, recipe.method.name))
    return found


@pytest.mark.parametrize("data, name", [*_of_methods("imagenet_glt"), *_of_methods("mscoco_glt")])
def test_paper_networks_take_a_step(data: str, name: str) -> None:
    """Each distinct network and method of the recipes on the paper's data sets: forward and backward of a tiny batch at
    112 x 112, with a gradient for every parameter that is trained and a finite loss of each row."""
    from ifl.method import Output, Rows
    from ifl.network.network import build_network

    def _output(tensors: tuple[torch.Tensor, ...]) -> Output:
        return Output(*tensors[:2], tensors[2:])

    recipe = resolve([f"recipe={name}", f"data={data}"])
    network, method = build_network(recipe, np.array([500, 60, 5]))
    names = list(dict.fromkeys(recipe.stream_names))
    labels, streams = torch.tensor([2, 0, 1, 0]), torch.arange(4) // (4 // len(names))
    assert recipe.data.image_size == 112
    images = torch.randint(0, 256, (4, 3, 112, 112), dtype=torch.uint8)
    output = _output(network(images))
    assert (
        output.features_BD.shape == (4, network.backbone.feature_dim) and (output.features_BD >= 0).all()
    )  # pooled after a ReLU, as the paper's
    losses = method.losses(output, Rows(labels, torch.arange(4), streams, 0, labels))
    assert losses.shape == (4,) and torch.isfinite(losses).all()
    losses.sum().backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad and (
            parameter.grad is None or torch.isfinite(parameter.grad).all()
        ), key
    assert any(parameter.requires_grad for parameter in network.parameters())
    network.eval()
    with torch.no_grad():
        assert method.predict(_output(network(images))).shape == (4, 3)
    if (recipe.model.name, declaration(recipe.method.name).FORM) == ("resnext50_32x4d", "plain"):
        assert network.backbone.feature_dim == 2048
        assert (
            sum(parameter.numel() for parameter in network.backbone.parameters()) == 22_979_904
        )  # ResNeXt-50 32x4d without its classifier


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_into_a_complete_run_folder(name: str, tiny_root: Path) -> None:
    """Three epochs of real steps through the loop, or a judgement; afterwards everything stands in the run folder that
    others rely on, with the shapes and meanings they rely on."""
    recipe, folder = _run(name, tiny_root)
    samples = {"val": 35, "test_cbl": 120, "test_gbl": 120, "test_glt": 60}

    assert folder.name == f"{name}-digits_glt-glt-s0-{recipe.hash8}"
    assert load_resolved(folder / "recipe.yaml") == recipe
    meta = json.loads((folder / "meta.json").read_text())
    assert {
        "commit",
        "versions",
        "world",
        "argv",
        "data_fingerprint",
        "class_names",
        "class_counts",
        "decoder",
    } <= meta.keys()
    assert meta["world"] == 1 and sum(meta["class_counts"]) == 209 and len(meta["class_names"]) == 10
    done, steps = json.loads((folder / "done").read_text()), meta["steps_per_epoch"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    looks = [(line["epoch"], line["split"]) for line in lines if line["kind"] == "eval"]
    if recipe.method.eval_of:  # judged, and not trained
        assert (
            train == []
            and steps == done["epochs"] == 0
            and looks == [(0, split) for split in SPLITS]
            and not (folder / "ckpt").exists()
        )
    else:
        assert done["epochs"] == 3 and 0 <= done["best_epoch"] < 3 and steps in (1, 2)
        assert [(line["epoch"], line["step"]) for line in train] == [
            (step // steps, step + 1) for step in range(3 * steps)
        ]
        assert all(np.isfinite(line["loss"]) for line in train)
        alphas = [0.0, *recipe.ifl.alpha] if recipe.ifl and recipe.ifl.milestones else [0.0] * 3
        assert [line["alpha"] for line in train] == [alpha for alpha in alphas for _ in range(steps)]
        assert looks == [
            (0, "val"),
            *((epoch, split) for epoch in (1, 2) for split in SPLITS),
        ]  # eval_test_every=2, and the last
    for line in lines:
        if line["kind"] == "eval":
            assert line["accuracy"].keys() >= GROUPS and line["precision"].keys() >= GROUPS

    for which in ("last", "best"):
        for split in SPLITS:
            with np.load(folder / "preds" / which / f"{split}.npz", allow_pickle=False) as arrays:
                preds = dict(arrays)
            assert set(preds) == {"id", "label", "group", "attribute", "source", "prediction", "confidence"}
            assert preds["id"].tolist() == list(range(samples[split])), f"{which} {split}"
            assert all(len(column) == samples[split] for column in preds.values())
            assert set(preds["group"].tolist()) <= {0, 1, 2} and set(preds["attribute"].tolist()) <= {-1, 0, 1, 2}
            assert ((preds["confidence"] > 0.09) & (preds["confidence"] <= 1)).all() and set(
                preds["prediction"].tolist()
            ) <= set(range(10))
    if recipe.method.eval_of:
        return
    _check_evaluations(folder, lines, done)
    _check_environments(folder, recipe)
    manifests = sorted(path.parent.name for path in folder.glob("ckpt/step-*/MANIFEST.json"))
    assert manifests[-1] == f"step-{3 * steps:09d}" and not list(folder.glob("ckpt/tmp-*"))


def _check_evaluations(folder: Path, lines: list[dict[str, Any]], done: dict[str, Any]) -> None:
    """The last epoch's lines are those of preds/last, and the best epoch is the first of the highest accuracy on
    val.
    """
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
    """IFL leaves its environments of each milestone, or of each epoch, others leave none."""
    names = sorted(path.name for path in (folder / "env").glob("*")) if (folder / "env").exists() else []
    if not recipe.ifl or recipe.ifl.environments == 1:
        assert names == []
        return
    assert names == [
        f"epoch-{epoch:03d}.npz"
        for epoch in (range(3) if recipe.ifl.rebuild == "every_epoch" else recipe.ifl.milestones)
    ]
    for name in names:
        with np.load(folder / "env" / name, allow_pickle=False) as arrays:
            assert arrays["ids"].tolist() == list(range(209)) and arrays["weights"].shape == (recipe.streams, 209)
            assert (
                (arrays["weights"][0] == 1).all()
                and (arrays["weights"][1:] >= 0).all()
                and arrays["weights"][1].std() > 0
            )
            assert arrays["thumbnails"].dtype == np.uint8 and arrays["thumbnails"].shape[2:] == (6, 32, 32, 3)
            assert arrays["extremes"].shape == arrays["thumbnails"].shape[:3]
