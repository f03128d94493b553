"""The train loop: read it from top to bottom. One loop for all methods, with and without IFL, on any number of ranks.

Each task has its own class, and the loop says when it is done:

* `set_up` (setup.py) joins the ranks and makes data, model and readers ready;
* `TrainStep` (step.py) makes one step: forward, backward, the one reduction over the ranks, all updates;
* `Invariance` (invariance/invariance.py) is IFL, and `Off` its twin that does nothing: nobody asks which one is there;
* `Saver` (saving/saver.py) knows when a checkpoint is due, and commits it;
* `Judge` (evaluation/judge.py) evaluates each epoch, or takes the verdicts of an evaluator beside the run;
* `StopRequest` (supervision/stop.py) hears the signal to stop; the ranks agree on it and leave together;
* `State` (saving/state.py) is where the run is: with the engine's files, all that a checkpoint must hold.

Every rank makes the same calls in the same order. What is decided by one rank's clock, disk or signal travels with the
step's reduction, or in a collective, before anybody acts on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ifl.distributed.consistency import check_equal, digest
from ifl.evaluation.judge import Judge
from ifl.invariance.invariance import Invariance, Off
from ifl.invariance.streams import first_weights
from ifl.optimisation.learning_rate import learning_rate
from ifl.post_hoc import evaluate_untrained, finish
from ifl.run_log import Reporter, RunLog, has_history, open_metrics
from ifl.saving import checkpoint, provenance
from ifl.saving.best_epoch import write_environment
from ifl.saving.state import State, unpack
from ifl.setup import USUAL_PARTS, Parts, Setup, make_invariance, make_planner, make_saver, make_step, set_up
from ifl.supervision.node_look import NodeLook
from ifl.supervision.startup_timer import Boot
from ifl.supervision.stop import StopRequest
from recipes.common.files import write_json
from recipes.schema import Recipe


def train(
    recipe: Recipe,
    folder: Path,
    stop_requested: Callable[[], bool] = lambda: False,
    heartbeat: Callable[..., None] = lambda section=None: None,
    parts: Parts = USUAL_PARTS,
    pipe: str | None = None,
    command: Sequence[str] = (),
    look: NodeLook | None = None,
) -> bool:
    """Train a resolved recipe in its run folder, from its newest checkpoint if there is one.

    Args:
        recipe: the resolved recipe.
        folder: the run folder.
        stop_requested: asked at every step; where it says yes on any rank, all save and leave.
        heartbeat: told at each bit of progress what comes next (supervision/watchdog.py).
        parts: the classes that the run is made of; tests put in their own.
        pipe: the site file's command, by which the data come where their root is `pipe:`.
        command: the launcher's `sys.argv`, for meta.json; empty where this process was started by hand.
        look: how the nodes are looked at before the first step; None: they are not.

    Returns:
        True when the run is finished; False when it was stopped after a checkpoint.
    """
    boot = Boot(heartbeat)
    if not recipe.trains:  # the method evaluates the weights of another run, or what the network starts from
        return evaluate_untrained(recipe, folder, boot, heartbeat, stop_requested, pipe, command)

    # ---------------------------------------------------------------------------------- who takes part; new or resumed
    run = set_up(recipe, folder, boot, fresh=not has_history(folder), parts=parts, pipe=pipe, look=look)
    comm, device, engine = run.ranks.comm, run.ranks.device, run.model.engine
    stop = StopRequest(stop_requested, comm, device)
    invariance = make_invariance(run, parts)
    boot.part("load")
    check_equal("recipe, data and decoder", str(run.identity), comm, device)
    history = has_history(folder)
    packed = checkpoint.load_newest(folder / "ckpt", engine, comm, history=history, run_identity=run.identity)
    state = start(run, parts) if packed is None else resume(run, packed, invariance)
    planner = make_planner(run)
    steps = planner.plan(state.epoch, state.weights).steps
    run_log = open_log(run, steps, packed, command)
    step = make_step(run, invariance, heartbeat, parts, steps)
    report = Reporter(run_log, recipe, steps, step.waits)
    with make_saver(run, steps, step, run_log, heartbeat) as saver:
        judge = Judge(run, state, report, saver, stop, heartbeat)
        if packed is None:
            saver.save(state, wait=True)  # from now on history without a checkpoint means that one was lost
        seconds = boot.over()
        report.write(state, "boot", **run.runs_on, **run.looked, seconds=round(seconds, 2), parts=boot.parts)
        state.spend("boot", seconds)
        while state.epoch < recipe.schedule.epochs:
            # --------------------------------------------------------------------------------------- an epoch's steps
            epoch, began = state.epoch, time.monotonic()
            invariance.begin_epoch(epoch)
            # The same plan on every rank, from which each reads its own rows; resuming is a matter of where to start.
            plan = planner.plan(epoch, state.weights)
            batches = run.train_reader.read(plan, start=state.step)
            if epoch + 1 < recipe.schedule.epochs:  # meanwhile, as far as it is known
                planner.begin(epoch + 1, state.weights, unknown=invariance.renews)
            report.begin_epoch(state)
            while state.step < steps:
                lr = learning_rate(epoch, recipe.schedule, recipe.optim.lr, state.step, steps)
                engine.set_lr(lr)
                totals = step.take(state, plan, batches, saver.due, stop.asked)
                heartbeat(f"epoch {epoch}, step {state.step}")
                state.count(recipe.batch.size, totals)
                report.after_step(state, lr, invariance.alpha)
                report.write(state, "profile", **step.profile.after(epoch * steps + state.step))
                compare_ranks(run, state, invariance, epoch * steps + state.step)
                judge.look(state)
                if totals.save or totals.stop:
                    saver.save(state, wait=totals.stop)
                if totals.stop:
                    return False
            state.spend("train", time.monotonic() - began)
            report.write(state, "fetched", **run.fetched())

            # --------------------------------------------------------------------------------------- the epoch's end
            began, final = time.monotonic(), epoch + 1 == recipe.schedule.epochs
            step.refuse_pollution(state)  # before the network is evaluated, and perhaps kept as the best
            if not judge.epoch_over(state, final):  # stopped: the epoch's steps are kept, its evaluation is made again
                saver.save(state, wait=True)
                return False
            report.write(state, "centers", **invariance.travelled())
            state.spend("evaluate", time.monotonic() - began)
            if invariance.end_epoch(state) and comm.rank == 0:
                write_environment(folder / "env" / f"epoch-{epoch:03d}.npz", state.weights, run.data.train_split)
            state.epoch, state.step = epoch + 1, 0
            heartbeat(f"epoch {epoch + 1}, step 0")
            stopping = stop.agreed()  # the request may have come during the evaluation
            if final or stopping or epoch in recipe.kept_epochs:
                saver.save(state, wait=stopping)
            if stopping and not final:
                return False

        return finish(run, state, saver, stop, heartbeat)


def start(run: Setup, parts: Parts) -> State:
    """Return the state before the first step: every stream has its first weights."""
    weights = first_weights(run.recipe.stream_names, run.data.train_split.index.label, run.data.counts)
    return parts.state(weights=weights, memory=run.model.method.memory)


def resume(run: Setup, packed: dict[str, Any], invariance: Invariance | Off) -> State:
    """Return a checkpoint's state, with all who carry a part of it put back in place."""
    state = unpack(packed, invariance)
    run.model.go_on_from(state)
    return state


def open_log(run: Setup, steps: int, packed: dict[str, Any] | None, command: Sequence[str]) -> RunLog:
    """Open rank 0's metrics.jsonl where the checkpoint left it; a new run gets its meta.json, too."""
    if run.ranks.comm.rank > 0:
        return RunLog()
    if packed is None:
        write_json(run.folder / "meta.json", provenance.meta(run.facts(steps), command))
    offset, held = (packed["metrics_offset"], packed.get("metrics_held", ())) if packed else (0, ())
    return open_metrics(run.recipe, run.folder, offset, held)


def compare_ranks(run: Setup, state: State, invariance: Invariance | Off, done: int) -> None:
    """Stop on all ranks, every so many steps, if they do not hold the same bits. A collective."""
    if done % run.recipe.log.digest_every == 0:
        held = digest(invariance.centers_KD, *state.weights, state.class_means, *state.memory.values())
        what = f"parameters, centers and weights after step {done}"
        check_equal(what, f"{run.model.engine.checksum()} {held}", run.ranks.comm, run.ranks.device)
