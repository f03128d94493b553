"""The methods on one plain network (and LfF's two) against slow float64 oracles, written from the papers' formulas.

Axes: B rows, D feature, E environments, H heads, K classes, N samples.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ifl.method import BaseMethod, Output, Rows, Task, load_method
from ifl.methods.irm import by_environment, scale_gradients
from ifl.network.bn_statistics import RunningStatistics
from ifl.network.network import Network, build_network
from ifl.saving.weights import start_from
from recipes.common.errors import RecipeError, RunError
from recipes.declarations import declaration
from recipes.resolve import load_resolved, resolve
from tests.helpers.paths import GOLDEN

COUNTS = np.array([40, 12, 5, 3])
B, D, K = 12, 6, len(COUNTS)


def method(
    name: str, preset: str = "paper", counts: np.ndarray = COUNTS, epochs: int = 100, **args: float | bool
) -> BaseMethod:
    return load_method(name, Task(counts, D, epochs, {**declaration(name).args(preset), **args}))


def rows(
    labels_B: np.ndarray, epoch: int = 0, ids_B: np.ndarray | None = None, streams_B: np.ndarray | None = None
) -> Rows:
    labels, nothing = torch.from_numpy(labels_B), np.zeros(len(labels_B), dtype=np.int64)
    return Rows(
        labels,
        torch.from_numpy(nothing if ids_B is None else ids_B),
        torch.from_numpy(nothing if streams_B is None else streams_B),
        epoch,
        labels,
    )


def batch(seed: int = 0, networks: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logits float64 [networks, B, K] (of one network: [B, K]) and labels int64 [B]."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((networks, B, K))
    return logits[0] if networks == 1 else logits, generator.integers(0, K, B)


def output(*logits_BK: np.ndarray) -> Output:
    first, *parts = (torch.from_numpy(z).requires_grad_() for z in logits_BK)
    return Output(torch.zeros(len(first), D), first, tuple(parts))


def softmax(z_BK: np.ndarray) -> np.ndarray:
    return np.array([[np.exp(z) / sum(np.exp(other) for other in row) for z in row] for row in z_BK])


def cross_entropy(z_BK: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    return np.array([-np.log(p_K[y]) for p_K, y in zip(softmax(z_BK), labels_B, strict=True)])


def slope(function, z: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """The gradient of a scalar function by central differences."""
    gradient = np.zeros_like(z)
    for place in np.ndindex(*z.shape):
        up, down = z.copy(), z.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (function(up) - function(down)) / (2 * step)
    return gradient


def check(tensor: torch.Tensor, oracle: np.ndarray, rtol: float = 2e-6) -> None:
    np.testing.assert_allclose(tensor.detach().numpy(), oracle, rtol=rtol, atol=1e-7)


# -------------------------------------------------------------------------------------------------------------- focal
def test_focal_is_cross_entropy_times_a_power_of_doubt() -> None:
    z_BK, y_B = batch()
    p_B = softmax(z_BK)[np.arange(B), y_B]
    for gamma in (0.0, 2.0, 3.5):
        check(
            method("focal", gamma=gamma).losses(output(z_BK), rows(y_B)), (1 - p_B) ** gamma * cross_entropy(z_BK, y_B)
        )


@pytest.mark.parametrize("preset", ["paper", "corrected"])
def test_focal_of_a_sure_row_is_finite(preset: str) -> None:
    """A power below 1 has no finite slope at 0, and a row without doubt has loss and gradient 0, not NaN."""
    z_BK = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    out = Output(torch.zeros(1, D), z_BK)
    loss = method("focal", preset, gamma=0.5).losses(out, rows(np.array([0]))).sum()
    loss.backward()
    assert loss == 0 and torch.equal(z_BK.grad, torch.zeros(1, 3))


@pytest.mark.parametrize("name, key", [("ldam", "reweight_from"), ("ride", "reweight_after"), ("irm", "grows_every")])
def test_a_fraction_of_1_and_more_is_all_epochs(name: str, key: str) -> None:
    """The last of 100 epochs is then as the first, and so it was ever; .8 is epoch 80."""
    z_BK, y_B = torch.randn(B, K), np.arange(B) % K
    parts = (torch.randn(B, 3, K),) if name == "ride" else ()
    streams_B, out = np.arange(B) % 2, Output(torch.zeros(B, D), z_BK, parts)
    for value, changes in ((0.8, True), (1.0, False), (100.0, False)):
        made = method(name, **{key: value})
        first, before, last = (made.losses(out, rows(y_B, epoch, streams_B=streams_B)) for epoch in (0, 79, 99))
        assert torch.equal(first, before) and torch.equal(first, last) != changes


def test_focal_factor_carries_a_gradient_under_corrected_alone() -> None:
    z_BK, y_B = batch()
    held_B = (1 - softmax(z_BK)[np.arange(B), y_B]) ** 2
    paper = slope(lambda z: (held_B * cross_entropy(z, y_B)).sum(), z_BK)
    corrected = slope(lambda z: ((1 - softmax(z)[np.arange(B), y_B]) ** 2 * cross_entropy(z, y_B)).sum(), z_BK)
    assert np.abs(paper - corrected).max() > 0.01
    for preset, gradient in (("paper", paper), ("corrected", corrected)):
        out = output(z_BK)
        method("focal", preset).losses(out, rows(y_B)).sum().backward()
        np.testing.assert_allclose(out.logits_BK.grad.numpy(), gradient, atol=1e-7)


# ----------------------------------------------------------------------------------- balanced softmax, logit adjustment
def test_balanced_softmax_trains_on_shifted_logits_and_predicts_with_bare_ones() -> None:
    z_BK, y_B = batch()
    shifted = np.array(
        [
            COUNTS[y] * np.exp(z[y]) / sum(COUNTS[k] * np.exp(z[k]) for k in range(K))
            for z, y in zip(z_BK, y_B, strict=True)
        ]
    )  # Ren et al.'s form, counts in the sum
    blsoftmax = method("balanced_softmax")
    check(blsoftmax.losses(output(z_BK), rows(y_B)), -np.log(shifted))
    assert np.array_equal(blsoftmax.predict(output(z_BK)).detach().numpy(), z_BK)


def test_balanced_counts_make_balanced_softmax_and_logit_adjustment_plain() -> None:
    z_BK, y_B = batch()
    even = np.full(K, 7)
    check(method("balanced_softmax", counts=even).losses(output(z_BK), rows(y_B)), cross_entropy(z_BK, y_B))
    assert np.array_equal(method("logit_adjust", counts=even).predict(output(z_BK)).argmax(1).numpy(), z_BK.argmax(1))


def test_logit_adjustment_takes_the_log_shares_away_at_test_time_alone() -> None:
    z_BK, y_B = batch()
    for tau in (0.0, 1.0, 1.7):
        adjust = method("logit_adjust", tau=tau)
        check(
            adjust.predict(output(z_BK)),
            np.array(
                [[z - tau * np.log(n / COUNTS.sum() + 1e-12) for z, n in zip(row, COUNTS, strict=True)] for row in z_BK]
            ),
        )
        check(adjust.losses(output(z_BK), rows(y_B)), cross_entropy(z_BK, y_B))
    # of a posterior under the training set's shares it makes the posterior under equal shares
    likelihood_BK = softmax(z_BK)
    posterior_BK = likelihood_BK * COUNTS
    assert np.array_equal(
        method("logit_adjust").predict(output(np.log(posterior_BK))).argmax(1).numpy(), likelihood_BK.argmax(1)
    )


@pytest.mark.parametrize("name", ["balanced_softmax", "logit_adjust"])
def test_a_class_without_samples_has_a_finite_share(name: str) -> None:
    z_BK, y_B = batch()
    prior = method(name, counts=np.array([40, 12, 5, 0]))
    assert (
        torch.isfinite(prior.losses(output(z_BK), rows(y_B))).all()
        and torch.isfinite(prior.predict(output(z_BK))).all()
    )


# -------------------------------------------------------------------------------------------------------- second stages
class Backbone(torch.nn.Module):
    feature_dim = D

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, D, 3), torch.nn.BatchNorm2d(D)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(images)).mean(dim=(2, 3))


def network(of: BaseMethod, seed: int) -> Network:
    torch.manual_seed(seed)
    return Network(Backbone(), of.head(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_crt_keeps_the_backbone_and_starts_a_new_classifier() -> None:
    first, second = network(method("ce"), 1), network(method("crt"), 2)
    fresh = second.head.weight.clone()
    start_from(second, method("crt"), first.state_dict())
    assert torch.equal(second.head.weight, fresh) and not torch.equal(fresh, first.head.weight)
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[name], value)
    z_BK, y_B = batch()
    check(method("crt").losses(output(z_BK), rows(y_B)), cross_entropy(z_BK, y_B))


def test_lws_starts_as_its_first_stage_and_learns_the_scales_alone() -> None:
    first, second = network(method("ce"), 1), network(method("lws"), 2)
    start_from(second, method("lws"), first.state_dict())
    second.freeze_backbone(still=torch.nn.Module)
    assert {name: parameter.shape for name, parameter in second.named_parameters() if parameter.requires_grad} == {
        "head.scale_K": (K,)
    }
    images = torch.randint(0, 256, (B, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(first.eval()(images)[1], second.eval()(images)[1])
    features, labels_B = second(images)[0], torch.arange(B) % K
    with torch.no_grad():
        second.head.scale_K.copy_(torch.tensor([0.5, 1.0, 2.0, -1.0]))
    logits_BK = second(images)[1]
    check(
        logits_BK,
        features.detach().numpy() @ first.head.weight.detach().numpy().T * np.array([0.5, 1.0, 2.0, -1.0]),
        rtol=1e-5,
    )
    before = {name: value.clone() for name, value in second.state_dict().items()}
    method("lws").losses(Output(features, logits_BK), rows(labels_B.numpy())).mean().backward()
    torch.optim.SGD([p for p in second.parameters() if p.requires_grad], lr=0.1, weight_decay=5e-4).step()
    assert [name for name, value in second.state_dict().items() if not torch.equal(value, before[name])] == [
        "head.scale_K"
    ]


@pytest.mark.parametrize("name", ["crt", "lws"])
def test_frozen_bn_is_a_choice_of_the_preset(name: str) -> None:
    declared = declaration(name)
    assert declared.STREAMS == ("class_balanced",) and declared.TRAINS == "head"
    assert declared.args("paper") == {"frozen_bn": False} and declared.args("corrected") == {"frozen_bn": True}


# ----------------------------------------------------------------------------------------------------------------- TDE
def tde_logits(
    x_BD: np.ndarray, w_HKD: np.ndarray, mean_D: np.ndarray | None, tau: float, gamma: float, alpha: float
) -> np.ndarray:
    """Training logits, or with a mean feature the test-time ones."""
    heads, classes, part = w_HKD.shape
    z_BK = np.zeros((len(x_BD), classes))
    for b, h, k in np.ndindex(len(x_BD), heads, classes):
        x, w = x_BD[b, h * part : (h + 1) * part], w_HKD[h, k]
        unit, vector = x / np.sqrt((x**2).sum()), w / (np.sqrt((w**2).sum()) + gamma)
        if mean_D is not None:
            direction = mean_D[h * part : (h + 1) * part] / np.sqrt((mean_D[h * part : (h + 1) * part] ** 2).sum())
            unit = unit - alpha * (unit @ direction) * direction
        z_BK[b, k] += tau / heads * (unit @ vector)
    return z_BK


def test_tde_trains_with_normalised_heads_and_tests_without_the_mean_direction() -> None:
    generator = np.random.default_rng(3)
    x_BD, mean_D = generator.standard_normal((B, D)), generator.standard_normal(D)
    for heads, alpha in ((2, 2.0), (2, 0.0), (3, 1.0)):
        head = method("tde", alpha=alpha, heads=heads).head().double()
        w_HKD = head.weight_HKD.detach().numpy()
        assert w_HKD.shape == (heads, K, D // heads)
        check(head(torch.from_numpy(x_BD)), tde_logits(x_BD, w_HKD, None, 16, 1 / 32, alpha))
        head.running_mean.copy_(torch.from_numpy(mean_D))
        tested = head.eval()(torch.from_numpy(x_BD))
        check(tested, tde_logits(x_BD, w_HKD, mean_D, 16, 1 / 32, alpha))
        assert torch.equal(head.running_mean, torch.from_numpy(mean_D)), "evaluation moves the mean feature"
        if alpha == 0:
            check(tested, tde_logits(x_BD, w_HKD, None, 16, 1 / 32, 0))
        if alpha == 1:  # nothing of the mean's direction is left
            assert np.abs(head(torch.from_numpy(mean_D[None])).detach().numpy()).max() < 1e-12


def test_tde_weights_start_within_one_over_root_d() -> None:
    torch.manual_seed(0)
    weight = load_method("tde", Task(np.full(50, 3), 64, 10, declaration("tde").args("paper"))).head().weight_HKD
    assert (
        weight.abs().max() <= 64**-0.5
        and weight.abs().max() > 0.99 * 64**-0.5
        and abs(weight.std().item() - 64**-0.5 / 3**0.5) < 0.01
    )


def test_tde_mean_feature_is_a_running_mean_of_steps_whatever_their_groups() -> None:
    """e <- .995 e + .005 mean of the step's rows, from 0: by itself, and moved with the batch statistics over two
    groups.
    """
    x_BD = np.random.default_rng(4).standard_normal((3, B, D))
    alone, head = method("tde").head().double(), method("tde").head()
    statistics = RunningStatistics(head)
    mean_D = np.zeros(D)
    for step in x_BD:
        mean_D = 0.995 * mean_D + 0.005 * step.mean(axis=0)
        alone(torch.from_numpy(step))
        groups = []
        for group in np.split(step, 2):
            head(torch.from_numpy(group).float())
            groups.append(statistics.group_statistics())
        statistics.update(torch.stack(groups).mean(dim=0))
    check(alone.running_mean, mean_D, rtol=1e-12)
    check(head.running_mean, mean_D)
    assert "running_mean" in head.state_dict() and not statistics.normalises


def test_tde_refuses_heads_that_do_not_divide_the_feature() -> None:
    with pytest.raises(RunError, match=r"method.args.heads=4 does not divide the feature's 6 dimensions"):
        method("tde", heads=4).head()


# ----------------------------------------------------------------------------------------------------------------- LfF
def test_lff_heads_see_one_network_each() -> None:
    head = method("lff").head().double()
    x_BD = np.random.default_rng(5).standard_normal((B, D))
    for logits, linear, part in zip(
        head(torch.from_numpy(x_BD)), (head.debiased, head.biased), np.split(x_BD, 2, axis=1), strict=True
    ):
        check(logits, part @ linear.weight.detach().numpy().T)


def test_lff_of_the_paper_weighs_by_the_present_losses() -> None:
    (debiased_BK, biased_BK), y_B = batch(networks=2)
    d_B, b_B = cross_entropy(debiased_BK, y_B), cross_entropy(biased_BK, y_B)
    p_B = softmax(biased_BK)[np.arange(B), y_B]
    lff = method("lff")
    assert lff.memory == {} and lff.notes(output(debiased_BK, biased_BK), rows(y_B)) is None
    check(lff.losses(output(debiased_BK, biased_BK), rows(y_B)), 0.7 * p_B**0.7 * b_B + b_B / (b_B + d_B + 1e-8) * d_B)
    assert np.array_equal(lff.predict(output(debiased_BK, biased_BK)).detach().numpy(), debiased_BK)


@pytest.mark.parametrize("preset", ["paper", "corrected"])
def test_lff_gradients_are_those_of_generalised_and_of_weighted_cross_entropy(preset: str) -> None:
    """Of the biased network: the gradient of 1 - p^q, which is q times Zhang and Sabuncu's (1 - p^q) / q; of the
    debiased one: cross-entropy's, the weight held.
    """
    (debiased_BK, biased_BK), y_B = batch(networks=2)
    d_B, b_B = cross_entropy(debiased_BK, y_B), cross_entropy(biased_BK, y_B)
    out = output(debiased_BK, biased_BK)
    method("lff", preset).losses(out, rows(y_B, ids_B=np.arange(B))).sum().backward()
    weight_B = (
        b_B / (b_B + d_B) if preset == "paper" else np.full(B, 0.5)
    )  # with no record yet a row is its class's largest itself
    np.testing.assert_allclose(
        out.parts[0].grad.numpy(),
        slope(lambda z: (1 - softmax(z)[np.arange(B), y_B] ** 0.7).sum(), biased_BK),
        atol=1e-7,
    )
    np.testing.assert_allclose(
        out.logits_BK.grad.numpy(), slope(lambda z: (weight_B * cross_entropy(z, y_B)).sum(), debiased_BK), atol=1e-6
    )


@pytest.mark.parametrize(("ema", "by_class"), [(0.7, True), (0.7, False), (0.0, True)])
def test_lff_keeps_a_record_of_each_samples_losses(ema: float, by_class: bool) -> None:
    """Some steps with repeated samples against a record kept sample by sample; and the micro-batches of a step do not
    matter.
    """
    lff = method("lff", "corrected", ema=ema, by_class=by_class)
    labels_N = np.repeat(np.arange(K), COUNTS)
    record, label_of = np.zeros((COUNTS.sum(), 2)), {}
    for step in range(5):
        (debiased_BK, biased_BK), _ = batch(seed=10 + step, networks=2)
        ids_B = np.random.default_rng(step).integers(0, 15 + 10 * step, B) % COUNTS.sum()
        ids_B[1] = ids_B[0]
        y_B = labels_N[ids_B]
        now_B2 = np.stack([cross_entropy(debiased_BK, y_B), cross_entropy(biased_BK, y_B)], axis=1)
        weight_B = np.zeros(B)
        for b, (i, y) in enumerate(zip(ids_B, y_B, strict=True)):
            d, biased = ema * record[i] + (1 - ema) * now_B2[b]
            if by_class:
                same = [record[j] for j, label in label_of.items() if label == y] + [(d, biased)]
                d, biased = d / max(s[0] for s in same), biased / max(s[1] for s in same)
            weight_B[b] = biased / (biased + d)
        p_B = np.exp(-now_B2[:, 1])
        expected = 0.7 * p_B**0.7 * now_B2[:, 1] + weight_B * now_B2[:, 0]

        which = rows(y_B, ids_B=ids_B)
        check(lff.losses(output(debiased_BK, biased_BK), which), expected)
        halves = [
            lff.losses(output(debiased_BK[part], biased_BK[part]), rows(y_B[part], ids_B=ids_B[part]))
            for part in np.split(np.arange(B), 2)
        ]
        assert torch.equal(torch.cat(halves), lff.losses(output(debiased_BK, biased_BK), which))
        notes_BC = lff.notes(output(debiased_BK, biased_BK), which)
        assert not notes_BC.requires_grad
        check(notes_BC, now_B2)
        on_the_way = (notes_BC.double() * 2**24).round() / 2**24  # as ifl/step_reduction.py carries them
        lff.remember(which.ids, which.labels, on_the_way)
        for i in set(ids_B.tolist()):
            record[i] = ema * record[i] + (1 - ema) * np.mean([now_B2[b] for b in range(B) if ids_B[b] == i], axis=0)
            label_of[i] = labels_N[i]
        check(lff.memory["losses_N2"], record, rtol=1e-5)
    check(lff.memory["largest_K2"], np.array([record[labels_N == k].max(axis=0) for k in range(K)]), rtol=1e-5)


def test_lff_record_does_not_depend_on_the_order_of_a_batch() -> None:
    """To the last bit, repeated samples included: ranks must hold equal memories."""
    ids, notes_GC = torch.tensor([3, 3, 3, 1, 3, 0]), (torch.rand(6, 2, dtype=torch.float64) * 2**24).round() / 2**24
    one, other = method("lff", "corrected"), method("lff", "corrected")
    order = torch.tensor([5, 2, 4, 0, 3, 1])
    one.remember(ids, torch.zeros(6, dtype=torch.int64), notes_GC)
    other.remember(ids[order], torch.zeros(6, dtype=torch.int64), notes_GC[order])
    assert all(torch.equal(one.memory[key], other.memory[key]) for key in one.memory)


# ----------------------------------------------------------------------------------------------------------------- IRM
STREAMS_B = np.repeat([0, 1, 2], B // 3)


def irm_penalty(z_BK: np.ndarray, y_B: np.ndarray, preset: str) -> float:
    """By differences of the risk itself: the L1 norm over one scale a class on all rows, or the mean over the
    environments of IRMv1's square.
    """
    if preset == "paper":
        return float(np.abs(slope(lambda v_K: cross_entropy(z_BK * v_K, y_B).mean(), np.ones(K))).sum())
    environments = [np.flatnonzero(e == STREAMS_B) for e in range(3)]
    return float(
        np.mean(
            [
                slope(lambda v, members=members: cross_entropy(z_BK[members] * v, y_B[members]).mean(), np.ones(1)) ** 2
                for members in environments
            ]
        )
    )


@pytest.mark.parametrize("preset", ["paper", "corrected"])
def test_irm_penalty_is_the_gradient_of_the_risk_by_a_scale(preset: str) -> None:
    z_BK, y_B = batch(seed=6)
    irm, out = method("irm", preset, weight=0.5), output(z_BK)
    losses_B = irm.losses(out, rows(y_B, streams_B=STREAMS_B))
    np.testing.assert_allclose(
        losses_B.detach().numpy(), cross_entropy(z_BK, y_B) + 0.5 * irm_penalty(z_BK, y_B, preset), rtol=1e-6
    )
    losses_B.mean().backward()
    gradient = slope(lambda z: cross_entropy(z, y_B).mean() + 0.5 * irm_penalty(z, y_B, preset), z_BK, step=1e-4)
    np.testing.assert_allclose(out.logits_BK.grad.numpy(), gradient, atol=1e-5)


def test_irm_by_environment_tells_environments_apart() -> None:
    """Two environments that want opposite scales: pooled they cancel, apart they do not."""
    z_BK = np.tile([[3.0, 0, 0, 0]], (B, 1))
    right = softmax(z_BK[:1])[0, 0]  # where so many rows are right, no scale gains
    streams_B, y_B = np.repeat([0, 1], B // 2), np.repeat([0, 1], B // 2)
    gradients_BK = scale_gradients(torch.from_numpy(z_BK), torch.from_numpy(y_B))
    per_environment = [3 * (right - 1), 3 * right]
    np.testing.assert_allclose(
        by_environment(gradients_BK, torch.from_numpy(streams_B)).item(), np.mean(np.square(per_environment))
    )
    np.testing.assert_allclose(gradients_BK.sum(dim=1).mean().item(), np.mean(per_environment))


@pytest.mark.parametrize(
    ("epochs", "lag", "grows_at"),
    [(100, 0, (30, 60, 90)), (24, 0, (7, 14, 21)), (100, 1, (31, 61, 91)), (24, 1, (8, 15, 22))],
)
def test_irm_weight_grows_tenfold_after_each_three_tenths_of_the_epochs(
    epochs: int, lag: int, grows_at: tuple[int, ...]
) -> None:
    """The new weight acts from these epochs on, counted from 0; with the reference's lag one epoch later."""
    z_BK, y_B = batch(seed=7)
    irm = method("irm", epochs=epochs, lag=lag)
    plain, penalty = cross_entropy(z_BK, y_B), irm_penalty(z_BK, y_B, "paper")
    for epoch in range(epochs):
        weight = (irm.losses(output(z_BK), rows(y_B, epoch)).detach().numpy() - plain).mean() / penalty
        np.testing.assert_allclose(weight, 0.001 * 10 ** sum(epoch >= at for at in grows_at), rtol=1e-5)


def test_irm_of_a_run_that_knows_no_lag_goes_on_as_it_began() -> None:
    """This run's recipe.yaml is older than the argument: its method has it all the same, and no lag."""
    recipe = load_resolved(GOLDEN / "older" / "glt_irm.yaml")
    _, irm = build_network(recipe, COUNTS)
    z_BK, y_B = batch(seed=7)
    weights = [
        (irm.losses(output(z_BK), rows(y_B, epoch)).detach().numpy() - cross_entropy(z_BK, y_B)).mean()
        for epoch in (6, 7)
    ]
    np.testing.assert_allclose(weights[1] / weights[0], 10, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------- recipes
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["recipe=glt_irm", "ifl=null"], "the method irm needs ifl.environments=2 or more: its penalty compares them"),
        (
            ["recipe=glt_irm", "ifl.environments=1"],
            "the method irm needs ifl.environments=2 or more: its penalty compares them",
        ),
        (
            ["recipe=glt_irm", "nodes=3"],
            "the method irm cannot share a batch-normalisation group among ranks: its penalty is that of a whole "
            "group; at most 2 tasks are legal here",
        ),
        (
            ["recipe=glt_lff", "ifl.environments=2"],
            "the method lff cannot be combined with ifl: the center term would pull the features of the biased "
            "network, too, which shall follow what is easy alone",
        ),
        (
            ["recipe=glt_lff", "augment.mixup=1.0"],
            "the method lff cannot be combined with mixup: it weighs a sample by its own record of losses, and a "
            "mixed row is no sample",
        ),
        (
            ["recipe=glt_logit_adjust", "method.legacy_count_order=true"],
            "the method logit_adjust cannot be combined with legacy_count_order: the reference counts in the right "
            "order here",
        ),
        (
            ["recipe=glt_crt", "ifl.environments=2"],
            "the method crt cannot be combined with ifl: it draws no uniform stream that environments could replace; "
            "give ifl to its first stage",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(words: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        resolve(words)
    assert str(error.value) == sentence


@pytest.mark.parametrize("name", ["glt_crt", "glt_crt_ifl", "glt_lws", "glt_lws_ifl"])
def test_second_stages_draw_a_class_aware_epoch(name: str) -> None:
    """min(K max n_c, 4 N) draws, and the tenth of the paper's epochs; the largest class of MSCOCO's balanced edition is
    known to a few samples.
    """
    from sharding.datasets.digits_glt.build import LONG_TAIL

    digits = min(len(LONG_TAIL) * max(LONG_TAIL), 4 * sum(LONG_TAIL)) / sum(LONG_TAIL)
    for data, train, draws in (
        ("imagenet_glt", "glt", 4),
        ("imagenet_glt", "cbl", 1),
        ("mscoco_glt", "glt", 4),
        ("mscoco_glt", "cbl", 1),
        ("digits_glt", "glt", digits),
        ("digits_glt", "cbl", 1),
    ):
        recipe = resolve([f"recipe={name}", f"data={data}", f"train={train}"])
        assert abs(recipe.batch.draws_per_epoch - draws) < 0.001 and recipe.schedule.epochs == (
            4 if data == "digits_glt" else 10
        )
        assert (
            recipe.method.init_from.startswith(
                f"{'glt_ifl' if name.endswith('ifl') else 'glt_baseline'}-{data}-{train}-"
            )
            and recipe.ifl is None
        )


def test_tde_takes_away_what_the_paper_says_and_on_other_data_what_val_says() -> None:
    wanted = {("imagenet_glt", "glt"): 2.0, ("mscoco_glt", "glt"): 1.0, ("digits_glt", "glt"): 0.25}
    for data in ("imagenet_glt", "mscoco_glt", "digits_glt"):
        for train in ("glt", "cbl"):
            assert resolve(["recipe=glt_tde", f"data={data}", f"train={train}"]).method.args["alpha"] == wanted.get(
                (data, train), 0.0
            )
