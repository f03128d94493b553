"""The two measures of the GLT benchmark, defined once for training and for analysis (numpy alone).

Accuracy is the share of right predictions. Precision is the mean over classes of TP_c / (number of
predictions of c), where the classes are the distinct *true* labels of the set and a class that is
never predicted counts 0. Source: Tang et al., "Invariant Feature Learning for Generalized
Long-Tailed Classification", ECCV 2022 (arXiv 2207.09504), and the evaluation its tables agree with:

* by class group, predictions are counted over the whole set, so a head class that swallows tail
  samples pays for it; true positives and classes are the group's own;
* by attribute group, everything is restricted to the attribute's samples first, prediction counts
  included.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = ("many", "medium", "few")
"""Names of the class and attribute groups 0, 1, 2."""

Scores = dict[str, float | None]


def evaluate(
    label: NDArray[np.integer],
    prediction: NDArray[np.integer],
    group: NDArray[np.integer],
    attribute: NDArray[np.integer],
) -> dict[str, Any]:
    """Accuracy and precision of M predictions, over all samples, by class group, by attribute group.

    Args, integer arrays of shape [M]:
        label: true class, >= 0.
        prediction: predicted class, >= 0 (it may be a class that no sample has).
        group: class group of the *true* class, 0 many, 1 medium, 2 few; the same for a whole class.
        attribute: attribute group of the sample, 0 many, 1 medium, 2 few, -1 where there is none.

    Returns:
        `{"accuracy": {"overall", "many", "medium", "few"}, "precision": {the same}}`, and where any
        sample has an attribute also `"attribute": {"accuracy": {"many", "medium", "few"},
        "precision": {the same}}`. Values are fractions in [0, 1], None for a subset without samples.

    Raises:
        ValueError: arrays that are not integer vectors of one length, a value out of range, or a
            class with samples in two class groups.
    """
    label, prediction, group, attribute = _checked(
        label=(label, 0, None), prediction=(prediction, 0, None), group=(group, 0, 2), attribute=(attribute, -1, 2)
    )
    result: dict[str, Any] = _by_class_group(label, prediction, group)
    if (attribute >= 0).any():
        parts = [
            _by_class_group(label[mask], prediction[mask], group[mask])
            for mask in (attribute == a for a in range(len(GROUPS)))
        ]
        result["attribute"] = {
            metric: {name: part[metric]["overall"] for name, part in zip(GROUPS, parts)}
            for metric in ("accuracy", "precision")
        }
    return result


def _by_class_group(label: NDArray, prediction: NDArray, group: NDArray) -> dict[str, Scores]:
    """Both metrics of one set of samples [M], overall and by class group."""
    correct = label == prediction
    classes, first = np.unique(label, return_index=True)  # the K distinct true labels
    group_of_class = group[first]
    if (group != group_of_class[np.searchsorted(classes, label)]).any():
        raise ValueError("group: a class has samples in two class groups; legal is one group a class")
    # Through np.unique, not bincount: memory then follows M, not the largest class number given.
    predicted = _count_of(classes, prediction)
    ratio = _count_of(classes, label[correct]) / np.maximum(predicted, 1)  # never predicted: 0 / 1

    accuracy: Scores = {"overall": _mean(correct)}
    precision: Scores = {"overall": _mean(ratio)}
    for index, name in enumerate(GROUPS):
        accuracy[name] = _mean(correct[group == index])
        precision[name] = _mean(ratio[group_of_class == index])
    return {"accuracy": accuracy, "precision": precision}


def _count_of(classes: NDArray, values: NDArray) -> NDArray:
    """How often each of the sorted `classes` [K] occurs in `values`: int64 [K]."""
    values = np.sort(values)
    return np.searchsorted(values, classes, side="right") - np.searchsorted(values, classes, side="left")


def _mean(values: NDArray) -> float | None:
    """The mean as a plain float, None where there is nothing to average."""
    return float(values.mean()) if values.size else None


def _checked(**arrays: tuple[Any, int, int | None]) -> list[NDArray]:
    """The arrays as int64 after checks of shape, type, length and range."""
    checked: list[NDArray] = []
    for name, (values, low, high) in arrays.items():
        values = np.asarray(values)
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(
                f"{name}: an array of shape {list(values.shape)} and type {values.dtype}; legal is an integer vector [M]"
            )
        if checked and len(values) != len(checked[0]):
            raise ValueError(f"{name}: {len(values)} values beside {len(checked[0])} labels; legal is one for each sample")
        if values.size and (values.min() < low or (high is not None and values.max() > high)):
            legal = f"{low} to {high}" if high is not None else f"{low} and above"
            raise ValueError(f"{name}: values from {values.min()} to {values.max()}; legal is {legal}")
        checked.append(values.astype(np.int64))
    return checked
