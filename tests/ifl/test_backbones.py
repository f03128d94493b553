"""Networks of timm and torchvision by name: forms, weights, groups, runs on them. All are tiny, with random weights.

The files of weights have the libraries' real layouts: the libraries made them.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ifl.backbones.library import create
from ifl.backbones.weights import check_digest, load, read
from ifl.exported import load as load_exported
from ifl.finished_run import export
from ifl.network.backbone import build_backbone
from ifl.network.bn_statistics import convert_groups
from ifl.pretrained import __main__ as pretrained
from recipes.common.errors import RecipeError, RunError
from recipes.common.files import file_digest
from recipes.resolve import load_resolved
from recipes.schema import Model
from tests.helpers import mini
from tests.helpers.libraries import CONVNEXT, RESNET, VIT, asked_here
from tests.helpers.ranks import started

VIT_NAME, VIT_ARGS = "timm:vit_tiny_patch16_224", {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
CONVNEXT_ARGS = {"depths": [1, 1, 1, 2], "dims": [8, 8, 8, 16]}
KINDS: dict[str, Model] = {
    "vit": Model(name=VIT_NAME, args=VIT_ARGS),
    "convnext": Model(name="timm:convnext_atto", args=CONVNEXT_ARGS),
    "resnet": Model(name="timm:resnet10t", args={"stem_width": 8, "channels": [8, 8, 8, 16]}),
    "tv resnet": Model(name="torchvision:resnet18"),
    "tv convnext": Model(name="torchvision:convnext_tiny"),
}
SMALL = [pytest.param(kind, marks=[pytest.mark.full] if kind.startswith("tv") else []) for kind in KINDS]
"""torchvision's take seconds."""
PARTS = {"plain": 1, "twin": 2, "experts": 3, "branches": 2}


@pytest.fixture(autouse=True)
def _asked_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    asked_here(monkeypatch, tmp_path_factory.getbasetemp() / "networks")


def images(number: int = 4, side: int = 32) -> torch.Tensor:
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(3))


# --------------------------------------------------------------------------------------------------------------- forms
@pytest.mark.parametrize("form", PARTS)
@pytest.mark.parametrize("kind", SMALL)
def test_a_network_comes_in_every_form(kind: str, form: str) -> None:
    """Its features are [B, parts x D] in training and evaluation, and a gradient reaches every parameter."""
    network = build_backbone(KINDS[kind], form, 32)
    plain = build_backbone(KINDS[kind], "plain", 32).feature_dim
    assert network.feature_dim == PARTS[form] * plain
    assert network(images()).shape == (4, PARTS[form] * plain)
    network.train()(images()).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("form", ["twin", "experts", "branches"])
@pytest.mark.parametrize("kind", SMALL)
def test_a_form_with_weights_computes_what_the_plain_network_does(tmp_path: Path, kind: str, form: str) -> None:
    """With pretrained weights every part of a form starts as the plain network's end: its features are the plain ones,
    side by side, to the last bit. Without, each part is drawn by itself."""
    plain = build_backbone(KINDS[kind], "plain", 32)
    save_file(plain.state_dict(), file := tmp_path / "plain.safetensors")
    same = build_backbone(KINDS[kind].model_copy(update={"weights": str(file)}), form, 32).eval()
    with torch.no_grad():
        wanted = plain.eval()(images())
        for part in same(images()).chunk(PARTS[form], dim=1):
            assert torch.equal(part, wanted)
        first, second, *_ = build_backbone(KINDS[kind], form, 32).eval()(images()).chunk(PARTS[form], dim=1)
    assert not torch.equal(first, second)


def test_a_network_that_nobody_has_cut_is_refused_with_the_reason() -> None:
    """A Swin comes as plain and twin; its refusal says which kinds come in other forms."""
    with (
        torch.device("meta"),
        pytest.raises(RunError, match=r"not as experts: where a SwinTransformer parts .* Vision"),
    ):
        build_backbone(Model(name="timm:swin_tiny_patch4_window7_224"), "experts", 64)


# -------------------------------------------------------------------------------------------------------------- weights
def whole(name: str, **args: Any) -> nn.Module:
    """A network as its library makes it, with its classifier of ten classes."""
    create(name, {})  # defines what torchvision needs
    import timm

    network: nn.Module = timm.create_model(name.partition(":")[2], num_classes=10, **args)
    return network


def test_a_vit_of_another_image_size_loads(tmp_path: Path) -> None:
    """Position embeddings of 224 pixels come to 32 by timm's own resampling, the classifier is left out and said, and
    all else is the file's, whether it is safetensors or a torch file, in a training program's wrapping or not."""
    from timm.layers import resample_abs_pos_embed

    given = whole(VIT_NAME, **VIT_ARGS)
    nn.init.normal_(given.pos_embed)
    state = given.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "b.pt")
    for file, prefix in (("a.safetensors", None), ("b.pt", "module.")):
        network = create(VIT_NAME, VIT_ARGS, 32)
        assert load(network, VIT_NAME, str(tmp_path / file), prefix) == ["head.bias", "head.weight"]
        wanted = {key: value for key, value in state.items() if not key.startswith("head.")}
        wanted["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=(4, 4), num_prefix_tokens=1)
        found = network.state_dict()
        assert found.keys() == wanted.keys() and state["pos_embed"].shape[1] == 785
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_torchvision_s_weights_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state dict of torchvision's with its classifier loads by name, into a file of ifl/models too; that the
    classifier is left out is said."""
    from sharding.images.torchvision_cpu import torchvision

    state = torchvision.models.resnet50(num_classes=7).state_dict()
    torch.save(state, file := tmp_path / "r50.pth")
    capsys.readouterr()
    for name in ("torchvision:resnet50", "resnet50"):
        found = build_backbone(Model(name=name, weights=str(file))).state_dict()
        assert {*state} - {*found} == {"fc.weight", "fc.bias"}
        assert f"{name} starts from {file}; left out of its classifier: fc.bias, fc.weight" in capsys.readouterr().out
        assert all(torch.equal(found[key], state[key]) for key in found)


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    """Missing, extra and mis-shaped entries are told in one sentence of bounded length, three of each by name."""
    state = create("timm:convnext_atto", CONVNEXT_ARGS).state_dict()
    odd = {key: value for key, value in state.items() if "stages.0" not in key}
    odd["stem.0.weight"] = torch.zeros(9, 3, 4, 4)
    odd |= {f"more.{number}": torch.zeros(1) for number in range(5)}
    save_file(odd, file := str(tmp_path / "odd.safetensors"))
    with pytest.raises(RunError) as caught:
        load(create("timm:convnext_atto", CONVNEXT_ARGS), "timm:convnext_atto", file)
    lost = len(state) - len(odd) + 5
    said = str(caught.value)
    assert f"{lost} missing: stages.0" in said and "5 extra: more.0, more.1, more.2, ...;" in said
    assert "1 of another shape: stem.0.weight (9x3x4x4, here 8x3x4x4)" in said
    assert len(said.splitlines()) == 1 and len(said) < 600


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    """A torch file with code in it is not run; a damaged file, one without tensors and a prefix that nothing has are
    one sentence each."""
    torch.save({"a": Path("x")}, tmp_path / "code.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    for file, prefix, wanted in (
        ("code.pt", None, "cannot be read"),
        ("broken.safetensors", None, "cannot be read"),
        ("none.pt", None, "holds no tensor"),
        ("w.pt", "visual.", "begins with model.prefix=visual.; it begins with w"),
    ):
        with pytest.raises(RunError, match=rf"^model\.weights=[^\n]*{wanted}[^\n]*$"):
            read(str(tmp_path / file), prefix)


def test_fetching_writes_what_a_run_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """What `python -m ifl.pretrained` writes loads as `model.weights`, with the digest that it prints; without
    internet and with a wrong word it is one sentence and code 2."""
    given = whole("timm:resnet10t").state_dict()
    monkeypatch.setattr(pretrained, "_fetched", lambda name, weights: given)
    file = tmp_path / "r.safetensors"
    assert pretrained.main(["timm:resnet10t", f"out={file}"]) == 0
    assert f"sha256 {file_digest(file)}" in capsys.readouterr().out
    found = build_backbone(Model(name="timm:resnet10t", weights=str(file))).state_dict()
    assert all(torch.equal(found[key], given[key]) for key in found)

    def offline(name: str, weights: str) -> None:
        raise OSError("Name or service not known\nmore")

    monkeypatch.setattr(pretrained, "_fetched", offline)
    for words, wanted in (
        (["timm:resnet10t", f"out={file}"], "not be fetched: Name or service not known: run this where"),
        (["timm:resnet10", f"out={file}"], "near are timm:resnet10t"),
        (["resnet50", f"out={file}"], "timm:NETWORK or torchvision:NETWORK or open_clip:NETWORK is legal"),
        (["timm:resnet10t", "out=x.pt"], "out=x.pt is not legal"),
        (["timm:resnet10t", f"out={file}", "tag=a"], "tag is not legal"),
    ):
        assert pretrained.main(words) == 2
        said = capsys.readouterr().err
        assert wanted in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "asked, line",
    [
        ("timm:vit_tiny_patch16_2", "timm:vit_tiny_patch16_224  weights: augreg_in21k, augreg_in21k_ft_in1k"),
        ("timm:resnet10*", "timm:resnet10t  weights: c3_in1k"),
        ("torchvision:resnet50", "torchvision:resnet50  weights: IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("open_clip:rn50x4", "open_clip:RN50x4  weights: openai"),
    ],
)
def test_names_are_listed_with_their_weights(asked: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a network, of those that a word finds; without a word of all."""
    assert pretrained.main([f"list={asked}"]) == 0
    some = capsys.readouterr().out.splitlines()
    assert line in some
    assert pretrained.main([f"list={asked.partition(':')[0]}"]) == 0
    assert len({*capsys.readouterr().out.splitlines()} - {*some}) > 50


@pytest.mark.parametrize(
    "words, said",
    [
        (["list=tim"], "list=tim names no library: did you mean timm?"),
        (["list=timm:nope"], "list=timm:nope finds none of the "),
        (["list=timm", "out=x.safetensors"], "out=x.safetensors is not legal with list=timm, which stands alone"),
    ],
)
def test_a_list_that_is_empty_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrained.main(words) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------------- networks
def test_batch_normalisation_with_its_activation_is_shared_among_ranks_as_timm_does() -> None:
    """timm's layers that normalise and activate in one stay such when their groups are shared; another library's are
    refused, since torch would drop what they do besides."""
    from timm.layers import BatchNormAct2d, SyncBatchNormAct

    network = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4))
    convert_groups(network)
    assert isinstance(network[1], SyncBatchNormAct) and isinstance(network[1].act, nn.ReLU)

    class Own(nn.BatchNorm2d):
        """A kind that nobody knows."""

    with pytest.raises(RunError, match="Own is batch normalisation of another kind"):
        convert_groups(nn.Sequential(Own(3)))


def test_running_statistics_that_depend_on_ranks_are_refused() -> None:
    """A network whose layers move running statistics by themselves cannot be trained the same on any ranks."""
    with pytest.raises(RunError, match="keeps running statistics that would depend on the number of ranks"):
        create("timm:efficientnet_lite0", {"norm_layer": "evonormb0"})


# ----------------------------------------------------------------------------------------------------------------- runs
def run(root: Path, runs: Path, ranks: int, *words: str, stop_at: int | None = None) -> Path:
    """Train a recipe on some ranks, once to the end or once to a stop and again to the end; return the run folder."""
    recipe = mini.recipe_of(root, runs, "preset=corrected", "optim.lr=0.01", *words)
    folder = recipe.run_folder
    if stop_at:
        assert started(ranks).run(mini.trained, str(folder), stop_at=stop_at) == [False] * ranks
    assert started(ranks).run(mini.trained, str(folder)) == [True] * ranks
    return folder


def losses(folder: Path) -> np.ndarray:
    return np.array([line["method_loss"] for line in mini.lines(folder, "train")])


def same_ending(one: Path, two: Path) -> bool:
    """Whether two runs ended with the same bits in all that a checkpoint holds and in all predictions."""
    kept = [
        {key: value for key, value in mini.final(folder).items() if key != ".suite.metrics_offset"}
        for folder in (one, two)
    ]
    return mini.same_bits(*kept) == []


def test_a_vit_with_weights_trains_resumes_and_is_exported(mini_root: Path, tmp_path: Path) -> None:
    """A tiny ViT from pretrained weights with IFL: a run that was stopped and resumed ends with the bits of one that
    was not, also where the file is gone by then; its meta.json names the file's digest; on another number of ranks the
    losses agree but for the order of sums; its export loads without the file and predicts as the run did."""
    torch.manual_seed(0)
    save_file(whole(VIT_NAME, **VIT_ARGS).state_dict(), file := tmp_path / "vit.safetensors")
    words = [*VIT, f"model.weights={file}", *mini.IFL]
    train = partial(run, mini_root)
    undisturbed, alone = train(tmp_path / "a", 2, *words), train(tmp_path / "b", 1, *words)
    np.testing.assert_allclose(losses(undisturbed), losses(alone), rtol=1e-4)
    recipe = mini.recipe_of(mini_root, tmp_path / "c", "preset=corrected", "optim.lr=0.01", *words)
    assert recipe.batch.bn == 0 and recipe.batch.micro == 8 and recipe.run_name == undisturbed.name
    assert started(2).run(mini.trained, str(recipe.run_folder), stop_at=5) == [False] * 2
    file.unlink()
    assert started(2).run(mini.trained, str(recipe.run_folder)) == [True] * 2
    assert same_ending(undisturbed, recipe.run_folder)
    meta = json.loads((undisturbed / "meta.json").read_text())
    assert meta["weights"] == {"file": str(file), "sha256": recipe.model.weights_sha256}
    export(undisturbed, "last", out := tmp_path / "vit-run.safetensors")
    loaded = load_exported(out)
    assert loaded.recipe.model.name == VIT_NAME and loaded.network.backbone.feature_dim == 32
    from sharding.open import open_dataset

    split = open_dataset(mini_root, "digits_glt").split("glt", "val")
    with np.load(undisturbed / "preds" / "last" / "val.npz") as stored:
        assert [loaded.predict(split.read(i)).label for i in range(4)] == stored["prediction"][:4].tolist()


@pytest.mark.parametrize("held", [[torch.zeros(2)], 3, "text", torch.zeros(3), {1: torch.zeros(2)}], ids=repr)
def test_a_torch_file_without_named_tensors_is_refused(tmp_path: Path, held: object) -> None:
    """Whatever else it holds, one sentence says so."""
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(RunError, match=r"holds no tensor$"):
        read(str(tmp_path / "w.pt"))


def test_other_weights_at_the_place_of_a_run_s_are_refused(mini_root: Path, tmp_path: Path) -> None:
    """The same content elsewhere is the same run; other content is another, and a run never takes it up."""
    state = whole(VIT_NAME, **VIT_ARGS).state_dict()
    first, copy = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    save_file(state, first)
    copy.write_bytes(first.read_bytes())
    names = {
        mini.recipe_of(mini_root, tmp_path, *VIT, f"model.weights={file}").run_name: file for file in (first, copy)
    }
    assert len(names) == 1
    recipe = load_resolved(tmp_path / next(iter(names)) / "recipe.yaml")
    assert recipe.model.weights_sha256 == file_digest(first)
    state["cls_token"] += 1
    save_file(state, copy)
    assert mini.recipe_of(mini_root, tmp_path, *VIT, f"model.weights={copy}").run_name not in names
    with pytest.raises(RunError, match=r"this run began with one of [0-9a-f]{16}"):
        check_digest(str(copy), recipe.model.weights_sha256)
    sha = f"model.weights_sha256={recipe.model.weights_sha256}"
    with pytest.raises(RecipeError, match=r"says what a file holds that is not given: model\.weights=FILE is legal"):
        mini.recipe_of(mini_root, tmp_path / "elsewhere", *VIT, sha)
    with pytest.raises(RunError, match=r"^model\.weights=None is not there"):
        check_digest(None, recipe.model.weights_sha256)
    (tmp_path / recipe.run_name / "meta.json").write_text("{}")  # the run has begun: it goes on without the file
    first.unlink()
    gone_on = mini.recipe_of(mini_root, tmp_path, *VIT, f"model.weights={first}", sha)
    assert gone_on.run_name == recipe.run_name
    with pytest.raises(RecipeError, match="is not the file that the recipe was written with"):
        mini.recipe_of(mini_root, tmp_path, *VIT, f"model.weights={copy}", sha)


@pytest.mark.full
@pytest.mark.parametrize("words", [CONVNEXT, RESNET], ids=["convnext", "resnet"])
def test_other_networks_resume_bit_for_bit_and_do_the_same_on_two_ranks(
    mini_root: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A ConvNeXt without batch normalisation and a ResNet with it, with mixup and IFL."""
    words = (*words, *mini.IFL, "augment.mixup=1")
    undisturbed = run(mini_root, tmp_path / "a", 2, *words)
    assert same_ending(undisturbed, run(mini_root, tmp_path / "b", 2, *words, stop_at=5))
    np.testing.assert_allclose(losses(undisturbed), losses(run(mini_root, tmp_path / "c", 1, *words)), rtol=1e-3)
