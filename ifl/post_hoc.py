"""Predictions by weights that exist already.

A method that trains nothing evaluates another run's weights (`method.eval_of`), as post-hoc logit adjustment does, or
the network as it starts (`TRAINS = "nothing"`), as zero-shot classification does; and a run that has trained all its
epochs ends with the predictions of its best one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ifl.evaluator import scores, write_predictions
from ifl.run_log import Metrics, RunLog
from ifl.saving import provenance
from ifl.saving.best_epoch import best_name, load_best
from ifl.saving.kept_weights import know
from ifl.saving.saver import Saver
from ifl.saving.state import State
from ifl.saving.weights import load_run, start_from, write_weights
from ifl.setup import Setup, set_up
from ifl.supervision.startup_timer import Boot
from ifl.supervision.stop import StopRequest
from recipes.common.files import write_json, write_whole
from recipes.schema import Recipe

SILENT = RunLog()
LAST = "last.pt"


def predict_all(
    run: Setup, folder: Path, heartbeat: Callable[..., None], stop: StopRequest, run_log: RunLog = SILENT
) -> bool:
    """Write the predictions of every split into a folder, and their scores into a log. A collective; rank 0 writes.

    Returns:
        False if a stop was agreed before all were there.
    """
    for name, evaluator in run.readers.evaluators.items():
        if stop.agreed():
            return False
        heartbeat(f"evaluating {name} for {folder.name}")
        predictions = evaluator.predict(run.model.engine, run.model.method, heartbeat)
        if run.ranks.comm.rank == 0:
            write_predictions(folder, name, predictions)
        run_log.write(kind="eval", epoch=0, step=0, split=name, **scores(predictions))
    return True


def evaluate_untrained(
    recipe: Recipe,
    folder: Path,
    boot: Boot,
    heartbeat: Callable[..., None],
    stop_requested: Callable[[], bool],
    pipe: str | None = None,
    command: Sequence[str] = (),
) -> bool:
    """Evaluate, by the recipe's method, the weights of the run `method.eval_of`, or the network's start. A collective.

    What it writes is a run folder like any other. An evaluation that was cut off is made again. The arguments are those
    of `train`.

    Returns:
        False if it was stopped.

    Raises:
        CheckpointError: that run is not finished, or another network's.
        RunError: the file of class vectors is not what the run needs.
    """
    assert not recipe.trains, "the recipe trains"
    run = set_up(recipe, folder, boot, fresh=True, trains=False, pipe=pipe)
    boot.over()
    comm, model, eval_of = run.ranks.comm, run.model, recipe.method.eval_of
    stop = StopRequest(stop_requested, comm, run.ranks.device)
    first = comm.rank == 0
    if first:
        write_json(folder / "meta.json", provenance.meta(run.facts(steps=0), command))
    both: tuple[Literal["best", "last"], ...] = ("best", "last") if eval_of else ("last",)
    for select in both:
        if eval_of:
            start_from(model.engine.network, model.method, load_run(folder.parent / eval_of, select))
        run_log = Metrics(folder / "metrics.jsonl", 0) if first and select == "last" else SILENT
        if not predict_all(run, folder / "preds" / select, heartbeat, stop, run_log):
            return False
    if run.ranks.fence:
        whose = {"eval_of": eval_of} if eval_of else _keep_start(run)
        run.ranks.fence.check()
        write_json(folder / "done", {"epochs": 0, **whose, "seconds": {}, "wall_s": 0.0})
    comm.gather_objects(None, run.ranks.device)  # nobody leaves before `done` is there
    return True


def _keep_start(run: Setup) -> dict[str, Any]:
    """Keep the weights of a network that nothing trains, for later evaluations, exports and runs that build on it.

    Returns:
        What `done` says of them: the last are the best.
    """
    last_is_best(run.folder)
    kept = [LAST, write_weights(run.folder / "ckpt" / LAST, run.model.engine.weights())]
    return {"weights": {"last": kept, "best": kept}}


def last_is_best(folder: Path) -> None:
    """Keep the last epoch's predictions as the best epoch's, durably: `done`, which follows, vouches for them."""
    for file in (folder / "preds" / "last").iterdir():
        write_whole(folder / "preds" / "best" / file.name, file.read_bytes())


def finish(run: Setup, state: State, saver: Saver, stop: StopRequest, heartbeat: Callable[..., None]) -> bool:
    """End a run that has trained all its epochs: predict by the best epoch's weights, and write `done`. A collective.

    Meanwhile the last checkpoint and the last weights are written; `done` waits for them.

    Returns:
        False if a stop was agreed before all predictions were there.
    """
    folder, comm, device, began = run.folder, run.ranks.comm, run.ranks.device, time.monotonic()
    know(vars(state), saver.written(comm, device))
    saver.weights.begin(LAST)
    finished = True
    if state.best_epoch == run.recipe.schedule.epochs - 1:
        if comm.rank == 0:
            last_is_best(folder)
    else:
        load_best(folder / "ckpt", run.model.engine, state)
        finished = predict_all(run, folder / "preds" / "best", heartbeat, stop)
    state.spend("evaluate", time.monotonic() - began)
    began = time.monotonic()
    heartbeat("saving the last weights")
    saver.wait()
    last = saver.written(comm, device)[LAST]
    state.spend("save", time.monotonic() - began)
    if not finished:
        return False
    if run.ranks.fence:
        run.ranks.fence.check()
        done = {
            "epochs": state.epoch,
            "weights": {"last": [LAST, last], "best": [best_name(state.best_epoch), state.best_sha256]},
            "best_epoch": state.best_epoch,
            "best_val_accuracy": state.best_accuracy,
            "seconds": {part: round(value, 2) for part, value in state.seconds.items()},
            "wall_s": round(sum(state.seconds.values()), 2),
        }
        write_json(folder / "done", done)  # always last
    comm.gather_objects(None, run.ranks.device)  # nobody leaves before `done` is there
    return True
