"""Every method, with IFL and without, on a tiny ViT and a tiny ConvNeXt of timm, on two ranks: trains and resumes.

The default suite has one of each; the full suite all.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from recipes.declarations import declaration
from tests.helpers import mini
from tests.helpers.libraries import CONVNEXT, VIT, asked_here
from tests.helpers.mini import IFL, METHODS
from tests.helpers.ranks import started

NETWORKS = {"vit": VIT, "convnext": CONVNEXT}
QUICK = (("vit", "bbn", False), ("convnext", "ride", True))
"""Two branches, and three experts with IFL."""
RANKS = 2


@pytest.fixture(autouse=True)
def _asked_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    asked_here(monkeypatch, tmp_path_factory.getbasetemp() / "networks")


def legal() -> list:
    """Return (network, method, with IFL) of all that the methods' files do not refuse."""
    found = []
    for method in METHODS:
        declared = declaration(method)
        for ifl in (False, True):
            refused = "ifl" in declared.REFUSES or "uniform" not in declared.STREAMS
            if refused if ifl else "environments" in declared.NEEDS:
                continue
            for network in NETWORKS:
                case = (network, method, ifl)
                marks = [] if case in QUICK else [pytest.mark.full]
                found.append(pytest.param(*case, marks=marks, id=f"{network}-{method}{'+ifl' if ifl else ''}"))
    return found


@cache
def first_stage(root: Path, network: str) -> tuple[Path, str]:
    """Train a baseline on a network; its folder of runs and its name."""
    runs = Path(tempfile.mkdtemp())
    recipe = mini.recipe_of(root, runs, "preset=corrected", *NETWORKS[network])
    assert started(RANKS).run(mini.trained, str(recipe.run_folder)) == [True] * RANKS
    return runs, recipe.run_name


@pytest.mark.parametrize("network, method, ifl", legal())
def test_method_trains_and_resumes_on_a_library_s_network(
    mini_root: Path, tmp_path: Path, network: str, method: str, ifl: bool
) -> None:
    """Ten steps on 32 images: the method's own loss falls; a run that was stopped and started again ends with the bits
    of an undisturbed one, in everything that a checkpoint holds and in every prediction."""
    runs, words = tmp_path, [f"method.name={method}", "preset=corrected", *NETWORKS[network], *(IFL if ifl else ())]
    head_alone = declaration(method).TRAINS == "head"
    words.append(f"optim.lr={0.03 if head_alone else 0.01}")
    if head_alone:
        runs, source = first_stage(mini_root, network)
        words.append(f"method.init_from={source}")
    whole = mini.recipe_of(mini_root, runs, *words)
    stopped = mini.recipe_of(mini_root, runs, "recipe=glt_randaug", "augment.randaug=false", *words)
    group = started(RANKS)
    assert group.run(mini.trained, str(whole.run_folder)) == [True] * RANKS
    assert group.run(mini.trained, str(stopped.run_folder), stop_at=5) == [False] * RANKS
    assert group.run(mini.trained, str(stopped.run_folder)) == [True] * RANKS
    one, two = mini.final(whole.run_folder), mini.final(stopped.run_folder)
    assert mini.same_bits({key: value for key, value in one.items() if key != ".suite.metrics_offset"}, two) == []
    losses = np.array([line["method_loss"] for line in mini.lines(whole.run_folder, "train")])
    assert np.isfinite(losses).all() and losses[2:].min() < losses[0]
