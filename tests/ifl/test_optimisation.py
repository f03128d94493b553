"""Optimisers, groups, clipping, moving average, learning rate and smoothed labels are what they are called: equal to
torch's own loop, to timm's own groups, and to their formulas.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ifl.method import Output, Rows, Task, load_method
from ifl.network.backbone import build_backbone
from ifl.network.network import Network
from ifl.optimisation.groups import groups_of
from ifl.optimisation.learning_rate import learning_rate
from ifl.optimisation.smoothing import smoothed
from recipes.common.errors import RecipeError
from recipes.declarations import declaration
from recipes.resolve import dump, resolve
from recipes.schema import PROJECT, Model, Optim, Schedule
from sharding.images.torchvision_operators import define_missing
from tests.helpers.ranks import my_rank, started
from tests.helpers.shipped import METHODS

# -------------------------------------------------------------------------------------------- equal to torch's own loop
STEPS, BATCH, SIDE = 6, 8, 8
ALL = {"decay": "weights", "layer_decay": 0.5, "clip": 0.05, "ema": 0.9, "weight_decay": 0.1}
OPTIMISERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "momentum": 0.9, **ALL},
    "adamw": {"name": "adamw", "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, **ALL},
    "lars": {"name": "lars", "lr": 1.0, "momentum": 0.9, **ALL},
}


def network() -> Network:
    """Two blocks under a head with a bias, without batch normalisation, so that ranks may share a batch freely."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU())
    backbone = nn.Sequential(
        nn.Conv2d(3, 3, 1),
        nn.ModuleDict({"inner": block})["inner"],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Network(backbone, nn.Linear(6, 3), (0.5,) * 3, (0.25,) * 3)


def images(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def rate(step: int) -> float:
    return learning_rate(0, Schedule(epochs=2, by="step", warmup=0.25), 1.0, step, STEPS)


def everything(engine: Any) -> dict[str, np.ndarray]:
    """Parameters, their moving average and this rank's optimizer state."""
    states = {
        f"state {place} {key}": value
        for place, state in enumerate(engine.torch_optimizer.state.values())
        for key, value in state.items()
    }
    found = {**engine.network.state_dict(), **states}
    found |= {f"average {name}": value for name, value in engine.average.tensors.items()}
    return {name: value.numpy().copy() for name, value in found.items()}


def engine_of(zero: int, values: dict[str, Any], ranks: int) -> Any:
    from ifl.engine import Engine

    return Engine(network(), Optim(zero=zero, **values), BATCH, BATCH // ranks, 1, torch.device("cpu"))


def move(engine: Any, ranks: int, first: int, last: int) -> None:
    """Make steps `first` to `last` of the loop, this rank with its share of each batch."""
    share = BATCH // ranks
    for step in range(first, last):
        engine.set_lr(rate(step) * engine_lr(engine))
        mine = images(step)[my_rank() * share :][:share]
        engine.backward(engine.forward(mine).logits_BK.square().sum(), last=True)
        engine.step()


def engine_lr(engine: Any) -> float:
    return float(engine.torch_optimizer.defaults["lr"])


def by_the_engine(cases: list[tuple[int, dict[str, Any]]], ranks: int) -> list[dict[str, np.ndarray]]:
    """In a rank: the ends of the loop."""
    found = []
    for zero, values in cases:
        engine = engine_of(zero, values, ranks)
        move(engine, ranks, 0, STEPS)
        found.append(everything(engine))
    return found


def by_torch(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """In a rank, for threads of another number add up in another order: the same loop, written with torch alone;
    parameters, and their moving average.
    """
    net, optim = network(), Optim(**values)
    scales = {"backbone.0": 0.5, "backbone.1": 0.5, "head": 1.0}  # one layer under the head: no block is in the chain
    groups = [
        {"params": [parameter], "weight_decay": 0.0 if parameter.dim() < 2 else 0.1, "scale": scale}
        for name, parameter in net.named_parameters()
        for prefix, scale in scales.items()
        if name.startswith(prefix)
    ]
    if optim.name == "adamw":
        made: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=(0.8, 0.95), eps=1e-6)
    elif optim.name == "sgd":
        made = torch.optim.SGD(groups, lr=optim.lr, momentum=0.9)
    else:
        define_missing()
        from timm.optim.lars import Lars

        made = Lars(groups, lr=optim.lr, momentum=0.9)
    average = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for step in range(STEPS):
        for group in made.param_groups:
            group["lr"] = rate(step) * optim.lr * group["scale"]
        made.zero_grad()
        (net(images(step))[1].square().sum() * (1 / BATCH)).backward()
        assert torch.nn.utils.clip_grad_norm_(net.parameters(), optim.clip) > optim.clip, "nothing was clipped"
        made.step()
        for name, parameter in net.named_parameters():
            average[name].lerp_(parameter.detach(), 1 - optim.ema)
    found = {**net.state_dict(), **{f"average {name}": value for name, value in average.items()}}
    return {name: value.numpy() for name, value in found.items()}


def test_steps_are_those_of_torchs_own_loop() -> None:
    """Six steps of warm-up and cosine with clipping, two groups' decay, a lower rate below the head and a moving
    average: on one rank without ZeRO the bits of torch's loop (of timm's optimiser for LARS); with ZeRO and on two
    ranks, whose gradients are summed in another order, within 1e-5 of them."""
    kinds = [name for name in OPTIMISERS if name != "lars" or importlib.util.find_spec("timm")]
    cases = [(zero, name) for name in kinds for zero in (0, 1) if not (zero and name == "lars")]
    for ranks in (1, 2):
        ends = started(ranks).run(by_the_engine, [(zero, OPTIMISERS[name]) for zero, name in cases], ranks)
        for place, (zero, name) in enumerate(cases):
            [wanted] = started(1).run(by_torch, OPTIMISERS[name])
            for rank in range(ranks):
                for key, value in wanted.items():
                    found = ends[rank][place][key]
                    if ranks == 1 and not zero:
                        assert found.tobytes() == value.tobytes(), (name, key)
                    np.testing.assert_allclose(found, value, atol=1e-5, err_msg=f"{name} {zero} {key}")
            start = network().state_dict()
            assert all((wanted[key] != start[key].numpy()).any() for key in start), "something did not move"


def taken_up(folder: str, cases: list[tuple[int, dict[str, Any]]], ranks: int) -> list[bool]:
    """In a rank: whether k steps, a checkpoint, and the rest in another engine make all bits of N steps."""
    from pathlib import Path

    from ifl.distributed.comm import Comm
    from ifl.saving import checkpoint

    same = []
    for number, (zero, values) in enumerate(cases):
        whole, first, second = (engine_of(zero, values, ranks) for _ in range(3))
        move(whole, ranks, 0, STEPS)
        move(first, ranks, 0, 2)
        place = Path(folder) / str(number)
        checkpoint.save(place, first, {}, 2, Comm())
        checkpoint.load_newest(place, second, Comm(), history=True)
        move(second, ranks, 2, STEPS)
        wanted, found = everything(whole), everything(second)
        same.append(wanted.keys() == found.keys() and all(found[k].tobytes() == v.tobytes() for k, v in wanted.items()))
    return same


@pytest.mark.parametrize("ranks", [1, 2])
def test_all_state_is_resumed_to_the_bit(ranks: int, tmp_path: Any) -> None:
    """Parameters, moving average and all that SGD, AdamW and LARS keep, with and without ZeRO."""
    (tmp_path / "ckpt").mkdir()
    kinds = [name for name in OPTIMISERS if name != "lars" or importlib.util.find_spec("timm")]
    cases = [(zero, OPTIMISERS[name]) for name in kinds for zero in (0, 1) if not (zero and name == "lars")]
    assert started(ranks).run(taken_up, str(tmp_path / "ckpt"), cases, ranks) == [[True] * len(cases)] * ranks


def overflown(zero: int) -> bool:
    """In a rank: whether an engine that clips finds itself finite after one gradient whose square is not."""
    engine = engine_of(zero, OPTIMISERS["sgd"], 1)
    engine.backward(engine.forward(images(0)).logits_BK.sum() * 1e25, last=True)
    engine.step()
    return bool(engine.finite())


def test_a_norm_that_overflows_is_no_clipped_step() -> None:
    """A gradient whose norm is not finite is told, with and without ZeRO, and not scaled to nothing in silence."""
    assert [started(1).run(overflown, zero) for zero in (0, 1)] == [[False], [False]]


# ------------------------------------------------------------------------------------------------------------- groups
def whole(backbone: nn.Module) -> Network:
    return Network(backbone, nn.Linear(4, 3), (0.5,) * 3, (0.25,) * 3)


NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def norms_and_biases(net: nn.Module) -> set[str]:
    of_norms = {
        f"{name}.{key}" for name, part in net.named_modules() if isinstance(part, NORMS) for key in part._parameters
    }
    return of_norms | {name for name, _ in net.named_parameters() if name.endswith("bias")}


@pytest.mark.parametrize("form", ["plain", "experts", "branches", "twin", "timm"])
def test_what_does_not_decay_are_norms_and_biases(form: str) -> None:
    """`decay=weights` keeps exactly these out; frozen parameters are in no group; the default is one group of all, in
    the network's order."""
    if form == "timm":
        net = whole(pytest.importorskip("timm").create_model("vit_tiny_patch16_224", num_classes=0, depth=2))
    else:
        net = whole(build_backbone(Model(name="small_resnet"), form))
    names = [name for name, _ in net.named_parameters()]
    (usual,) = groups_of(net, Optim())
    assert list(usual.parameters) == names and (usual.weight_decay, usual.lr_scale) == (5e-4, 1.0)
    groups = groups_of(net, Optim(decay="weights", weight_decay=0.1))
    assert {name for group in groups if not group.weight_decay for name in group.parameters} == norms_and_biases(net)
    assert {group.weight_decay for group in groups} == {0.0, 0.1}
    net.freeze_backbone(nn.Module)
    (left,) = groups_of(net, Optim(layer_decay=0.5))
    assert list(left.parameters) == ["head.weight", "head.bias"] and left.lr_scale == 1


@pytest.mark.parametrize(
    ("form", "above"),
    [
        ("plain", {"blocks.2"}),
        ("experts", {"experts.0", "experts.1", "experts.2"}),
        ("branches", {"cb_block", "rb_block"}),
        ("twin", {"first.blocks.2", "second.blocks.2"}),
    ],
)
def test_each_layer_moves_less_than_the_one_above_it(form: str, above: set[str]) -> None:
    """The head moves by the rate itself, the last block by `layer_decay` of it, and so on down to the stem; parts side
    by side are equally deep."""
    net = whole(build_backbone(Model(name="small_resnet"), form))
    scales = {name: group.lr_scale for group in groups_of(net, Optim(layer_decay=0.5)) for name in group.parameters}
    assert scales.keys() == dict(net.named_parameters()).keys()
    assert sorted(set(scales.values())) == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert {name for name, scale in scales.items() if scale == 1} == {"head.weight", "head.bias"}
    of_last = {name.removeprefix("backbone.") for name, scale in scales.items() if scale == 1 / 2}
    assert {part for part in above if any(name.startswith(f"{part}.") for name in of_last)} == above
    assert all(name.startswith(tuple(above)) for name in of_last)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "convnext_atto"])
def test_depth_is_timms_where_timm_knows_it(name: str) -> None:
    """The factors are those of timm's own groups of the model with its classifier, also inside of a wrapper."""
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    model = timm.create_model(name)
    timms = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.7)
        for parameter in group["params"]
    }
    classifier = model.get_classifier()
    model.reset_classifier(0)
    for backbone in (model, nn.ModuleDict({"inner": model})):
        net = Network(backbone, classifier, (0.5,) * 3, (0.25,) * 3)
        scales = {
            id(parameter): group.lr_scale
            for group in groups_of(net, Optim(layer_decay=0.7))
            for parameter in group.parameters.values()
        }
        assert scales == pytest.approx(timms)


# ------------------------------------------------------------------------------------------------------- learning rate
def test_the_rate_is_a_function_of_the_place() -> None:
    """By epoch it is what it was before there were steps; by step the cosine falls at each; a warm-up of one and a half
    epochs rises in equal parts to the rate itself and the cosine takes what is left; drops come where they fall."""
    for epoch in range(7):
        old = 0.3 * 0.5 * (1 + math.cos(math.pi * epoch / 7))
        assert {learning_rate(epoch, Schedule(epochs=7), 0.3, step, 4) for step in range(4)} == {old}
    cosine = Schedule(epochs=3, by="step")
    rates = [learning_rate(epoch, cosine, 1.0, step, 4) for epoch in range(3) for step in range(4)]
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(12)])
    for by in ("step", "epoch"):
        warm = Schedule(epochs=4, by=by, warmup=1.5)
        rates = [learning_rate(epoch, warm, 0.6, step, 4) for epoch in range(4) for step in range(4)]
        assert rates[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        done = [max(0, t - 6) if by == "step" else max(0, t // 4 * 4 - 6) for t in range(6, 16)]
        assert rates[6:] == pytest.approx([0.3 * (1 + math.cos(math.pi * t / 10)) for t in done])
    drops = Schedule(epochs=3, by="step", decay="steps", drops=[0.5, 2], gamma=0.1)
    rates = [learning_rate(epoch, drops, 1.0, step, 4) for epoch in range(3) for step in range(4)]
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 4)


# ------------------------------------------------------------------------------------------------------------ smoothing
@pytest.mark.parametrize("name", [name for name in sorted(METHODS) if declaration(name).SMOOTHS])
def test_smoothed_labels_are_shared_by_all_classes(name: str) -> None:
    """A method that says SMOOTHS has (1 - share) of a label's loss and share of the classes' mean; without a share its
    loss has the same bits as ever. All others are refused (tests/recipes/test_rules.py)."""
    torch.manual_seed(1)
    method = load_method(name, Task(np.array([40, 12, 5, 3]), 6, 10, declaration(name).args("corrected")))
    head = method.head()
    head.load_state_dict({key: torch.randn(value.shape) for key, value in head.state_dict().items()})
    given = head(torch.randn(5, 6))
    logits, *parts = given if isinstance(given, tuple) else (given,)
    output = Output(torch.zeros(5, 6), logits, tuple(parts))

    def losses(labels: torch.Tensor, share: float) -> torch.Tensor:
        with smoothed(share):
            return method.losses(output, Rows(labels, labels, labels % 2 * 0, 2, labels)).detach()

    labels = torch.tensor([0, 1, 2, 3, 1])
    plain = losses(labels, 0.0)
    mean = torch.stack([losses(torch.full_like(labels, k), 0.0) for k in range(4)]).mean(0)
    torch.testing.assert_close(losses(labels, 0.2), 0.8 * plain + 0.2 * mean)
    assert torch.equal(losses(labels, 0.0), plain) and not torch.equal(losses(labels, 0.2), plain)


# -------------------------------------------------------------------------------------------------------------- recipes
def test_values_follow_the_optimiser() -> None:
    """AdamW has no momentum of the preset, and its own defaults written out; another optimiser than SGD needs a rate
    that was given with it; what was said of another one by a weaker layer is left out."""
    for preset in ("paper", "corrected"):
        words = ["recipe=glt_baseline", "data=fashion_glt", f"preset={preset}", "optim.name=adamw"]
        with pytest.raises(RecipeError, match=r"needs an optim.lr beside it, for 0.05 \(recipes/data/fashion_glt.yaml"):
            resolve(words)
        optim = resolve([*words, "optim.lr=.001"]).optim
        assert (optim.momentum, optim.betas, optim.eps) == (None, (0.9, 0.999), 1e-8)
        assert resolve([*words[:3]]).optim.betas is None
    with pytest.raises(RecipeError, match=r"optim.momentum=0.5 is a value of optim.name=sgd and lars"):
        resolve(["optim.name=adamw", "optim.lr=.001", "optim.momentum=.5"])


def test_a_rate_is_of_the_optimiser_that_its_layer_has(tmp_path: Path) -> None:
    """SGD takes no rate of a recipe for AdamW; that one's own name, typed, changes nothing, nor does SGD's over SGD."""
    (row := tmp_path / "row.yaml").write_text("optim: {name: adamw, lr: 0.001, betas: [0.8, 0.9]}\n")
    words = [f"recipe={row}", "data=fashion_glt"]
    own = resolve(words)
    assert resolve([*words, "optim.name=adamw"]) == own and own.optim.betas == (0.8, 0.9)
    (run := tmp_path / "run.yaml").write_text(dump(own))
    for recipe in (row, run):
        sgd = [f"recipe={recipe}", "data=fashion_glt", "optim.name=sgd"]
        with pytest.raises(RecipeError, match=r"optim.lr beside it, for 0.001 \(.*\) is not meant.* as optim.lr=0.1"):
            resolve(sgd)
        optim = resolve([*sgd, "optim.lr=.05", "optim.momentum=0"]).optim
        assert (optim.name, optim.lr, optim.betas, optim.eps) == ("sgd", 0.05, None, None)
    usual = resolve(["recipe=glt_baseline", "data=fashion_glt"])
    assert resolve(["recipe=glt_baseline", "data=fashion_glt", "optim.name=sgd"]) == usual


def test_the_page_s_example_is_legal() -> None:
    """The command of docs/optimiser.md resolves, with a shipped backbone for the reader's, to what the page says."""
    block = (PROJECT / "docs" / "optimiser.md").read_text().split("```text")[1].split("```")[0]
    words = block.replace("\\", "").split()[2:]
    recipe = resolve([word for word in words if not word.startswith("model.name=")])
    optim = recipe.optim
    assert (optim.name, optim.momentum, optim.decay, optim.layer_decay) == ("adamw", None, "weights", 0.75)
    assert (optim.clip, optim.ema, recipe.schedule.by, recipe.schedule.warmup) == (1.0, 0.9998, "step", 5.0)


def test_lars_without_timm_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "optim.name=lars needs the package timm" in Optim(name="lars").lacking() and not Optim().lacking()
