"""The measures of the GLT benchmark and some others, defined once for training and analysis (with numpy only).

Accuracy is the share of right predictions. Precision is the mean over classes of TP_c / (number of
predictions of c), where the classes are the distinct *true* labels of the set and a class that is
never predicted counts 0. Source: Tang et al., "Invariant Feature Learning for Generalized
Long-Tailed Classification", ECCV 2022 (arXiv 2207.09504), and the evaluation its tables agree with:

* by class group, predictions are counted over the whole set, so a head class that swallows tail
  samples pays for it; true positives and classes are the group's own;
* by attribute group, everything is restricted to the attribute's samples first, prediction counts
  included.

Beside them (`ScoredPredictions.scores`):

* `f1`: 2PR / (P + R) of a subset's precision P and accuracy R, 0 where both are (so the later papers count it);
* `harmonic`, `worst`: harmonic mean and minimum of the accuracies of the class groups (subset `overall`)
  or of the attribute groups (`overall_a`) that have samples; the harmonic mean is 0 where one of them is;
* `ece`: expected calibration error over 15 bins of equal width (Guo et al., "On Calibration of Modern
  Neural Networks", ICML 2017): the sum over bins of |sum of (right - confidence)| / M, a confidence in
  [b/15, (b+1)/15) being in bin b, and 1 in the last.

Dimensions: M samples, K classes, A attribute slots, R weightings (resamples).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = ("many", "medium", "few")
"""Names of the class and attribute groups 0, 1, 2."""

SUBSETS = (*GROUPS, "overall", *(f"{name}_a" for name in GROUPS))
"""Class groups, everything, attribute groups."""

METRICS = ("accuracy", "precision", "f1", "ece")
"""What each of `SUBSETS` has."""

OVER_GROUPS = tuple((subset, metric) for subset in ("overall", "overall_a") for metric in ("harmonic", "worst"))
"""(subset, metric) of what is taken over groups: class groups, attribute groups."""

KEYS = (*((subset, metric) for subset in SUBSETS for metric in METRICS), *OVER_GROUPS)
"""Every (subset, metric) there is."""

BINS = 15
"""Bins of equal width of the calibration error."""

Scores = dict[str, float | None]
Values = dict[tuple[str, str], NDArray[np.float64]]
"""(subset, metric) -> float64 [R], NaN where a subset has no samples."""


def evaluate(
    label: NDArray[np.integer],
    prediction: NDArray[np.integer],
    group: NDArray[np.integer],
    attribute: NDArray[np.integer],
) -> dict[str, Any]:
    """Compute accuracy and precision of M predictions: over all samples, by class group, by attribute group.

    Args:
        label: int [M], true class, >= 0.
        prediction: int [M], predicted class, >= 0 (it may be a class that no sample has).
        group: int [M], class group of the *true* class, 0 many, 1 medium, 2 few; the same for a whole class.
        attribute: int [M], attribute group of the sample, 0 many, 1 medium, 2 few, -1 where there is none.

    Returns:
        `{"accuracy": {"overall", "many", "medium", "few"}, "precision": {the same}}`, and where any
        sample has an attribute also `"attribute": {"accuracy": {"many", "medium", "few"},
        "precision": {the same}}`. Values are fractions in [0, 1], None for a subset without samples.

    Raises:
        ValueError: the arrays are not integer vectors of one length, a value is out of range, or a class has samples in
            two class groups.
    """
    scored = ScoredPredictions(label, prediction, group, attribute)
    values = scored.scores()

    def score(subset: str, metric: str) -> float | None:
        value = float(values[subset, metric][0])
        return None if np.isnan(value) else value

    measures = ("accuracy", "precision")
    result: dict[str, Any] = {
        metric: {name: score(name, metric) for name in ("overall", *GROUPS)} for metric in measures
    }
    if scored.has_attributes:
        result["attribute"] = {metric: {name: score(f"{name}_a", metric) for name in GROUPS} for metric in measures}
    return result


class ScoredPredictions:
    """M predictions, sorted once so that any weighting of the samples is scored quickly.

    All measures are functions of sums over samples (how many of each class there are, are predicted,
    are right), so that a resample of the test set is only a weight for each sample.

    Args:
        label: int [M]; this and the next three as for `evaluate`.
        prediction: int [M].
        group: int [M].
        attribute: int [M].
        confidence: float [M] in [0, 1], the probability given to the predicted class; the calibration error
            needs it.

    Attributes:
        classes: the distinct true labels, sorted, int64 [K].
        group_of_class: int64 [K].
        right: whether each sample's prediction is right, bool [M].
        has_attributes: whether any sample has an attribute.

    Raises:
        ValueError: as `evaluate`; a confidence outside [0, 1] or not finite.
    """

    def __init__(
        self,
        label: NDArray[np.integer],
        prediction: NDArray[np.integer],
        group: NDArray[np.integer],
        attribute: NDArray[np.integer],
        confidence: NDArray[np.floating] | None = None,
    ) -> None:
        label, prediction, group, attribute = _checked(
            label=(label, 0, None), prediction=(prediction, 0, None), group=(group, 0, 2), attribute=(attribute, -1, 2)
        )
        # Through np.unique, not bincount: memory then follows M, not the largest class number given.
        self.classes, first = np.unique(label, return_index=True)
        self.group_of_class = group[first]
        self.label, self.group, self.attribute = label, group, attribute
        self.right: NDArray[np.bool_] = label == prediction
        self.has_attributes = bool((attribute >= 0).any())
        true = np.searchsorted(self.classes, label)
        if (group != self.group_of_class[true]).any():
            raise ValueError("group: a class has samples in two class groups; legal is one group a class")
        slots, classes = len(GROUPS) + 1, len(self.classes)  # the last slot: samples without an attribute
        slot = np.where(attribute < 0, len(GROUPS), attribute)
        predicted = np.minimum(np.searchsorted(self.classes, prediction), max(classes - 1, 0))
        known = self.classes[predicted] == prediction if classes else np.zeros(0, bool)
        # A wrong prediction of a class that no sample has counts nowhere: its cell is the one behind the last.
        cell = np.where(self.right, slot * classes + true, slots * classes + slot * classes + predicted)
        self._shape = slots, classes
        self._true = _Sums(slot * classes + true, slots * classes)
        self._judged = _Sums(np.where(known, cell, 2 * slots * classes), 2 * slots * classes + 1)
        self._confidence = None if confidence is None else _confidence(confidence, len(label))

    def right_in(self, subset: str) -> NDArray[np.bool_]:
        """Say whether each sample of a subset is right, bool [number of its samples], in the order of samples."""
        return self.right[self.inside(subset)]

    def inside(self, subset: str) -> NDArray[np.bool_]:
        """Say which samples a subset of `SUBSETS` holds, bool [M]; all for `overall_a`."""
        name, _, by_attribute = subset.partition("_")
        if name == "overall":
            return np.ones(len(self.label), bool)
        return np.asarray((self.attribute if by_attribute else self.group) == GROUPS.index(name))

    def counts(self) -> dict[str, NDArray[np.int64]]:
        """Count `true`, `predicted`, `right` samples by attribute group (many, medium, few, none) and class.

        Each is int64 [4, K].
        """
        parts = {"true": self.true_counts(None)} | dict(
            zip(("predicted", "right"), self._predicted_and_right(None), strict=True)
        )
        return {name: part[..., 0] for name, part in parts.items()}

    def true_counts(self, weights: NDArray[np.unsignedinteger] | None) -> NDArray[Any]:
        """Count samples by attribute group and class under each weighting, [4, K, R].

        The counts depend only on the test set, and not on predictions.
        """
        return self._true(weights).reshape(*self._shape, 1 if weights is None else weights.shape[1])

    def scores(
        self,
        weights: NDArray[np.unsignedinteger] | None = None,
        wanted: tuple[tuple[str, str], ...] = KEYS,
        true: NDArray[Any] | None = None,
    ) -> Values:
        """Compute the measures in `wanted` under R weightings of the samples.

        Args:
            weights: unsigned integers [M, R], how often each resample holds each sample; their sum over
                samples must fit the type. Default: every sample once (R = 1).
            wanted: some of `KEYS`; the calibration error is left out without confidences.
            true: `true_counts(weights)`, where the caller has it from other predictions of the same test set.
        """
        true = self.true_counts(weights) if true is None else true
        predicted, right = self._predicted_and_right(weights)
        values: Values = {}
        for subset in SUBSETS:
            name, _, by_attribute = subset.partition("_")
            if by_attribute:
                slot, inside = GROUPS.index(name), np.ones(len(self.classes), bool)
                parts = true[slot], predicted[slot], right[slot]
            else:
                inside = (
                    np.ones(len(self.classes), bool) if name == "overall" else self.group_of_class == GROUPS.index(name)
                )
                parts = tuple(part.sum(axis=0) for part in (true, predicted, right))
            of = {metric for of_subset, metric in wanted if of_subset == subset}
            over = {metric for of_subset, metric in wanted if of_subset == ("overall_a" if by_attribute else "overall")}
            if of & {"accuracy", "f1"} or (subset != "overall" and over & {"harmonic", "worst"}):
                values[subset, "accuracy"] = _share(parts[2][inside], parts[0][inside])
            if of & {"precision", "f1"}:
                values[subset, "precision"] = _precision(*(part[inside] for part in parts))
            if "f1" in of:
                values[subset, "f1"] = _f1(values[subset, "precision"], values[subset, "accuracy"])
            if "ece" in of and self._confidence is not None:
                values[subset, "ece"] = self._calibration_error(subset, weights)
        for subset, metric in OVER_GROUPS:
            if (subset, metric) in wanted:
                groups = np.stack([values[name + subset.removeprefix("overall"), "accuracy"] for name in GROUPS])
                values[subset, metric] = _over_groups(metric, groups)
        return {key: values[key] for key in wanted if key in values}

    def _predicted_and_right(self, weights: NDArray[np.unsignedinteger] | None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Count predictions and right predictions, each [A, K, R]."""
        cells = self._judged(weights)[:-1].reshape(2, *self._shape, 1 if weights is None else weights.shape[1])
        return cells[0] + cells[1], cells[0]

    def _calibration_error(self, subset: str, weights: NDArray[np.unsignedinteger] | None) -> NDArray[np.float64]:
        assert self._confidence is not None
        inside = self.inside(subset)
        confidence, right = self._confidence[inside], self.right[inside]
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        if weights is None:
            gaps = np.bincount(bins, right - confidence, BINS)[:, None]
            return _divided(np.abs(gaps).sum(axis=0), np.array([len(right)]))
        weights_MR = weights[inside].astype(np.float64)
        gaps = np.stack([(right[bins == b] - confidence[bins == b]) @ weights_MR[bins == b] for b in range(BINS)])
        return _divided(np.abs(gaps).sum(axis=0), weights_MR.sum(axis=0))


class _Sums:
    """Sums of weights over the samples of each of `n` cells: `sums(weights [M, R]) -> [n, R]`."""

    def __init__(self, cell: NDArray[np.int64], n: int) -> None:
        self._counts = np.bincount(cell, minlength=n)[:, None]
        self._order = np.argsort(cell, kind="stable")
        self._filled, self._starts = np.unique(cell[self._order], return_index=True)

    def __call__(self, weights: NDArray[np.unsignedinteger] | None) -> NDArray[Any]:
        if weights is None:
            return self._counts
        sums = np.zeros((len(self._counts), weights.shape[1]), weights.dtype)
        if len(self._filled):
            # Rows of R contiguous numbers, in the weights' own narrow type: one pass through memory.
            sums[self._filled] = np.add.reduceat(weights[self._order], self._starts, axis=0, dtype=weights.dtype)
        return sums


def _precision(true: NDArray[Any], predicted: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Average right / predicted (0 where never predicted) over the classes that have samples; [K, R] -> [R]."""
    ratio = right / np.maximum(predicted, 1)  # a class without samples is never right, so it adds 0
    return _divided(ratio.sum(axis=0), (true > 0).sum(axis=0))


def _share(right: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    return _divided(right.sum(axis=0, dtype=np.int64), true.sum(axis=0, dtype=np.int64))


def _f1(precision: NDArray[np.float64], accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    both = precision + accuracy
    return np.where(both == 0, 0.0, 2 * precision * accuracy / np.where(both == 0, 1, both))


def _over_groups(metric: str, accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the harmonic mean or the minimum over the groups [G, R] that have samples (are not NaN)."""
    there = ~np.isnan(accuracy)
    if metric == "worst":
        lowest = np.where(there, accuracy, np.inf).min(axis=0)
        return np.where(there.any(axis=0), lowest, np.nan)
    zero = (there & (accuracy == 0)).any(axis=0)
    inverse = np.where(there, 1 / np.where(there & (accuracy > 0), accuracy, 1), 0).sum(axis=0)
    return np.where(zero, 0.0, _divided(there.sum(axis=0), inverse))


def _divided(numerator: NDArray[Any], denominator: NDArray[Any]) -> NDArray[np.float64]:
    """Divide; NaN where there is nothing to divide by."""
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def _confidence(confidence: NDArray[np.floating], length: int) -> NDArray[np.float64]:
    values = np.asarray(confidence)
    if values.shape != (length,) or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"confidence: an array of shape {list(values.shape)} and type {values.dtype}; "
            f"legal is a float vector [{length}]"
        )
    values = values.astype(np.float64)
    if (
        values.size and not ((values >= 0) & (values <= 1 + 1e-6)).all()
    ):  # float32 sums of probabilities may end a bit above 1
        raise ValueError(f"confidence: values from {values.min()} to {values.max()}; legal is 0 to 1")
    return np.asarray(np.minimum(values, 1.0), np.float64)


def _checked(**arrays: tuple[Any, int, int | None]) -> list[NDArray[np.int64]]:
    """Return the arrays as int64 after checks of shape, type, length and range."""
    checked: list[NDArray[np.int64]] = []
    for name, (values, low, high) in arrays.items():
        values = np.asarray(values)
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(
                f"{name}: an array of shape {list(values.shape)} and type {values.dtype}; "
                "legal is an integer vector [M]"
            )
        if checked and len(values) != len(checked[0]):
            raise ValueError(
                f"{name}: {len(values)} values beside {len(checked[0])} labels; legal is one for each sample"
            )
        if values.size and (values.min() < low or (high is not None and values.max() > high)):
            legal = f"{low} to {high}" if high is not None else f"{low} and above"
            raise ValueError(f"{name}: values from {values.min()} to {values.max()}; legal is {legal}")
        checked.append(values.astype(np.int64))
    return checked
