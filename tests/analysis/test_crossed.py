"""Differences over seeds and sources, power and Holm's correction, against simulations, closed forms and hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import nct, t, ttest_1samp, ttest_rel

from analysis.stats.crossed import Difference, accuracies, difference
from analysis.stats.multiple import holm
from analysis.stats.power import power, seeds_needed, smallest_effect, with_seeds

OWN = np.arange(400)
"""Each of 400 samples has a source of its own."""


def compared(first: np.ndarray, second: np.ndarray, source: np.ndarray, paired: bool = False) -> Difference:
    """The difference of the accuracies of two rows, each whether its runs have the samples right."""
    return difference(accuracies(first, source), accuracies(second, source), paired)


def simulated(
    rng: np.random.Generator,
    seeds: tuple[int, int],
    truth: float,
    spread: float | tuple[float, float],
    size: int = 2,
    sources: int = 200,
) -> tuple[Difference, np.ndarray, np.ndarray]:
    """Two rows whose runs spread over seeds, on sources of `size` samples that are easy or hard together."""
    spreads = np.broadcast_to(spread, 2)
    source = np.repeat(np.arange(sources), size)
    hard = rng.uniform(-0.3, 0.3, (2, sources))
    hard[1] = (hard[0] + hard[1]) / 2  # in part the same are hard for both
    sides = [
        rng.random((n, len(source))) < 0.5 + shift + hard[side][source] + spreads[side] * rng.standard_normal((n, 1))
        for side, (n, shift) in enumerate(zip(seeds, (truth, 0.0), strict=True))
    ]
    return compared(*sides, source), *sides


def test_of_one_run_each_it_is_the_paired_t_test() -> None:
    """Where every sample has its own source and rows one run: value, interval and p are those of the paired t test."""
    rng = np.random.default_rng(0)
    first, second = rng.random((1, 400)) < 0.6, rng.random((1, 400)) < 0.5
    found = compared(first, second, OWN)
    known = ttest_1samp(first[0].astype(float) - second[0], 0)
    low, high = known.confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high)) and found.p_equal() == pytest.approx(known.pvalue)
    assert found.freedom == pytest.approx(399) and (found.runs, found.sources, found.samples) == ((1, 1), 400, 400)


def test_sources_are_resampled_whole() -> None:
    """The variance over samples is that of really drawing sources with replacement, ten samples a source."""
    rng = np.random.default_rng(1)
    found, first, second = simulated(rng, (1, 1), 0.1, 0.0, size=10, sources=60)
    of_source = (first[0].astype(float) - second[0]).reshape(60, 10).mean(axis=1)
    drawn = of_source[rng.integers(0, 60, (20_000, 60))].mean(axis=1)
    assert found.variance == pytest.approx(drawn.var() * 60 / 59, rel=0.03)
    assert found.variance > 1.1 * compared(first, second, np.arange(600)).variance, "samples of a source are alike"


def test_seeds_alone_give_the_test_of_welch() -> None:
    """Where runs are wholly right or wholly wrong only seeds matter: V is the sum of the rows' variances / n."""
    first = np.repeat(np.array([[1], [0], [1], [1]], bool), 4, axis=1)
    second = np.repeat(np.array([[0], [0], [1]], bool), 4, axis=1)
    found = compared(first, second, np.arange(4))
    assert found.value == pytest.approx(3 / 4 - 1 / 3) and found.of_samples == 0
    assert found.variance == pytest.approx(0.25 / 4 + (1 / 3) / 3)
    assert found.freedom == pytest.approx(found.variance**2 / ((0.25 / 4) ** 2 / 3 + (1 / 9) ** 2 / 2))


def test_pairs_of_runs_give_the_paired_test() -> None:
    """Where one row's runs are made from the other's and sources differ in nothing it is the paired t test over seeds;
    what both share does not count. As many pairs as would be needed are told.
    """
    second = np.repeat(np.array([[1], [0], [0], [0], [1]], bool), 4, axis=1)
    first = np.repeat(np.array([[1], [1], [0], [1], [1]], bool), 4, axis=1)
    found = compared(first, second, np.arange(4), paired=True)
    known = ttest_rel(first.mean(axis=1), second.mean(axis=1))
    assert found.p_equal() == pytest.approx(known.pvalue) and found.interval == pytest.approx(
        tuple(known.confidence_interval(0.95))
    )
    assert (found.runs, found.freedom, found.value) == ((5,), 4.0, pytest.approx(0.4))
    assert found.variance < compared(first, second, np.arange(4)).variance
    assert with_seeds(found, 5) == (pytest.approx(found.error), pytest.approx(4.0))
    assert with_seeds(found, 20) == (pytest.approx(found.error / 2), pytest.approx(19.0))


def test_a_single_run_is_taken_to_spread_as_the_other_rows_do() -> None:
    """Of one run against five, where sources differ in nothing, it is Student's test of one value against a sample."""
    many = np.repeat(np.array([[1], [0], [1], [1], [0]], bool), 4, axis=1)
    found = compared(np.ones((1, 4), bool), many, np.arange(4))
    assert found.value == pytest.approx(1 - 3 / 5) and found.freedom == 4.0
    assert found.variance == pytest.approx(0.3 * (1 + 1 / 5))
    # As many seeds as are needed rest on the same variance of a run.
    assert with_seeds(found, 6)[0] == pytest.approx(math.sqrt(0.3 * 2 / 6))


@pytest.mark.parametrize("seeds", [(3, 3), (5, 3), (5, 5), (1, 5), (3, 1)])
@pytest.mark.parametrize("spread", [0.0, 0.02, 0.06])
def test_the_interval_holds_the_truth(seeds: tuple[int, int], spread: float) -> None:
    """In 95 of 100 simulated studies or more, whether seeds or samples spread more, in few more where seeds do; where
    nothing differs p is below .05 in no more than may be."""
    rng = np.random.default_rng(2)
    studies = [simulated(rng, seeds, 0.05, spread)[0] for _ in range(600)]
    held = np.mean([low <= 0.05 <= high for low, high in (study.interval for study in studies)])
    assert held >= 0.93 and (spread < 0.06 or held <= 0.99), held
    equal = [simulated(rng, seeds, 0.0, spread)[0] for _ in range(600)]
    assert np.mean([study.p_equal() < 0.05 for study in equal]) <= 0.07


@pytest.mark.full
@pytest.mark.parametrize("seeds", [(3, 3), (3, 5), (5, 5)])
@pytest.mark.parametrize("spread", [(0.05, 0.05), (0.05, 0.01)])
def test_small_p_are_as_rare_as_they_say(seeds: tuple[int, int], spread: tuple[float, float]) -> None:
    """Where nothing differs p is below the levels that Holm's method leaves to one of 35 and of 100 tests in no more
    studies than that, also where one row alone spreads."""
    rng = np.random.default_rng(7)
    ps = np.array([simulated(rng, seeds, 0.0, spread)[0].p_equal() for _ in range(20_000)])
    for level in (0.05, 0.0015, 0.0005):
        assert np.mean(ps < level) <= 1.05 * level


def test_degrees_of_freedom_are_at_most_those_of_the_seeds() -> None:
    """Seeds that happen to agree are no reason to trust three of them: 2 + 4 of 3 and 5 runs, 2 of three pairs."""
    rng = np.random.default_rng(8)
    studies = [simulated(rng, (3, 5), 0.0, 0.0)[0].freedom for _ in range(50)]
    assert max(studies) == 6.0
    right = rng.random((2, 3, 400)) < 0.5
    assert compared(right[0], right[1], OWN, paired=True).freedom == 2.0
    assert with_seeds(Difference(0.02, (3, 3), 999, 999, 2e-4, of_samples=2e-4, freedom=4), 7)[1] == 12.0


def test_equal_rows_have_no_spread() -> None:
    """Rows of the same predictions for every seed: the difference is 0, p is 1, and below a margin it is for sure."""
    right = np.tile(np.arange(20) % 2 == 0, (3, 1))
    found = compared(right, right, np.arange(20))
    assert (found.value, found.variance, found.interval) == (0.0, 0.0, (0.0, 0.0))
    assert (found.p_equal(), found.p_reaches(0.02), found.p_reaches(0.0)) == (1.0, 0.0, 1.0)
    assert smallest_effect(found.error, found.freedom, 0.025) == 0.0 and seeds_needed(found, 0.0, 0.025) is None
    # Rows of the same runs, as BLSoftmax and the baseline on classes of equal size; seeds err each on their own.
    runs = np.random.default_rng(5).random((3, 20)) < 0.5
    found = compared(runs, runs[::-1], np.arange(20))
    assert (found.value, found.variance, found.freedom, found.p_equal()) == (0.0, 0.0, 2.0, 1.0)
    assert found.interval == (0.0, 0.0)


def test_one_sided_p() -> None:
    """`p_reaches` is Student's lower tail at the distance from the bound."""
    found = simulated(np.random.default_rng(3), (3, 3), 0.0, 0.02)[0]
    assert found.p_reaches(0.1) == pytest.approx(t.cdf((found.value - 0.1) / found.error, found.freedom))


# --- power -----------------------------------------------------------------------------------------
def test_smallest_effect_of_a_known_variance_is_the_textbooks() -> None:
    """With as good as infinite degrees of freedom it is (z of 1 - level + z of .8) errors: 2.8016 for .025."""
    assert smallest_effect(2.0, 1e7, 0.025) == pytest.approx(2 * (1.959964 + 0.841621), rel=1e-3)
    assert smallest_effect(0.0, 5.0, 0.025) == 0.0


@pytest.mark.parametrize(("freedom", "level"), [(2.0, 0.025), (4.0, 0.025), (8.0, 0.001), (30.0, 0.05)])
def test_power_is_the_noncentral_t(freedom: float, level: float) -> None:
    """Power and the smallest effect agree with scipy's noncentral t distribution."""
    for effect in (0.5, 2.0, 6.0):
        known = nct.sf(t.isf(level, freedom), freedom, effect)
        assert power(effect, 1.0, freedom, level) == pytest.approx(known, abs=2e-3)
    least = smallest_effect(1.0, freedom, level)
    assert nct.sf(t.isf(level, freedom), freedom, least) == pytest.approx(0.8, abs=3e-3)


def test_seeds_needed_are_the_fewest() -> None:
    """With that many the power is .8 and with one fewer it is not; what samples alone forbid no seeds bring."""
    found = Difference(0.02, (3, 3), 1000, 1000, variance=2e-4, of_samples=1e-5, freedom=4)
    assert with_seeds(found, 3)[0] == pytest.approx(found.error)
    seeds = seeds_needed(found, 0.02, 0.025)
    assert seeds is not None and seeds > 3
    assert power(0.02, *with_seeds(found, seeds), 0.025) >= 0.8 > power(0.02, *with_seeds(found, seeds - 1), 0.025)
    assert seeds_needed(found, 2 * math.sqrt(1e-5), 0.025) is None


# --- many tests ------------------------------------------------------------------------------------
def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .2 (and one still to be made, 1): times 5, 4, 3, 2, 1, and none below the one before it."""
    assert holm([0.03, 0.01, None, 0.2, 0.02]) == pytest.approx([0.09, 0.05, 1.0, 0.4, 0.08])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06]) and holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
