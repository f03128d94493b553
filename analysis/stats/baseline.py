"""How sure a row's number is, and its test against the row's baseline on the same test samples.

A row's baseline is the row that the table file calls its twin: mostly the same method without IFL.

With one run a row a number hangs on the choice of test samples, and not on what another training would give: its
interval is from the 2.5th to the 97.5th percentile of the resamples. Those of the calibration error, which resampling
raises, are moved so that their mean is the run's number. For accuracies the test is McNemar's exact test, that is the
two-sided binomial test on the samples that one has right and the other has not. For all else it is the paired
bootstrap, both runs in the same resamples: p = 2 (1 + the smaller of how many differences are <= 0 and how many are
>= 0) / (R + 1), at most 1.

With more, intervals and tests are Student's t over seeds and test samples (`analysis.stats.crossed`), for accuracies
those of the verdicts. No p is corrected for the number of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.stats import crossed
from analysis.stats.bootstrap import ALPHA, FEWEST_SEEDS, Key, ResampledRun, interval


@dataclass(frozen=True)
class BaselineTest:
    """A cell's row against its baseline on the same test samples."""

    baseline: str
    """The baseline's label."""
    difference: float
    """This row minus its baseline, a fraction, over the runs that were compared."""
    low: float
    high: float
    """95 % interval of the difference."""
    p: float
    method: str
    """`McNemar exact`, `paired bootstrap` or `t test`."""
    seeds: tuple[int, ...]
    """Of the row's runs that were compared; `baseline_seeds`: of its baseline's."""
    baseline_seeds: tuple[int, ...]
    samples: int
    """How many test samples the subset has."""
    gained: int | None = None
    """Samples that this row has right and its baseline has not; `lost`: the other way. Only for McNemar's test."""
    lost: int | None = None

    @property
    def sign(self) -> int:
        """1 above the baseline, -1 below, 0 equal."""
        return (self.difference > 0) - (self.difference < 0)

    @property
    def fewest_seeds(self) -> int:
        """How many seeds the row with fewer of them has."""
        return min(len(self.seeds), len(self.baseline_seeds))

    @property
    def has_seeds(self) -> bool:
        """Whether both rows have as many seeds as a mark needs."""
        return self.fewest_seeds >= FEWEST_SEEDS

    @property
    def sure(self) -> bool:
        """Whether the row is surely above or below: over enough seeds, with p below `ALPHA`."""
        return self.has_seeds and self.p < ALPHA and self.sign != 0


def mean_interval(runs: Sequence[ResampledRun], key: Key) -> tuple[float, float] | None:
    """Return the 95 % interval of a row's mean.

    None where a run lacks the number, where fewer than two resamples have it of all runs, or the test samples differ.
    """
    there_R = _compared_on(runs, key)
    if there_R is None:
        return None
    if len(runs) > 1:
        return crossed.mean_interval(_scores(runs, key, there_R))
    values_R = runs[0].values[key]
    if key[1] == "ece":  # samples drawn twice leave fewer others in a bin, whose error is the larger
        values_R = np.maximum(0.0, values_R - values_R[there_R].mean() + runs[0].points[key])
    return interval(values_R)


def compare_with_baseline(
    baseline: str, first: Sequence[ResampledRun], second: Sequence[ResampledRun], paired: bool, key: Key
) -> BaselineTest | None:
    """Test a row against its baseline.

    Args:
        baseline: its label.
        first: the row's runs, one or more.
        second: the baseline's.
        paired: whether runs of the same place belong together, since one was made from the other.
        key: the number to compare.

    Returns:
        None where a run lacks the number, where fewer than two resamples have it of all runs, or the test samples
        differ.
    """
    every = [*first, *second]
    there_R = _compared_on(every, key)
    if there_R is None:
        return None
    means = [math.fsum(run.points[key] for run in side) / len(side) for side in (first, second)]
    about: dict[str, Any] = {
        "baseline": baseline,
        "difference": means[0] - means[1],
        "seeds": tuple(run.seed for run in first),
        "baseline_seeds": tuple(run.seed for run in second),
        "samples": int(every[0].samples.inside[key[0]].sum()),
    }
    if len(every) > 2:
        found = crossed.difference(_scores(first, key, there_R), _scores(second, key, there_R), paired)
        low, high = found.interval
        return BaselineTest(**about, low=low, high=high, p=found.p_equal(), method="t test")
    differences = (first[0].values[key] - second[0].values[key])[there_R]
    low, high = interval(differences) or (math.nan, math.nan)
    if key[1] != "accuracy":
        return BaselineTest(**about, low=low, high=high, p=bootstrap_p(differences), method="paired bootstrap")
    inside = every[0].samples.inside[key[0]]
    this, other = first[0].right & inside, second[0].right & inside
    gained, lost = int((this & ~other).sum()), int((other & ~this).sum())
    about |= {"gained": gained, "lost": lost}
    return BaselineTest(**about, low=low, high=high, p=mcnemar(gained, lost), method="McNemar exact")


def _compared_on(runs: Sequence[ResampledRun], key: Key) -> NDArray[np.bool_] | None:
    """Say on which resamples all have the number, [R].

    None where these are fewer than two, from which no spread is seen, or where the test samples differ.
    """
    if len({run.samples.digest for run in runs}) != 1 or not all(key in run.values for run in runs):
        return None
    there_R: NDArray[np.bool_] = ~np.isnan(np.sum([run.values[key] for run in runs], axis=0))
    return there_R if there_R.sum() > 1 else None


def _scores(runs: Sequence[ResampledRun], key: Key, there_R: NDArray[np.bool_]) -> crossed.Scores:
    """Return what runs on the same samples score, by the resamples of `there_R`."""
    inside = runs[0].samples.inside[key[0]]
    source_M = runs[0].samples.source[inside]
    if key[1] == "accuracy":
        return crossed.accuracies(np.stack([run.right[inside] for run in runs]), source_M)
    value_S = np.array([run.points[key] for run in runs])
    replicate_SR = np.stack([run.values[key][there_R] for run in runs])
    return crossed.resampled(value_S, replicate_SR, len(np.unique(source_M)), len(source_M))


def bootstrap_p(differences: NDArray[np.floating]) -> float:
    """Return the two-sided p of R resampled differences, NaN left out: at least 2 / (R + 1), 1 where there is none."""
    differences = differences[~np.isnan(differences)]
    below, above = int((differences <= 0).sum()), int((differences >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (len(differences) + 1))


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p of McNemar's test, a binomial test.

    Its hypothesis: of n = gained + lost samples that only one of two has right, each is as likely the first's as the
    second's. Source: McNemar, Psychometrika 12 (1947).
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))
