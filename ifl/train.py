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

from ifl import checkpoint, provenance
from ifl.boot import Boot
from ifl.centers import Centers
from ifl.comm import Comm
from ifl.confidence import ConfidenceTable, mean_scores
from ifl.diverged import Diverged, refuse_pollution
from ifl.engine import Engine, connect
from ifl.environments import stream_weights
from ifl.evaluate import Evaluator, scores, write_predictions
from ifl.fence import Fence
from ifl.files import Metrics, write_json
from ifl.method import Task, load_method
from ifl.network import Network, RunningStatistics, build_backbone, synchronise_groups
from ifl.record import best_name, load_best, save_best, write_environment
from ifl.state import State, check_equal, digest, pack, step_seed, unpack
from ifl.sync import StepSync
from ifl.watchdog import patience_s
from recipes.schema import Ifl, Recipe
from sharding.dataset import open_dataset
from sharding.plan import EpochPlan, micro_batches, plan_epoch, rank_draws
from sharding.reader import MicroBatches, Reader

TEST_SPLITS = ("test_cbl", "test_gbl", "test_glt")


def learning_rate(epoch: int, epochs: int, lr: float) -> float:
    """Cosine from `lr` to 0, moved once an epoch."""
    return lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def center_weight(epoch: int, ifl: Ifl | None) -> float:
    """alpha, the weight of the center term: 0 before the first milestone, then the last one's reached."""
    reached = [a for m, a in zip(ifl.milestones, ifl.alpha, strict=True) if m <= epoch] if ifl else []
    return reached[-1] if reached else 0.0


def train(recipe: Recipe, folder: Path, stop_requested: Callable[[], bool] = lambda: False, beat: Callable[..., None] = lambda section=None: None) -> bool:
    """Train a resolved recipe in its run folder, from its newest checkpoint if there is one.

    Args:
        stop_requested: asked at every step; where it says yes on any rank, all save and leave.
        beat: told at each bit of progress what comes next (ifl/watchdog.py).

    Returns:
        True when the run is finished; False when it was stopped after a checkpoint.
    """
    boot, patience = Boot(beat), patience_s(recipe.log.stuck_after_s)

    # ------------------------------------------------------------------------------------------------ ranks and data
    boot.part("connect")
    device = connect(patience)
    comm = Comm(patience_s=patience)
    boot.part("data")
    fence = Fence(folder) if comm.rank == 0 else None
    dataset = open_dataset(recipe.data_root, recipe.data.name)
    train_split = dataset.split(recipe.train, "train")
    tests = [name for name in TEST_SPLITS if name in dataset.editions[recipe.train]]
    fingerprint = dataset.fingerprint_of(recipe.train, ["train", "val", *tests])
    labels, shards = train_split.index.label, train_split.index.shard
    counts = np.bincount(labels, minlength=dataset.num_classes)

    # ------------------------------------------------------------------------------------------- network and method
    boot.part("network")
    ifl, batch = recipe.ifl, recipe.batch
    groups = batch.size // batch.bn if batch.bn else 1
    mine = micro_batches(batch.size, batch.bn, comm.rank, comm.size, synchronised=device.type == "cuda")
    torch.manual_seed(recipe.seed)
    backbone = build_backbone(recipe.model.name)
    method = load_method(recipe.method.name, Task(counts, backbone.feature_dim, recipe.schedule.epochs))
    network = Network(backbone, method.head(), recipe.data.mean, recipe.data.std)
    if batch.bn and comm.size > groups:
        network = synchronise_groups(network, comm.size, groups, patience)
    engine = Engine(network, recipe.optim, batch.size, max(map(len, mine)), len(mine), device)
    statistics = RunningStatistics(network)
    if statistics.layers and not batch.bn:
        raise ValueError(f"batch.bn=0 is for a network without batch normalisation, and {recipe.model.name} has it: set batch.bn to the samples of a group")
    centers = Centers(dataset.num_classes, backbone.feature_dim, ifl.center, ifl.center_lr, recipe.seed, device) if ifl else None
    confidence = ConfidenceTable(len(labels), device) if ifl else None
    sync = StepSync(comm, batch.size, centers, device)

    # ------------------------------------------------------------------------------------------------------- loaders
    pixels = {"image_size": recipe.data.image_size}
    crops = MicroBatches(train_split, train=True, crop_scale=recipe.augment.crop_scale, hflip=recipe.augment.hflip, randaug=recipe.augment.randaug, **pixels)
    reader = Reader(crops, recipe.data.workers, pin_memory=device.type == "cuda")
    evaluators = {
        name: Evaluator(dataset.split(recipe.train, name), comm, test_resize=recipe.data.test_resize, workers=recipe.data.workers, device=device, persistent=name == "val", **pixels)
        for name in ("val", *tests)
    }

    def plan_of(epoch: int, weights: list[np.ndarray | None]) -> EpochPlan:
        return plan_epoch(weights, len(labels), batch=batch.size, group=batch.bn, draws_per_epoch=batch.draws_per_epoch, matched=batch.budget == "matched", by_stream=batch.bn_by == "env",
                          replacement=bool(batch.replacement), seed=recipe.seed, epoch=epoch, shards=shards, window=recipe.data.shuffle_window)

    # -------------------------------------------------------------------------------------------------- new or resumed
    boot.part("load")
    belongs = {"hash": recipe.hash8, "data_fingerprint": fingerprint, "decoder": provenance.decoder()}
    check_equal("recipe, data and decoder", str(belongs), comm, device)
    packed = checkpoint.load_newest(folder / "ckpt", engine, comm, history=_history(folder), belongs=belongs)
    state = State(weights=[None] * recipe.streams)
    if packed is not None:
        state = unpack(packed, centers, confidence, comm)
        statistics.refresh()
    steps = plan_of(state.epoch, state.weights).steps
    if comm.rank == 0 and packed is None:
        write_json(folder / "meta.json", provenance.meta(recipe, dataset, fingerprint, counts, steps, comm.size))
    metrics = Metrics(folder / "metrics.jsonl", packed["metrics_offset"] if packed else 0) if comm.rank == 0 else None

    def log(kind: str, **values: Any) -> None:
        if metrics:
            metrics.write(kind=kind, epoch=state.epoch, step=state.epoch * steps + state.step, **values)

    def save() -> None:
        began = time.monotonic()
        beat(f"saving at epoch {state.epoch}, step {state.step}")
        refuse_pollution(engine, comm, state, recipe.optim.lr)
        more = {**belongs, "metrics_offset": metrics.offset() if metrics else 0}
        needs = [best_name(state.best_epoch)] if state.best_epoch >= 0 else []
        checkpoint.save(folder / "ckpt", engine, pack(state, centers, confidence, comm, **more), state.epoch * steps + state.step, comm, needs, fence, [(e + 1) * steps for e in recipe.kept_epochs])
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
        lr, alpha = learning_rate(epoch, recipe.schedule.epochs, recipe.optim.lr), center_weight(epoch, ifl)
        scoring = ifl is not None and ifl.environments > 1 and epoch in ifl.milestones
        engine.set_lr(lr)
        batches = reader.read(rank_draws(plan_of(epoch, state.weights), mine, recipe.seed, start=state.step))
        timed_from, timed_at = state.step, time.monotonic()
        for step in range(state.step, steps):
            for micro in range(len(mine)):
                torch.manual_seed(step_seed(recipe.seed, epoch, step, int(mine[micro][0])))  # for methods that use torch's own randomness
                rows = next(batches)
                beat()
                rows = type(rows)(*(column.to(device, non_blocking=True) for column in rows))
                output = engine.forward(rows.images)
                losses_B = method.losses(output, rows, epoch)
                distances_B = centers.distances(output.features_BD, rows.labels) if alpha else None
                if scoring:
                    confidence.add(rows.ids, output.logits_BK.detach().softmax(1).gather(1, rows.labels[:, None])[:, 0])
                correct = (method.predict(output).argmax(1) == rows.labels).sum()
                sync.add(losses_B, distances_B, correct, statistics.of_group(), output.features_BD if alpha else None, rows.labels,
                         counts=batch.bn_by == "mix" or mine[micro][0] < batch.size // recipe.streams)
                last = micro + 1 == len(mine)
                if last:  # travels while the gradients are computed
                    wish = time.monotonic() - saved_at > recipe.log.save_every_s or (recipe.log.save_every_steps is not None and (epoch * steps + step + 1) % recipe.log.save_every_steps == 0)
                    sync.start((epoch, step), save=wish and comm.rank == 0, stop=stop_requested())
                engine.backward(losses_B.sum() if distances_B is None else losses_B.sum() + alpha * distances_B.sum(), last)
                if not last:
                    engine.step()
            totals = sync.wait()
            if totals.bad:
                refuse_pollution(engine, comm, state, recipe.optim.lr)  # by a step before: the better sentence
                raise Diverged(f"epoch {epoch}, step {step}: {totals.bad} losses, features or batch statistics are not finite or out of range; a lower optim.lr={recipe.optim.lr} may help")
            engine.step()
            statistics.move(totals.statistics)
            if totals.class_sums is not None:
                centers.move(totals.class_sums, batch.size)
            state.step, due, stop = step + 1, totals.save, totals.stop
            beat(f"epoch {epoch}, step {step + 1}")
            state.count(batch.size, totals)
            if (epoch * steps + state.step) % recipe.log.every == 0 or state.step == steps:
                log("train", lr=lr, alpha=alpha, **state.means(alpha), images_per_s=round((state.step - timed_from) * batch.size / (time.monotonic() - timed_at), 1))
                timed_from, timed_at = state.step, time.monotonic()
            if (epoch * steps + state.step) % recipe.log.digest_every == 0:
                check_equal(f"parameters, centers and weights after step {epoch * steps + state.step}", f"{engine.checksum()} {digest(centers, state.weights)}", comm, device)
            if due or stop:
                save()
                saved_at = time.monotonic()
            if stop:
                return False
        state.spend("train", time.monotonic() - epoch_began)

        # ------------------------------------------------------------------------------------------- the epoch's end
        if scoring:
            total = confidence.total(comm)
            state.weights = stream_weights(ifl.environments, mean_scores(total), labels, sample_scale=ifl.sample_scale, class_balanced=ifl.class_balanced, unseen=ifl.unseen)
            check_equal(f"confidence and environment weights after epoch {epoch}", digest(centers, state.weights, total), comm, device)
            confidence.restart()
            if comm.rank == 0:
                write_environment(folder / "env" / f"epoch-{epoch:03d}.npz", state.weights, train_split)
        began = time.monotonic()
        refuse_pollution(engine, comm, state, recipe.optim.lr)
        final = epoch + 1 == recipe.schedule.epochs
        looks = ["val"] + (tests if final or (epoch + 1) % recipe.log.eval_test_every == 0 else [])
        for name in looks:
            beat(f"evaluating {name} after epoch {epoch}")
            predictions = evaluators[name].predict(engine, method, beat)
            log("eval", split=name, **scores(predictions))
            accuracy = float(np.mean(predictions["prediction"] == predictions["label"]))
            if name == "val" and accuracy > state.best_accuracy:  # the first epoch on ties
                state.best_epoch, state.best_accuracy = epoch, accuracy
                state.best_sha256 = comm.from_first(save_best(folder / "ckpt", engine, epoch) if comm.rank == 0 else None, device)
            if final and fence:
                fence.check()
                write_predictions(folder / "preds" / "last", name, predictions)
        state.spend("evaluate", time.monotonic() - began)
        state.epoch, state.step = epoch + 1, 0
        beat(f"epoch {epoch + 1}, step 0")
        stop = bool(comm.sum(torch.tensor([int(stop_requested())], device=device)))  # it may have come during the evaluation
        if final or stop or epoch in recipe.kept_epochs:
            save()
            saved_at = time.monotonic()
        if stop and not final:
            return False

    # ----------------------------------------------------------------------------------------- the best epoch's tests
    began = time.monotonic()
    if state.best_epoch == recipe.schedule.epochs - 1:
        if comm.rank == 0:
            shutil.copytree(folder / "preds" / "last", folder / "preds" / "best", dirs_exist_ok=True)
    else:
        load_best(folder / "ckpt", engine, state)
        for name, evaluator in evaluators.items():
            beat(f"evaluating {name} with the best weights")
            predictions = evaluator.predict(engine, method, beat)
            if comm.rank == 0:
                write_predictions(folder / "preds" / "best", name, predictions)
    state.spend("evaluate", time.monotonic() - began)
    if fence:
        fence.check()
        done = {"epochs": state.epoch, "best_epoch": state.best_epoch, "best_val_accuracy": state.best_accuracy,
                "seconds": {part: round(value, 2) for part, value in state.seconds.items()}, "wall_s": round(sum(state.seconds.values()), 2)}
        write_json(folder / "done", done)
    comm.gather_objects(None, device)  # nobody leaves before `done` is there
    return True


def _history(folder: Path) -> bool:
    path = folder / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0
