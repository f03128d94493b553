"""How sure a number is: intervals by bootstrap, and a test of a row against its baseline on the same test samples.

A row's baseline is the row that the table file calls its twin: mostly the same method without IFL.

The scheme. A test set of M samples is drawn again R = 1,000 times, M samples with replacement and equal chances. All
runs of a test set of M samples are scored on the *same* resamples, so that two runs differ in a resample only where
they differ in their predictions. Where a cell has several seeds, each resample also draws as many seeds with
replacement, and averages those. An interval is from the 2.5th to the 97.5th percentile of the R values. With one seed
it therefore holds what the choice of test samples does, and not what another training would.

The test. For the accuracy of one pair of runs: McNemar's exact test, that is the two-sided binomial test on the
samples that one has right and the other has not. Otherwise the paired bootstrap: both rows in the same resamples (and
the same draws of their common seeds), p = 2 (1 + the smaller of how many differences are <= 0 and how many are >= 0)
/ (R + 1), at most 1. No p is corrected for the number of cells.

Everything is a pure function of the predictions and of `SEED`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.inputs.runs import Run, scored_predictions
from ifl.metrics import SUBSETS

SEED = 0
RESAMPLES = 1000
LEVEL = 0.95
ALPHA = 0.05
"""Below this p a difference is marked."""
FEWEST_SEEDS = 3
"""A difference over fewer seeds is not marked, whatever its p: another training might turn it round."""

Key = tuple[str, str]
"""(subset, metric)."""


@dataclass(frozen=True)
class BaselineTest:
    """A cell's row against its baseline on the same test samples."""

    baseline: str
    """The baseline's label."""
    difference: float
    """This row minus its baseline, a fraction, over the seeds that both have."""
    low: float
    high: float
    """95 % interval of the difference."""
    p: float
    method: str
    """`McNemar exact` or `paired bootstrap`."""
    seeds: tuple[int, ...]
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
    def significant(self) -> bool:
        return self.p < ALPHA

    @property
    def has_seeds(self) -> bool:
        """Whether it is over as many seeds as a mark needs."""
        return len(self.seeds) >= FEWEST_SEEDS


@dataclass
class _ResampledRun:
    """What the resamples keep of a run's predictions on one split; the predictions themselves are read again when
    asked for more.
    """

    samples: str
    """Digest of what the test samples are: id, label, group, attribute."""
    right: NDArray[np.bool_]
    """[M]."""
    points: dict[Key, float] = field(default_factory=dict)
    values: dict[Key, NDArray[np.float32]] = field(default_factory=dict)
    """[R] each."""


class Resamples:
    """The resamples of test sets, and what the runs score on them; computed when asked for, once.

    Args:
        number: R.
        seed: of the draws.
    """

    def __init__(self, number: int = RESAMPLES, seed: int = SEED) -> None:
        self.number, self.seed = number, seed
        self._weights: dict[int, NDArray[np.unsignedinteger]] = {}
        self._known: dict[tuple[str, str, str], _ResampledRun] = {}
        self._lacks: dict[tuple[str, str, str], set[Key]] = {}  # keys that a run's predictions cannot give
        # Digest of the samples -> true samples by attribute, class and resample.
        self._true: dict[str, NDArray[np.unsignedinteger]] = {}
        self._inside: dict[str, dict[str, NDArray[np.bool_]]] = {}  # digest of the samples -> subset -> [M]

    def weights(self, samples: int) -> NDArray[np.unsignedinteger]:
        """Count how often each resample holds each sample of a test set of M `samples`.

        Returns:
            Unsigned [M, R]; every column sums to M.
        """
        if samples not in self._weights:
            rng = np.random.default_rng((self.seed, samples))
            # The sum over samples is M, so a type that holds M holds every count.
            weights = np.empty((self.number, samples), np.uint16 if samples < 2**16 else np.uint32)
            for row in weights:
                row[:] = np.bincount(rng.integers(0, samples, samples), minlength=samples)
            self._weights[samples] = np.ascontiguousarray(weights.T)
        return self._weights[samples]

    def seeds(self, runs: int) -> NDArray[np.int64]:
        """Draw which of `runs` runs each resample averages: [runs, R]."""
        return (
            np.random.default_rng((self.seed, runs, 1)).integers(0, runs, (runs, self.number))
            if runs > 1
            else np.zeros((1, self.number), np.int64)
        )

    def values(self, run: Run, select: str, split: str, wanted: tuple[Key, ...]) -> dict[Key, NDArray[np.float32]]:
        """Score a run on the resamples.

        Ask for all of a run's keys at once: its predictions are read for each call that wants something new.

        Returns:
            float32 [R] for each of `wanted` that the run has; NaN where a resample has no sample of the subset.

        Raises:
            ValueError: the predictions cannot be read.
        """
        known = self._resampled_run(run, select, split, wanted)
        return {key: known.values[key] for key in wanted if key in known.values}

    def samples(self, run: Run, select: str, split: str) -> tuple[str, int]:
        """Return a digest of what the test samples of a run's predictions are, and how many there are.

        Raises:
            ValueError: the predictions cannot be read.
        """
        known = self._resampled_run(run, select, split, ())
        return known.samples, len(known.right)

    def averaged(self, runs: list[Run], select: str, split: str, key: Key) -> NDArray[np.float32] | None:
        """Average over resampled seeds on resampled test samples: [R]; None where a run lacks the number."""
        values = [self.values(run, select, split, (key,)).get(key) for run in runs]
        there = [value for value in values if value is not None]
        if not there or len(there) < len(values):
            return None
        drawn = np.take_along_axis(np.stack(there), self.seeds(len(runs)), axis=0)
        means: NDArray[np.float32] = drawn.mean(axis=0)
        return means

    def compare_with_baseline(
        self, baseline: str, pairs: list[tuple[Run, Run]], select: str, split: str, key: Key
    ) -> BaselineTest | None:
        """Test a row against its baseline.

        Args:
            baseline: its label.
            pairs: runs of the same seed, this row's and the baseline's.
            select: last or best.
            split: the test split.
            key: the number to compare.

        Returns:
            None where a run has no number for `key`, or where the test samples differ.
        """
        sides = [run for run, _ in pairs], [other for _, other in pairs]
        known = [[self._resampled_run(run, select, split, (key,)) for run in side] for side in sides]
        replicates = [self.averaged(side, select, split, key) for side in sides]
        if (
            len({each.samples for side in known for each in side}) != 1
            or replicates[0] is None
            or replicates[1] is None
        ):
            return None
        differences = replicates[0] - replicates[1]
        means = [math.fsum(each.points[key] for each in side) / len(side) for side in known]
        low, high = interval(differences) or (math.nan, math.nan)
        inside = self._inside[known[0][0].samples][key[0]]
        about: dict[str, Any] = {
            "baseline": baseline,
            "difference": means[0] - means[1],
            "low": low,
            "high": high,
            "seeds": tuple(run.seed for run in sides[0]),
            "samples": int(inside.sum()),
        }
        if key[1] == "accuracy" and len(pairs) == 1:
            this, other = known[0][0].right & inside, known[1][0].right & inside
            gained, lost = int((this & ~other).sum()), int((other & ~this).sum())
            return BaselineTest(**about, p=mcnemar(gained, lost), method="McNemar exact", gained=gained, lost=lost)
        return BaselineTest(**about, p=bootstrap_p(differences), method="paired bootstrap")

    def _resampled_run(self, run: Run, select: str, split: str, wanted: tuple[Key, ...]) -> _ResampledRun:
        place = str(run.path), select, split
        known = self._known.get(place)
        new = tuple(key for key in wanted if known is None or key not in known.values)
        if known is None or (new and not set(new) <= self._lacks.get(place, set())):
            arrays = run.predictions(select, split)
            scored = scored_predictions(arrays)
            if known is None:
                said = hashlib.sha256(json.dumps([len(scored.label), "id" in arrays]).encode())
                for name in ("id", "label", "group", "attribute"):
                    said.update(np.ascontiguousarray(arrays.get(name, ()), np.int64).tobytes())
                known = self._known[place] = _ResampledRun(said.hexdigest(), scored.right)
                self._inside.setdefault(
                    known.samples, {subset: scored.inside(subset) for subset in (*SUBSETS, "overall_a")}
                )
            weights = self.weights(len(scored.label))
            if known.samples not in self._true:
                self._true[known.samples] = scored.true_counts(weights)
            found = scored.scores(weights, new, self._true[known.samples])
            known.values |= {key: value.astype(np.float32) for key, value in found.items()}
            known.points |= {key: float(value[0]) for key, value in scored.scores(wanted=new).items()}
            self._lacks.setdefault(place, set()).update(set(new) - set(found))
        return known


def interval(values: NDArray[np.floating]) -> tuple[float, float] | None:
    """Return the 2.5th and 97.5th percentile of R values, NaN left out; None where all are NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [50 - 50 * LEVEL, 50 + 50 * LEVEL])
    return float(low), float(high)


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
    n, fewer = gained + lost, min(gained, lost)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(fewer + 1)
    terms = log_factorial[n] - log_factorial[k] - log_factorial[n - k] - n * math.log(2)
    return min(1.0, 2 * float(np.exp(terms).sum()))
