"""Environment weights against the six steps of the reference written out one by one in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ifl.invariance.environments import class_weights, environment_weights, scales, stream_weights

NAN = math.nan


# ------------------------------------------------------------------------------------------------------------- oracle
def literal_class(scores: list[float], scale: float) -> list[float]:
    """Weights of one class's scored samples, step by step."""
    k = len(scores)
    if k < 5:  # 1
        return [1 / k] * k
    low = min(scores)
    span = max(p - low for p in scores) + 1e-9
    a = [(p - low) / span for p in scores]  # 2
    w = [abs(1 - value) + 1e-5 for value in a]  # 3
    ordered = sorted(w, reverse=True)
    largest, smallest = ordered[: int(0.2 * k)], list(reversed(ordered))[: int(0.8 * k)]
    tail, head = math.fsum(largest) / len(largest), math.fsum(smallest) / len(smallest)  # 4
    ratio = tail / head + 1e-5
    beta = min(max(math.log(scale) / math.log(ratio), 1.0), 10.0)  # 5
    w = [value**beta + 1e-12 for value in w]  # 6
    total = math.fsum(w)
    return [value / total for value in w]


def literal_environment(
    scores: list[float], labels: list[int], scale: float, balanced: bool, unseen: str
) -> list[float]:
    """Weights of all samples: each class by itself."""
    weights = [0.0] * len(scores)
    for c in sorted(set(labels)):
        members = [i for i, label in enumerate(labels) if label == c]
        seen = [i for i in members if not math.isnan(scores[i])]
        mine = dict.fromkeys(members, 0.0)
        if seen:
            mine.update(zip(seen, literal_class([scores[i] for i in seen], scale), strict=True))
        if unseen == "class_mean":
            mean = math.fsum(mine[i] for i in seen) / len(seen) if seen else 1.0
            mine.update({i: mean for i in members if i not in seen})
            total = math.fsum(mine.values())
            mine = {i: value / total for i, value in mine.items()}
        for i, value in mine.items():
            weights[i] = value * (1 if balanced else len(members))
    return weights


def _world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (NaN where not drawn) and labels of 300 samples: a long tail of classes in mixed order, class 7 with four
    scored samples, class 8 with none, class 9 absent."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(9), [120, 70, 40, 25, 15, 10, 7, 6, 7]))
    scores = rng.beta(1, 1 + labels, len(labels))
    scores[rng.random(len(labels)) < 0.135] = NAN
    sevens = np.flatnonzero(labels == 7)
    scores[sevens[:4]], scores[sevens[4:]] = rng.random(4), NAN
    scores[labels == 8] = NAN
    return scores, labels


def _beta(scores: np.ndarray, scale: float) -> float:
    """The exponent, read back from the weights: ln of the ratio of two samples' weights over ln of that of their w."""
    weights = class_weights(scores, scale)
    rise = (scores - scores.min()) / (scores.max() - scores.min() + 1e-9)
    base = np.abs(1 - rise) + 1e-5
    order = np.argsort(base)
    strong, weak = order[-1], order[len(order) * 3 // 4]
    return float(np.log(weights[strong] / weights[weak]) / np.log(base[strong] / base[weak]))


# -------------------------------------------------------------------------------------------------------------- tests
@pytest.mark.parametrize("k", [5, 6, 7, 9, 10, 14, 15, 20, 33, 100, 1001])
@pytest.mark.parametrize("scale", [1.5, 2.0, 4.0, 16.0])
def test_class_weights_equal_the_six_steps(k: int, scale: float) -> None:
    """For spread, confident, doubting and partly equal scores."""
    rng = np.random.default_rng(k)
    for scores in (rng.random(k), rng.beta(8, 1, k), rng.beta(1, 30, k), rng.integers(0, 3, k) / 3, np.full(k, 0.7)):
        np.testing.assert_allclose(class_weights(scores, scale), literal_class(scores.tolist(), scale), rtol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_fewer_than_five_samples_weigh_the_same(k: int) -> None:
    """1/k each; with five the scores count."""
    assert class_weights(np.linspace(0, 1, k), 4.0).tolist() == [1 / k] * k
    assert len(set(class_weights(np.linspace(0, 1, 5), 4.0))) == 5


def test_less_confident_samples_weigh_more_and_the_class_has_mass_one() -> None:
    """Weights fall as p rises and add up to 1."""
    scores = np.random.default_rng(0).random(60)
    weights = class_weights(scores, 4.0)
    assert np.all(np.diff(weights[np.argsort(scores)]) < 0)
    assert weights.sum() == pytest.approx(1, abs=1e-12) and weights.min() > 0


def test_exponent_is_clamped() -> None:
    """beta is 1 where the natural ratio already exceeds the scale, 10 where it is next to none, ln 4 / ln r between."""
    confident = np.concatenate([np.full(80, 0.99), np.linspace(0, 0.4, 20)]) + np.arange(100) * 1e-6
    assert _beta(confident, 4.0) == pytest.approx(1, abs=1e-3)
    doubting = np.concatenate([np.linspace(0, 0.05, 95), np.linspace(0.8, 1, 5)])
    assert _beta(doubting, 4.0) == pytest.approx(10, abs=1e-2)
    spread = np.linspace(0, 1, 100)
    w = 1 - spread + 1e-5
    ratio = w[:20].mean() / w[20:].mean()
    assert _beta(spread, 4.0) == pytest.approx(math.log(4) / math.log(ratio), rel=1e-3)
    assert 2.2 < ratio < 2.6 and 1.4 < _beta(spread, 4.0) < 1.8  # the facts' figure for uniform p


def test_equal_scores_give_equal_weights() -> None:
    """No division by the vanished span, and no not-a-number from the exponent."""
    assert class_weights(np.full(12, 0.3), 4.0).tolist() == pytest.approx([1 / 12] * 12, rel=1e-12)


@pytest.mark.parametrize("unseen", ["zero", "class_mean"])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_environment_equals_the_literal_one(unseen: str, balanced: bool, seed: int) -> None:
    """All classes together, with unseen samples, an unseen class, and classes of fewer than five."""
    scores, labels = _world(seed)
    weights = environment_weights(scores, labels, scale=4.0, class_balanced=balanced, unseen=unseen)
    np.testing.assert_allclose(
        weights, literal_environment(scores.tolist(), labels.tolist(), 4.0, balanced, unseen), rtol=1e-9
    )
    masses = np.bincount(labels, weights, minlength=10)
    sizes = np.bincount(labels, minlength=10)
    drawn = np.bincount(labels, ~np.isnan(scores), minlength=10) > 0
    expected = np.where(drawn if unseen == "zero" else sizes > 0, 1.0 if balanced else sizes, 0.0)
    np.testing.assert_allclose(masses, expected, rtol=1e-12)
    missing = np.isnan(scores)
    if unseen == "zero":
        assert not weights[missing].any()
    else:
        for c in range(8):
            if (missing & (labels == c)).any():
                np.testing.assert_allclose(
                    weights[missing & (labels == c)], weights[~missing & (labels == c)].mean(), rtol=1e-9
                )
        assert set(weights[labels == 8].tolist()) == {weights[labels == 8][0]} and weights[labels == 8][0] > 0
    assert len(set(weights[(labels == 7) & ~missing].tolist())) == 1


def test_scales_of_the_environments() -> None:
    """Two environments: 4. Three: 2 and 4, as the reference. One: none."""
    assert scales(1, 4.0) == []
    assert scales(2, 4.0) == [4.0]
    assert scales(3, 4.0) == [2.0, 4.0]
    assert scales(5, 8.0) == [2.0, 4.0, 6.0, 8.0]
    assert all(s > 1 for s in scales(5, 4.0))  # 1 would ask for no skew at all


def test_streams_of_three_environments() -> None:
    """Environment 1 stays uniform, 2 and 3 have scales 2 and 4, and before anything was scored all are uniform."""
    scores, labels = _world(3)
    options = {"class_balanced": True, "unseen": "zero"}
    assert stream_weights(3, None, labels, sample_scale=4.0, **options) == [None, None, None]
    first, second, third = stream_weights(3, scores, labels, sample_scale=4.0, **options)
    assert first is None
    assert np.array_equal(second, environment_weights(scores, labels, scale=2.0, **options))
    assert np.array_equal(third, environment_weights(scores, labels, scale=4.0, **options))
    assert not np.array_equal(second, third)


def test_one_class_and_one_sample() -> None:
    """The smallest inputs: a class of one, and a set of one class."""
    assert environment_weights(np.array([0.2]), np.array([3]), scale=4.0).tolist() == [1.0]
    assert environment_weights(np.array([0.2, NAN]), np.array([3, 3]), scale=4.0).tolist() == [1.0, 0.0]
    assert environment_weights(np.array([NAN, NAN]), np.array([3, 3]), scale=4.0, unseen="class_mean").tolist() == [
        0.5,
        0.5,
    ]
