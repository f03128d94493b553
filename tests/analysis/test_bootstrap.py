"""Intervals and tests against brute force: every resample really drawn, every p really counted."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from analysis.inputs.runs import Run, load_runs
from analysis.stats.bootstrap import ALPHA, Resamples, bootstrap_p, interval, mcnemar
from ifl.metrics import KEYS, ScoredPredictions, evaluate
from tests.helpers.tables import HALF, MOST, table, write_run

ACCURACY, PRECISION = ("overall", "accuracy"), ("many", "precision")
WANTED = tuple(key for key in KEYS if key[1] != "ece")


def runs(folder: Path, *predictions: np.ndarray, **change: object) -> list[Run]:
    for seed, prediction in enumerate(predictions):
        write_run(folder, seed=seed, cbl=prediction, gbl=prediction, **change)  # type: ignore[arg-type]
    return load_runs(folder)[0]


def test_a_resample_holds_as_many_samples_as_the_set() -> None:
    """Every resample of M samples holds M, and the draws are the same each time, others for another seed or size."""
    weights = Resamples(50).weights(300)
    assert weights.shape == (300, 50) and (weights.sum(axis=0) == 300).all()
    assert len({column.tobytes() for column in weights.T}) == 50
    np.testing.assert_array_equal(weights, Resamples(50).weights(300))
    assert (weights != Resamples(50, seed=1).weights(300)).any()
    # With replacement: a sample is absent from a resample with a chance of (1 - 1/M)^M.
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 300) ** 300, abs=0.01)


def test_large_sets_do_not_overflow() -> None:
    """Above 65,535 samples the counts have a wider type: their sums are still right."""
    m = 70_000
    zero = np.zeros(m, int)
    weights = Resamples(2).weights(m)
    assert weights.dtype == np.uint32 and (weights.sum(axis=0) == m).all()
    assert ScoredPredictions(zero, zero, zero, zero).scores(weights)["overall", "accuracy"].tolist() == [1.0, 1.0]


def test_values_are_those_of_samples_really_drawn(tmp_path: Path) -> None:
    """What a run scores on a resample equals the metric of the drawn samples, for every measure and resample."""
    (run,) = runs(tmp_path, HALF)
    resamples = Resamples(40)
    got = resamples.values(run, "last", "test_cbl", WANTED)
    arrays = run.predictions("last", "test_cbl")
    for r, weights in enumerate(resamples.weights(10).T):
        drawn = ScoredPredictions(
            **{key: np.repeat(arrays[key], weights) for key in ("label", "prediction", "group", "attribute")}
        ).scores(wanted=WANTED)
        for key in WANTED:
            np.testing.assert_allclose(got[key][r], drawn[key][0], rtol=1e-6, err_msg=str(key))


def test_several_seeds_are_drawn_too(tmp_path: Path) -> None:
    """A cell of three seeds: each resample draws three seeds with replacement and averages them on the drawn
    samples.
    """
    three = runs(tmp_path, HALF, MOST, HALF)
    resamples = Resamples(60)
    got = resamples.averaged(three, "last", "test_cbl", ACCURACY)
    seeds, weights = resamples.seeds(3), resamples.weights(10)
    assert got is not None and seeds.shape == (3, 60) and len(set(map(tuple, seeds.T))) > 10
    right = [run.scored_predictions("last", "test_cbl").right for run in three]
    want = [np.mean([np.repeat(right[s], weights[:, r]).mean() for s in seeds[:, r]]) for r in range(60)]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_interval_is_of_the_resamples_and_agrees_with_theory(tmp_path: Path) -> None:
    """The interval of an accuracy of 600 samples is close to the binomial's, p ± 1.96 sqrt(p (1 - p) / M)."""
    rng = np.random.default_rng(0)
    label = np.arange(600) % 10
    prediction = np.where(rng.random(600) < 0.7, label, (label + 1) % 10)
    scored = ScoredPredictions(label, prediction, np.zeros(600, int), np.zeros(600, int))
    found = interval(scored.scores(Resamples().weights(600))["overall", "accuracy"])
    p = (label == prediction).mean()
    width = 1.96 * math.sqrt(p * (1 - p) / 600)
    assert found == pytest.approx((p - width, p + width), abs=0.006)
    assert interval(np.array([np.nan, 1.0, 3.0])) == pytest.approx((1.05, 2.95))
    assert interval(np.array([np.nan])) is None


def test_cells_carry_their_interval(tmp_path: Path) -> None:
    """A cell's interval is that of its replicates; a cell without number has none."""
    write_run(tmp_path, cbl=HALF)
    made = table(tmp_path, seeds=[0])
    cell = made.cells[0][0]
    assert cell.replicates is not None and len(cell.replicates) == 1000
    assert cell.interval == pytest.approx(tuple(np.percentile(cell.replicates, [2.5, 97.5])))
    assert cell.interval[0] < 0.5 < cell.interval[1]
    assert made.cells[1][0].interval is None


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (0, 6), (3, 9), (9, 3), (40, 71), (7, 7), (800, 1000)])
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    """McNemar's p equals the sum of binomial coefficients, in whole numbers, and scipy's binomial test."""
    n, fewer = gained + lost, min(gained, lost)
    exact = min(Fraction(1), Fraction(2 * sum(math.comb(n, k) for k in range(fewer + 1)), 2**n))
    assert mcnemar(gained, lost) == pytest.approx(float(exact), rel=1e-9)
    if n:
        assert mcnemar(gained, lost) == pytest.approx(binomtest(gained, n, 0.5).pvalue, rel=1e-9)


def test_bootstrap_p_counts() -> None:
    """p = 2 (1 + the fewer of those <= 0 and >= 0) / (R + 1), at most 1, NaN left out."""
    assert bootstrap_p(np.full(999, 0.1)) == 2 / 1000
    assert bootstrap_p(np.array([0.1] * 95 + [-0.1] * 4)) == 2 * 5 / 100
    assert bootstrap_p(np.array([0.1] * 95 + [-0.1] * 4 + [np.nan] * 50)) == 2 * 5 / 100
    assert bootstrap_p(np.zeros(99)) == 1.0 and bootstrap_p(np.full(5, np.nan)) == 1.0


def test_a_row_is_tested_against_its_baseline_on_the_same_samples(tmp_path: Path) -> None:
    """By hand: MOST has right what HALF has and three more (3, 5, 8), so gained 3, lost 0, p = 2 / 2^3."""
    write_run(tmp_path, "plain", cbl=HALF)
    write_run(tmp_path, "plain_ifl", cbl=MOST)
    made = table(tmp_path, seeds=[0])
    test = made.cells[1][0].baseline_test
    assert made.cells[0][0].baseline_test is None, "the twin itself has none"
    assert test is not None and (test.gained, test.lost, test.samples, test.method) == (3, 0, 10, "McNemar exact")
    assert (
        test.p == pytest.approx(0.25)
        and test.difference == pytest.approx(0.3)
        and test.sign == 1
        and not test.significant
    )
    assert test.baseline == "Plain" and test.seeds == (0,)
    # Precision: the paired bootstrap, with both on the same drawn samples.
    test = made.cells[1][1].baseline_test
    assert test is not None and test.method == "paired bootstrap" and test.gained is None
    sides = [cells[1].replicates for cells in made.cells]
    assert test.p == bootstrap_p(sides[1] - sides[0]) and (test.low, test.high) == interval(sides[1] - sides[0])


def test_pairing_is_stronger_than_two_intervals(tmp_path: Path) -> None:
    """Two runs that differ in few samples, all one way: their intervals overlap widely, and the test still is sure."""
    rng = np.random.default_rng(1)
    label, group = np.arange(400) % 4, np.arange(400) % 4 // 2
    first = np.where(rng.random(400) < 0.5, label, (label + 1) % 4)
    second = first.copy()
    second[np.flatnonzero(first != label)[:20]] = label[np.flatnonzero(first != label)[:20]]
    for recipe, prediction in (("plain", first), ("plain_ifl", second)):
        path = write_run(tmp_path, recipe)
        arrays = {
            "id": np.arange(400),
            "label": label,
            "group": group,
            "attribute": label % 3,
            "prediction": prediction,
        }
        np.savez(path / "preds" / "last" / "test_cbl.npz", **arrays)
    made = table(tmp_path, seeds=[0])
    plain, ifl = made.cells[0][0], made.cells[1][0]
    assert plain.interval[1] > ifl.interval[0], "the intervals overlap"
    test = ifl.baseline_test
    assert test.p == pytest.approx(2 / 2**20) and test.significant and test.low > 0
    assert made.cells[1][1].baseline_test.p < ALPHA


def test_no_test_where_samples_differ(tmp_path: Path) -> None:
    """Runs on other test samples, on other data or of other seeds alone are not tested against each other."""
    write_run(tmp_path, "plain", cbl=HALF)
    other = write_run(tmp_path, "plain_ifl", cbl=MOST)
    assert table(tmp_path, seeds=[0]).cells[1][0].baseline_test is not None
    file = other / "preds" / "last" / "test_cbl.npz"
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "id": arrays["id"] + 1})
    made = table(tmp_path, seeds=[0])
    assert made.cells[1][0].baseline_test is None and made.cells[1][0].values == (0.8,)
    assert made.cells[1][2].baseline_test is not None, "its other split still is the same"


def test_no_test_without_common_seed_or_data(tmp_path: Path) -> None:
    """Seeds are paired: a row with seed 1 alone has nothing to be paired with in a twin with seed 0 alone."""
    write_run(tmp_path / "a", "plain", seed=0)
    write_run(tmp_path / "a", "plain_ifl", seed=1)
    assert table(tmp_path / "a").cells[1][0].baseline_test is None
    write_run(tmp_path / "b", "plain", fingerprint="f00d")
    write_run(tmp_path / "b", "plain_ifl", fingerprint="beef")
    assert table(tmp_path / "b", seeds=[0]).cells[1][0].baseline_test is None


def test_several_seeds_are_paired(tmp_path: Path) -> None:
    """With two common seeds the difference is of their means, by the paired bootstrap over samples and seeds."""
    for seed in (0, 1):
        write_run(tmp_path, "plain", seed=seed, cbl=HALF)
        write_run(tmp_path, "plain_ifl", seed=seed, cbl=MOST if seed else HALF)
    test = table(tmp_path).cells[1][0].baseline_test
    assert test.seeds == (0, 1) and test.method == "paired bootstrap" and test.difference == pytest.approx(0.15)
    assert test.low == 0.0 and test.high > 0.15, "a resample may draw seed 0 twice, where both are alike"


def test_baseline_outside_the_table(tmp_path: Path) -> None:
    """A baseline that is not a row of the table is looked for among the runs."""
    write_run(tmp_path, "plain", cbl=HALF)
    write_run(tmp_path, "plain_ifl", cbl=MOST)
    made = table(tmp_path, seeds=[0], rows=[{"recipe": "plain_ifl", "label": "IFL", "group": "G", "twin": "plain"}])
    assert made.cells[0][0].baseline_test.baseline == "plain" and made.cells[0][0].baseline_test.gained == 3


def test_evaluate_is_what_the_resamples_judge(tmp_path: Path) -> None:
    """The weight 1 for every sample gives what training writes into metrics.jsonl."""
    (run,) = runs(tmp_path, MOST)
    arrays = {
        key: value for key, value in run.predictions("last", "test_cbl").items() if key not in ("id", "confidence")
    }
    scored = run.scored_predictions("last", "test_cbl")
    scores, want = scored.scores(np.ones((10, 1), np.uint16)), evaluate(**arrays)
    for metric in ("accuracy", "precision"):
        for subset, value in want[metric].items():
            assert scores[subset, metric][0] == value
