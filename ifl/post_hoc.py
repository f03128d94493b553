"""Predictions of weights that are there already: a method that trains nothing (`method.eval_of`), such as post-hoc logit
adjustment of a baseline, and the best epoch of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ifl.evaluator import scores, write_predictions
from ifl.run_log import Metrics
from ifl.saving import provenance
from ifl.saving.weights import load_run, start_from
from ifl.setup import Setup, set_up
from ifl.supervision.startup_timer import Boot
from recipes.common.files import write_json
from recipes.schema import Recipe


def predict_all(
    ready: Setup,
    folder: Path,
    beat: Callable[[str], None],
    stop_agreed: Callable[[], bool],
    metrics: Metrics | None = None,
) -> bool:
    """Write the predictions of every split into a folder; False if a stop was agreed before all were there. A collective; rank 0
    writes."""
    for name, evaluator in ready.evaluators.items():
        if stop_agreed():
            return False
        beat(f"evaluating {name} for {folder.name}")
        predictions = evaluator.predict(ready.engine, ready.method, beat)
        if ready.comm.rank == 0:
            write_predictions(folder, name, predictions)
        if metrics:
            metrics.write(kind="eval", epoch=0, step=0, split=name, **scores(predictions))
    return True


def judge(
    recipe: Recipe, folder: Path, boot: Boot, beat: Callable[[str], None], stop_requested: Callable[[], bool]
) -> bool:
    """Judge the last and the best weights of the run `method.eval_of` by the recipe's method, into a run folder like any
    other. False if it was stopped: a judgement that was cut off is made anew. A collective.

    Raises:
        CheckpointError: that run is not finished, or another network's.
    """
    ready = set_up(recipe, folder, boot, fresh=True, trains=False)
    boot.over()

    def stop_agreed() -> bool:
        return bool(ready.comm.sum(torch.tensor([int(stop_requested())], device=ready.device)))

    run, first = folder.parent / recipe.method.eval_of, ready.comm.rank == 0
    if first:
        write_json(folder / "meta.json", provenance.meta(ready.facts(recipe, steps=0)))
    for select in ("best", "last"):
        start_from(ready.engine.network, ready.method, load_run(run, select))
        if not predict_all(
            ready,
            folder / "preds" / select,
            beat,
            stop_agreed,
            Metrics(folder / "metrics.jsonl", 0) if first and select == "last" else None,
        ):
            return False
    if ready.fence:
        ready.fence.check()
        write_json(folder / "done", {"epochs": 0, "eval_of": run.name, "seconds": {}, "wall_s": 0.0})
    ready.comm.gather_objects(None, ready.device)
    return True
