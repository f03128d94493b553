"""The streams of a batch: a stream is only a weight for each training sample. numpy only.

Axes: K classes, N samples, S streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def named_weights(name: str, labels: np.ndarray, class_counts: np.ndarray) -> np.ndarray | None:
    """Return float64 [N], or None for equal weights.

    * `uniform`, and an `environment` before it is built: every sample has the same weight.
    * `class_balanced`: every class has the same weight, 1 / n_c a sample (the class-aware sampling of Kang et al.,
      ICLR 2020, for cRT and LWS).
    * `class_inverse`: a class as often as it is rare, (n_max / n_c) / n_c a sample (the reversed sampler of BBN, Zhou
      et al., CVPR 2020, equation 4).
    """
    if name in ("uniform", "environment"):
        return None
    per_class: np.ndarray = 1 / np.maximum(class_counts, 1)
    if name == "class_inverse":
        per_class = per_class * class_counts.max() / np.maximum(class_counts, 1)
    else:
        assert name == "class_balanced", name
    weights: np.ndarray = per_class[labels]
    return weights


def first_weights(names: Sequence[str], labels: np.ndarray, class_counts: np.ndarray) -> list[np.ndarray | None]:
    """Return the weights of all streams before any environment is built."""
    return [named_weights(name, labels, class_counts) for name in names]
