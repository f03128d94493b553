"""Resamples of the test samples, and what runs score on them.

The scheme. A test set whose M samples were made from C sources is drawn again R = 1,000 times: C sources with
replacement and equal chances, each with all of its samples. Where every sample has its own source these are M samples.
All runs of a test set are scored on the *same* resamples, so that two runs differ in a resample only where they differ
in their predictions. The sources are those that the predictions of any run say; where none does, each sample counts as
one.

Everything is a pure function of the predictions and of `SEED`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.inputs.runs import Run, scored_predictions
from ifl.metrics import SUBSETS, ScoredPredictions

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
class SampleSet:
    """The test samples of runs that were tested on the same."""

    digest: str
    """Of each sample's id, label, group and attribute."""
    source: NDArray[np.int64]
    """Numbers of the samples' sources, from 0, [M]; counting from 0 where each sample has its own."""
    inside: dict[str, NDArray[np.bool_]]
    """Which samples a subset holds, [M] each."""
    sources_known: bool = True
    """Whether any run says the sources; else each sample counts as one."""


@dataclass
class ResampledRun:
    """What is kept of a run's predictions on one split, which are read again when asked for more."""

    seed: int
    samples: SampleSet
    right: NDArray[np.bool_]
    """[M]."""
    points: dict[Key, float] = field(default_factory=dict)
    """What it scores, a fraction each; `values`: on the resamples."""
    values: dict[Key, NDArray[np.float32]] = field(default_factory=dict)
    """[R] each; NaN where a resample has no sample of the subset."""


class Resamples:
    """The resamples of test sets, and what the runs score on them; computed when asked for, once.

    Args:
        number: R.
        seed: of the draws.
    """

    def __init__(self, number: int = RESAMPLES, seed: int = SEED) -> None:
        self.number, self.seed = number, seed
        self._known: dict[tuple[str, str, str], ResampledRun] = {}
        self._lacks: dict[tuple[str, str, str], set[Key]] = {}  # keys that a run's predictions cannot give
        # By digest of the samples: what they are, their weights, true samples by attribute, class and resample.
        self._samples: dict[str, SampleSet] = {}
        self._weights: dict[str, NDArray[np.unsignedinteger]] = {}
        self._true: dict[str, NDArray[np.unsignedinteger]] = {}

    def weights(self, source_M: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """Count how often each resample holds each sample of a test set.

        Args:
            source_M: numbers of the samples' sources, from 0 and without a gap, int [M].

        Returns:
            Unsigned [M, R]: samples of one source have the same, and over sources every column sums to C.
        """
        size_C = np.bincount(source_M)
        sources = len(size_C)
        rng = np.random.default_rng((self.seed, sources))
        # A type that holds the sum over samples holds every count.
        most = sources * int(size_C.max(initial=0))
        weights_RM = np.empty((self.number, len(source_M)), np.uint16 if most < 2**16 else np.uint32)
        for row in weights_RM:
            row[:] = np.bincount(rng.integers(0, sources, sources), minlength=sources)[source_M]
        return np.ascontiguousarray(weights_RM.T)

    def seeds(self, runs: int) -> NDArray[np.int64]:
        """Draw which of `runs` runs each resample averages: [runs, R]."""
        return (
            np.random.default_rng((self.seed, runs, 1)).integers(0, runs, (runs, self.number))
            if runs > 1
            else np.zeros((1, self.number), np.int64)
        )

    def averaged(self, runs: list[Run], select: str, split: str, key: Key) -> NDArray[np.float32] | None:
        """Average over resampled seeds on resampled test samples: [R]; None where a run lacks the number.

        Percentiles of these are too narrow over few seeds.
        """
        values = [self.of_run(run, select, split, (key,)).values.get(key) for run in runs]
        there = [value for value in values if value is not None]
        if not there or len(there) < len(values):
            return None
        drawn = np.take_along_axis(np.stack(there), self.seeds(len(runs)), axis=0)
        means: NDArray[np.float32] = drawn.mean(axis=0)
        return means

    def of_run(self, run: Run, select: str, split: str, wanted: tuple[Key, ...] = ()) -> ResampledRun:
        """Score a run on the resamples.

        Ask for all of a run's keys at once: its predictions are read for each call that wants something new.

        A run that is the first to say the sources of its samples changes what all runs on them score: what was kept of
        them is forgotten. So call this for every run, without `wanted`, before any number is taken.

        Args:
            run: the run.
            select: last or best.
            split: the test split.
            wanted: the numbers; those that the run lacks are left out.

        Raises:
            ValueError: the predictions cannot be read.
        """
        place = str(run.path), select, split
        known = self._known.get(place)
        new = tuple(key for key in wanted if known is None or key not in known.values)
        if known is None or (new and not set(new) <= self._lacks.get(place, set())):
            arrays = run.predictions(select, split)
            scored = scored_predictions(arrays)
            if known is None:
                samples = self._sample_set(arrays, scored)
                known = self._known[place] = ResampledRun(run.seed, samples, scored.right)
            if new:
                self._score(known, scored, new)
                self._lacks.setdefault(place, set()).update(set(new) - set(known.values))
        return known

    def _score(self, known: ResampledRun, scored: ScoredPredictions, new: tuple[Key, ...]) -> None:
        digest = known.samples.digest
        if digest not in self._weights:
            self._weights[digest] = self.weights(known.samples.source)
            self._true[digest] = scored.true_counts(self._weights[digest])
        found = scored.scores(self._weights[digest], new, self._true[digest])
        known.values |= {key: value.astype(np.float32) for key, value in found.items()}
        known.points |= {key: float(value[0]) for key, value in scored.scores(wanted=new).items()}

    def _sample_set(self, arrays: Mapping[str, NDArray[Any]], scored: ScoredPredictions) -> SampleSet:
        """Return what a run's test samples are, once for all runs on the same."""
        said = hashlib.sha256(json.dumps([len(scored.label), "id" in arrays]).encode())
        for name in ("id", "label", "group", "attribute"):
            said.update(np.ascontiguousarray(arrays.get(name, ()), np.int64).tobytes())
        digest = said.hexdigest()
        source_M = _sources(arrays)
        if digest not in self._samples:
            inside = {subset: scored.inside(subset) for subset in (*SUBSETS, "overall_a")}
            own = np.arange(len(scored.label))
            self._samples[digest] = SampleSet(digest, own, inside, sources_known=False)
        if source_M is not None and not self._samples[digest].sources_known:
            self._samples[digest] = replace(self._samples[digest], source=source_M, sources_known=True)
            # What was scored without the sources is not true any more.
            self._known = {place: run for place, run in self._known.items() if run.samples.digest != digest}
            self._weights.pop(digest, None)
            self._true.pop(digest, None)
        return self._samples[digest]


def _sources(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.int64] | None:
    """Return the numbers, from 0, of the sources of a run's test samples, int64 [M]; None where they are not stored.

    Where each sample has its own, they count as the samples stand.
    """
    samples, stored = len(arrays["label"]), arrays.get("source", ())
    if len(stored) != samples:
        return None
    number, source_M = np.unique(stored, return_inverse=True)
    return source_M if len(number) < samples else np.arange(samples)


def interval(values: NDArray[np.floating]) -> tuple[float, float] | None:
    """Return the 2.5th and 97.5th percentile of R values, NaN left out; None where fewer than two are left."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    low, high = np.percentile(values, [50 - 50 * LEVEL, 50 + 50 * LEVEL])
    return float(low), float(high)
