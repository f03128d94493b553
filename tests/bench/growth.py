"""How the epoch plan, the environments and the confidence table grow: `python -m tests.bench.growth [most=1e7]
[windowed=1e8] [classes=1000] [n=3]`.

For N = 1e5, 1e6, ... `most`: seconds and the peak of new memory (beside what is given: labels, weights, the index) of a
plan of two streams, the second weighted, shuffled whole and in windows of 16 shards of 1,000 samples (the plan, then
the first batch, one in the middle and the last), of the weights of environment 2, and of a confidence table's
reduction. The whole shuffle is also made plainly, with arrays of N numbers of 8 bytes and a stable argsort, in turns;
both give the same ids. A power law a * N^b is fitted to the seconds from 1e6 on, of which two are needed, and carried
to 1e9, marked as such.

At N = `windowed` (0: not at all) the windows alone, uniform and weighted. At N = `most`, what a plan made in a thread
takes from the steps of small_resnet meanwhile, and how long its user waits. At N = 1e5 the weights and the plan by the
literal algorithm: dictionaries and lists, an index at a time, as the reference is described.
"""

from __future__ import annotations

import random
import resource
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch

from ifl.distributed.comm import Comm
from ifl.invariance.confidence import ConfidenceTable, mean_scores
from ifl.invariance.environments import environment_weights
from recipes.resolve import resolve
from sharding.plan import philox
from sharding.plan.ahead import Planner
from sharding.plan.epoch import BatchShape, EpochPlan, stream_draws
from sharding.plan.philox import DrawKey
from sharding.plan.windowed import ShardWindow
from tests.bench.words import values_of
from tests.helpers.plans import draw_ids, plan_epoch

BATCH, SHARD, WINDOW = 256, 1000, 16


def labels_of(samples: int, classes: int) -> np.ndarray:
    """int64 [N]: a long tail from 1,000 to 1, in random order."""
    share = 1000.0 ** (-np.arange(classes) / max(classes - 1, 1))
    return np.random.default_rng(0).permutation(
        np.searchsorted(np.cumsum(share / share.sum()), np.arange(samples) / samples, side="right").clip(0, classes - 1)
    )


def planned(weights: np.ndarray, shards: np.ndarray, window: int) -> EpochPlan:
    plan = plan_epoch(
        [None, weights],
        len(weights),
        batch=BATCH,
        group=128,
        replacement=True,
        seed=0,
        epoch=0,
        shards=shards,
        window=window,
    )
    for step in (0, plan.steps // 2, plan.steps - 1):
        plan.batch(step)
    return plan


def plain(weights: np.ndarray) -> list[np.ndarray]:
    """The ids that both streams of `planned` draw in a whole shuffle, by the shortest numpy."""
    streams, number = [], len(weights)
    for stream, weight in enumerate((np.ones(number), weights)):
        key = DrawKey(0, 0, stream)
        edges = np.cumsum(weight)
        uniforms = philox.unit_floats(philox.random_words(number, key, philox.DRAW))
        points = np.searchsorted(np.sort(uniforms * edges[-1]), edges, side="left")
        points[np.flatnonzero(weight)[-1] :] = number
        ids = np.repeat(np.arange(number), np.diff(points, prepend=0))
        streams.append(ids[np.argsort(philox.random_words(number, key, philox.ORDER), kind="stable")])
    return streams


def at_once_or_ahead(weights: np.ndarray, n: int) -> None:
    """Print how a plan made in a thread slows the steps that are taken meanwhile, and what its user still waits."""
    from ifl.network.backbone import build_backbone

    network, images = build_backbone(resolve(["data=digits_glt"]).model), torch.randn(32, 3, 32, 32)
    planner = Planner(
        lambda given: stream_draws(given, len(weights), replacement=True), BatchShape(BATCH, 128, 2), seed=0
    )

    def steps(until: Callable[[], bool]) -> float:
        """Steps a second."""
        began, done = time.perf_counter(), 0
        while not done or until():
            network(images).sum().backward()
            done += 1
        return done / (time.perf_counter() - began)

    ratios, waits, at_once = [], [], []
    steps(lambda: False)
    for number in range(n):
        planner.begin(number, [None, weights])
        assert planner._ahead is not None
        orders, began = planner._ahead.orders, time.perf_counter()
        beside = steps(lambda orders=orders: not orders.done())
        took = time.perf_counter() - began
        began = time.perf_counter()
        planner.plan(number, [None, weights])
        waits.append(time.perf_counter() - began)
        end = time.perf_counter() + took
        ratios.append(beside / steps(lambda end=end: time.perf_counter() < end))
        began = time.perf_counter()
        planner.plan(n + number, [None, weights])
        at_once.append(time.perf_counter() - began)
    print(
        f"\nN = {len(weights):.0e}: steps/s beside a plan in the making over those without, {median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); its user waits {median(waits):.4f} s, and {median(at_once):.2f} s "
        f"where it is made at once (n = {n})"
    )


def windows(samples: int, n: int) -> None:
    """Print what plans in windows take, uniform and weighted."""
    shards = np.repeat(np.arange(samples // SHARD, dtype=np.int32), SHARD)
    draws = {
        "uniform": partial(stream_draws, [None], samples),
        "weighted, without replacement": partial(stream_draws, [np.random.default_rng(1).random(samples)], samples),
    }
    draws["weighted, with replacement"] = partial(draws["weighted, without replacement"], replacement=True)
    for name, made in draws.items():

        def work(made: Callable[..., object] = made) -> object:
            planner = Planner(lambda given: made(), BatchShape(BATCH), seed=0, window=ShardWindow(shards, WINDOW))
            plan = planner.plan(0, [None])
            return [plan.batch(step) for step in (0, plan.steps // 2, plan.steps - 1)]

        seconds, peak = timed(work, n)
        print(f"N = {samples:.0e}, windows of {WINDOW} shards, {name}: {seconds:.3g} s, {peak:.3g} MB", flush=True)
    print(f"the whole process at its peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def reduced(ids: torch.Tensor, scores: torch.Tensor) -> np.ndarray:
    table = ConfidenceTable(len(ids))
    for first in range(0, len(ids), 1 << 20):
        table.add(ids[first : first + (1 << 20)], scores[first : first + (1 << 20)])
    return mean_scores(table.total(Comm()))


def literal(scores: list[float], labels: list[int], scan: bool) -> tuple[list[float], list[int]]:
    """Environment 2's weights and its draws, with nothing but dictionaries, lists and an index at a time; with `scan`
    each class looks for its samples among all.
    """
    by_index = dict(enumerate(scores))  # index -> p, filled in the order of the draws
    by_class: dict[int, dict[int, float]] = defaultdict(dict)
    if scan:
        by_class = {
            label: {index: p for index, p in by_index.items() if labels[index] == label}
            for label in sorted(set(labels))
        }
    else:
        for index, p in by_index.items():
            by_class[labels[index]][index] = p
    weights = {index: 0.0 for index in by_index}
    for members in by_class.values():
        if len(members) < 5:
            for index in members:
                weights[index] = 1 / len(members)
            continue
        low, high = min(members.values()), max(members.values())
        mine = {index: abs(1 - (p - low) / (high - low + 1e-9)) + 1e-5 for index, p in members.items()}
        ordered = sorted(mine.values())
        top, rest = ordered[-int(0.2 * len(ordered)) :], ordered[: int(0.8 * len(ordered))]
        ratio = (sum(top) / len(top)) / (sum(rest) / len(rest)) + 1e-5
        beta = min(max(np.log(4.0) / np.log(ratio), 1), 10)
        mine = {index: weight**beta + 1e-12 for index, weight in mine.items()}
        total = sum(mine.values())
        for index, weight in mine.items():
            weights[index] = weight / total
    listed = [weights[index] for index in range(len(labels))]
    order = list(range(len(labels)))
    random.Random(0).shuffle(order)
    total = sum(listed)
    drawn = torch.multinomial(
        torch.tensor([weight / total for weight in listed], dtype=torch.float64), len(listed), replacement=True
    ).tolist()
    return listed, order + drawn


def timed(work: Callable[[], object], n: int) -> tuple[float, float]:
    """Median seconds of n, and the peak of new memory, MB (measured apart: measuring slows)."""
    seconds = []
    for _ in range(n):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return median(seconds), peak


def main(words: list[str]) -> None:
    values = values_of(words, {"most": 1e7, "windowed": 1e8, "classes": 1000, "n": 3}, zero=("windowed",))
    classes, n = values["classes"], values["n"]
    sizes = [10**power for power in range(5, max(5, round(np.log10(values["most"]))) + 1)]
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for samples in sizes:
        labels, scores = labels_of(samples, classes), np.random.default_rng(1).random(samples)
        weights, shards = environment_weights(scores, labels, scale=4.0), np.arange(samples) // SHARD
        ids, held = torch.randperm(samples), torch.from_numpy(scores).float()
        works: dict[str, Callable[[], object]] = {
            "plan, whole shuffle": partial(planned, weights, shards, 0),
            "the same by the shortest numpy": partial(plain, weights),
            f"plan, windows of {WINDOW} shards": partial(planned, weights, shards, WINDOW),
            "weights of environment 2": partial(environment_weights, scores, labels, scale=4.0),
            "confidence table, added and reduced": partial(reduced, ids, held),
        }
        for stream, ids_of in enumerate(plain(weights)):
            asked = {"seed": 0, "epoch": 0, "stream": stream, "replacement": True}
            assert np.array_equal(ids_of, draw_ids((None, weights)[stream], samples, samples, **asked))
        for name, work in works.items():
            found[name].append(timed(work, n))
            print(f"N = {samples:.0e}, {name}: {found[name][-1][0]:.3g} s, {found[name][-1][1]:.3g} MB", flush=True)
    print(f"\nK = {classes}, batch {BATCH}, n = {n}; 1e9 by the law of the sizes from 1e6 on\n")
    print(
        "| | "
        + " | ".join(f"N = {samples:.0e}" for samples in sizes)
        + " | N^b | (1e9) |\n|---|"
        + "---|" * (len(sizes) + 2)
    )
    for name, rows in found.items():
        law = "not fitted | "
        if len(sizes) > 2:
            power, log_a = np.polyfit(np.log(sizes[1:]), np.log([seconds for seconds, _ in rows[1:]]), 1)
            law = f"b = {power:.2f} | ({np.exp(log_a + power * np.log(1e9)):.0f} s)"
        print(f"| {name} | " + " | ".join(f"{seconds:.3g} s, {peak:.3g} MB" for seconds, peak in rows) + f" | {law} |")
    at_once_or_ahead(weights, n)
    if values["windowed"]:
        del weights, labels, scores, shards, ids, held, works
        windows(int(values["windowed"]), n)
    labels, scores = labels_of(sizes[0], classes), np.random.default_rng(1).random(sizes[0])
    ours = found["weights of environment 2"][0][0] + found["plan, whole shuffle"][0][0]
    print(
        f"\nThe literal algorithm at N = {sizes[0]:.0e}, ours (weights and plan) {ours:.3f} s, and the weights agree:"
    )
    for scan, how in (
        (False, "samples put into their classes' dictionaries"),
        (True, "each class looks through all samples"),
    ):
        began = time.perf_counter()
        weights, _ = literal(scores.tolist(), labels.tolist(), scan)
        theirs = time.perf_counter() - began
        assert np.allclose(weights, environment_weights(scores, labels, scale=4.0), rtol=1e-6, atol=1e-12)
        print(f"{how}: {theirs:.2f} s, {theirs / ours:.0f} times ours")


if __name__ == "__main__":
    main(sys.argv[1:])
