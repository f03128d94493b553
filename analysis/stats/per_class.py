"""The numbers behind the figures about classes and attributes, from stored predictions, with numpy only.

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
    """Cut the classes, from the most to the least frequent in training, into at most `most` bins of nearly equal size.

    Args:
        counts: training samples [K]; classes of equal count keep their order.
        most: bins.
    """
    order = np.argsort(-np.asarray(counts, dtype=np.int64), kind="stable")
    return [part.astype(np.int64) for part in np.array_split(order, min(most, len(order)))]


def accuracy_table(predictions: Predictions, bins: list[NDArray[np.int64]], attributes: int) -> NDArray[np.float64]:
    """Compute the accuracy, a fraction, of the samples of each class bin and attribute group.

    In a bin of several classes each sample has the same weight, and not each class.

    Returns:
        float64 [G + 1, A + 1]: the last row is all classes together, and the last column all samples, with those that
        have no attribute. NaN where there is no sample.
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
    """Compute the share of each true class (rows) that is predicted as each class.

    Returns:
        float64 [K, K]; a class without samples is a row of 0.
    """
    label, prediction = predictions["label"], predictions["prediction"]
    known = prediction < classes
    counts = np.zeros((classes, classes))
    np.add.at(counts, (label[known], prediction[known]), 1)
    return counts / np.maximum(np.bincount(label, minlength=classes), 1)[:, None]


def most_confused(shares: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Choose the classes of the largest confusions between two classes, either way, taken one pair after the other.

    Args:
        shares: as `confusion` gives them.
        most: how many classes there may be.

    Returns:
        Their labels, ascending.
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
    """Compute the share of a stream's draws that each attribute group has, among samples that have an attribute.

    Returns:
        float64 [A].
    """
    mass = np.bincount(attributes[attributes >= 0], weights=weights[attributes >= 0], minlength=groups)
    shares: NDArray[np.float64] = mass / mass.sum()
    return shares


def flat_in_class(weights: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Give each class the mass that it has in `weights`, with equal weights inside the class.

    Where `weights` differ from this, the environment does something to attributes, apart from balancing classes.

    Returns:
        float64 [N].
    """
    count = np.bincount(labels)
    of_class: NDArray[np.float64] = np.bincount(labels, weights=weights) / np.maximum(count, 1)
    level: NDArray[np.float64] = of_class[labels]
    return level


def effective_size(weights: NDArray[np.float64]) -> float:
    """Return Kish's effective sample size (sum w)^2 / sum w^2 as a share of N.

    It is 1 for equal weights, and 1/N where one sample has all.
    """
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))
