"""The backbones: their forms, sizes, shapes and starting weights, counted and computed apart from the code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ifl.models.small_resnet import Block
from ifl.network.backbone import build_backbone
from ifl.network.network import build_network
from ifl.step import seed_torch
from recipes.common.errors import PlanError
from recipes.declarations import model_forms
from recipes.resolve import resolve
from recipes.schema import Model
from tests.helpers.plans import micro_batches

NETWORKS = ("small_resnet", "resnet50", "resnext50_32x4d")
FORMS = ("plain", "experts", "branches")


# ------------------------------------------------------------------------------------------------ sizes, by arithmetic
def conv(c_in: int, c_out: int, size: int, groups: int = 1) -> int:
    """Parameters of a convolution without bias and of the batch normalisation after it."""
    return c_in // groups * c_out * size * size + 2 * c_out


def bottleneck(c_in: int, planes: int, groups: int, base: int, shortcut: bool) -> int:
    """1x1, 3x3 in groups, 1x1 to four times the planes; He et al. 2016, Xie et al. 2017."""
    width = planes * base // 64 * groups
    return (
        conv(c_in, width, 1)
        + conv(width, width, 3, groups)
        + conv(width, 4 * planes, 1)
        + (conv(c_in, 4 * planes, 1) if shortcut else 0)
    )


def layer(c_in: int, planes: int, blocks: int, groups: int, base: int) -> int:
    return bottleneck(c_in, planes, groups, base, True) + (blocks - 1) * bottleneck(
        4 * planes, planes, groups, base, False
    )


def size_50(form: str, groups: int, base: int) -> int:
    """A 50-layer network: a 7x7 stem, layers of 3, 4, 6 and 3 bottlenecks."""
    shared = conv(3, 64, 7) + layer(64, 64, 3, groups, base) + layer(256, 128, 4, groups, base)
    if form == "experts":
        return shared + 3 * (layer(512, 192, 6, groups, base) + layer(768, 384, 3, groups, base))
    plain = shared + layer(512, 256, 6, groups, base) + layer(1024, 512, 3, groups, base)
    return plain + (bottleneck(2048, 512, groups, base, False) if form == "branches" else 0)


def size_small(form: str) -> int:
    """A 3x3 stem of 16 channels, three blocks of two 3x3 convolutions."""

    def block(c_in: int, c_out: int) -> int:
        return conv(c_in, c_out, 3) + conv(c_out, c_out, 3) + (conv(c_in, c_out, 1) if c_in != c_out else 0)

    shared = conv(3, 16, 3) + block(16, 16) + block(16, 32)
    return shared + {"plain": block(32, 64), "experts": 3 * block(32, 48), "branches": 2 * block(32, 64)}[form]


SIZES = {("small_resnet", form): size_small(form) for form in FORMS}
SIZES |= {("resnet50", form): size_50(form, 1, 64) for form in FORMS} | {
    ("resnext50_32x4d", form): size_50(form, 32, 4) for form in FORMS
}
LARGE = {"plain": 2048, "experts": 3 * 1536, "branches": 2 * 2048}
DIMS = {
    "small_resnet": {"plain": 64, "experts": 3 * 48, "branches": 2 * 64},
    "resnet50": LARGE,
    "resnext50_32x4d": LARGE,
}


def test_known_sizes() -> None:
    """The arithmetic of these tests gives the sizes that the papers' networks are known by, less their classifier of
    2048 x 1000 + 1000.
    """
    assert size_50("plain", 1, 64) == 25_557_032 - 2_049_000 and size_50("plain", 32, 4) == 25_028_904 - 2_049_000


@pytest.mark.parametrize("name, form", SIZES)
def test_size_and_shape_of_each_form(name: str, form: str) -> None:
    """Each backbone has, in each of its forms, as many parameters as its layers come to, and gives non-negative
    features of the dimension it names, at two sizes of images."""
    assert form in model_forms(name)
    network = build_backbone(Model(name=name), form)
    assert sum(parameter.numel() for parameter in network.parameters()) == SIZES[name, form]
    assert network.feature_dim == DIMS[name][form]
    for side in (32, 64):
        with torch.no_grad():
            features = network(torch.randn(4, 3, side, side))
        assert features.shape == (4, DIMS[name][form]) and features.dtype == torch.float32
        assert (features >= 0).all() and torch.isfinite(features).all() and features.std() > 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", ("experts", "branches"))
def test_forms_start_as_their_plain_network_does(name: str, form: str) -> None:
    """Every convolution of a form starts normal with He's fan-out deviation (a quarter of it in the small network),
    drawn anew for each expert and branch, and every batch normalisation as the identity. The same seed gives the same
    network."""
    torch.manual_seed(5)
    network = build_backbone(Model(name=name), form)
    torch.manual_seed(5)
    again = build_backbone(Model(name=name), form)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )
    firsts = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            deviation = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2)) * (
                0.25 if name == "small_resnet" else 1
            )
            tolerance = 6 * deviation / math.sqrt(2 * module.weight.numel())  # six standard errors of a deviation
            assert (
                abs(float(module.weight.detach().std()) - deviation) < tolerance
                and abs(float(module.weight.detach().mean())) < 3 * tolerance
            )
            firsts.append(float(module.weight.detach().flatten()[0]))
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("form", ("plain", "branches", "twin"))
def test_start_of_torch_is_uniform_within_one_over_the_root_of_the_fan_in(form: str) -> None:
    """With init=torch each convolution is drawn anew, in order, from U(-b, b) with b = fan-in^(-1/2), and nothing else
    differs from the model's own start."""
    torch.manual_seed(5)
    own = build_backbone(Model(name="small_resnet"), form)
    wanted = {}
    for name, module in own.named_modules():
        if isinstance(module, nn.Conv2d):
            bound = (module.in_channels * module.kernel_size[0] ** 2) ** -0.5
            wanted[f"{name}.weight"] = torch.empty_like(module.weight).uniform_(-bound, bound)
    torch.manual_seed(5)
    found = build_backbone(Model(name="small_resnet", init="torch"), form).state_dict()
    assert wanted and found.keys() == own.state_dict().keys()
    for key, value in own.state_dict().items():
        torch.testing.assert_close(found[key], wanted.get(key, value), rtol=1e-6, atol=1e-9)


# ----------------------------------------------------------------------------------------------------- what flows where
@pytest.mark.parametrize("name", ("small_resnet", "resnext50_32x4d"))
def test_experts_stand_side_by_side(name: str) -> None:
    """An expert's part of the features comes from its own last stages alone: changing one expert changes its third and
    no other.
    """
    network = build_backbone(Model(name=name), "experts").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = network(images).chunk(3, dim=1)
        for module in network.experts[1].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.add_(0.5)
        after = network(images).chunk(3, dim=1)
    assert [torch.equal(b, a) for b, a in zip(before, after, strict=True)] == [True, False, True]


@pytest.mark.parametrize("name", ("small_resnet", "resnet50"))
def test_branches_pair_rows_in_training_and_see_all_in_evaluation(name: str) -> None:
    """In training row i of the first half goes through the conventional branch, row i of the second half through the
    re-balancing one, and both rows of the pair get both features; each branch's batch normalisation sees its own half.
    In evaluation every row goes through both branches."""
    network = build_backbone(Model(name=name), "branches")
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        shared = network.trunk(images)
        cb, rb = (
            block(part).mean(dim=(2, 3))
            for block, part in ((network.cb_block, shared[:3]), (network.rb_block, shared[3:]))
        )
        paired = network(images)
        assert torch.equal(paired, torch.cat([torch.cat([cb, rb], dim=1)] * 2))
        assert not torch.equal(cb, rb)
        network.eval()
        shared = network.trunk(images)
        assert torch.equal(
            network(images),
            torch.cat([block(shared).mean(dim=(2, 3)) for block in (network.cb_block, network.rb_block)], dim=1),
        )
        alone = network(images[:1])
    torch.testing.assert_close(alone[0], network(images)[0].detach(), rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        network.train()(images[:5])


def test_plain_network_is_torchvisions() -> None:
    """ResNet-50 and ResNeXt-50 as plain are torchvision's, weights and all, but for the classifier."""
    from sharding.images.torchvision_cpu import torchvision

    torch.manual_seed(1)
    own = build_backbone(Model(name="resnet50")).state_dict()
    torch.manual_seed(1)
    theirs = torchvision.models.resnet50(weights=None).state_dict()
    assert set(theirs) - set(own) == {"fc.weight", "fc.bias"} and all(
        torch.equal(value, theirs[key]) for key, value in own.items()
    )


def test_small_plain_network_is_as_it_was() -> None:
    """The small network draws the same weights in the same order as ever: a run made before it had forms repeats."""
    torch.manual_seed(0)
    network = build_backbone(Model(name="small_resnet"))
    torch.manual_seed(0)
    reset = [
        (3, 16, 3),
        (16, 16, 3),
        (16, 16, 3),
        (16, 32, 3),
        (32, 32, 3),
        (16, 32, 1),
        (32, 64, 3),
        (64, 64, 3),
        (32, 64, 1),
    ]
    for c_in, c_out, size in reset:
        nn.Conv2d(c_in, c_out, size, bias=False)  # torch draws weights of its own first
    weights = [
        torch.empty(c_out, c_in, size, size).normal_(0, math.sqrt(2 / (c_out * size * size))) * 0.25
        for c_in, c_out, size in reset
    ]
    convolutions = [module.weight.detach() for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == len(weights)
    for mine, wanted in zip(convolutions, weights, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=0)


# -------------------------------------------------------------------------------------- pairs where ranks share a group
@pytest.mark.parametrize("group, streams, sharing", [(12, 2, 2), (12, 2, 3), (12, 3, 4), (8, 2, 4)])
def test_ranks_that_share_a_group_take_the_same_mix_of_streams(group: int, streams: int, sharing: int) -> None:
    """Each rank's part of a shared group holds equal shares of all streams, stream after stream, so that BBN's pairs
    form; the parts make up the batch. A number of ranks that would leave one without a row of each stream is
    refused."""
    ranks = 2 * sharing
    parts = [micro_batches(2 * group, group, rank, ranks, synchronised=True, streams=streams) for rank in range(ranks)]
    assert sorted(np.concatenate([rows for part in parts for rows in part]).tolist()) == list(range(2 * group))
    for (rows,) in parts:
        of = rows % group // (group // streams)
        assert np.array_equal(of, np.repeat(np.arange(streams), len(rows) // streams))
    with pytest.raises(PlanError):
        micro_batches(group, group, 0, group, synchronised=True, streams=streams)


def test_parameters_lie_as_deepspeed_sends_them_and_pixels_as_convolutions_read_them() -> None:
    recipe = resolve(["data=digits_glt", "cluster=local"])
    network, _ = build_network(recipe, np.arange(10, 0, -1))
    assert all(parameter.is_contiguous() for parameter in network.parameters())
    seen = []
    network.backbone.stem[0].register_forward_hook(lambda _, given, out: seen.extend([*given, out]))
    network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in seen] == [True, True]


def test_pixels_are_normalised_by_their_channels_numbers() -> None:
    """Whole pictures of mean and deviation give the bits of one number for each channel, at sides of any length, and
    the batch stays as it was."""
    recipe = resolve(["data=digits_glt", "cluster=local"])
    network, _ = build_network(recipe, np.arange(10, 0, -1))
    network.backbone = nn.Identity()
    images = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for given in (images, images.float()):
        before = given.clone()
        assert torch.equal(network.features(given), (images.float() - network.mean) / network.std)
        assert torch.equal(given, before)


@pytest.mark.parametrize("c_in, stride", [(8, 1), (4, 2)])
def test_a_small_block_overwrites_nothing_that_a_gradient_needs(c_in: int, stride: int) -> None:
    """Output, statistics and all gradients have the bits of the same block without an operation in place, and what the
    block was given is unchanged."""

    def plainly(block: Block, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(block.bn1(block.conv1(x)))
        return torch.relu(block.bn2(block.conv2(y)) + block.shortcut(x))

    found = []
    for form in (plainly, Block.forward):
        torch.manual_seed(0)
        block, x = Block(c_in, 8, stride), torch.randn(4, c_in, 6, 6, requires_grad=True)
        given = x.detach().clone()
        out = form(block, x)
        (out * torch.randn(out.shape)).sum().backward()
        assert torch.equal(x.detach(), given)
        found.append([out, x.grad, *(parameter.grad for parameter in block.parameters()), *block.buffers()])
    assert len(found[0]) > 10 and all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_seeding_gives_the_numbers_of_torchs_own() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    seed_torch(11, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
