"""Intervals of rows, and tests against the baseline: against hand, scipy, the verdicts and simulations."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import binomtest, t

from analysis.claims.verdicts import judge
from analysis.inputs.frame import tidy
from analysis.inputs.runs import load_runs
from analysis.stats.baseline import bootstrap_p, compare_with_baseline, mcnemar, mean_interval
from analysis.stats.bootstrap import ALPHA, ResampledRun, Resamples, SampleSet, interval
from analysis.stats.crossed import accuracies, difference, resampled
from analysis.tables.cells import Cell, fill_table
from analysis.tables.presentation import baseline_mark
from ifl.metrics import ScoredPredictions
from recipes.table_layout import available, load_layout
from tests.helpers.paths import PROJECT
from tests.helpers.tables import HALF, LABEL, MOST, NONE_RIGHT, table, write_run


def right(cell: Cell) -> np.ndarray:
    return np.stack([run.scored_predictions("last", "test_cbl").right for run in cell.runs])


# --- one run a row ---------------------------------------------------------------------------------


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
    assert test.p == pytest.approx(0.25) and test.difference == pytest.approx(0.3) and test.sign == 1 and not test.sure
    assert test.baseline == "Plain" and test.seeds == test.baseline_seeds == (0,)
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
    assert test.p == pytest.approx(2 / 2**20) and test.low > 0
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


def test_no_test_on_other_data(tmp_path: Path) -> None:
    """A row whose data differ from its twin's has no test."""
    write_run(tmp_path, "plain", fingerprint="f00d")
    write_run(tmp_path, "plain_ifl", fingerprint="beef")
    assert table(tmp_path, seeds=[0]).cells[1][0].baseline_test is None


def test_all_seeds_count_also_other_ones(tmp_path: Path) -> None:
    """Seeds of two rows are independent: the test is over all runs of both, as the verdicts are, and its difference
    that of the printed means."""
    for recipe, seeds in (("plain", (0, 1, 2)), ("plain_ifl", (2, 3, 4, 5))):
        for seed in seeds:
            write_run(tmp_path, recipe, seed=seed, cbl=MOST if seed % 2 else HALF)
    made = table(tmp_path, seeds=[*range(6)])
    test, rows = made.cells[1][0].baseline_test, [line[0] for line in made.cells]
    assert (test.seeds, test.baseline_seeds) == ((2, 3, 4, 5), (0, 1, 2)) and test.has_seeds
    assert test.difference == pytest.approx(rows[1].mean - rows[0].mean)
    want = difference(*(accuracies(right(cell), np.arange(10)) for cell in rows[::-1]))
    assert (test.p, test.low, test.high) == (want.p_equal(), *want.interval) and test.method == "t test"


def test_runs_made_from_one_another_are_compared_pair_by_pair(tmp_path: Path) -> None:
    """Where the row's runs start from the twin's the test is of the pairs' differences; others have no part in it."""
    for seed, prediction in enumerate((HALF, MOST, HALF, NONE_RIGHT)):
        path = write_run(tmp_path, "plain", seed=seed, cbl=prediction)
        if seed == 3:
            continue
        after = write_run(tmp_path, "plain_ifl", seed=seed, cbl=np.where(np.arange(10) == 3 + seed, LABEL, prediction))
        recipe = yaml.safe_load((after / "recipe.yaml").read_text())
        (after / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "method": {"init_from": path.name}}))
    made = table(tmp_path, seeds=[0, 1, 2, 3])
    test, rows = made.cells[1][0].baseline_test, [line[0] for line in made.cells]
    first, second = right(rows[1]), right(rows[0])[:3]
    want = difference(accuracies(first, np.arange(10)), accuracies(second, np.arange(10)), paired=True)
    assert test.seeds == test.baseline_seeds == (0, 1, 2) and test.difference == pytest.approx(want.value)
    assert (test.p, test.low, test.high) == (want.p_equal(), *want.interval)
    for column in (1, 2):
        assert made.cells[1][column].baseline_test.seeds == (0, 1, 2)


def test_baseline_outside_the_table(tmp_path: Path) -> None:
    """A baseline that is not a row of the table is looked for among the runs."""
    write_run(tmp_path, "plain", cbl=HALF)
    write_run(tmp_path, "plain_ifl", cbl=MOST)
    made = table(tmp_path, seeds=[0], rows=[{"recipe": "plain_ifl", "label": "IFL", "group": "G", "twin": "plain"}])
    assert made.cells[0][0].baseline_test.baseline == "plain" and made.cells[0][0].baseline_test.gained == 3


# --- several seeds ---------------------------------------------------------------------------------


def test_the_interval_of_three_seeds_is_students(tmp_path: Path) -> None:
    """Of three seeds whose test samples differ in nothing it is the mean ± t (2 degrees of freedom) errors, inside 0 to
    1, and not the range of three seeds drawn again.
    """
    for seed, prediction in enumerate((LABEL, NONE_RIGHT, LABEL)):
        write_run(tmp_path, seed=seed, cbl=prediction)
    cell = table(tmp_path, seeds=[0, 1, 2]).cells[0][0]
    assert cell.interval == (0.0, 1.0) and t.ppf(0.975, 2) * cell.std / math.sqrt(3) > cell.mean
    known = [ResampledRun(seed, SAMPLES, np.arange(1000) < count) for seed, count in enumerate((500, 510, 520))]
    for run, value in zip(known, (0.50, 0.51, 0.52), strict=True):
        run.points[F1], run.values[F1] = value, np.full(9, value, np.float32)
    half = t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert mean_interval(known, F1) == pytest.approx((0.51 - half, 0.51 + half))


F1 = ("overall", "f1")
SAMPLES = SampleSet("digest", np.arange(1000), {"overall": np.ones(1000, bool)})


def test_resamples_give_what_the_closed_form_gives() -> None:
    """Of accuracies both ways to a difference's variance agree, samples of a source together."""
    rng = np.random.default_rng(0)
    source = np.repeat(np.arange(150), 2)
    sides = [rng.random((3, 300)) < 0.5 + rng.uniform(-0.3, 0.3, 150)[source] for _ in range(2)]
    weights = Resamples(4000).weights(source).astype(float)
    by_form = difference(*(accuracies(side, source) for side in sides))
    drawn = [resampled(side.mean(axis=1), side @ weights / 300, 150, 300) for side in sides]
    by_resamples = difference(*drawn)
    assert by_resamples.value == by_form.value and by_resamples.runs == (3, 3)
    assert by_resamples.variance == pytest.approx(by_form.variance, rel=0.1)


def test_a_calibration_error_is_in_its_own_interval() -> None:
    """Resampling raises it; its interval lies about its number, as wide as the percentiles, and not below 0."""
    raised = np.random.default_rng(0).normal(0.026, 0.004, 1000)
    for value in (0.015, 0.001):
        for metric, moved in (("ece", value - raised.mean()), ("f1", 0.0)):
            key = ("overall", metric)
            run = ResampledRun(0, SAMPLES, np.ones(1000, bool), {key: value}, {key: raised})
            low, high = np.percentile(raised, [2.5, 97.5]) + moved
            assert mean_interval([run], key) == pytest.approx((max(0.0, low), high))
            assert low < value < high or metric == "f1"


@pytest.mark.parametrize("rows", [(1, 1), (3, 3), (1, 3)])
def test_resamples_without_the_number_are_left_out(rows: tuple[int, int]) -> None:
    """Those that lack it, NaN, of any of the runs have no part; where fewer than two are left there is no interval, and
    no test.
    """
    rng = np.random.default_rng(3)
    right = rng.random((sum(rows), 1000)) < 0.5
    values = right.mean(axis=1)[:, None] + 0.01 * rng.standard_normal((len(right), 40))

    def found(values: np.ndarray) -> tuple[object, object]:
        runs = [ResampledRun(0, SAMPLES, *run, {F1: 0.5}) for run in zip(right, strict=True)]
        for run, value_R in zip(runs, values, strict=True):
            run.values[F1] = value_R
        return mean_interval(runs, F1), compare_with_baseline("", runs[: rows[0]], runs[rows[0] :], False, F1)

    holes = values.copy()
    holes[0, ::2], holes[-1, 1] = np.nan, np.nan
    assert found(holes) == found(values[:, 3::2]) and None not in found(holes)
    for there in (0, 1):
        assert found(np.where(np.arange(40) < there, values, np.nan)) == (None, None)


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.06])
def test_marks_over_three_seeds_are_as_rare_as_they_say(spread: float) -> None:
    """Where nothing differs no more than .06 of 800 simulated rows are marked, whether seeds or samples spread more;
    by the resamples as by the closed form. Nor is p below .05 in more of one run against five, which brings no mark.
    """
    rng = np.random.default_rng(1)
    source = np.arange(200)
    weights = Resamples(100).weights(source).astype(float)
    inside = SampleSet("digest", source, {"overall": np.ones(200, bool)})
    marked = {key: 0 for key in (("overall", "accuracy"), F1)}
    alone = dict(marked)
    for _ in range(800):
        hard = rng.uniform(0.2, 0.8, 200)
        runs = []
        for seed in range(6):
            this = rng.random(200) < hard + spread * rng.standard_normal()
            points, values = dict.fromkeys(marked, this.mean()), dict.fromkeys(marked, this @ weights / 200)
            runs.append(ResampledRun(seed, inside, this, points, values))
        for key in marked:
            test = compare_with_baseline("", runs[:3], runs[3:], False, key)
            marked[key] += test is not None and test.sure
            test = compare_with_baseline("", runs[:1], runs[1:], False, key)
            alone[key] += test is not None and test.p < ALPHA
            assert test is not None and not test.sure
    assert max(*marked.values(), *alone.values()) <= 0.06 * 800, (marked, alone)


@pytest.mark.full
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_marks_of_precision_and_f1_are_as_rare_as_they_say(spread: float) -> None:
    """The same of simulated predictions of eight classes, scored on resamples by the measures' definition."""
    rng = np.random.default_rng(2)
    label = np.repeat(np.arange(8), 30)
    group, attribute, source = label // 3, label % 3, np.arange(240)
    resamples = Resamples(200)
    weights = resamples.weights(source)
    inside = SampleSet("digest", source, {"overall": np.ones(240, bool)})
    wanted = tuple(("overall", metric) for metric in ("accuracy", "precision", "f1"))
    marked = dict.fromkeys(wanted, 0)
    for _ in range(1000):
        hard = rng.standard_normal(240)
        runs = []
        for seed in range(6):
            wrong = hard + rng.standard_normal(240) + spread * rng.standard_normal(8)[label] > 0.5
            scored = ScoredPredictions(label, np.where(wrong, rng.integers(0, 8, 240), label), group, attribute)
            points = {key: float(value[0]) for key, value in scored.scores(None, wanted).items()}
            runs.append(ResampledRun(seed, inside, scored.right, points, scored.scores(weights, wanted)))
        for key in wanted:
            test = compare_with_baseline("", runs[:3], runs[3:], False, key)
            marked[key] += test is not None and test.sure
    assert max(marked.values()) <= 60, marked


def test_arrows_and_verdicts_never_contradict_each_other() -> None:
    """Of the committed runs on fashion_glt: where a verdict compares a row with its twin, p and interval are the same
    to the bit, and there is an arrow where the interval leaves out 0.
    """
    runs, _ = load_runs(PROJECT / "examples" / "fashion_glt")
    runs = [run for run in runs if run.train == "glt"]
    layout = load_layout(available()["claims"], ["fashion_glt"])
    columns = [column for column in layout.columns if column.metric == "accuracy" and column.protocol != "alt"]
    layout = layout.model_copy(update={"columns": columns})
    made = fill_table(layout, runs, *tidy(runs), Resamples(2))
    compared = 0
    judged = judge(made)
    assert judged is not None
    for each in judged.verdicts:
        cell = made.cells[each.of.row][each.of.column]
        if layout.twin_of(layout.rows[each.of.row]) != layout.rows[each.of.other] or each.found is None:
            continue
        test, (low, high) = cell.baseline_test, each.found.interval
        assert test is not None and (test.p, test.low, test.high) == (each.found.p_equal(), low, high)
        assert baseline_mark(cell) == ("↑" if low > 0 else "↓" if high < 0 else ""), each.label
        compared += 1
    assert compared == 18
