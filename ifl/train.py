"""The train loop: read it from top to bottom. One loop for all methods, with and without IFL, on any number of ranks.

Axes: B global batch, D feature, K classes, N training samples, R ranks, S streams.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ifl.distributed.consistency import check_equal, digest
from ifl.distributed.fixed_point import to_float
from ifl.evaluator import scores, write_predictions
from ifl.invariance.centers import FEATURE_BITS, Centers
from ifl.invariance.confidence import ConfidenceTable, mean_scores
from ifl.invariance.environments import stream_weights
from ifl.invariance.streams import first_weights
from ifl.method import Rows
from ifl.mixup import mix, partners, share_of_step
from ifl.post_hoc import judge, predict_all
from ifl.run_log import open_metrics
from ifl.saving import checkpoint, provenance
from ifl.saving.best_epoch import best_name, load_best, save_best, write_environment
from ifl.saving.state import State, pack, step_seed, unpack
from ifl.saving.weights import write_weights
from ifl.setup import set_up
from ifl.step import Diverged, refuse_pollution
from ifl.step_reduction import StepSync
from ifl.supervision.startup_timer import Boot
from recipes.common.files import write_json
from recipes.schema import Ifl, Recipe, Schedule
from sharding.plan.epoch import BatchShape, EpochPlan, plan_epoch, stream_draws
from sharding.plan.philox import DrawKey
from sharding.plan.ranks import rank_draws
from sharding.plan.windowed import ShardWindow


def learning_rate(epoch: int, schedule: Schedule, lr: float) -> float:
    """Along a cosine from `lr` to 0, or lower by gamma from each drop on; moved once an epoch."""
    if schedule.decay == "steps":
        return lr * schedule.gamma ** sum(drop <= epoch for drop in schedule.drops)
    return lr * 0.5 * (1 + math.cos(math.pi * epoch / schedule.epochs))


def center_weight(epoch: int, ifl: Ifl | None) -> float:
    """alpha, the weight of the center term: 0 before the first milestone, then the last one's reached."""
    reached = [a for m, a in zip(ifl.milestones, ifl.alpha, strict=True) if m <= epoch] if ifl else []
    return reached[-1] if reached else 0.0


def train(
    recipe: Recipe,
    folder: Path,
    stop_requested: Callable[[], bool] = lambda: False,
    beat: Callable[..., None] = lambda section=None: None,
) -> bool:
    """Train a resolved recipe in its run folder, from its newest checkpoint if there is one.

    Args:
        stop_requested: asked at every step; where it says yes on any rank, all save and leave.
        beat: told at each bit of progress what comes next (ifl/supervision/watchdog.py).

    Returns:
        True when the run is finished; False when it was stopped after a checkpoint.
    """
    boot = Boot(beat)
    if recipe.method.eval_of:
        return judge(recipe, folder, boot, beat, stop_requested)
    ready = set_up(recipe, folder, boot, fresh=not _history(folder))
    device, comm, fence, method, engine, statistics, mine, belongs = (
        ready.device,
        ready.comm,
        ready.fence,
        ready.method,
        ready.engine,
        ready.statistics,
        ready.mine,
        ready.belongs,
    )
    ifl, batch, mixup = recipe.ifl, recipe.batch, recipe.augment.mixup
    labels, shards = ready.train_split.index.label, ready.train_split.index.shard
    centers = (
        Centers(len(ready.counts), engine.network.backbone.feature_dim, ifl.center, ifl.center_lr, recipe.seed, device)
        if ifl
        else None
    )
    confidence = ConfidenceTable(len(labels), device) if ifl else None
    sync = StepSync(comm, batch.size, centers, device, targets=2 if mixup else 1)

    def plan_of(epoch: int, weights: list[np.ndarray | None]) -> EpochPlan:
        draws = stream_draws(
            weights,
            len(labels),
            draws_per_epoch=batch.draws_per_epoch,
            matched=batch.budget == "matched",
            replacement=bool(batch.replacement),
        )
        shape = BatchShape(batch.size, batch.bn, len(weights), batch.bn_by == "env")
        window = ShardWindow(shards, recipe.data.shuffle_window) if recipe.data.shuffle_window else None
        return plan_epoch(draws, shape, DrawKey(recipe.seed, epoch), window)

    # -------------------------------------------------------------------------------------------------- new or resumed
    boot.part("load")
    check_equal("recipe, data and decoder", str(belongs), comm, device)
    packed = checkpoint.load_newest(folder / "ckpt", engine, comm, history=_history(folder), belongs=belongs)
    state = State(weights=first_weights(recipe.stream_names, labels, ready.counts), memory=method.memory)
    if packed is not None:
        state = unpack(packed, centers, confidence, comm)
        method.memory = {key: value.to(device) for key, value in state.memory.items()}
        state.memory = method.memory
        statistics.refresh()
    steps = plan_of(state.epoch, state.weights).steps
    if comm.rank == 0 and packed is None:
        write_json(folder / "meta.json", provenance.meta(ready.facts(recipe, steps)))
    metrics = open_metrics(recipe, folder, packed["metrics_offset"] if packed else 0) if comm.rank == 0 else None

    def log(kind: str, **values: Any) -> None:
        if metrics:
            metrics.write(kind=kind, epoch=state.epoch, step=state.epoch * steps + state.step, **values)

    def stop_agreed() -> bool:
        """Whether any rank was asked to stop. A collective."""
        return bool(comm.sum(torch.tensor([int(stop_requested())], device=device)))

    def save() -> None:
        began = time.monotonic()
        beat(f"saving at epoch {state.epoch}, step {state.step}")
        refuse_pollution(engine, comm, state.epoch, state.step, recipe.optim.lr)
        more = {**belongs, "metrics_offset": metrics.offset() if metrics else 0}
        needs = {best_name(state.best_epoch): state.best_sha256} if state.best_epoch >= 0 else {}
        checkpoint.save(
            folder / "ckpt",
            engine,
            pack(state, centers, confidence, comm, **more),
            state.epoch * steps + state.step,
            comm,
            needs,
            fence,
            [(e + 1) * steps for e in recipe.kept_epochs],
        )
        state.spend("save", time.monotonic() - began)
        beat(f"epoch {state.epoch}, step {state.step}")

    if packed is None:
        save()  # from now on history without a checkpoint means that one was lost
    seconds = boot.over()
    log("boot", world=comm.size, seconds=round(seconds, 2), parts=boot.parts)
    state.spend("boot", seconds)
    saved_at = time.monotonic()

    # --------------------------------------------------------------------------------------------------------- epochs
    while state.epoch < recipe.schedule.epochs:
        epoch, epoch_began = state.epoch, time.monotonic()
        lr, alpha = learning_rate(epoch, recipe.schedule, recipe.optim.lr), center_weight(epoch, ifl)
        scoring = ifl is not None and ifl.environments > 1 and (ifl.rebuild == "every_epoch" or epoch in ifl.milestones)
        averaging = ifl is not None and ifl.center_init == "class_means" and epoch + 1 == ifl.milestones[0]
        engine.set_lr(lr)
        plan = plan_of(epoch, state.weights)
        draws = rank_draws(plan, mine, recipe.seed, start=state.step)
        batches = ready.reader.read(draws)
        if ready.fetcher:
            batches = ready.fetcher.follow(plan, state.step, batches, len(mine))
        timed_from, timed_at = state.step, time.monotonic()
        for step in range(state.step, steps):
            step_ids = plan.batch(step)
            step_labels = torch.from_numpy(labels[step_ids]).to(device)
            share = share_of_step(mixup, step_seed(recipe.seed, epoch, step, batch.size)) if mixup else 1.0
            for micro in range(len(mine)):
                torch.manual_seed(
                    step_seed(recipe.seed, epoch, step, int(mine[micro][0]))
                )  # for methods that use torch's own randomness
                read = next(batches)
                beat()
                images, *columns = (column.to(device, non_blocking=True) for column in read)
                rows = Rows(*columns, epoch, step_labels)
                images, targets = (
                    mix(images, rows.labels, share, partners(mine[micro], recipe, epoch, step))
                    if mixup
                    else (images, [(1.0, rows.labels)])
                )
                output = engine.forward(images)
                losses_B = sum(part * method.losses(output, rows._replace(labels=of)) for part, of in targets)
                distances_B = (
                    sum(part * centers.distances(output.features_BD, of) for part, of in targets) if alpha else None
                )
                if scoring:
                    confidence.add(rows.ids, output.logits_BK.detach().softmax(1).gather(1, rows.labels[:, None])[:, 0])
                correct = (method.predict(output).argmax(1) == rows.labels).sum()
                sync.add(
                    losses_B,
                    distances_B,
                    correct,
                    statistics.of_group(),
                    output.features_BD if alpha or averaging else None,
                    targets,
                    counts=batch.bn_by == "mix" or mine[micro][0] < batch.size // recipe.streams,
                    notes_BC=method.notes(output, rows),
                    rows_B=mine[micro],
                )
                last = micro + 1 == len(mine)
                if last:  # travels while the gradients are computed
                    wish = time.monotonic() - saved_at > recipe.log.save_every_s or (
                        recipe.log.save_every_steps is not None
                        and (epoch * steps + step + 1) % recipe.log.save_every_steps == 0
                    )
                    sync.start((epoch, step), save=wish and comm.rank == 0, stop=stop_requested())
                engine.backward(
                    losses_B.sum() if distances_B is None else losses_B.sum() + alpha * distances_B.sum(), last
                )
                if not last:
                    engine.step()
            totals = sync.wait()
            if totals.bad:
                refuse_pollution(
                    engine, comm, state.epoch, state.step, recipe.optim.lr
                )  # by a step before: the better sentence
                raise Diverged(
                    f"epoch {epoch}, step {step}: {totals.bad} losses, features or batch statistics are not finite or out of range; a lower optim.lr={recipe.optim.lr} may help"
                )
            engine.step()
            statistics.move(totals.statistics)
            if alpha:
                centers.move(totals.class_sums, batch.size, step_labels)
            if averaging:
                added = to_float(totals.class_sums, FEATURE_BITS)
                state.class_means = added if state.class_means is None else state.class_means + added
            if totals.notes is not None:
                method.remember(torch.from_numpy(step_ids).to(device), step_labels, totals.notes)
                state.memory = method.memory
            state.step, due, stop = step + 1, totals.save, totals.stop
            beat(f"epoch {epoch}, step {step + 1}")
            state.count(batch.size, totals)
            if (epoch * steps + state.step) % recipe.log.every == 0 or state.step == steps:
                log(
                    "train",
                    lr=lr,
                    alpha=alpha,
                    **state.means(alpha),
                    images_per_s=round((state.step - timed_from) * batch.size / (time.monotonic() - timed_at), 1),
                )
                timed_from, timed_at = state.step, time.monotonic()
            if (epoch * steps + state.step) % recipe.log.digest_every == 0:
                check_equal(
                    f"parameters, centers and weights after step {epoch * steps + state.step}",
                    f"{engine.checksum()} {digest(centers and centers.centers_KD, *state.weights, state.class_means, *state.memory.values())}",
                    comm,
                    device,
                )
            if due or stop:
                save()
                saved_at = time.monotonic()
            if stop:
                return False
        state.spend("train", time.monotonic() - epoch_began)
        if ready.dataset.cache:
            log("fetched", **ready.dataset.cache.counts())

        # ------------------------------------------------------------------------------------------- the epoch's end
        began = time.monotonic()
        refuse_pollution(engine, comm, state.epoch, state.step, recipe.optim.lr)
        final = epoch + 1 == recipe.schedule.epochs
        seen: dict[str, dict[str, np.ndarray]] = {}
        for name in ["val"] + (ready.tests if final or (epoch + 1) % recipe.log.eval_test_every == 0 else []):
            if stop_agreed():  # the steps of the epoch are kept; its evaluation is made anew
                save()
                return False
            beat(f"evaluating {name} after epoch {epoch}")
            seen[name] = ready.evaluators[name].predict(engine, method, beat)
        for name, predictions in seen.items():
            log("eval", split=name, **scores(predictions))
            accuracy = float(np.mean(predictions["prediction"] == predictions["label"]))
            if name == "val" and accuracy > state.best_accuracy:  # the first epoch on ties
                state.best_epoch, state.best_accuracy = epoch, accuracy
                state.best_sha256 = comm.from_first(
                    save_best(folder / "ckpt", engine, epoch) if comm.rank == 0 else None, device
                )
            if final and fence:
                fence.check()
                write_predictions(folder / "preds" / "last", name, predictions)
        if alpha:
            log("centers", **centers.travelled())
        state.spend("evaluate", time.monotonic() - began)
        if averaging:
            centers.start_from_means(state.class_means)
            state.class_means = None
        if scoring:
            total = confidence.total(comm)
            first = recipe.stream_names.index("environment")
            state.weights[first : first + ifl.environments] = stream_weights(
                ifl.environments,
                mean_scores(total),
                labels,
                sample_scale=ifl.sample_scale,
                class_balanced=ifl.class_balanced,
                unseen=ifl.unseen,
            )
            check_equal(
                f"confidence and environment weights after epoch {epoch}",
                digest(centers and centers.centers_KD, *state.weights, total, *state.memory.values()),
                comm,
                device,
            )
            confidence.restart()
            if comm.rank == 0:
                write_environment(folder / "env" / f"epoch-{epoch:03d}.npz", state.weights, ready.train_split)
        state.epoch, state.step = epoch + 1, 0
        beat(f"epoch {epoch + 1}, step 0")
        stop = stop_agreed()  # it may have come during the evaluation
        if final or stop or epoch in recipe.kept_epochs:
            save()
            saved_at = time.monotonic()
        if stop and not final:
            return False

    # ----------------------------------------------------------------------------------------- the best epoch's tests
    began = time.monotonic()
    last = write_weights(folder / "ckpt" / "last.pt", engine) if comm.rank == 0 else ""
    if state.best_epoch == recipe.schedule.epochs - 1:
        if comm.rank == 0:
            shutil.copytree(folder / "preds" / "last", folder / "preds" / "best", dirs_exist_ok=True)
    else:
        load_best(folder / "ckpt", engine, state)
        if not predict_all(ready, folder / "preds" / "best", beat, stop_agreed):
            return False
    state.spend("evaluate", time.monotonic() - began)
    if fence:
        fence.check()
        done = {
            "epochs": state.epoch,
            "weights": {"last": ["last.pt", last], "best": [best_name(state.best_epoch), state.best_sha256]},
            "best_epoch": state.best_epoch,
            "best_val_accuracy": state.best_accuracy,
            "seconds": {part: round(value, 2) for part, value in state.seconds.items()},
            "wall_s": round(sum(state.seconds.values()), 2),
        }
        write_json(folder / "done", done)
    comm.gather_objects(None, device)  # nobody leaves before `done` is there
    return True


def _history(folder: Path) -> bool:
    path = folder / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0
