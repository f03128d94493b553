"""Do two runs of the same recipe, and a run that was stopped and went on, end with the same bits?

Each question is asked with torch as it is, and with its deterministic algorithms. A run is made by the real loop:
checkpoints, evaluation and predictions belong to what is compared.
"""

from __future__ import annotations

from pathlib import Path

from ifl.train import train
from recipes.schema import Recipe
from tests.bench.gpu.bench import Bench
from tests.bench.gpu.ours import IFL, recipe_of
from tests.helpers.mini import final, same_bits


def section(bench: Bench) -> None:
    """Ask, and write how many arrays differ: 0 is equal to the last bit."""
    scale = bench.scale
    modes = [(precision, strict) for strict in (True, False) for precision in ("fp32", "bf16")]
    for precision, strict in modes if scale.gpu else modes[:1]:
        mode = f"{precision}, {'deterministic' if strict else 'as torch is'}"
        if bench.left_s < 5:
            bench.leave_out(mode, "no time left")
            continue
        with bench.guarded(mode), bench.device.repeatable(strict) as lacking:
            _ask(bench, mode, precision, promised=strict)
        for text in lacking:
            bench.note(f"{mode}: {text}")
    bench.note("stopped and gone on in one process, on one rank; another process or device was not tried")


def _ask(bench: Bench, mode: str, precision: str, promised: bool) -> None:
    whole = final(_trained(bench, precision))
    again, stopped = final(_trained(bench, precision)), final(_trained(bench, precision, stop=True))
    for what, other in (("a second run", again), ("a run stopped half-way", stopped)):
        unlike = same_bits(whole, other)
        bench.row(
            f"arrays that differ, {what}: {mode}", f"of {len(whole)}", [len(unlike)], most=0 if promised else None
        )
        if unlike:
            bench.note(f"{mode}, {what}, the first that differ: {', '.join(unlike[:4])}")


def _trained(bench: Bench, precision: str, stop: bool = False) -> Path:
    """Train a run with IFL, in two starts if it is stopped; return its folder."""
    scale = bench.scale
    recipe = recipe_of(
        bench,
        *IFL,
        f"data.workers={bench.workers if scale.gpu else 0}",
        f"optim.precision={precision}",
        f"batch.size={min(64, scale.batch)}",
        f"batch.bn={min(32, scale.bn)}",
        "schedule.epochs=2",
        f"batch.draws_per_epoch={_draws(bench)}",
    )
    if stop:
        assert not _run(recipe, stop_at=f"epoch 1, step {scale.resumed // 2}"), "it was to be stopped"
    assert _run(recipe), "it was to end"
    return recipe.run_folder


def _draws(bench: Bench) -> float:
    """Draws of an epoch of `resumed` steps, in units of the training set."""
    scale = bench.scale
    return scale.resumed * min(64, scale.batch) / (scale.images * scale.classes)


def _run(recipe: Recipe, stop_at: str = "never") -> bool:
    """Train until a place that the loop's heartbeat names, or to the end; return whether it ended."""
    past = set[str]()

    def heartbeat(section: str | None = None) -> None:
        past.add(section or "")

    return train(recipe, recipe.run_folder, lambda: stop_at in past, heartbeat)
