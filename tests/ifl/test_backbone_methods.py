"""Every method, with IFL and without, on a tiny ViT, ConvNeXt and CLIP, on two ranks: trains and resumes.

The ViT and the ConvNeXt are timm's; of the CLIP, whose file has both towers, it is the image tower.

The default suite has one of each; the full suite all.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from recipes.declarations import FORMS, declaration
from tests.helpers import mini, tiny_clip
from tests.helpers.libraries import CONVNEXT, GROUPS, VIT, asked_here
from tests.helpers.mini import IFL, METHODS
from tests.helpers.ranks import started
from tests.helpers.tuned import in_a_rank

NETWORKS = {"vit": VIT, "convnext": CONVNEXT, "clip": ("model.name=own_clip", *GROUPS)}
QUICK = (("vit", "bbn", False), ("convnext", "ride", True))
"""Two branches, and three experts with IFL."""
FORMS_OF = {"clip": ("plain", "twin")}
"""In which a network comes where it does not come in all."""
RANKS = 2


@pytest.fixture(autouse=True)
def _asked_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    asked_here(monkeypatch, tmp_path_factory.getbasetemp() / "networks")
    monkeypatch.setenv("GLT_PATH", str(clip()))


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
                if declared.FORM not in FORMS_OF.get(network, FORMS):
                    continue
                case = (network, method, ifl)
                marks = [] if case in QUICK else [pytest.mark.full]
                found.append(pytest.param(*case, marks=marks, id=f"{network}-{method}{'+ifl' if ifl else ''}"))
    return found


@cache
def clip() -> Path:
    """A folder of GLT_PATH with the CLIP."""
    folder = Path(tempfile.mkdtemp())
    tiny_clip.make(folder)
    return folder


def trained(folder: Path, stop_at: int | None = None) -> bool:
    """Train the recipe of a run folder on all ranks, to a stop or to the end; their one answer."""
    (answer,) = set(started(RANKS).run(in_a_rank, str(folder), str(clip()), stop_at=stop_at))
    assert isinstance(answer, bool), answer
    return answer


@cache
def first_stage(root: Path, network: str) -> tuple[Path, str]:
    """Train a baseline on a network; its folder of runs and its name."""
    runs = Path(tempfile.mkdtemp())
    recipe = mini.recipe_of(root, runs, "preset=corrected", *NETWORKS[network])
    assert trained(recipe.run_folder)
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
    assert trained(whole.run_folder)
    assert not trained(stopped.run_folder, stop_at=5) and trained(stopped.run_folder)
    one, two = mini.final(whole.run_folder), mini.final(stopped.run_folder)
    assert mini.same_bits({key: value for key, value in one.items() if key != ".suite.metrics_offset"}, two) == []
    losses = np.array([line["method_loss"] for line in mini.lines(whole.run_folder, "train")])
    assert np.isfinite(losses).all() and losses[2:].min() < losses[0]
