"""What a row scores, and the difference of two rows, over seeds and over test samples that both rows saw.

The scheme. Row X has n runs that differ in the seed; each scores something on M test samples, which were made from C
sources (clusters). Another training would give other numbers, and so would other sources. The variance of the
difference of the two means is estimated as

    V = K + max(0, S - E)

* K: of the mean over seeds of the differences, over sources. Of accuracies it is C / (C - 1) sum_c (T_c - D M_c)^2 /
  M^2, with T_c the sum over a source's M_c samples and D the difference: what resampling sources with replacement
  gives, without the resampling. Of any other measure it is the variance over resamples.
* S: of the means over seeds, the sum over both rows of (variance of a run's score over seeds) / n.
* E: the part of S that K holds already, since a run errs on samples of its own: the sum over both rows of the variance
  of (run, source) or (run, resample) residuals, as S and K are scaled.

Of one row alone it is the same with the one row's parts. A row of one run has no variance over seeds to see: against a
row of several it is taken to have theirs, so v / n becomes v / n + v in S, and in E alike.

Seeds of the two rows count as independent. Where one row's runs are made from the other's they come in pairs, and S and
E are those of the pairs' differences.

Intervals and p are of Student's t with Satterthwaite's degrees of freedom, but never more than the seeds have: where
few seeds happen to lie close together S is too small, and the many degrees of freedom of K would trust it. Without that
bound p below .0005 came up to five times too often where nothing differs. A percentile interval over three resampled
seeds holds the truth in three of four cases only, and with 1,000 resamples no p could pass a correction for 30 claims.

Source of the parts: Searle, Casella, McCulloch, "Variance Components" (1992), crossed designs; Satterthwaite,
Biometrics Bulletin 2 (1946).

Axes: S seeds, M samples, C sources, R resamples; D is C or R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.stats.bootstrap import LEVEL


class Scores(NamedTuple):
    """What a row's runs score, and how much of it hangs on the choice of test samples."""

    value_S: NDArray[np.float64]
    """Fractions."""
    beyond_SD: NDArray[np.float64]
    """What each source, or each resample, adds to a run's value; the sum of squares over D is the variance."""
    sources: int
    samples: int


class _Part(NamedTuple):
    """What varies on its own, one row's runs or pairs of runs: their mean, its part of K before squares, the spread."""

    mean: float
    beyond_D: NDArray[np.float64]
    of_seeds: float
    """Its part of S."""
    of_residuals: float
    """Its part of E."""
    runs: int


@dataclass(frozen=True)
class Difference:
    """The first row's mean score minus the second's, a fraction, and how sure it is."""

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


def accuracies(right_SM: NDArray[np.bool_], source_M: NDArray[np.integer]) -> Scores:
    """Return the accuracies of a row's runs.

    Args:
        right_SM: whether each run has each sample right, bool [S, M].
        source_M: numbers of the samples' sources, from 0, int [M].
    """
    samples = len(source_M)
    size_C = np.bincount(source_M)
    present = size_C > 0
    size_C = size_C[present]
    sources = len(size_C)
    sum_SC = np.stack([np.bincount(source_M, right)[present] for right in right_SM])
    value_S = right_SM.mean(axis=1)
    scale = math.sqrt(sources / (sources - 1)) if sources > 1 else 1.0
    return Scores(value_S, scale * (sum_SC - value_S[:, None] * size_C) / samples, sources, samples)


def resampled(value_S: NDArray[np.float64], replicate_SR: NDArray[np.floating], sources: int, samples: int) -> Scores:
    """Return any measure of a row's runs, with what they score on resamples.

    Args:
        value_S: what they score, float64 [S].
        replicate_SR: the same on resampled sources, floating [S, R], R two or more and without NaN.
        sources: of how many the samples are.
        samples: how many there are.
    """
    beyond_SR = replicate_SR - replicate_SR.mean(axis=1, dtype=np.float64, keepdims=True)
    return Scores(value_S, beyond_SR / math.sqrt(replicate_SR.shape[1] - 1), sources, samples)


def difference(first: Scores, second: Scores, paired: bool = False) -> Difference:
    """Compare two rows.

    Args:
        first: the first row's scores.
        second: the second's, on the same samples; without `paired` perhaps of another number of seeds.
        paired: whether runs of the same place belong together, since one was made from the other.
    """
    if not paired:
        return _estimate([first, second._replace(value_S=-second.value_S, beyond_SD=-second.beyond_SD)])
    value_S, beyond_SD = first.value_S - second.value_S, first.beyond_SD - second.beyond_SD
    return _estimate([first._replace(value_S=value_S, beyond_SD=beyond_SD)])


def mean_interval(scores: Scores) -> tuple[float, float]:
    """Return the 95 % interval of a row's mean over two seeds or more, within [0, 1]."""
    low, high = _estimate([scores]).interval
    return max(low, 0.0), min(high, 1.0)


def _estimate(scores: list[Scores]) -> Difference:
    """Estimate the sum of the means of scores whose runs are independent."""
    parts = [_part(each) for each in scores]
    # A row of one run, which has 0 here, takes the other's variance: v / n + v = (1 + n) v / n.
    if any(part.runs == 1 for part in parts):
        parts = [
            part._replace(of_seeds=(1 + part.runs) * part.of_seeds, of_residuals=(1 + part.runs) * part.of_residuals)
            for part in parts
        ]
    sources = scores[0].sources
    over_sources = float(np.square(sum(part.beyond_D for part in parts)).sum())
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
        samples=scores[0].samples,
        variance=variance,
        of_samples=max(0.0, over_sources - residuals),
        freedom=min(float(sum(of_seeds)), satterthwaite),
    )


def _part(scores: Scores) -> _Part:
    runs = len(scores.value_S)
    # Exact sums, so that the same runs in another order give the same bits, and equal rows differ by 0.
    mean_D = np.array([math.fsum(beyond_S) for beyond_S in scores.beyond_SD.T]) / runs
    spread = float(scores.value_S.var(ddof=1)) / runs if runs > 1 else 0.0
    residual = float(np.square(scores.beyond_SD - mean_D).sum()) / max(runs - 1, 1) / runs
    return _Part(math.fsum(scores.value_S) / runs, mean_D, spread, residual, runs)


def quantile(share: float, freedom: float) -> float:
    """Return Student's t below which `share` of the distribution lies."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
