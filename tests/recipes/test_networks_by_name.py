"""Networks of timm and torchvision in a recipe: their values and origins, their arguments, weights and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from recipes.backbones import facts
from recipes.common.errors import RecipeError
from recipes.identity import science
from recipes.noted import Noted, noted_in
from recipes.resolve import dump, merge, resolve
from recipes.schema import Recipe
from recipes.yaml_io import read_texts
from tests.helpers.libraries import CONVNEXT, RESNET, VIT, asked_here
from tests.helpers.paths import PROJECT

BY_NAME = VIT[:5]
"""Without the groups that the command gives."""


@pytest.fixture(autouse=True)
def _asked_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    asked_here(monkeypatch, tmp_path_factory.getbasetemp() / "networks")
    facts._answer.cache_clear()


def of(words: list[str]) -> tuple[Recipe, dict[str, str]]:
    return resolve(words), merge(words)[1]


def test_a_network_brings_its_image_size_to_large_images() -> None:
    """Over the data set's file, and under the recipe, the command and what a run has written out."""
    recipe, origins = of(["model.name=timm:vit_tiny_patch16_224", "data=imagenet_glt"])
    data = recipe.data
    assert (data.image_size, data.test_resize, data.mean, data.std) == (224, 249, (0.5,) * 3, (0.5,) * 3)
    assert origins["data.image_size"].startswith("the configuration of vit_tiny_patch16_224 in timm ")
    typed, origins = of(["model.name=timm:vit_tiny_patch16_224", "data=imagenet_glt", "data.image_size=112"])
    assert typed.data.image_size == 112 and origins["data.image_size"] == "the command line"
    own, origins = of(["data=imagenet_glt"])
    assert own.data.image_size == 112 and origins["data.image_size"] == "recipes/data/imagenet_glt.yaml"


def test_small_images_keep_the_data_set_s_values() -> None:
    """Up to 64 pixels the data set's size, mean and std win."""
    recipe, origins = of([*BY_NAME, "data=digits_glt"])
    assert recipe.data == resolve(["data=digits_glt"]).data
    assert origins["data.mean"] == "recipes/data/digits_glt.yaml"


def test_a_tag_chooses_the_configuration() -> None:
    """timm's tags name other sizes and statistics of the same network."""
    recipe = resolve(["model.name=timm:vit_base_patch16_clip_224.openai", "data=imagenet_glt"])
    assert recipe.data.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_without_batch_normalisation_groups_become_micro_batches() -> None:
    """batch.bn is 0 then, and a micro batch as large as the group was, or a rank's share where that does not divide;
    with batch normalisation all stays."""
    recipe, origins = of([*BY_NAME, "data=digits_glt"])
    assert (recipe.batch.bn, recipe.batch.micro, recipe.batch.group) == (0, 32, 32)
    assert origins["batch.bn"] == "the network, which has no batch normalisation"
    assert origins["batch.micro"].startswith("batch.bn of recipes/data/digits_glt.yaml")
    odd = resolve([*BY_NAME, "data=digits_glt", "batch.size=40"]).batch
    assert (odd.bn, odd.micro, odd.group) == (0, None, 0)
    typed = resolve([*BY_NAME, "data=digits_glt", "batch.micro=64"]).batch
    assert (typed.bn, typed.micro) == (0, 64)
    with_bn = resolve([*RESNET, "data=digits_glt"]).batch
    assert (with_bn.bn, with_bn.micro) == (32, None)
    three = resolve([*BY_NAME, "recipe=glt_ifl_3env", "data=digits_glt"]).batch
    assert (three.size, three.micro) == (132, 33)


@pytest.mark.parametrize("recipe", ["glt_mixup_ifl", "glt_irm"])
def test_mixup_and_irm_form_groups_of_micro_batches(recipe: str) -> None:
    """They ask for batch.micro where there are no groups, and take it."""
    found = resolve([*BY_NAME, f"recipe={recipe}", "data=digits_glt"])
    assert found.batch.micro == 32 and found.mixup_blocks == 2
    with pytest.raises(RecipeError, match=r"batch\.micro"):
        resolve([*BY_NAME, f"recipe={recipe}", "data=digits_glt", "batch.bn=0", "nodes=2"])


def test_arguments_are_numbers_texts_and_lists() -> None:
    """Those of a command and of a file are the same; null leaves one out; a recipe written out gives the same run."""
    recipe = resolve([*CONVNEXT[:3], "data=digits_glt", "model.args.ls_init_value=1e-6", "model.args.use_grn=true"])
    assert recipe.model.args == {
        "depths": [1, 1, 1, 1],
        "dims": [8, 8, 8, 8],
        "ls_init_value": 1e-6,
        "use_grn": True,
    }
    again = Recipe.model_validate(read_texts(dump(recipe)))
    assert again.model == recipe.model and again.hash8 == recipe.hash8
    less = resolve([*CONVNEXT[:3], "data=digits_glt", "model.args.use_grn=null"])
    assert "use_grn" not in less.model.args and less.hash8 != recipe.hash8
    assert "args" in science(recipe)["model"] and "weights" not in science(recipe)["model"]


REFUSED = [
    (["model.name=timm:vit_tiny_patch16_22"], "does not exist in timm; near are timm:vit_tiny_patch16_224"),
    (["model.name=timm:vit_tiny_patch16_224.nope"], "near are timm:vit_tiny_patch16_224.augreg"),
    (["model.name=torchvision:convnext_tin"], "near are torchvision:convnext_tiny"),
    (["model.name=timm:swin"], "near are timm:swin"),
    (["model.name=timm:nope"], "names is near, of which are timm:resnet50, timm:resnet50d, timm:vit_small_patch16_224"),
    (
        ["model.name=torchvision:nope"],
        "torchvision:vit_b_16, torchvision:convnext_tiny; `python -m ifl.pretrained list=torchvision` lists all",
    ),
    (
        ["model.name=open_clip:ViT-B-31"],
        "open_clip:ViT-B-31 is no model of open_clip; near are open_clip:ViT-B-32, open",
    ),
    (
        ["model.name=open_clip:nope"],
        "open_clip:ViT-B-32, open_clip:RN50; `python -m ifl.pretrained list=open_clip` lists all",
    ),
    (["model.name=open_clip:RN50", "model.args.force_image_size=64"], "it is data.image_size"),
    (["model.name=hub:x"], "timm:NETWORK, torchvision:NETWORK or open_clip:NETWORK"),
    (["model.name=torchvision:googlenet"], "no linear layer at its end alone"),
    ([*CONVNEXT, "model.args.foo=3"], "unexpected keyword argument 'foo'"),
    ([*CONVNEXT, "model.args.depths=[1]"], "cannot be built"),
    (["model.name=torchvision:regnet_y_400mf", "model.args.foo=1"], "unexpected keyword argument 'foo'"),
    ([*CONVNEXT, "model.args.pretrained=true"], "model.args.pretrained is not legal: nothing is downloaded"),
    ([*CONVNEXT, "model.args.pretrained_strict=false"], "model.args.pretrained_strict is not legal: nothing is downlo"),
    ([*CONVNEXT, "model.args.num_classes=5"], "the method brings the classifier"),
    ([*VIT, "model.args.img_size=64"], "it is data.image_size"),
    ([*CONVNEXT, "model.args.a=[[1],[2]]"], "a list"),
    ([*CONVNEXT, "model.args.A=1"], "lower-case letters"),
    ([*VIT, "model.args.global_pool="], "has no value"),
    (["model.args.depth=3"], "small_resnet is a file, which holds what it is"),
    ([*VIT, "data=fashion_glt"], "data.image_size=28 is no multiple"),
    ([*BY_NAME, "batch.bn=32"], "which timm:vit_tiny_patch16_224 has not: batch.bn=0 with batch.micro=32 is legal"),
    ([*RESNET, "batch.bn=0"], "set batch.bn to the samples of a group"),
    (["batch.micro=32"], "batch.micro=32 is for batch.bn=0"),
    ([*BY_NAME, "batch.micro=48"], "no multiple of batch.micro=48"),
    (["model.name=timm:tnt_s_patch16_224", "model.args.depth=2", "model.drop_path=.1"], "keep a row an image"),
    (["recipe=glt_ride", "model.name=timm:swin_tiny_patch4_window7_224"], "where a SwinTransformer parts"),
    ([*VIT, "model.weights=/nowhere/a.pt"], "model.weights=/nowhere/a.pt cannot be read: No such file"),
    (["model.prefix=a."], "is for model.weights"),
    ([*VIT, "model.init=torch", "model.weights=a.pt"], "a network has one start"),
]


@pytest.mark.parametrize("words, wanted", REFUSED, ids=[" ".join(words[-1:]) for words, _ in REFUSED])
def test_what_is_wrong_is_one_sentence_before_anything_is_submitted(words: list[str], wanted: str) -> None:
    """Each names the key or the network, and what is legal."""
    with pytest.raises(RecipeError, match=r"^[^\n]{1,700}$") as caught:
        resolve([*(["data=digits_glt"] if not any(word.startswith("data=") for word in words) else []), *words])
    assert wanted in str(caught.value)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says how to install it."""
    monkeypatch.setattr(facts, "version_of", lambda library: "")
    with pytest.raises(RecipeError, match=r"needs the package timm, which is not installed: .* -m pip install timm"):
        resolve([*VIT, "data=digits_glt"])


def test_what_a_run_noted_resolves_its_recipe_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is made on a machine without timm: what the library said stands in the run's meta.json."""
    words = [*BY_NAME, "data=digits_glt"]
    here = resolve(words)
    asked = facts.question(here.model.name, here.model.args)
    meta = {"network_facts": {asked: vars(facts.facts_of(here.model.name, here.model.args)), "odd": {"a": 1}}}
    monkeypatch.setattr(facts, "version_of", lambda library: "")
    monkeypatch.setattr(facts, "_noted", {})
    facts._answer.cache_clear()
    said = Noted.read(noted_in(json.loads(json.dumps(meta)), {"train": "glt"}).text)
    assert list(said.networks) == [asked] and resolve(words, said=said).hash8 == here.hash8
    facts._answer.cache_clear()


def test_a_first_stage_has_the_second_s_network_and_weights(tmp_path: Path) -> None:
    """cRT on a library's network starts from a baseline on the same one, which read the same file."""
    save_file({"a": torch.zeros(1)}, file := tmp_path / "w.safetensors")
    words = [*BY_NAME, "data=digits_glt", f"model.weights={file}"]
    second = resolve([*words, "recipe=glt_crt"])
    assert second.method.init_from == resolve([*words, "recipe=glt_baseline"]).run_name
    assert second.model.weights_sha256 and second.method.init_from != resolve(words[:-1]).run_name


@pytest.mark.full
def test_the_launcher_asks_once_and_says_where_values_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cluster=dry` asks the library in a process of its own, says what came of it, and keeps the answers: with the
    library hidden the same command answers the same. A command without a library's network asks nobody."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = [sys.executable, "slurm/launch.py", "cluster=dry", "data=imagenet_glt"]

    def said(*words: str) -> str:
        done: Any = subprocess.run([*command, *words], cwd=PROJECT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    first = said("model.name=torchvision:resnet18")
    assert "# from the configuration of resnet18 in torchvision" in first and "image_size: 224" in first
    kept = sorted(tmp_path.rglob("*.json"))
    assert len(kept) == 2  # what it is, and that it takes such images
    before = [path.stat().st_mtime_ns for path in kept]
    assert said("model.name=torchvision:resnet18") == first
    assert [path.stat().st_mtime_ns for path in kept] == before
    said()
    assert sorted(tmp_path.rglob("*.json")) == kept
