"""LDAM, RIDE, TADE, the experts' cross-entropy and BBN: every loss, head, margin, weight, schedule and test-time rule
against slow float64 oracles written from the papers, their limits, and what their recipes stand for. Axes: B rows, D
feature, E experts, K classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ifl.method import BaseMethod, Output, Rows, Task, load_method
from ifl.network.heads import drw_weights, ldam_margins
from recipes.common.errors import RecipeError
from recipes.declarations import declaration
from recipes.resolve import resolve
from recipes.schema import Model

COUNTS = np.array([500, 120, 120, 40, 7])
BALANCED = np.full(5, 60)
E = 3


def method_of(
    name: str, counts: np.ndarray = COUNTS, dim: int = 12, epochs: int = 10, preset: str = "paper", **args: Any
) -> BaseMethod:
    return load_method(name, Task(counts, dim, epochs, declaration(name).args(preset) | args))


def some_rows(batch: int = 8, epoch: int = 0, seed: int = 0, streams: int = 1, groups: int = 1) -> Rows:
    """Rows of a micro-batch that is the whole global batch, or one of `groups`; stream after stream."""
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, batch * groups))
    return Rows(
        labels[:batch], torch.arange(batch), torch.arange(streams).repeat_interleave(batch // streams), epoch, labels
    )


def output_of(method: BaseMethod, batch: int = 8, seed: int = 1) -> Output:
    """Through the method's own head, in double precision."""
    torch.manual_seed(seed)
    head = method.head().double()
    features = torch.randn(batch, method.task.feature_dim, dtype=torch.float64)
    logits, *parts = out if isinstance(out := head(features), tuple) else (out,)
    return Output(features, logits, tuple(parts))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return float(-np.log(softmax(logits)[label]))


def same(mine: torch.Tensor, wanted: Any, tolerance: float = 1e-5) -> None:
    """The methods' constants are float32, so double losses agree to about 1e-6."""
    np.testing.assert_allclose(mine.detach().numpy(), np.asarray(wanted), rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------------------------------------- margins and weights
def margin_of(count: int) -> float:
    """LDAM: m_c = .5 n_c^(-1/4) / max_k n_k^(-1/4)."""
    return 0.5 * count**-0.25 / max(float(n) ** -0.25 for n in COUNTS)


def class_weights(counts: np.ndarray) -> list[float]:
    """(1 - b) / (1 - b^n), brought to the sum K."""
    raw = [(1 - 0.9999) / (1 - 0.9999 ** int(n)) for n in counts]
    return [value * len(counts) / sum(raw) for value in raw]


def test_margins_and_weights_follow_from_counts() -> None:
    """LDAM's margins and the deferred weights are the paper's functions of the class counts; the rarest class's margin
    is the largest given.
    """
    same(ldam_margins(COUNTS, 0.5), [margin_of(int(n)) for n in COUNTS], 1e-6)
    same(drw_weights(COUNTS, 0.9999), class_weights(COUNTS), 1e-5)
    assert ldam_margins(COUNTS, 0.3).argmax() == 4 and float(ldam_margins(COUNTS, 0.3).max()) == pytest.approx(0.3)
    assert float(drw_weights(COUNTS, 0.9999).sum()) == pytest.approx(5)


def test_balanced_counts_give_equal_margins_and_weights() -> None:
    """On a balanced training set all margins are the largest and all weights 1, as the paper's Train-CBL has it."""
    assert torch.equal(ldam_margins(BALANCED, 0.5), torch.full((5,), 0.5))
    assert torch.equal(drw_weights(BALANCED, 0.9999), torch.ones(5))


def test_a_class_without_samples_leaves_all_finite() -> None:
    """Margins, weights and losses stay finite where a class has no training sample."""
    counts = np.array([9, 4, 0, 3, 1])
    assert torch.isfinite(ldam_margins(counts, 0.5)).all() and torch.isfinite(drw_weights(counts, 0.9999)).all()
    for name in ("ldam", "ride", "tade"):
        method = method_of(name, counts)
        assert torch.isfinite(method.losses(output_of(method), some_rows(epoch=9))).all()


# --------------------------------------------------------------------------------------------------------------- heads
def cosines(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.array([[x @ w / np.linalg.norm(x) / np.linalg.norm(w) for w in weight] for x in features])


@pytest.mark.parametrize("preset, scale", [("paper", 1), ("corrected", 30)])
def test_ldam_head_gives_cosines(preset: str, scale: float) -> None:
    """LDAM's logits, of which IFL takes its scores, are bare cosines under `paper` and s cos under `corrected`; loss
    and prediction are the same under both.
    """
    method = method_of("ldam", preset=preset)
    head = method.head().double()
    features = torch.randn(8, 12, dtype=torch.float64)
    same(head(features), scale * cosines(features.numpy(), head.vectors_KD.detach().numpy()), 1e-12)
    output, other = output_of(method), method_of("ldam")
    same(method.losses(output, some_rows()), other.losses(output_of(other), some_rows()).detach(), 1e-6)
    assert torch.equal(method.predict(output).argmax(1), other.predict(output_of(other)).argmax(1))


@pytest.mark.parametrize("name", ["ldam", "ride", "tade", "experts_ce"])
def test_class_vectors_start_with_length_one(name: str) -> None:
    """The cosine heads' class vectors are uniform(-1, 1) brought to length 1, for each expert its own; scaling one
    changes no logit.
    """
    head = method_of(name, dim=600).head()
    (weight,) = head.parameters()
    weight = weight.detach()
    assert weight.shape == ((5, 600) if name == "ldam" else (3, 5, 200))
    torch.testing.assert_close(weight.norm(dim=-1), torch.ones(weight.shape[:-1]))
    raw = weight * (weight.shape[-1] / 3) ** 0.5  # uniform(-1, 1) has the variance 1/3
    assert raw.abs().max() < 1.15 and abs(float(raw.mean())) < 0.1 and abs(float(raw.abs().mean()) - 0.5) < 0.05
    features = torch.randn(4, 600)
    before = head(features)[0] if name != "ldam" else head(features)
    with torch.no_grad():
        weight.mul_(3.0)
    torch.testing.assert_close(head(features)[0] if name != "ldam" else head(features), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ride", "tade", "experts_ce"])
def test_experts_heads_see_their_own_features(name: str) -> None:
    """An expert's logits are 30 times the cosines of its third of the features with its class vectors; the output's
    logits, by which it is judged, are their mean.
    """
    method = method_of(name)
    head = method.head().double()
    features = torch.randn(6, 12, dtype=torch.float64)
    mean_BK, logits_BEK = head(features)
    for expert in range(E):
        same(
            logits_BEK[:, expert],
            30 * cosines(features.numpy()[:, 4 * expert : 4 * expert + 4], head.vectors_EKD[expert].detach().numpy()),
            1e-10,
        )
    same(mean_BK, logits_BEK.detach().numpy().mean(axis=1), 1e-12)
    assert torch.equal(method.predict(Output(features, mean_BK, (logits_BEK,))), mean_BK)


# -------------------------------------------------------------------------------------------------------------- losses
def ldam_loss(cosines_K: np.ndarray, label: int) -> float:
    """CE(s (cos - m_y 1_y)), s = 30."""
    lowered = cosines_K.copy()
    lowered[label] -= margin_of(int(COUNTS[label]))
    return cross_entropy(30 * lowered, label)


@pytest.mark.parametrize("epoch, weighted", [(0, False), (7, False), (8, True), (9, True)])
def test_ldam_loss_and_when_its_weights_set_in(epoch: int, weighted: bool) -> None:
    """LDAM's loss is cross-entropy with margins; from epoch int(.8 epochs) on, its mean over the global batch is the
    one weighted by class: of two micro-batches each row's loss knows the other's labels."""
    method, rows = method_of("ldam"), some_rows(epoch=epoch, groups=2)
    output = output_of(method)
    plain = [
        ldam_loss(row, label)
        for row, label in zip(output.logits_BK.detach().numpy(), rows.labels.tolist(), strict=True)
    ]
    weights = class_weights(COUNTS) if weighted else [1.0] * 5
    total = sum(weights[label] for label in rows.batch_labels.tolist()) / len(rows.batch_labels)
    same(
        method.losses(output, rows),
        [weights[label] / total * loss for label, loss in zip(rows.labels.tolist(), plain, strict=True)],
    )


def test_weighted_losses_are_torchs_weighted_mean() -> None:
    """With its weights on, the mean of LDAM's rows over a global batch equals torch's own weighted mean, however the
    batch is cut into micro-batches.
    """
    method, rows = method_of("ldam"), some_rows(batch=12, epoch=9)
    output = output_of(method, 12)
    lowered = 30 * (
        output.logits_BK.detach().clone()
        - torch.nn.functional.one_hot(rows.labels, 5) * torch.tensor([margin_of(int(n)) for n in COUNTS]).double()
    )
    wanted = torch.nn.functional.cross_entropy(
        lowered, rows.labels, weight=torch.tensor(class_weights(COUNTS)).double()
    )
    whole = method.losses(output, rows)
    parts = [
        (
            Output(output.features_BD[part], output.logits_BK[part]),
            Rows(rows.labels[part], rows.ids[part], rows.streams[part], 9, rows.batch_labels),
        )
        for part in (slice(0, 4), slice(4, 12))
    ]
    cut = torch.cat([method.losses(*part) for part in parts])
    same(whole.mean(), wanted)
    assert torch.equal(whole, cut)


def ride_losses(logits_BEK: np.ndarray, labels: list[int], batch_labels: list[int], weighted: bool) -> list[float]:
    """Per expert: CE(z_e - 30 m_y 1_y; weight) - .2 Tbar^2 KL(softmax(mean z / T) || softmax(z_e / T)), added up over
    the experts; until the weights set in, T = 1.
    """
    share = COUNTS / COUNTS.sum()
    temperature = np.array([len(COUNTS) * p * 0.02 + 0.98 for p in share])
    temperature = temperature / temperature.max() if weighted else np.ones(len(COUNTS))
    weights = class_weights(COUNTS) if weighted else [1.0] * 5
    total = np.mean([weights[label] for label in batch_labels])
    losses = []
    for logits_EK, label in zip(logits_BEK, labels, strict=True):
        middle, loss = softmax(logits_EK.mean(axis=0) / temperature), 0.0
        for logits_K in logits_EK:
            own = softmax(logits_K / temperature)
            loss += weights[label] / total * ldam_loss(logits_K / 30, label)
            loss -= 0.2 * temperature.mean() ** 2 * float(np.sum(middle * (np.log(middle) - np.log(own))))
        losses.append(loss)
    return losses


@pytest.mark.parametrize("epoch, weighted", [(0, False), (8, False), (9, True)])
def test_ride_loss_and_when_its_weights_set_in(epoch: int, weighted: bool) -> None:
    """RIDE's loss is the experts' LDAM losses less their divergence from the mean; class weights and temperatures set
    in after epoch int(.8 epochs), one later than LDAM's."""
    method, rows = method_of("ride"), some_rows(epoch=epoch, groups=2)
    output = output_of(method)
    same(
        method.losses(output, rows),
        ride_losses(output.parts[0].detach().numpy(), rows.labels.tolist(), rows.batch_labels.tolist(), weighted),
    )


@pytest.mark.parametrize("epoch, weighted", [(0, False), (9, True)])
def test_gradient_of_the_ride_loss(epoch: int, weighted: bool) -> None:
    """The gradient in every expert's logits is what finite differences of the whole formula give, its mean included:
    holding the mean of the experts loses nothing.
    """
    method, rows = method_of("ride"), some_rows(batch=2, epoch=epoch)
    logits = output_of(method, 2).parts[0].detach().clone().requires_grad_()
    method.losses(Output(torch.zeros(2, 12), logits.mean(dim=1), (logits,)), rows).sum().backward()
    labels, base, step = rows.labels.tolist(), logits.detach().numpy(), 1e-5
    slopes = np.zeros_like(base)
    for index in np.ndindex(base.shape):
        up, down = base.copy(), base.copy()
        up[index] += step
        down[index] -= step
        slopes[index] = (
            sum(ride_losses(up, labels, labels, weighted)) - sum(ride_losses(down, labels, labels, weighted))
        ) / (2 * step)
    assert logits.grad is not None
    same(logits.grad, slopes, 1e-5)


@pytest.mark.parametrize("epoch", [0, 7])
def test_one_expert_is_ldam_until_the_weights_set_in(epoch: int) -> None:
    """RIDE with one expert has nothing to diverge from: its loss is LDAM's, row by row."""
    ldam, ride, rows = method_of("ldam"), method_of("ride"), some_rows(epoch=epoch)
    output = output_of(ldam)
    scaled_BK = 30 * output.logits_BK
    same(
        ride.losses(Output(output.features_BD, scaled_BK, (scaled_BK[:, None],)), rows),
        ldam.losses(output, rows).detach(),
        1e-6,
    )


def test_equal_experts_do_not_diverge() -> None:
    """Three experts that agree pay three times what one pays, and their divergence is 0; apart from each other they pay
    less than their LDAM losses.
    """
    ride, rows = method_of("ride"), some_rows()
    logits = output_of(ride).parts[0].detach()
    alike = logits[:, :1].expand(-1, 3, -1)
    one = ride.losses(Output(logits, logits[:, 0], (logits[:, :1],)), rows)
    same(ride.losses(Output(logits, logits[:, 0], (alike,)), rows), 3 * one)
    without = method_of("ride", diversity=0.0).losses(Output(logits, logits.mean(1), (logits,)), rows)
    assert (ride.losses(Output(logits, logits.mean(1), (logits,)), rows) < without).all()


def test_tade_losses() -> None:
    """TADE's experts: cross-entropy, balanced softmax, and one that leans to the inverse distribution, pi in reversed
    order of rank, twice as hard.
    """
    method, rows = method_of("tade"), some_rows()
    output = output_of(method)
    prior = [float(n) / COUNTS.sum() for n in COUNTS]
    by_rank = sorted(range(5), key=lambda k: (prior[k], k))
    inverse = [0.0] * 5
    for rank, k in enumerate(by_rank):
        inverse[k] = prior[by_rank[4 - rank]]
    assert inverse[0] == prior[4] and inverse[4] == prior[0] and sorted(inverse) == sorted(prior)
    log, log_inverse = np.log(np.array(prior) + 1e-9), np.log(np.array(inverse) + 1e-9)
    wanted = [
        cross_entropy(z[0], y) + cross_entropy(z[1] + log, y) + cross_entropy(z[2] + log - 2 * log_inverse, y)
        for z, y in zip(output.parts[0].detach().numpy(), rows.labels.tolist(), strict=True)
    ]
    same(method.losses(output, rows), wanted)


def test_tade_on_balanced_counts_is_cross_entropy() -> None:
    """Where all classes are equal, TADE's three losses are plain cross-entropies: the experts' cross-entropy."""
    tade, plain, rows = method_of("tade", BALANCED), method_of("experts_ce", BALANCED), some_rows()
    output = output_of(tade)
    same(tade.losses(output, rows), plain.losses(output, rows).detach(), 1e-6)


def test_experts_cross_entropy() -> None:
    """The sum, not the mean, of the experts' cross-entropies of their s = 30 logits."""
    method, rows = method_of("experts_ce"), some_rows()
    output = output_of(method)
    same(
        method.losses(output, rows),
        [
            sum(cross_entropy(z, y) for z in zs)
            for zs, y in zip(output.parts[0].detach().numpy(), rows.labels.tolist(), strict=True)
        ],
        1e-9,
    )


# ----------------------------------------------------------------------------------------------------------------- BBN
@pytest.mark.parametrize("preset, first, last", [("paper", 0.99, 0.36), ("corrected", 1.0, 0.19)])
def test_bbn_share_moves_from_branch_to_branch(preset: str, first: float, last: float) -> None:
    """The conventional branch's share is 1 - ((epoch - lag) / epochs)^2 with ten epochs, the reference's lag being 1:
    seen in the ratio of the rows' weights.
    """
    method = method_of("bbn", preset=preset)
    zeros = torch.zeros(4, 5, dtype=torch.float64)
    for epoch, share in ((0, first), (9, last)):
        losses = method.losses(Output(zeros, zeros, (zeros, zeros)), some_rows(batch=4, epoch=epoch, streams=2))
        same(losses / np.log(5), 2 * np.array([share, share, 1 - share, 1 - share]), 1e-6)


@pytest.mark.parametrize("epoch", [0, 4, 9])
def test_bbn_loss_of_pairs(epoch: int) -> None:
    """Over a batch of pairs the mean of BBN's rows is the mean over pairs of l CE(z, y of the uniform row) + (1 - l)
    CE(z, y of the class_inverse row) with z = W 2 [l f_cb ; (1 - l) f_rb]; features and rows stand as the branches'
    network gives them."""
    method, rows = method_of("bbn"), some_rows(batch=8, epoch=epoch, streams=2)
    torch.manual_seed(2)
    head = method.head().double()
    pairs = torch.randn(4, 12, dtype=torch.float64)
    features = torch.cat([pairs, pairs])
    logits, *parts = head(features)
    weight, share = head.linear.weight.detach().numpy(), 1 - ((epoch - 1) / 10) ** 2
    wanted = 0.0
    for i, pair in enumerate(pairs.numpy()):
        z = weight @ (2 * np.concatenate([share * pair[:6], (1 - share) * pair[6:]]))
        wanted += share * cross_entropy(z, int(rows.labels[i])) + (1 - share) * cross_entropy(
            z, int(rows.labels[4 + i])
        )
    same(method.losses(Output(features, logits, tuple(parts)), rows).mean(), wanted / 4, 1e-6)


def test_bbn_is_judged_by_both_branches() -> None:
    """At test time BBN's logits are the classifier's on both branches' features, without the shares."""
    method = method_of("bbn")
    output = output_of(method)
    torch.manual_seed(1)
    head = method.head().double()
    same(method.predict(output), output.features_BD.numpy() @ head.linear.weight.detach().numpy().T, 1e-12)


def test_bbn_trains_branches_and_classifier_through_its_network() -> None:
    """On a network of branches each branch and its half of the classifier get a gradient, in the middle of training."""
    from ifl.network.backbone import build_backbone
    from ifl.network.network import Network

    backbone = build_backbone(Model(name="small_resnet"), "branches")
    method = method_of("bbn", dim=backbone.feature_dim)
    network = Network(backbone, method.head(), (0.5,) * 3, (0.25,) * 3)
    features, logits, *parts = network(torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8))
    method.losses(Output(features, logits, tuple(parts)), some_rows(batch=8, epoch=5, streams=2)).sum().backward()
    gradients = {
        name: float(parameter.grad.abs().sum())
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    assert all(gradients[name] > 0 for name, _ in network.named_parameters() if "conv" in name or "linear" in name)


# ------------------------------------------------------------------------------------------------------------- recipes
@pytest.mark.parametrize(
    "words, reason",
    [
        (["ifl={}"], "pair one uniform row"),
        (["augment.mixup=1"], "counts by the stream"),
        (["method.legacy_count_order=true"], "right order"),
        (["batch.bn_by=env"], "one stream to a group"),
        (["batch.size=99", "batch.bn=33"], "no multiple of the 2"),
    ],
)
def test_bbn_refuses_what_would_break_its_pairs(words: list[str], reason: str) -> None:
    """BBN with IFL, mixup, the legacy order of counts, one stream to a group, or an odd group is refused with the
    reason.
    """
    with pytest.raises(RecipeError, match=reason):
        resolve(["recipe=glt_bbn", "data=digits_glt", *words])


def test_bbn_draws_two_streams_on_its_own_network() -> None:
    """BBN's batch is 256 uniform and 256 class_inverse images a step, each branch normalised over 128 of its own, on
    ResNet-50 for the paper's data and on the small network for the digits.
    """
    recipe, digits = resolve(["recipe=glt_bbn"]), resolve(["recipe=glt_bbn", "data=digits_glt"])
    assert (recipe.stream_names, recipe.batch.size, recipe.batch.bn, recipe.model.name) == (
        ["uniform", "class_inverse"],
        512,
        256,
        "resnet50",
    )
    assert (digits.stream_names, digits.batch.size, digits.batch.bn, digits.model.name) == (
        ["uniform", "class_inverse"],
        256,
        64,
        "small_resnet",
    )
    assert (recipe.schedule.drops, recipe.schedule.gamma, recipe.batch.replacement) == ([60, 80], 0.1, True)


PAPER = {  # weight decay, drops, gamma, distance of the centers: the reference's overrides
    "glt_ldam": (2e-4, [80, 90], 0.01, None),
    "glt_ldam_ifl": (5e-4, [80, 90], 0.01, "cosine"),
    "glt_ride": (2e-4, [60, 80], 0.1, None),
    "glt_ride_ifl": (5e-4, [60, 80], 0.1, "cosine"),
    "glt_ride_ifl_mixup": (5e-4, [60, 80], 0.1, "cosine"),
    "glt_ride_ifl_randaug": (5e-4, [60, 80], 0.1, "cosine"),
    "glt_ride_ce": (2e-4, [60, 80], 0.1, None),
    "glt_ride_ce_ifl": (5e-4, [60, 80], 0.1, "cosine"),
    "glt_tade": (5e-4, None, None, None),
    "glt_tade_ifl": (5e-4, None, None, "l2"),
    "glt_bbn": (5e-4, [60, 80], 0.1, None),
}


@pytest.mark.parametrize("name", PAPER)
def test_recipes_hold_the_papers_settings(name: str) -> None:
    """Each row's weight decay, schedule and center distance are the reference's under `paper`."""
    recipe, (decay, drops, gamma, center) = resolve([f"recipe={name}"]), PAPER[name]
    assert recipe.optim.weight_decay == decay and (recipe.ifl.center if recipe.ifl else None) == center
    assert recipe.schedule.decay == ("steps" if drops else "cosine") and (
        not drops or (recipe.schedule.drops, recipe.schedule.gamma) == (drops, gamma)
    )


@pytest.mark.parametrize("name", [name for name in PAPER if "_ifl" in name])
@pytest.mark.parametrize("data", ["imagenet_glt", "digits_glt"])
def test_corrected_rows_and_their_twins_differ_by_ifl_alone(name: str, data: str) -> None:
    """Under `corrected` a row with IFL has the weight decay, schedule and arguments of its method without, on every
    data set; the command line still beats it.
    """
    mine, twin = (
        resolve([f"recipe={one}", f"data={data}", "preset=corrected"]) for one in (name, name.partition("_ifl")[0])
    )
    assert (mine.optim, mine.schedule, mine.method, mine.batch, mine.model) == (
        twin.optim,
        twin.schedule,
        twin.method,
        twin.batch,
        twin.model,
    )
    assert (
        resolve([f"recipe={name}", f"data={data}", "preset=corrected", "optim.weight_decay=0.1"]).optim.weight_decay
        == 0.1
    )


def test_drops_may_fall_together_in_a_short_run() -> None:
    """Drops of the learning rate that fractions put on one epoch fall together; drops after the end, and milestones of
    IFL on one epoch, are refused.
    """
    assert resolve(["recipe=glt_ldam", "data=digits_glt", "schedule.epochs=5"]).schedule.drops == [4, 4]
    for words in (
        ["recipe=glt_ldam", "schedule.drops=[80,100]"],
        ["recipe=glt_ldam", "schedule.drops=[90,80]"],
        ["recipe=glt_ldam_ifl", "schedule.epochs=2"],
    ):
        with pytest.raises(RecipeError, match="lie before the last"):
            resolve(words)


def test_on_blocks_may_name_a_preset(tmp_path: Path) -> None:
    """A recipe's `on:` block of a preset holds under that preset alone, the block of a data set beats it, and one of a
    preset's edition is refused.
    """
    file = tmp_path / "mine.yaml"
    file.write_text("on:\n  corrected: {optim: {lr: 0.5, weight_decay: 0.01}}\n  digits_glt: {optim: {lr: 0.7}}\n")
    wanted = {
        ("imagenet_glt", "paper"): (0.1, 5e-4),
        ("imagenet_glt", "corrected"): (0.5, 0.01),
        ("digits_glt", "paper"): (0.7, 5e-4),
        ("digits_glt", "corrected"): (0.7, 0.01),
    }
    for (data, preset), values in wanted.items():
        optim = resolve([f"recipe={file}", f"data={data}", f"preset={preset}"]).optim
        assert (optim.lr, optim.weight_decay) == values
    file.write_text("on:\n  corrected/cbl: {optim: {lr: 0.5}}\n")
    with pytest.raises(RecipeError, match="must be named PRESET"):
        resolve([f"recipe={file}"])
