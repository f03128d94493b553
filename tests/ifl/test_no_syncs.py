"""IFL lets the device run on: within a training step it asks it for nothing that the baseline does not ask for.

There may be no GPU here, so what would wait for one is recorded on the CPU: calls that hand values to Python or move
them between devices, which on the CPU reach no operator, as Python makes them, and operators whose result's shape
depends on values, wherever they come from.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from recipes.resolve import load_resolved
from tests.helpers import mini
from tests.helpers.ranks import started

CALLS = {
    "item",
    "tolist",
    "cpu",
    "numpy",
    "to",
    "cuda",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__array__",
    "__contains__",
    "tensor",
    "as_tensor",
    "allclose",
}
OPERATORS = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "bincount",
    "unique",
    "unique_dim",
    "_unique",
    "_unique2",
    "unique_consecutive",
    "unique_dim_consecutive",
    "repeat_interleave",
    "equal",
    "is_nonzero",
    "histc",
    "argwhere",
    "isin",
}
COLLECTIVES = {
    "allreduce_",
    "allgather_",
    "_allgather_base_",
    "broadcast_",
    "reduce_",
    "barrier",
    "allgather_into_tensor_coalesced_",
    "reduce_scatter_",
    "_reduce_scatter_base_",
    "all_reduce_barrier_",
}


class _Calls(TorchFunctionMode):
    """Counts Python's calls that hand over values; a change of dtype alone is none."""

    def __init__(self, seen: Counter[str]) -> None:
        self.seen = seen

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        if name in CALLS and not (name == "to" and not _moves(args[1:], kwargs)):
            self.seen[f"call {name}"] += 1
        return function(*args, **kwargs)


def _moves(args: Any, kwargs: Any) -> bool:
    """Whether `Tensor.to` names a device, in place of a dtype or a tensor to be like."""
    return "device" in kwargs or any(isinstance(arg, torch.device | str) for arg in args)


class _Operators(TorchDispatchMode):
    """Counts operators that wait for the device, and collectives."""

    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.split("::")[1]
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in OPERATORS or masked:
            self.seen[f"operator {name}"] += 1
        if function._schema.name.startswith("c10d::"):
            assert name in COLLECTIVES, name
            self.seen[f"collective {name}"] += 1
        return function(*args, **(kwargs or {}))


def recorded(folder: str, place: str, gathers: bool) -> dict[str, int]:
    """In a rank: what one training step of a prepared run folder asks for: that which ends at `place`, as the loop's
    heartbeat calls it.
    """
    from ifl.invariance import class_sums, confidence
    from ifl.train import train

    smaller, held = class_sums.gather_is_smaller, confidence.HELD
    class_sums.gather_is_smaller, confidence.HELD = lambda *sizes: gathers, 1  # every step adds to the table
    seen: Counter[str] = Counter()
    kept: dict[str, int] = {}

    def heartbeat(section: str | None = None) -> None:
        if section == place:
            kept.update(seen)
        if section:
            seen.clear()

    try:
        with _Calls(seen), _Operators(seen):
            assert train(load_resolved(Path(folder) / "recipe.yaml"), Path(folder), heartbeat=heartbeat)
    finally:
        class_sums.gather_is_smaller, confidence.HELD = smaller, held  # other tests use these ranks, too
    return kept


@pytest.fixture(scope="module")
def step_of(mini_root: Path, tmp_path_factory: pytest.TempPathFactory):
    """What a step of a recipe asks for on the first of so many ranks: `step_of(words, epoch, ranks, gathers)`. It is
    the epoch's second step, after which nothing is logged, saved or compared.
    """

    def step(*words: str, epoch: int, ranks: int = 1, gathers: bool = False) -> dict[str, int]:
        recipe = mini.recipe_of(
            mini_root,
            tmp_path_factory.mktemp("runs"),
            *words,
            "schedule.epochs=3",
            "log.every=1000",
            "log.digest_every=1000",
        )
        answers = started(ranks).run(recorded, str(recipe.run_folder), f"epoch {epoch}, step 2", gathers)
        assert answers[0], "no step was recorded"
        return answers[0]

    return step


def waits(step: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in step.items() if not name.startswith("collective")}


def collectives(step: dict[str, int]) -> int:
    return sum(count for name, count in step.items() if name.startswith("collective"))


IFL = ("recipe=glt_ifl", "ifl.milestones=[1,2]")


@pytest.mark.parametrize(
    "words, epoch, gathers",
    [
        (IFL, 1, False),
        (IFL, 1, True),
        ((*IFL, "ifl.center=cosine"), 1, False),
        ((*IFL, "ifl.center=cosine"), 2, True),
        ((*IFL, "ifl.center_init=class_means"), 0, False),
        ((*IFL, "ifl.center_init=class_means", "ifl.rebuild=every_epoch"), 0, True),
    ],
)
def test_ifl_waits_for_nothing_that_the_baseline_does_not_wait_for(
    step_of: Any, words: tuple[str, ...], epoch: int, gathers: bool
) -> None:
    """With center term, scoring and averaging, by either distance, and by class sums as by gathered features, a step
    hands over to Python, or between devices, exactly what the baseline's does.
    """
    baseline = waits(step_of(epoch=epoch))
    assert baseline["call tolist"] == 1, "the totals of the step's reduction: were they not seen, nothing would be"
    assert waits(step_of(*words, epoch=epoch, gathers=gathers)) == baseline


def test_a_step_has_one_reduction_of_ours(step_of: Any) -> None:
    """Between two ranks a step has two collectives, the gradients' and the suite's; with IFL too, where the centers
    travel in it; where features are gathered instead, these are the third.
    """
    assert collectives(step_of(epoch=1, ranks=2)) == 2
    assert collectives(step_of(*IFL, epoch=1, ranks=2)) == 2
    assert collectives(step_of(*IFL, epoch=1, ranks=2, gathers=True)) == 3


def test_what_waits_is_seen() -> None:
    """The recorders see each kind of wait, and neither plain arithmetic nor a change of dtype."""
    values, mask = torch.arange(4.0), torch.tensor([True, False, True, True])
    kinds = {
        "item": lambda: values[0].item(),
        "bool": lambda: bool(values[1] > 0),
        "int": lambda: int(values[1]),
        "list": lambda: values.tolist(),
        "cpu": lambda: values.cpu(),
        "numpy": lambda: values.numpy(),
        "device": lambda: values.to(torch.device("cpu")),
        "mask": lambda: values[mask],
        "masked store": lambda: values.index_put((mask,), torch.tensor(0.0)),
        "nonzero": lambda: torch.nonzero(mask),
        "where": lambda: torch.where(mask),
        "unique": lambda: torch.unique(values),
        "bincount": lambda: torch.bincount(values.long()),
        "repeats": lambda: torch.repeat_interleave(values.long()),
        "equal": lambda: torch.equal(values, values),
        "select": lambda: torch.masked_select(values, mask),
    }
    for name, wait in kinds.items():
        seen: Counter[str] = Counter()
        with _Calls(seen), _Operators(seen):
            wait()
        assert seen, f"{name} is not seen"
    seen = Counter()
    with _Calls(seen), _Operators(seen):
        torch.where(mask, 0.0, values).double().to(torch.float32).index_add_(0, mask.long()[:1], values[:1]).sum()
    assert not seen
