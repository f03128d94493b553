"""Resamples against brute force: every one really drawn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from analysis.inputs.runs import Run, load_runs
from analysis.stats.bootstrap import Resamples, interval
from ifl.metrics import KEYS, ScoredPredictions, evaluate
from tests.helpers.tables import HALF, MOST, write_run

ACCURACY, PRECISION = ("overall", "accuracy"), ("many", "precision")
WANTED = tuple(key for key in KEYS if key[1] != "ece")


def runs(folder: Path, *predictions: np.ndarray, **change: object) -> list[Run]:
    for seed, prediction in enumerate(predictions):
        write_run(folder, seed=seed, cbl=prediction, gbl=prediction, **change)  # type: ignore[arg-type]
    return load_runs(folder)[0]


def test_a_resample_holds_as_many_samples_as_the_set() -> None:
    """Every resample of M samples holds M, and the draws are the same each time, others for another seed or size."""
    own = np.arange(300)
    weights = Resamples(50).weights(own)
    assert weights.shape == (300, 50) and (weights.sum(axis=0) == 300).all()
    assert len({column.tobytes() for column in weights.T}) == 50
    np.testing.assert_array_equal(weights, Resamples(50).weights(own))
    assert (weights != Resamples(50, seed=1).weights(own)).any()
    # With replacement: a sample is absent from a resample with a chance of (1 - 1/M)^M.
    assert (weights == 0).mean() == pytest.approx((1 - 1 / 300) ** 300, abs=0.01)


def test_sources_are_drawn_whole() -> None:
    """Samples of one source come together, as often as it was drawn; as many sources are drawn as there are."""
    source = np.array([0, 1, 0, 2, 2, 2])
    weights = Resamples(50).weights(source)
    np.testing.assert_array_equal(weights, Resamples(50).weights(np.arange(3))[source])
    assert (weights[[0, 1, 3]].sum(axis=0) == 3).all() and (weights[0] == weights[2]).all()


def test_runs_say_their_sources(tmp_path: Path) -> None:
    """Stored sources are drawn whole, whatever their numbers; where each sample has its own, draws are as without."""
    stored = {"shared": np.repeat([7, 7, 3, 3, 11], 2), "own": np.arange(10)[::-1] + 5, "short": np.arange(4)}
    found = {}
    for name, source in stored.items():
        file = write_run(tmp_path / name) / "preds" / "last" / "test_cbl.npz"
        np.savez(file, **dict(np.load(file)), source=source)
        found[name] = Resamples(9).of_run(load_runs(tmp_path / name)[0][0], "last", "test_cbl").samples.source.tolist()
    assert found == {"shared": [1, 1, 1, 1, 0, 0, 0, 0, 2, 2], "own": [*range(10)], "short": [*range(10)]}


def test_sources_that_one_run_says_count_for_all_in_any_order(tmp_path: Path) -> None:
    """Of a run that says its sources and one that does not, on the same samples, both are scored by source, also where
    the one that does not was scored before; where it stands alone, sample by sample."""
    old, new = runs(tmp_path, HALF, HALF)
    file = new.path / "preds" / "last" / "test_cbl.npz"
    np.savez(file, **dict(np.load(file)), source=np.repeat(np.arange(5), 2))
    want = Resamples(99).of_run(new, "last", "test_cbl", WANTED)
    alone = Resamples(99).of_run(old, "last", "test_cbl", WANTED)
    assert want.samples.sources_known and not alone.samples.sources_known
    assert (alone.values[ACCURACY] != want.values[ACCURACY]).any()
    for order in ((old, new), (new, old)):
        resamples = Resamples(99)
        for run in order:
            resamples.of_run(run, "last", "test_cbl", WANTED)
        for run in order:
            got = resamples.of_run(run, "last", "test_cbl", WANTED)
            assert got.samples.sources_known and got.samples.source.tolist() == want.samples.source.tolist()
            for key in WANTED:
                np.testing.assert_array_equal(got.values[key], want.values[key])


def test_large_sets_do_not_overflow() -> None:
    """Above 65,535 samples the counts have a wider type: their sums are still right."""
    m = 70_000
    zero = np.zeros(m, int)
    weights = Resamples(2).weights(np.arange(m))
    assert weights.dtype == np.uint32 and (weights.sum(axis=0) == m).all()
    assert ScoredPredictions(zero, zero, zero, zero).scores(weights)["overall", "accuracy"].tolist() == [1.0, 1.0]


def test_values_are_those_of_samples_really_drawn(tmp_path: Path) -> None:
    """What a run scores on a resample equals the metric of the drawn samples, for every measure and resample."""
    (run,) = runs(tmp_path, HALF)
    resamples = Resamples(40)
    got = resamples.of_run(run, "last", "test_cbl", WANTED).values
    arrays = run.predictions("last", "test_cbl")
    for r, weights in enumerate(resamples.weights(np.arange(10)).T):
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
    seeds, weights = resamples.seeds(3), resamples.weights(np.arange(10))
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
    found = interval(scored.scores(Resamples().weights(np.arange(600)))["overall", "accuracy"])
    p = (label == prediction).mean()
    width = 1.96 * math.sqrt(p * (1 - p) / 600)
    assert found == pytest.approx((p - width, p + width), abs=0.006)
    assert interval(np.array([np.nan, 1.0, 3.0])) == pytest.approx((1.05, 2.95))
    assert interval(np.array([np.nan])) is interval(np.array([np.nan, 0.5])) is None


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
