"""What of a network trains: all, head, lora, adapter, norm; stochastic depth by row; and what is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ifl import exported
from ifl.finished_run import export
from ifl.network import lora
from ifl.network.adapters import insert
from ifl.network.added_layers import called
from ifl.network.backbone import build_backbone
from ifl.network.branches import Branches
from ifl.network.drop_path import DropPath, RowMasks, depth_argument, drawn_by_row
from ifl.network.network import Network, choose_trained
from recipes.common.errors import RecipeError, RunError
from recipes.resolve import resolve
from recipes.schema import Model
from tests.helpers import mini
from tests.helpers.libraries import VIT, asked_here
from tests.helpers.tuned import MODELS, WORDS, last_weights, network_of, run, write_models

MODES = ("all", "head", "lora", "adapter", "norm")


@pytest.fixture(autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of GLT_PATH with tiny networks of timm."""
    folder = write_models(tmp_path_factory.mktemp("own"))
    monkeypatch.setenv("GLT_PATH", str(folder))
    return folder


def trains(name: str, mode: str) -> bool:
    """Say whether a parameter trains."""
    if name.startswith("head."):
        return True
    return {
        "all": True,
        "head": False,
        "lora": ".lora_A." in name or ".lora_B." in name,
        "adapter": ".adapter." in name,
        "norm": ".norm" in name or name.startswith("backbone.stem.1.") or ".downsample.0." in name,
    }[mode]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", MODES)
def test_what_has_gradients(model: str, mode: str) -> None:
    """Of each network exactly what a mode names has gradients, and all its modes begin with the same features."""
    recipe = resolve([*WORDS, "data=digits_glt", f"model.name={model}", f"model.train={mode}"])
    network = network_of(recipe)
    found = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert found == {name for name, _ in network.named_parameters() if trains(name, mode)} and len(found) >= 1
    plain = network_of(recipe.model_copy(update={"model": recipe.model.model_copy(update={"train": "all"})}))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(network.eval()(images)[0], plain.eval()(images)[0])
    assert network.size["trained_parameters"] < plain.size["trained_parameters"] or mode == "all"


@pytest.mark.parametrize(
    "model, mode",
    [
        pytest.param(m, mode, marks=() if (m, mode) == ("tiny_vit", "lora") else pytest.mark.full)
        for m in MODELS
        for mode in MODES
    ],
)
def test_nothing_else_moves_and_a_resume_ends_with_the_same_bits(
    mini_root: Path, tmp_path: Path, model: str, mode: str
) -> None:
    """After a run with IFL on two ranks exactly what a mode names has moved; a run that was stopped in an epoch's
    middle and resumed has the same bits, momentum and predictions among them."""
    words = (*WORDS, "ifl.environments=2", "ifl.milestones=[0]", "ifl.alpha=[0.01]", f"model.name={model}")
    words = (*words, f"model.train={mode}", "model.drop_path=0.2" if mode != "head" else "augment.hflip=false")
    words = (*words, "preset=corrected", f"optim.zero={int((model, mode) == ('tiny_convnext', 'lora'))}")
    whole = mini.recipe_of(mini_root, tmp_path / "whole", *words)
    broken = mini.recipe_of(mini_root, tmp_path / "broken", *words)
    assert run(whole) is True
    assert run(broken, stop_at=3) is False and run(broken) is True
    assert mini.same_bits(mini.final(whole.run_folder), mini.final(broken.run_folder)) == []
    before, after = network_of(whole).state_dict(), last_weights(whole)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    parameters = {name for name, _ in network_of(whole).named_parameters()}
    assert moved == {name for name in parameters if trains(name, mode)}


def test_one_rank_is_two_ranks(mini_root: Path, tmp_path: Path) -> None:
    """LoRA with stochastic depth ends with the same weights on 1 and 2 ranks, but for the order of float sums, also
    where the ranks' micro-batches are cut otherwise (batch.bn=0)."""
    words = (*WORDS, "model.name=tiny_vit", "model.train=lora", "model.drop_path=0.5", "batch.bn=0")
    ended = []
    for ranks in (1, 2):
        recipe = mini.recipe_of(mini_root, tmp_path / str(ranks), *words)
        assert run(recipe, ranks) is True
        ended.append(last_weights(recipe))
    assert ended[0].keys() == ended[1].keys()
    for name, value in ended[0].items():
        np.testing.assert_allclose(value.numpy(), ended[1][name].numpy(), rtol=0, atol=2e-6, err_msg=name)
    assert any(value.abs().max() > 1e-3 for name, value in ended[0].items() if ".lora_B." in name)


@pytest.mark.parametrize(
    "name, args, left_out",
    [
        ("timm:beit_base_patch16_224", {"patch_size": 8, "depth": 1, "embed_dim": 32, "num_heads": 2}, ["qkv"]),
        ("timm:swinv2_tiny_window8_256", {"depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16}, ["qkv"] * 2),
        pytest.param("torchvision:swin_t", {}, ["qkv", "proj"] * 12, marks=pytest.mark.full),
    ],
)
def test_lora_is_put_where_it_learns(name: str, args: dict[str, Any], left_out: list[str]) -> None:
    """A layer that a library uses by its weight and never calls gets no update; it is named in meta.json. A
    gradient reaches all that is counted as training."""
    backbone = build_backbone(Model(name=name, args=args), image_size=32)
    drawn = torch.get_rng_state()
    called(backbone, list(backbone.modules()), 32)
    assert torch.equal(torch.get_rng_state(), drawn) and all(layer.training for layer in backbone.modules())
    network = Network(backbone, nn.Linear(backbone.feature_dim, 4), [0.5] * 3, [0.2] * 3)
    choose_trained(network, Model(name=name, train="lora"), "all", False, 32)
    assert [path.rpartition(".")[2] for path in network.left_out] == left_out
    assert network.about == {**network.size, "left_out": network.left_out}
    network(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))[1].square().sum().backward()
    assert [path for path, one in network.named_parameters() if one.requires_grad and one.grad is None] == []


def test_adapters_stand_beside_what_is_called() -> None:
    """An MLP whose layers a block uses without calling it gets none; where no MLP is called, that is refused."""

    class Block(nn.Module):
        def __init__(self, calls: bool) -> None:
            super().__init__()
            self.mlp, self.calls = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), calls

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mlp(x) if self.calls else self.mlp[1](self.mlp[0](x))

    added = insert(nn.Sequential(Block(True), Block(False)), 3, 0.1, "x", 4)
    assert len(added.trains) == 4 and added.left_out == ["1.mlp"]
    with pytest.raises(RunError, match="the network of x has no blocks that call a module `mlp`"):
        insert(nn.Sequential(Block(False)), 3, 0.1, "x", 4)


# ----------------------------------------------------------------------------------------------------- stochastic depth
def test_a_branch_leaves_out_its_own_rows() -> None:
    """BBN's branches see the halves of a micro-batch's rows in training, their trunk all of them; each layer keeps the
    rows that the masks say of these. A layer that sees other rows than one for each image is refused."""
    from timm.layers import DropPath as OfTimm

    network = Branches(*(nn.Sequential(OfTimm(0.5), nn.Flatten(1)) for _ in range(3)), dim=1)
    masks, rows = drawn_by_row(network, "x"), np.random.default_rng(0).permutation(128)
    masks.begin(7, 3, 5, rows, len(rows))
    given = network.train()(torch.ones(128, 1, 1, 1)) != 0
    both = [torch.from_numpy(masks.kept(0, 0.5) & masks.kept(layer, 0.5)) for layer in (1, 2)]
    assert torch.equal(given, torch.stack([both[0][:64], both[1][64:]], dim=1).repeat(2, 1)) and 0 < given.sum() < 128
    masks.begin(7, 3, 5, rows[:6], len(rows))
    with pytest.raises(RunError, match="a layer of stochastic depth sees 12 rows where there are 6 images"):
        network(torch.ones(12, 1, 1, 1))


def test_bbn_with_stochastic_depth_trains_the_same_on_two_ranks(
    mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of two branches of a library's ViT that was stopped and resumed on two ranks ends with the bits of one that
    was not, and one rank gives the same losses but for the order of sums."""
    asked_here(monkeypatch, tmp_path / "networks")
    ended, losses = [], []
    for name, ranks, stop_at in (("whole", 2, None), ("stopped", 2, 3), ("alone", 1, None)):
        words = (*WORDS, *VIT, "recipe=glt_bbn", "model.drop_path=0.5", "optim.lr=0.01")
        recipe = mini.recipe_of(mini_root, tmp_path / name, *words)
        assert stop_at is None or run(recipe, ranks, stop_at) is False
        assert run(recipe, ranks) is True
        ended.append(mini.final(recipe.run_folder))
        losses.append([line["method_loss"] for line in mini.lines(recipe.run_folder, "train")])
    assert mini.same_bits(*({k: v for k, v in end.items() if k != ".suite.metrics_offset"} for end in ended[:2])) == []
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-4)


def test_rows_are_left_out_however_a_batch_is_cut() -> None:
    """Which rows a layer keeps does not depend on the micro-batch, and does on step and layer; kept rows are scaled so
    that the mean stays."""
    whole, cut = RowMasks(), RowMasks()
    rows = np.arange(4000)
    whole.begin(7, 3, 5, rows, len(rows))
    kept = [whole.kept(layer, 0.3) for layer in (0, 1)]
    parts = []
    for part in np.array_split(rows, 7):
        cut.begin(7, 3, 5, part, len(rows))
        parts.append(cut.kept(0, 0.3))
    assert np.array_equal(np.concatenate(parts), kept[0])
    cut.begin(7, 3, 6, rows, len(rows))
    assert (kept[0] != kept[1]).mean() > 0.3 and (cut.kept(0, 0.3) != kept[0]).mean() > 0.3
    layer = DropPath(0.3, 0, whole).train()
    given = layer(torch.ones(4000, 2, 3))
    assert torch.equal(given[:, 0, 0] != 0, torch.from_numpy(kept[0])) and abs(float(given.mean()) - 1) < 0.05
    assert torch.equal(layer.eval()(given), given)


@pytest.mark.parametrize("name", ["DropPath", "StochasticDepth"])
def test_layers_of_both_libraries_are_replaced(name: str) -> None:
    """timm's and torchvision's layers are known, with their rates and in their order."""
    from sharding.images.torchvision_operators import define_missing

    define_missing()
    from timm.layers import DropPath as OfTimm
    from torchvision.ops import StochasticDepth

    of = (lambda rate: OfTimm(rate)) if name == "DropPath" else (lambda rate: StochasticDepth(rate, "row"))
    network = nn.Sequential(of(0.1), nn.Sequential(nn.ReLU(), of(0.2)))
    drawn_by_row(network, "x")
    assert [(layer.rate, layer.layer) for layer in network.modules() if isinstance(layer, DropPath)] == [
        (0.1, 0),
        (0.2, 1),
    ]


def test_a_network_without_stochastic_depth_is_refused() -> None:
    """By what its function takes, and by what it holds."""
    recipe = resolve(["data=digits_glt", "model.drop_path=0.1"])
    with pytest.raises(RunError, match=r"model.drop_path=0.1: .*small_resnet.*build\(\) takes no argument drop_path"):
        network_of(recipe)
    with pytest.raises(RunError, match="the network of x has no layer of stochastic depth"):
        drawn_by_row(nn.Linear(2, 2), "x")
    assert depth_argument(lambda drop_path_rate: None, 0.2, "x") == {"drop_path_rate": 0.2}
    assert depth_argument(lambda: None, None, "x") == {}


# ------------------------------------------------------------------------------------------------------------ exporting
def test_merged_updates_compute_the_same() -> None:
    """A linear layer, a 1x1 convolution and one inside of a block with their updates added to their weights give what
    they gave with updates beside them, under the names that the plain network has."""

    def made() -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3), nn.Flatten(), nn.Linear(6, 5), nn.Sequential(nn.Linear(5, 4))
        return nn.Sequential(*layers)

    network = made()
    added = lora.insert(network, rank=2, scale=1.5, model="x", image_size=3)
    assert len(added.trains) == 6 and not added.left_out
    for parameter in added.trains:
        nn.init.normal_(parameter)
    plain = made()
    before = plain(images := torch.randn(4, 3, 3, 3))
    weights = lora.merged(network.state_dict(), scale=1.5)
    assert weights.keys() == plain.state_dict().keys()
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain(images), network(images), rtol=1e-5, atol=1e-5)
    assert (plain(images) - before).abs().max() > 0.1


@pytest.mark.parametrize("mode", ["lora", pytest.param("adapter", marks=pytest.mark.full)])
def test_an_exported_network_computes_the_same(mini_root: Path, tmp_path: Path, mode: str) -> None:
    """The exported file of a LoRA run holds the plain network's entries and no other, that of an adapter run these and
    the adapters', as it says; both give the run's own logits. A second stage trains its head alone, from either."""
    from safetensors import safe_open

    words = (*WORDS, "model.name=tiny_vit", f"model.train={mode}", "model.rank=3", "model.alpha=6", "optim.lr=0.5")
    recipe = mini.recipe_of(mini_root, tmp_path, *words)
    assert run(recipe) is True
    export(recipe.run_folder, "last", tmp_path / "file")
    with safe_open(tmp_path / "file", "pt") as opened:
        names, about = set(opened.keys()), opened.metadata()
    plain = network_of(resolve([*WORDS, "data=digits_glt", "model.name=tiny_vit"])).state_dict().keys()
    assert names >= plain and (names == plain) == (mode == "lora")
    assert all(".adapter." in name for name in names - plain) and mode.lower()[:4] in about["trained"].lower()
    assert json.loads(about["science"])["model"]["train"] == mode
    network = network_of(recipe).eval()
    network.load_state_dict(last_weights(recipe))
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    loaded = exported.load(tmp_path / "file")
    torch.testing.assert_close(loaded.network(images)[1], network(images)[1], rtol=1e-5, atol=1e-5)

    second = mini.recipe_of(mini_root, tmp_path, *words, "method.name=crt", f"method.init_from={recipe.run_name}")
    assert run(second) is True
    first, last = last_weights(recipe), last_weights(second)
    assert {name for name, value in last.items() if not torch.equal(value, first[name])} == {"head.weight"}


# ----------------------------------------------------------------------------------------------------------- bad values
@pytest.mark.parametrize(
    "words, said",
    [
        (["model.rank=4"], "model.rank=4 would change nothing with model.train=all: it is legal with lora and adapter"),
        (["model.train=norm", "model.alpha=4"], "model.alpha=4.0 would change nothing with model.train=norm"),
        (["model.train=heads"], "model.train=heads"),
        (["model.train=lora", "model.rank=0"], "model.rank=0"),
        (["model.drop_path=1"], "model.drop_path=1"),
        (["model.train=head", "model.drop_path=0.1"], "model.drop_path=0.1 would change nothing with model.train=head"),
        (["model.train=head", "recipe=glt_ifl", "ifl.environments=1"], "ifl.environments=1 leaves the center term"),
        (["data.features=once"], "data.features=once needs a backbone that does not train, and model.train=all moves"),
        (["data.feature_views=2"], "data.feature_views=2 is of data.features=once"),
        (["model.train=head", "data.features=once", "recipe=glt_mixup"], "augment.mixup mixes pixels"),
        (["model.train=head", "data.features=once", "recipe=glt_randaug"], "augment.randaug would change nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(words: list[str], said: str) -> None:
    """Before anything is submitted."""
    with pytest.raises(RecipeError) as refused:
        resolve(["data=digits_glt", *words])
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("mode", ["lora", "adapter", "norm"])
def test_a_network_in_which_nothing_fits_is_refused(models: Path, mode: str) -> None:
    """The sentence names the model and what would be legal."""
    (models / "ifl" / "models" / "bare.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    layers = nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    network = nn.Sequential(*layers)\n    network.feature_dim = 8\n    return network\n"
    )
    recipe = resolve(["data=digits_glt", "model.name=bare", f"model.train={mode}"])
    with pytest.raises(RunError, match=f"model.train={mode}: the network of .*bare.py has no ") as refused:
        network_of(recipe)
    assert "\n" not in str(refused.value)


def test_adapters_are_added_to_what_an_mlp_gives() -> None:
    """Equation 4: the MLP's output and s ReLU(x W_down) W_up, each row by itself."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mlp(x)

    network = Block()
    x_BC = torch.randn(5, 4)
    before_BC = network(x_BC)
    down, down_bias, up, up_bias = insert(network, 3, 0.1, "x", 4).trains
    assert torch.equal(network(x_BC), before_BC)
    for parameter in (up, down_bias, up_bias):
        nn.init.normal_(parameter)
    wanted_BC = before_BC + 0.1 * (torch.relu(x_BC @ down.T + down_bias) @ up.T + up_bias)
    torch.testing.assert_close(network(x_BC), wanted_BC)
