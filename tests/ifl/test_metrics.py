"""The metrics against cases worked by hand and against a slow oracle in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ifl.metrics import GROUPS, KEYS, SUBSETS, ScoredPredictions, evaluate

# Two classes of the many group (0, 1), one medium (2), one few (3); 10 samples.
#   sample      0  1  2  3  4  5  6  7  8  9
LABEL = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
PREDICTION = [0, 0, 0, 1, 1, 0, 2, 0, 0, 1]
GROUP = [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]
ATTRIBUTE = [0, 0, 1, 1, 0, 1, 0, 1, 0, 1]
NONE = [-1] * 10


def _evaluate(label: Any, prediction: Any, group: Any, attribute: Any) -> dict[str, Any]:
    return evaluate(*(np.asarray(values, dtype=np.int64) for values in (label, prediction, group, attribute)))


def test_accuracy_by_hand() -> None:
    """Accuracy is the share of right predictions of the (sub)set."""
    # Right: samples 0, 1, 2, 4, 6. Many: 0, 1, 2, 4 of the first six; medium: 6 of 6, 7; few: none of 8, 9.
    got = _evaluate(LABEL, PREDICTION, GROUP, NONE)["accuracy"]
    assert got == {"overall": 5 / 10, "many": 4 / 6, "medium": 1 / 2, "few": 0.0}


def test_precision_by_hand_never_predicted_counts_zero() -> None:
    """A class that is never predicted counts 0 and stays in K."""
    # Predictions: 0 six times (samples 0, 1, 2, 5, 7, 8; right 0, 1, 2): 3/6. 1 three times (3, 4, 9; right 4): 1/3.
    # 2 once, right: 1. 3 never: 0. K = 4.
    got = _evaluate(LABEL, PREDICTION, GROUP, NONE)["precision"]
    assert got["overall"] == pytest.approx((3 / 6 + 1 / 3 + 1 + 0) / 4, abs=1e-15)
    assert got["medium"] == 1.0
    assert got["few"] == 0.0


def test_precision_of_a_class_group_counts_predictions_over_the_whole_set() -> None:
    """A head class pays for the tail samples it swallows: counts are over the set, not the group."""
    # Over the whole set: class 0 is predicted 6 times, class 1 3 times: (3/6 + 1/3) / 2 = 5/12.
    # Within the many group alone (samples 0-5) it would be (3/4 + 1/2) / 2 = 5/8.
    got = _evaluate(LABEL, PREDICTION, GROUP, NONE)["precision"]["many"]
    assert got == pytest.approx(5 / 12, abs=1e-15)
    assert got != pytest.approx(5 / 8)


def test_precision_k_is_the_number_of_true_labels_present() -> None:
    """K counts the distinct true labels: not the highest class, nor classes that are only predicted."""
    # True labels 2 and 7, so K = 2. Class 2: predicted twice, right once: 1/2. Class 7: never predicted: 0.
    # Class 9 is predicted and is nobody's label: with it K would be 3.
    got = _evaluate([2, 2, 7], [2, 9, 2], [0, 0, 2], [-1, -1, -1])["precision"]
    assert got == {"overall": (1 / 2 + 0) / 2, "many": 1 / 2, "medium": None, "few": 0.0}


def test_attribute_groups_are_premasked() -> None:
    """By attribute group all is restricted to its samples first: accuracy, counts and K."""
    got = _evaluate(LABEL, PREDICTION, GROUP, ATTRIBUTE)["attribute"]
    # Many_A, samples 0 1 4 6 8: labels 0 0 1 2 3, predictions 0 0 1 2 0. Right: 4 of 5.
    # Class 0: 2/3, 1: 1/1, 2: 1/1, 3: never. K = 4.
    assert got["accuracy"]["many"] == 4 / 5
    assert got["precision"]["many"] == pytest.approx((2 / 3 + 1 + 1 + 0) / 4, abs=1e-15)
    # Medium_A, samples 2 3 5 7 9: labels 0 0 1 2 3, predictions 0 1 0 0 1. Right: 1 of 5.
    # Class 0: predicted at 2, 5, 7: 1/3; 1: predicted at 3, 9, never right: 0; 2, 3: never. K = 4.
    # Counted over the whole set, class 0 would give 1/6.
    assert got["accuracy"]["medium"] == 1 / 5
    assert got["precision"]["medium"] == pytest.approx(1 / 3 / 4, abs=1e-15)
    # Few_A has no sample.
    assert got["accuracy"]["few"] is None and got["precision"]["few"] is None


def test_attribute_part_only_where_there_are_attributes() -> None:
    """Without any attribute (all -1) there is no attribute part; samples with -1 belong to no group."""
    assert "attribute" not in _evaluate(LABEL, PREDICTION, GROUP, NONE)
    # Only sample 3 (label 0, predicted 1) has an attribute.
    got = _evaluate(LABEL, PREDICTION, GROUP, [-1, -1, -1, 2] + [-1] * 6)["attribute"]
    assert got["accuracy"] == {"many": None, "medium": None, "few": 0.0}


def test_empty_set_gives_none() -> None:
    """Nothing to average is None, never NaN and never 0."""
    nothing = {name: None for name in ("overall", *GROUPS)}
    assert _evaluate([], [], [], []) == {"accuracy": nothing, "precision": nothing}


def test_perfect_predictions_give_one() -> None:
    """All right is 1.0 everywhere, as plain Python floats that JSON can take."""
    got = _evaluate(LABEL, LABEL, GROUP, ATTRIBUTE)
    for metric in ("accuracy", "precision"):
        assert got[metric] == {name: 1.0 for name in ("overall", *GROUPS)}
        assert all(type(value) is float for value in got[metric].values())


def _oracle(label: list[int], prediction: list[int], group: list[int], attribute: list[int]) -> dict[str, Any]:
    """The definition, literally and slowly."""

    def accuracy(samples: list[int]) -> float | None:
        return sum(label[i] == prediction[i] for i in samples) / len(samples) if samples else None

    def precision(counted: list[int], classes: set[int]) -> float | None:
        ratios = []
        for c in classes:
            predicted = [i for i in counted if prediction[i] == c]
            ratios.append(sum(label[i] == c for i in predicted) / len(predicted) if predicted else 0.0)
        return sum(ratios) / len(ratios) if ratios else None

    everything = list(range(len(label)))
    result: dict[str, Any] = {
        "accuracy": {"overall": accuracy(everything)},
        "precision": {"overall": precision(everything, set(label))},
        "attribute": {"accuracy": {}, "precision": {}},
    }
    for g, name in enumerate(GROUPS):
        members = [i for i in everything if group[i] == g]
        result["accuracy"][name] = accuracy(members)
        result["precision"][name] = precision(everything, {label[i] for i in members})
        masked = [i for i in everything if attribute[i] == g]
        result["attribute"]["accuracy"][name] = accuracy(masked)
        result["attribute"]["precision"][name] = precision(masked, {label[i] for i in masked})
    if all(a < 0 for a in attribute):
        del result["attribute"]
    return result


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_oracle_on_random_data(seed: int) -> None:
    """evaluate() equals the literal definition, also with absent classes, groups and attributes."""
    rng = np.random.default_rng(seed)
    m, k = int(rng.integers(1, 120)), int(rng.integers(1, 12))
    group_of_class = rng.integers(0, 3, k)
    label = rng.integers(0, k, m)
    prediction = np.where(rng.random(m) < 0.5, label, rng.integers(0, k + 2, m))  # also classes without samples
    attribute = rng.integers(-1, 3, m) if seed % 5 else np.full(m, -1)
    got = evaluate(label, prediction, group_of_class[label], attribute)
    want = _oracle(label.tolist(), prediction.tolist(), group_of_class[label].tolist(), attribute.tolist())
    assert got.keys() == want.keys()
    for part, expected in [(got, want)] + ([(got["attribute"], want["attribute"])] if "attribute" in want else []):
        for metric in ("accuracy", "precision"):
            assert part[metric] == pytest.approx(expected[metric], abs=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": np.zeros((10, 1), int)}, r"label.*shape \[10, 1\]"),
        ({"prediction": np.zeros(9, int)}, "prediction: 9 values beside 10"),
        ({"prediction": np.zeros(10)}, "prediction.*float64.*integer"),
        ({"label": np.array([-1] * 10)}, "label.*legal is 0 and above"),
        ({"prediction": np.array([-1] * 10)}, "prediction.*legal is 0 and above"),
        ({"group": np.array([3] * 10)}, "group.*legal is 0 to 2"),
        ({"group": np.array([-1] * 10)}, "group.*legal is 0 to 2"),
        ({"attribute": np.array([3] * 10)}, "attribute.*legal is -1 to 2"),
        ({"attribute": np.array([-2] * 10)}, "attribute.*legal is -1 to 2"),
        ({"group": np.array([0, 1] * 5)}, "group: a class has samples in two"),
    ],
)
def test_refuses_what_cannot_be_meant(change: dict[str, Any], said: str) -> None:
    """Wrong shapes, types, lengths, ranges and a class in two groups are refused by name."""
    arrays = {
        "label": np.array(LABEL),
        "prediction": np.array(PREDICTION),
        "group": np.array(GROUP),
        "attribute": np.array(ATTRIBUTE),
    }
    with pytest.raises(ValueError, match=said):
        evaluate(**{**arrays, **change})


# --- beside the paper's two ------------------------------------------------------------------------


def _case(seed: int) -> tuple[np.ndarray, ...]:
    """label, prediction, group, attribute, confidence of a random set with absent classes, groups and attributes."""
    rng = np.random.default_rng(seed)
    m, k = int(rng.integers(1, 120)), int(rng.integers(1, 12))
    group_of_class = rng.integers(0, 3, k)
    label = rng.integers(0, k, m)
    prediction = np.where(rng.random(m) < 0.5, label, rng.integers(0, k + 2, m))
    attribute = rng.integers(-1, 3, m) if seed % 5 else np.full(m, -1)
    confidence = np.where(rng.random(m) < 0.2, rng.choice([0.0, 1 / 15, 0.2, 1.0], m), rng.random(m))
    return label, prediction, group_of_class[label], attribute, confidence


def _calibration_error(samples: list[tuple[bool, float]]) -> float | None:
    """The definition: bins of equal width, each one's share times |accuracy - mean confidence|."""
    if not samples:
        return None
    error = 0.0
    for b in range(15):
        inside = [(right, confidence) for right, confidence in samples if min(int(confidence * 15), 14) == b]
        if inside:
            accuracy = sum(right for right, _ in inside) / len(inside)
            error += (
                len(inside) / len(samples) * abs(accuracy - sum(confidence for _, confidence in inside) / len(inside))
            )
    return error


def _more(
    label: Any, prediction: Any, group: Any, attribute: Any, confidence: Any
) -> dict[tuple[str, str], float | None]:
    """Every measure by its definition, from the oracle's accuracy and precision."""
    base = _oracle(*(np.asarray(part).tolist() for part in (label, prediction, group, attribute)))
    nothing = {name: None for name in GROUPS}
    by_attribute = base.get("attribute", {"accuracy": nothing, "precision": nothing})
    found: dict[tuple[str, str], float | None] = {}
    for subset in SUBSETS:
        name, _, of_attribute = subset.partition("_")
        part = by_attribute if of_attribute else base
        accuracy, precision = part["accuracy"][name], part["precision"][name]
        found[subset, "accuracy"], found[subset, "precision"] = accuracy, precision
        both = None if accuracy is None else accuracy + precision
        found[subset, "f1"] = None if both is None else 2 * accuracy * precision / both if both else 0.0
        members = [
            i
            for i in range(len(label))
            if name == "overall" or (attribute if of_attribute else group)[i] == GROUPS.index(name)
        ]
        found[subset, "ece"] = _calibration_error([(label[i] == prediction[i], float(confidence[i])) for i in members])
    for subset, part in (("overall", base), ("overall_a", by_attribute)):
        groups = [part["accuracy"][name] for name in GROUPS if part["accuracy"][name] is not None]
        found[subset, "worst"] = min(groups) if groups else None
        found[subset, "harmonic"] = (
            None if not groups else 0.0 if 0 in groups else len(groups) / sum(1 / value for value in groups)
        )
    return found


@pytest.mark.parametrize("seed", range(40))
def test_every_measure_equals_the_oracle(seed: int) -> None:
    """F1, harmonic mean, worst group and calibration error equal their definitions, NaN where a subset is empty."""
    case = _case(seed)
    got, want = ScoredPredictions(*case).scores(), _more(*case)
    assert set(got) == set(KEYS) == set(want)
    for key, value in want.items():
        assert got[key].shape == (1,)
        assert np.isnan(got[key][0]) if value is None else got[key][0] == pytest.approx(value, abs=1e-12), key


@pytest.mark.parametrize("seed", range(12))
def test_a_weight_is_a_repetition(seed: int) -> None:
    """Measures under weights equal those of a set in which each sample stands as often as its weight says, for all
    weightings at once.
    """
    case = _case(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (len(case[0]), 7)).astype(np.uint16)
    weights[:, 6] = 0  # nothing is left
    scored = ScoredPredictions(*case)
    got = scored.scores(weights, true=scored.true_counts(weights))
    for r in range(weights.shape[1]):
        repeated = [np.repeat(part, weights[:, r]) for part in case]
        for key, value in _more(*repeated).items():
            assert np.isnan(got[key][r]) if value is None else got[key][r] == pytest.approx(value, abs=1e-12), (key, r)


def test_only_what_is_wanted() -> None:
    """Of the measures only those asked for are given, and no calibration error without confidences."""
    case = _case(3)
    wanted = (("few", "f1"), ("overall", "worst"), ("overall", "ece"))
    assert tuple(ScoredPredictions(*case).scores(wanted=wanted)) == wanted
    assert tuple(ScoredPredictions(*case[:4]).scores(wanted=wanted)) == wanted[:2]


def test_counts_by_class() -> None:
    """Counts by attribute group and class: 20 samples in all, what is predicted of a class nobody has counts
    nowhere.
    """
    prediction = [0, 0, 0, 1, 1, 0, 2, 0, 0, 9]
    counts = ScoredPredictions(*(np.array(part) for part in (LABEL, prediction, GROUP, ATTRIBUTE))).counts()
    assert counts["true"].tolist() == [[2, 1, 1, 1], [2, 1, 1, 1], [0] * 4, [0] * 4]
    assert counts["predicted"].tolist() == [[3, 1, 1, 0], [3, 1, 0, 0], [0] * 4, [0] * 4]
    assert counts["right"].tolist() == [[2, 1, 1, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]


@pytest.mark.parametrize("confidence", [np.full(10, 1.5), np.full(10, np.nan), np.full(9, 0.5), np.ones(10, int)])
def test_confidence_is_a_probability(confidence: np.ndarray) -> None:
    """A confidence that is no probability, or not one for each sample, is refused by name."""
    with pytest.raises(ValueError, match=r"^confidence: "):
        ScoredPredictions(*(np.array(part) for part in (LABEL, PREDICTION, GROUP, ATTRIBUTE)), confidence)
