"""The difference of two rows' accuracies, over seeds and over test samples, where both rows saw the same samples.

The scheme. Row X has n runs that differ in the seed; each is right or not on each of M test samples, which were made
from C sources (clusters). Another training would give other numbers, and so would other sources. The variance of the
difference of the two means is estimated as

    V = K + max(0, S - E)

* K: of the mean over seeds of the differences, over sources: C / (C - 1) sum_c (T_c - D M_c)^2 / M^2, with T_c the sum
  over a source's M_c samples and D the difference. It is what resampling sources with replacement gives, without
  the resampling.
* S: of the means over seeds, the sum over both rows of (variance of a run's accuracy over seeds) / n.
* E: the part of S that K holds already, since a run errs on samples of its own: the sum over both rows of the variance
  of (run, source) residuals, as S and K are scaled.

Seeds of the two rows count as independent. Where one row's runs are made from the other's they come in pairs, and S and
E are those of the pairs' differences.

Intervals and p are of Student's t with Satterthwaite's degrees of freedom, but never more than the seeds have: where
few seeds happen to lie close together S is too small, and the many degrees of freedom of K would trust it. Without that
bound p below .0005 came up to five times too often where nothing differs. A percentile interval over three resampled
seeds holds the truth in three of four cases only, and with 1,000 resamples no p could pass a correction for 30 claims.

Source of the parts: Searle, Casella, McCulloch, "Variance Components" (1992), crossed designs; Satterthwaite,
Biometrics Bulletin 2 (1946).

Axes: S seeds, M samples, C sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.stats.bootstrap import LEVEL


class _Part(NamedTuple):
    """What varies on its own, one row's runs or pairs of runs: by source what is beyond the mean, and the spread."""

    mean: float
    beyond_C: NDArray[np.float64]
    """(T_c - mean M_c) / M of the mean over seeds."""
    of_seeds: float
    """Its part of S."""
    of_residuals: float
    """Its part of E."""
    runs: int


@dataclass(frozen=True)
class Difference:
    """The first row's mean accuracy minus the second's, a fraction, and how sure it is."""

    value: float
    runs: tuple[int, ...]
    """Of the first row and of the second; of pairs their number alone."""
    sources: int
    samples: int
    variance: float
    """V; of one run a row what the choice of test samples does alone."""
    of_samples: float
    """The part of V that more seeds do not lessen."""
    freedom: float
    """Satterthwaite's degrees of freedom, at most those of the seeds."""

    @property
    def paired(self) -> bool:
        """Whether runs were compared pair by pair."""
        return len(self.runs) == 1

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.variance)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        half = quantile(0.5 + LEVEL / 2, self.freedom) * self.error
        return self.value - half, self.value + half

    def p_equal(self) -> float:
        """Return the two-sided p of a true difference of 0."""
        return min(1.0, 2 * self._tail(abs(self.value)))

    def p_reaches(self, bound: float) -> float:
        """Return the one-sided p of a true difference of `bound` or more: small where it is surely below."""
        return self._tail(bound - self.value)

    def _tail(self, distance: float) -> float:
        """Return the chance that an estimate lies as far from the truth, on one side."""
        from scipy.special import stdtr

        if self.variance == 0:
            return float(distance <= 0)
        return float(stdtr(self.freedom, -distance / self.error))


def difference(
    first_SM: NDArray[np.bool_], second_SM: NDArray[np.bool_], source_M: NDArray[np.integer], paired: bool = False
) -> Difference:
    """Compare two rows.

    Args:
        first_SM: whether each run of the first row has each sample right, bool [S, M].
        second_SM: the same of the second row; without `paired` perhaps of another number of seeds.
        source_M: numbers of the samples' sources, from 0, int [M].
        paired: whether runs of the same place belong together, since one was made from the other.
    """
    signed = first_SM.astype(np.int8), -second_SM.astype(np.int8)
    parts = [_part(each, source_M) for each in ([signed[0] + signed[1]] if paired else signed)]
    beyond_C = sum(part.beyond_C for part in parts)
    sources = len(parts[0].beyond_C)
    over_sources = _scale(sources) * float(np.square(beyond_C).sum())
    residuals = sum(part.of_residuals for part in parts)
    variance = over_sources + max(0.0, sum(part.of_seeds for part in parts) - residuals)
    squares = sum(part.of_seeds**2 / (part.runs - 1) for part in parts if part.runs > 1)
    squares += over_sources**2 / max(sources - 1, 1)
    # Of parts that are all counted it is never less than the least of theirs; where S - E is cut off it could be.
    of_seeds = [part.runs - 1 for part in parts if part.runs > 1] or [max(sources - 1, 1)]
    satterthwaite = max(float(min(of_seeds)), variance**2 / squares if squares else 0.0)
    return Difference(
        value=sum(part.mean for part in parts),
        runs=tuple(part.runs for part in parts),
        sources=sources,
        samples=len(source_M),
        variance=variance,
        of_samples=max(0.0, over_sources - residuals),
        freedom=min(float(sum(of_seeds)), satterthwaite),
    )


def _part(signed_SM: NDArray[np.int8], source_M: NDArray[np.integer]) -> _Part:
    runs, samples = signed_SM.shape
    size_C = np.bincount(source_M)
    present = size_C > 0
    size_C = size_C[present]
    sums = [np.bincount(source_M, signed)[present] for signed in signed_SM]
    mean_S = signed_SM.mean(axis=1)
    beyond_SC = (np.stack(sums) - mean_S[:, None] * size_C) / samples
    mean_C = beyond_SC.mean(axis=0)
    spread = float(mean_S.var(ddof=1)) / runs if runs > 1 else 0.0
    residual = float(np.square(beyond_SC - mean_C).sum()) / max(runs - 1, 1) / runs
    return _Part(float(mean_S.mean()), mean_C, spread, _scale(len(size_C)) * residual, runs)


def _scale(sources: int) -> float:
    return sources / (sources - 1) if sources > 1 else 1.0


def quantile(share: float, freedom: float) -> float:
    """Return Student's t below which `share` of the distribution lies."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
