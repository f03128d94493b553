"""Streams are weights: against their definitions, and the environments take the place of the uniform one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ifl.invariance.streams import first_weights, named_weights
from recipes import schema
from recipes.declarations import Declaration
from recipes.resolve import resolve
from sharding.open import open_dataset
from tests.helpers import mini
from tests.helpers.mini import IFL
from tests.helpers.plans import draw_ids
from tests.helpers.ranks import started

LABELS = np.repeat(np.arange(4), mini.COUNTS)
COUNTS = np.array([*mini.COUNTS, 0])  # a class without samples


def test_uniform_and_unbuilt_environments_have_no_weights() -> None:
    """Every sample alike."""
    assert named_weights("uniform", LABELS, COUNTS) is None and named_weights("environment", LABELS, COUNTS) is None


def test_class_balanced_gives_every_class_the_same_mass() -> None:
    """Kang et al.: the probability of a class is 1 / K, of its samples equal shares of it."""
    weights = named_weights("class_balanced", LABELS, COUNTS)
    shares = weights / weights.sum()
    for label, count in enumerate(mini.COUNTS):
        np.testing.assert_allclose(shares[label == LABELS], 1 / 4 / count, rtol=1e-12)


def test_class_inverse_gives_classes_mass_by_their_rarity() -> None:
    """BBN, equation 4: P_c = w_c / sum_j w_j with w_c = n_max / n_c, its samples alike."""
    weights = named_weights("class_inverse", LABELS, COUNTS)
    shares = weights / weights.sum()
    w = [max(mini.COUNTS) / n for n in mini.COUNTS]
    for label, count in enumerate(mini.COUNTS):
        np.testing.assert_allclose(shares[label == LABELS], w[label] / sum(w) / count, rtol=1e-12)


def test_balanced_training_sets_make_all_streams_alike() -> None:
    """Equal counts: every stream is the uniform one up to a factor."""
    labels = np.repeat(np.arange(3), 5)
    for name in ("class_balanced", "class_inverse"):
        assert np.ptp(named_weights(name, labels, np.full(3, 5))) == 0


def test_draws_follow_the_weights() -> None:
    """The plan's draws of a class-balanced stream hold each class equally often, of a class-inverse one the rarest
    most.
    """
    draws = 4000
    for name, want in (("class_balanced", [1000] * 4), ("class_inverse", None)):
        ids = draw_ids(named_weights(name, LABELS, COUNTS), len(LABELS), draws, seed=0, epoch=0)
        counts = Counter(LABELS[ids].tolist())
        want = want or [draws / n / sum(1 / m for m in mini.COUNTS) for n in mini.COUNTS]
        for label in range(4):
            assert abs(counts[label] - want[label]) <= 1


def test_unknown_streams_are_a_programmers_mistake() -> None:
    with pytest.raises(AssertionError):
        named_weights("classes", LABELS, COUNTS)


@pytest.mark.parametrize(
    "streams", [("uniform",), ("uniform", "class_inverse"), ("class_balanced", "uniform"), ("class_inverse",)]
)
def test_environments_replace_the_uniform_stream_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch, streams: tuple[str, ...]
) -> None:
    """In place and order; and what is left is the weights of the others."""
    recipe = resolve(["recipe=glt_ifl", "data=digits_glt", "ifl.environments=3", "batch.size=180", "batch.bn=60"])
    monkeypatch.setattr(schema, "declaration", lambda name: Declaration(STREAMS=streams))
    want = [inner for name in streams for inner in (["environment"] * 3 if name == "uniform" else [name])]
    assert recipe.stream_names == want and recipe.streams == len(want)
    weights = first_weights(recipe.stream_names, LABELS, COUNTS)
    assert [w is None for w in weights] == [name == "environment" for name in want]
    assert recipe.model_copy(update={"ifl": None}).stream_names == list(streams)


def trained_with(folder: str, streams: tuple[str, ...]) -> bool:
    """In a rank: train as if the method declared these streams."""
    from ifl.network import network

    declared = Declaration(STREAMS=streams)
    for module in (schema, network):
        module.declaration, module.kept = (lambda name: declared), module.declaration
    try:
        return mini.trained(folder)
    finally:
        for module in (schema, network):
            module.declaration = module.kept


def test_environments_are_built_where_the_uniform_stream_stood(mini_root: Path, tmp_path: Path) -> None:
    """A method with a class-balanced stream before its uniform one: after the milestone the first stream is still
    class-balanced, the second uniform and the third the new environment.
    """
    recipe = mini.recipe_of(mini_root, tmp_path, *IFL, "batch.size=24", "batch.bn=12")
    assert started(2).run(trained_with, str(recipe.run_folder), ("class_balanced", "uniform")) == [True, True]
    with np.load(recipe.run_folder / "env" / "epoch-002.npz") as arrays:
        balanced, first, second = arrays["weights"]
    labels = open_dataset(mini_root, "digits_glt").split("glt", "train").index.label
    np.testing.assert_array_equal(balanced, named_weights("class_balanced", labels, np.array(mini.COUNTS)))
    assert (first == 1).all() and np.ptp(second) > 0
