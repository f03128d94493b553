"""The numbers behind the figures about classes and attributes, from stored predictions (numpy alone).

Axes: M samples, K classes, A attribute groups, G bins of classes along the tail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predictions = Mapping[str, NDArray[Any]]
"""`label, prediction, group, attribute`, integers [M]: see `analysis.inputs.runs.Run.predictions`."""


def tail_bins(counts: NDArray[np.integer], most: int) -> list[NDArray[np.int64]]:
    """The classes from the most to the least frequent in training, cut into at most `most` runs of nearly equal length.

    Args:
        counts: training samples [K]; classes of equal count keep their order.
        most: bins.
    """
    order = np.argsort(-np.asarray(counts, dtype=np.int64), kind="stable")
    return [part.astype(np.int64) for part in np.array_split(order, min(most, len(order)))]


def accuracy_table(predictions: Predictions, bins: list[NDArray[np.int64]], attributes: int) -> NDArray[np.float64]:
    """Accuracy, a fraction, of the samples of each class bin and attribute group: float64 [G + 1, A + 1].

    The last row is all classes together and the last column all samples, those without an attribute included. NaN where
    there is no sample. In a bin of several classes samples count alike, not classes.
    """
    label, correct = predictions["label"], predictions["label"] == predictions["prediction"]
    of_class = np.full(1 + max(int(values.max(initial=0)) for values in (label, *bins)), -1)
    for index, part in enumerate(bins):
        of_class[part] = index
    row, column = of_class[label], predictions["attribute"]
    table = np.full((len(bins) + 1, attributes + 1), np.nan)
    for g in range(len(bins) + 1):
        for a in range(attributes + 1):
            mask = ((row == g) if g < len(bins) else row >= -1) & ((column == a) if a < attributes else True)
            if mask.any():
                table[g, a] = correct[mask].mean()
    return table


def confusion(predictions: Predictions, classes: int) -> NDArray[np.float64]:
    """float64 [K, K]: of the samples of each true class (rows), the share predicted as each class; a class without
    samples is a row of 0.
    """
    label, prediction = predictions["label"], predictions["prediction"]
    known = prediction < classes
    counts = np.zeros((classes, classes))
    np.add.at(counts, (label[known], prediction[known]), 1)
    return counts / np.maximum(np.bincount(label, minlength=classes), 1)[:, None]


def most_confused(shares: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """At most `most` classes, in their order: those of the largest confusions between two classes, either way, taken
    one pair after the other.
    """
    off = shares.copy()
    np.fill_diagonal(off, 0)
    chosen: dict[int, None] = {}
    for flat in np.argsort(-off, axis=None, kind="stable"):
        true, predicted = divmod(int(flat), len(off))
        if off[true, predicted] == 0 or len(chosen.keys() | {true, predicted}) > most:
            break
        chosen |= {true: None, predicted: None}
    return np.array(sorted(chosen), dtype=np.int64)


def attribute_shares(weights: NDArray[np.float64], attributes: NDArray[np.integer], groups: int) -> NDArray[np.float64]:
    """float64 [A]: the share of a stream's draws that each attribute group has, among the samples that have an
    attribute.
    """
    mass = np.bincount(attributes[attributes >= 0], weights=weights[attributes >= 0], minlength=groups)
    shares: NDArray[np.float64] = mass / mass.sum()
    return shares


def flat_in_class(weights: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """float64 [N]: a stream with the same mass of each class as `weights`, but equal weights inside a class. What
    differs from it is what the environment does to attributes, apart from balancing classes.
    """
    count = np.bincount(labels)
    of_class: NDArray[np.float64] = np.bincount(labels, weights=weights) / np.maximum(count, 1)
    level: NDArray[np.float64] = of_class[labels]
    return level


def effective_size(weights: NDArray[np.float64]) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2, as a share of N: 1 for equal weights, 1/N where one sample
    has all.
    """
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))
