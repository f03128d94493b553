"""Every method, with IFL and without: trains, gets better, stops and resumes bit for bit, judges; on one rank and on
two.

Methods are found by looking into ifl/methods, so a new one is tested as soon as it is there.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from recipes.common.errors import RecipeError
from recipes.declarations import declaration
from recipes.resolve import resolve
from tests.helpers import mini
from tests.helpers.mini import IFL, METHODS
from tests.helpers.ranks import started

OTHER_NAME = ("recipe=glt_randaug", "augment.randaug=false")
"""The same run in another folder."""
PRESETS = {False: "paper", True: "corrected"}
"""The default suite takes one preset without and the other with IFL; the full suite all."""


@cache
def _first_stage(root: Path, ranks: int, preset: str) -> tuple[Path, str]:
    """A folder of runs and the name of a baseline's in it."""
    runs = Path(tempfile.mkdtemp())
    recipe = mini.recipe_of(root, runs, f"preset={preset}")
    assert started(ranks).run(mini.trained, str(recipe.run_folder)) == [True] * ranks
    return runs, recipe.run_name


def combinations() -> list:
    """(method, with IFL, preset, ranks); the default suite has each method x IFL once."""
    found = []
    for method in METHODS:
        for ifl in (False, True):
            for preset in ("paper", "corrected"):
                for ranks in (2, 1):
                    full = [pytest.mark.full] if ranks == 1 or preset != PRESETS[ifl] else []
                    found.append(
                        pytest.param(
                            method,
                            ifl,
                            preset,
                            ranks,
                            marks=full,
                            id=f"{method}{'+ifl' if ifl else ''}-{preset}-{ranks}",
                        )
                    )
    return found


@pytest.mark.parametrize("method, ifl, preset, ranks", combinations())
def test_method_trains_gets_better_and_resumes(
    mini_root: Path, tmp_path: Path, method: str, ifl: bool, preset: str, ranks: int
) -> None:
    """Ten steps on 32 images: the method's own loss falls; a run stopped in the middle of an epoch (by a wish of one
    rank) and started again ends with the bits of an undisturbed one, in everything that a checkpoint holds and in every
    prediction. A combination that is refused is refused with the reason that the method's file gives."""
    declared = declaration(method)
    words = [
        f"method.name={method}",
        f"preset={preset}",
        f"optim.lr={(0.03 if preset == 'paper' else 0.003) * (10 if declared.TRAINS == 'head' else 1)}",
        *(IFL if ifl else ()),
    ]
    if refusal := _refusal(method, ifl):
        with pytest.raises(RecipeError, match=r"^[^\n]+$") as caught:
            resolve(
                [
                    "recipe=glt_randaug",
                    *mini.WORDS,
                    *words,
                    *(["method.init_from=glt_baseline"] if declared.TRAINS == "head" else []),
                ]
            )
        assert refusal in str(caught.value)
        return
    runs = tmp_path
    if declared.TRAINS == "head":
        runs, source = _first_stage(mini_root, ranks, preset)
        words.append(f"method.init_from={source}")
    group = started(ranks)
    stopped = mini.recipe_of(mini_root, runs, *words, *OTHER_NAME)
    whole = mini.recipe_of(mini_root, runs, *words)
    assert group.run(mini.trained, str(whole.run_folder)) == [True] * ranks
    assert group.run(mini.trained, str(stopped.run_folder), stop_at=5) == [False] * ranks
    assert group.run(mini.trained, str(stopped.run_folder)) == [True] * ranks
    assert len(mini.lines(stopped.run_folder, "boot")) == 2
    one, two = mini.final(whole.run_folder), mini.final(stopped.run_folder)
    assert mini.same_bits({k: v for k, v in one.items() if k != ".suite.metrics_offset"}, two) == []
    _check_progress(method, whole.run_folder)


def _refusal(method: str, ifl: bool) -> str | None:
    """The reason for which this combination is refused."""
    declared = declaration(method)
    if ifl:
        return declared.REFUSES.get("ifl") or ("draws no uniform stream" if "uniform" not in declared.STREAMS else None)
    return getattr(declared, "NEEDS", {}).get("environments")


def _check_progress(method: str, folder: Path) -> None:
    train = mini.lines(folder, "train")
    assert [line["step"] for line in train] == list(range(1, mini.EPOCHS * mini.STEPS + 1))
    losses = np.array([line["method_loss"] for line in train]).reshape(mini.EPOCHS, mini.STEPS).mean(1)
    assert np.isfinite(losses).all()
    assert losses[1:].min() < 0.95 * losses[0], (
        losses
    )  # at times it rises: environments change, and deferred re-weighting sets in
    splits = {line["split"] for line in mini.lines(folder, "eval")}
    assert splits == {"val", "test_cbl", "test_gbl", "test_glt"}
    for split in splits:
        for which in ("last", "best"):
            with np.load(folder / "preds" / which / f"{split}.npz") as preds:
                assert (
                    len(preds["prediction"]) == 12
                    and set(preds["prediction"].tolist()) <= set(range(4))
                    and np.isfinite(preds["confidence"]).all()
                )


@pytest.mark.full
@pytest.mark.parametrize("ifl", [False, True], ids=["", "ifl"])
@pytest.mark.parametrize("method", METHODS)
def test_method_does_the_same_on_one_rank_and_two(mini_root: Path, tmp_path: Path, method: str, ifl: bool) -> None:
    """Ten steps with a small learning rate: the losses agree but for the order of float sums."""
    if _refusal(method, ifl):
        return
    runs, words = tmp_path, [f"method.name={method}", "preset=corrected", "optim.lr=0.001", *(IFL if ifl else ())]
    if declaration(method).TRAINS == "head":
        runs, source = _first_stage(mini_root, 1, "corrected")
        words.append(f"method.init_from={source}")
    losses = {}
    for ranks, name in ((1, OTHER_NAME), (2, ())):
        recipe = mini.recipe_of(mini_root, runs, *words, *name)
        assert started(ranks).run(mini.trained, str(recipe.run_folder)) == [True] * ranks
        losses[ranks] = [line["method_loss"] for line in mini.lines(recipe.run_folder, "train")]
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-4)
