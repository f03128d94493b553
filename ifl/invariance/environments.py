"""Environments 2..n of IFL: weights for the training samples, as a pure function of how sure the network was of each.

Source: ECCV 2022 paper, section 4 and algorithm 1; the exact form is the reference implementation's. Within a class
the samples that the network is least sure of gain weight, so that another mix of attributes comes forward. numpy only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np


def class_weights(scores: np.ndarray, scale: float) -> np.ndarray:
    """Weigh the k samples of one class that have scores; the weights add up to 1.

    1. fewer than 5 samples: equal weights;
    2. a = (p - min p) / (max(p - min p) + 1e-9);  3. w = |1 - a| + 1e-5;
    4. r = mean of the largest int(.2 k) w / mean of the smallest int(.8 k) w + 1e-5;
    5. beta = ln(scale) / ln(r), clamped to [1, 10];  6. w <- w**beta + 1e-12, divided by the sum.

    Args:
        scores: float64 [k], mean p(y|x) of each sample.
        scale: wanted ratio r, above 1.
    """
    k = len(scores)
    if k < 5:
        return np.full(k, 1 / k)
    rise = scores - scores.min()
    weights = np.abs(1 - rise / (rise.max() + 1e-9)) + 1e-5
    ordered = np.sort(weights)
    ratio = ordered[-int(0.2 * k) :].mean() / ordered[: int(0.8 * k)].mean() + 1e-5
    beta = np.clip(np.log(scale) / np.log(ratio), 1, 10)
    weights = weights**beta + 1e-12
    normalised: np.ndarray = weights / weights.sum()
    return normalised


def environment_weights(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    scale: float,
    class_balanced: bool = True,
    unseen: Literal["zero", "class_mean"] = "zero",
) -> np.ndarray:
    """Return float64 [N]: the weights of one environment.

    Args:
        scores: float64 [N], NaN where a sample was not drawn in the scoring epoch.
        labels: int64 [N].
        scale: see `class_weights`.
        class_balanced: each class that was drawn has mass 1; otherwise a class has the mass of its size.
        unseen: weight of a sample that was not drawn: 0, or its class's mean weight.

    A class that was not drawn has mass 0 under `zero`. Under `class_mean` it has the mass that equal weights give it.
    """
    assert scores.shape == labels.shape
    weights = np.zeros(len(scores))
    order = np.argsort(labels, kind="stable")
    edges = np.flatnonzero(np.diff(labels[order])) + 1
    for members in np.split(order, edges):
        seen = members[~np.isnan(scores[members])]
        if len(seen):
            weights[seen] = class_weights(scores[seen], scale)
        if unseen == "class_mean" and len(seen) < len(members):
            missing = members[np.isnan(scores[members])]
            weights[missing] = 1 / len(seen) if len(seen) else 1 / len(members)
            weights[members] /= weights[members].sum()
        if not class_balanced:
            weights[members] *= len(members)
    return weights


def scales(environments: int, sample_scale: float) -> list[float]:
    """Return the scale of each of environments 2..n, rising to `sample_scale`.

    It is 2 and 4 for three environments, as in the reference. A scale of 1 or less would ask for less skew than equal
    weights have, so it stops just above.
    """
    return [max(sample_scale * e / (environments - 1), 1 + 1e-6) for e in range(1, environments)]


def stream_weights(
    environments: int,
    scores: np.ndarray | None,
    labels: np.ndarray,
    *,
    sample_scale: float,
    class_balanced: bool,
    unseen: Literal["zero", "class_mean"],
) -> list[np.ndarray | None]:
    """Weigh all environments: None (uniform) for the first and, before anything was scored, for all."""
    if scores is None:
        return [None] * environments
    return [None] + [
        environment_weights(scores, labels, scale=s, class_balanced=class_balanced, unseen=unseen)
        for s in scales(environments, sample_scale)
    ]
