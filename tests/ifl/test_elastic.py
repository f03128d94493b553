"""A run that changes its number of ranks on the way, 2 -> 4 -> 1: the same batches, the same momentum, and parameters
within the order of float sums.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.schema import Recipe
from tests.helpers.ranks import started
from tests.helpers.train_loop import STEPS, loop_recipe, offer

EPOCHS = 3
TO_THE_END = 1000
CHANGES = ((2, 3), (4, STEPS + 4), (1, TO_THE_END))
"""Numbers of ranks, and the step of the run that each goes to: changes come in the middle of epochs 0 and 1."""


def part(recipe: str, folder: str, stop_at: int) -> dict[str, Any]:
    """In a rank: train until the run has made `stop_at` steps. Returns the ids of each step's rows on this rank, and
    the parameters and momentum as they were loaded (none for a new run) and as they are now."""
    from ifl import setup
    from ifl import train as loop

    offer("plain")
    ids: dict[int, list[int]] = {}
    kept: dict[str, Any] = {"loaded": None}
    done = [-1]

    class Kept(setup.Engine):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            kept["engine"] = self

        def load(self, *args: Any) -> None:
            super().load(*args)
            kept["loaded"] = tensors(self)

    class Placed(setup.StepSync):
        def start(self, at: tuple[int, int], **wishes: bool) -> None:
            done[0] = at[0] * STEPS + at[1]
            ids[done[0]] = kept.pop("rows")
            super().start(at, **wishes)

    class Noted(setup.Reader):
        def read(self, draws: Any) -> Any:
            for batch in super().read(draws):
                kept["rows"] = kept.get("rows", []) + batch.ids.tolist()
                yield batch

    finished = loop.train(
        Recipe.model_validate_json(recipe),
        Path(folder),
        lambda: done[0] + 2 >= stop_at,  # asked before the step under way starts its reduction
        parts=setup.Parts(engine=Kept, reduction=Placed, reader=Noted),
    )
    return {"finished": finished, "ids": ids, "loaded": kept["loaded"], "now": tensors(kept["engine"])}


def tensors(engine: Any) -> dict[str, np.ndarray]:
    """Parameters, buffers, and this rank's momentum (with ZeRO its piece), laid end to end."""
    momenta = [state["momentum_buffer"].flatten() for state in engine.torch_optimizer.state.values()]
    return {
        **{name: value.numpy().copy() for name, value in engine.network.state_dict().items()},
        "momentum": torch.cat(momenta).numpy().copy(),
    }


def _momentum(answers: list[dict[str, Any]], when: str, zero: int) -> np.ndarray:
    """All of it, without the padding at the end of ZeRO's last pieces."""
    parameters = sum(
        value.size for name, value in answers[0][when].items() if name != "momentum" and "running" not in name
    )
    whole = np.concatenate([answer[when]["momentum"] for answer in answers]) if zero else answers[0][when]["momentum"]
    assert len(whole) >= parameters and not whole[parameters:].any()
    return whole[:parameters]


def _train(recipe: Recipe, folder: Path, changes: tuple[tuple[int, int], ...]) -> list[list[dict[str, Any]]]:
    folder.mkdir(parents=True)
    parts = [started(ranks).run(part, recipe.model_dump_json(), str(folder), stop_at) for ranks, stop_at in changes]
    assert [{answer["finished"] for answer in answers} for answers in parts] == [{False}] * (len(parts) - 1) + [{True}]
    return parts


def _ids(parts: list[list[dict[str, Any]]]) -> dict[int, list[int]]:
    """Each step's samples over all ranks, sorted; a step made twice would be an error."""
    result: dict[int, list[int]] = {}
    for answers in parts:
        steps = {
            step: sorted(itertools.chain.from_iterable(answer["ids"][step] for answer in answers))
            for step in answers[0]["ids"]
        }
        assert not steps.keys() & result.keys()
        result |= steps
    return result


def _difference(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> float:
    """The largest difference of any element, relative to its tensor's largest."""
    return max(
        float(np.abs(two[name] - value).max() / np.abs(value).max())
        for name, value in one.items()
        if name != "momentum"
    )


@pytest.mark.parametrize(
    "norm, zero",
    [(True, 1), *(pytest.param(*case, marks=pytest.mark.full) for case in ((False, 0), (True, 0), (False, 1)))],
)
def test_two_then_four_then_one_rank(tiny_root: Path, tmp_path: Path, norm: bool, zero: int) -> None:
    """Every step's global batch is that of a run on two ranks throughout; parameters, running statistics and momentum
    have the same bits before and after each change; at the end they differ from the other run's by the order of float
    sums."""
    words = ("batch.size=64", "batch.bn=16") if norm else ("batch.size=32", "batch.bn=0")
    recipe = loop_recipe(
        tiny_root,
        "glt_ifl",
        *words,
        f"optim.zero={zero}",
        "optim.lr=0.002",
        "ifl.milestones=[0]",
        "ifl.alpha=[0.02]",
        epochs=EPOCHS,
        model=None if norm else "plain",
    )
    fixed, changing = (
        _train(recipe, tmp_path / "fixed", ((2, TO_THE_END),)),
        _train(recipe, tmp_path / "changing", CHANGES),
    )
    assert _ids(changing) == _ids(fixed) and len(_ids(fixed)) == EPOCHS * STEPS
    for before, after in itertools.pairwise(changing):
        for answer in after:
            for name, value in before[0]["now"].items():
                if name != "momentum":
                    assert answer["loaded"][name].tobytes() == value.tobytes(), name
        momentum = _momentum(before, "now", zero)
        assert momentum.any() and _momentum(after, "loaded", zero).tobytes() == momentum.tobytes()
    difference = _difference(fixed[0][0]["now"], changing[-1][0]["now"])
    print(
        f"zero={zero}, {'batch' if norm else 'no'} normalisation: largest relative difference of any parameter or "
        f"statistic {difference:.1e}"
    )
    assert 0 < difference < 1e-5
