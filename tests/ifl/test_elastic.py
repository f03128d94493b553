"""A run that changes its number of ranks on the way, 2 -> 4 -> 1: the same batches, the same optimizer state, and
parameters within the order of float sums; one that is stopped on the way and keeps its ranks ends with the same bits.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.resolve import dump
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


def tensors(engine: Any) -> dict[str, Any]:
    """Parameters, buffers and the parameters' moving average; and this rank's optimizer state (with ZeRO its pieces) by
    the parameter group, laid end to end, with the group's number of parameters.
    """
    average = engine.average.tensors if engine.average else {}
    network = {**engine.network.state_dict(), **{f"average {name}": value for name, value in average.items()}}
    groups = engine.torch_optimizer.param_groups
    sizes = [sum(p.numel() for p in group["params"]) for group in groups]
    if engine.zero:
        sizes = [sum(p.numel() for p in group) for group in engine.optimizer.bit16_groups]
    state = engine.torch_optimizer.state
    kept: dict[tuple[int, str], np.ndarray] = {}
    for number, group in enumerate(groups):
        for key in {key for p in group["params"] for key in state.get(p, {})}:
            values = [torch.as_tensor(state[p][key]).flatten() for p in group["params"]]
            kept[number, key] = torch.cat(values).numpy().copy()
    return {
        "network": {name: value.numpy().copy() for name, value in network.items()},
        "optimizer": kept,
        "sizes": sizes,
    }


def _optimizer(answers: list[dict[str, Any]], when: str, zero: int) -> dict[tuple[int, str], np.ndarray]:
    """All state of the optimizer, without the padding at the end of ZeRO's last pieces, and a count of steps once."""
    found = {}
    for (number, key), value in answers[0][when]["optimizer"].items():
        if key == "step":
            assert all((answer[when]["optimizer"][number, key] == value[0]).all() for answer in answers)
            found[number, key] = value[:1]
            continue
        size = answers[0][when]["sizes"][number]
        whole = np.concatenate([answer[when]["optimizer"][number, key] for answer in answers]) if zero else value
        assert len(whole) >= size and not whole[size:].any()
        found[number, key] = whole[:size]
    return found


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
    return max(float(np.abs(two[name] - value).max() / np.abs(value).max()) for name, value in one.items())


SGD = ("optim.lr=0.002",)
ADAMW = (
    *("optim.name=adamw", "optim.lr=0.0005", "optim.momentum=null", "optim.decay=weights", "optim.layer_decay=0.7"),
    *("optim.clip=0.5", "optim.ema=0.8", "optim.label_smoothing=0.1", "schedule.by=step", "schedule.warmup=0.6"),
)
"""All of the optimiser's keys at once: ten parameter groups in a network with batch normalisation."""


def _recipe(root: Path, norm: bool, zero: int, optim: tuple[str, ...]) -> Recipe:
    words = ("batch.size=64", "batch.bn=16") if norm else ("batch.size=32", "batch.bn=0")
    own = (f"optim.zero={zero}", *optim, "ifl.milestones=[0]", "ifl.alpha=[0.02]")
    return loop_recipe(root, "glt_ifl", *words, *own, epochs=EPOCHS, model=None if norm else "plain")


@pytest.mark.parametrize(
    "norm, zero, optim",
    [
        (True, 1, ADAMW),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (
                *((norm, zero, SGD) for norm in (True, False) for zero in (0, 1)),
                *((True, 0, ADAMW), (False, 1, ADAMW)),
            )
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_two_then_four_then_one_rank(
    tiny_root: Path, tmp_path: Path, norm: bool, zero: int, optim: tuple[str, ...]
) -> None:
    """Every step's global batch is that of a run on two ranks throughout; parameters, running statistics, moving
    average and all optimizer state have the same bits before and after each change; at the end they differ from the
    other run's by the order of float sums."""
    recipe = _recipe(tiny_root, norm, zero, optim)
    fixed, changing = (
        _train(recipe, tmp_path / "fixed", ((2, TO_THE_END),)),
        _train(recipe, tmp_path / "changing", CHANGES),
    )
    assert _ids(changing) == _ids(fixed) and len(_ids(fixed)) == EPOCHS * STEPS
    for before, after in itertools.pairwise(changing):
        for answer in after:
            _same_bits(answer["loaded"]["network"], before[0]["now"]["network"])
        _same_bits(_optimizer(after, "loaded", zero), wanted := _optimizer(before, "now", zero))
        assert wanted and all(value.any() for value in wanted.values())
    difference = _difference(fixed[0][0]["now"]["network"], changing[-1][0]["now"]["network"])
    print(
        f"zero={zero}, {optim[0]}, {'batch' if norm else 'no'} normalisation: largest relative difference of any "
        f"parameter or statistic {difference:.1e}"
    )
    # AdamW divides by the root of a mean of squares, so where gradients are next to nothing it magnifies their rounding
    assert 0 < difference < (1e-5 if optim == SGD else 1e-3)


def _same_bits(one: dict[Any, np.ndarray], two: dict[Any, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value.tobytes() == two[name].tobytes(), name


@pytest.mark.parametrize("zero", [1, pytest.param(0, marks=pytest.mark.full)])
def test_a_stopped_run_ends_with_the_same_bits(tiny_root: Path, tmp_path: Path, zero: int) -> None:
    """AdamW with all of the optimiser's keys on two ranks, stopped inside of the warm-up and once more in epoch 1:
    parameters, statistics, moving average, optimizer state and best epoch are those of a run that was not. What was
    evaluated and kept is the moving average, and evaluated again it predicts the same."""
    recipe = _recipe(tiny_root, True, zero, ADAMW)
    straight, stopped = (
        _train(recipe, tmp_path / "straight" / recipe.run_name, ((2, TO_THE_END),))[-1],
        _train(recipe, tmp_path / "stopped" / recipe.run_name, ((2, 2), (2, STEPS + 2), (2, TO_THE_END)))[-1],
    )
    for one, other in zip(straight, stopped, strict=True):
        _same_bits(one["now"]["network"], other["now"]["network"])
        _same_bits(one["now"]["optimizer"], other["now"]["optimizer"])
    folder, other = (tmp_path / name / recipe.run_name for name in ("straight", "stopped"))
    done, done_other = (json.loads((run / "done").read_text()) for run in (folder, other))
    assert done["weights"] == done_other["weights"]
    last = torch.load(folder / "ckpt" / "last.pt", weights_only=True)
    newest = sorted(folder.glob("ckpt/step-*"))[-1] / "engine" / "mp_rank_00_model_states.pt"
    kept = torch.load(newest, weights_only=False)
    network, averages = kept["module"], kept["moving_average"]
    for name, value in last.items():
        assert torch.equal(value, averages.get(name, network[name])), name
        assert name not in averages or not torch.equal(averages[name], network[name])
    (folder / "recipe.yaml").write_text(dump(recipe))
    for select in ("last", "best"):
        changed = started(1).run(again, str(folder), select)[0]
        assert changed and not any(changed.values())


def again(folder: str, select: str) -> dict[str, int]:
    """In a rank: the numbers of predictions that are others when a finished run is evaluated again."""
    from ifl.finished_run import evaluate

    return evaluate(Path(folder), "best" if select == "best" else "last")
