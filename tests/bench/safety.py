"""What safety costs: `python -m tests.bench.safety [n=30] [boots=5]` prints a table of checks and saves, and one of
where a restart's seconds go.

On the network, batch and centers of `glt_randaug_ifl` on digits_glt, on 1 and 2 ranks (gloo, CPU), without the loader.
n values each: median and the middle half.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from tests.bench.spread import middle_half
from tests.bench.words import values_of
from tests.helpers.paths import PROJECT
from tests.helpers.ranks import comms, started

RECIPE = ["recipe=glt_randaug_ifl", "data=digits_glt"]
LARGE_BYTES = 100_000_000


def measured(folder: str, n: int) -> dict[str, list[float]]:
    """In a rank: milliseconds of each thing, `n` times. Every rank does the same, so that none waits for a slow other
    one only.
    """
    from ifl.distributed.consistency import check_equal, digest
    from ifl.engine import Engine
    from ifl.invariance.centers import Centers
    from ifl.invariance.class_sums import smaller_way
    from ifl.method import Task, load_method
    from ifl.network.backbone import build_backbone
    from ifl.network.bn_statistics import RunningStatistics
    from ifl.network.network import Network
    from ifl.saving import checkpoint
    from ifl.saving.state import State
    from ifl.step import refuse_pollution
    from ifl.step_reduction import MicroBatchSums, StepSync
    from recipes.resolve import resolve
    from tests.helpers.plans import micro_batches

    recipe, comm = resolve(RECIPE), comms()[torch.distributed.get_world_size()]
    torch.manual_seed(0)
    backbone, counts = build_backbone(recipe.model), np.full(10, 100)
    network = Network(
        backbone, load_method("ce", Task(counts, backbone.feature_dim, 1)).head(), recipe.data.mean, recipe.data.std
    )
    mine = micro_batches(recipe.batch.size, recipe.batch.bn, comm.rank, comm.size)
    engine = Engine(network, recipe.optim, recipe.batch.size, max(map(len, mine)), len(mine), torch.device("cpu"))
    statistics, centers = (
        RunningStatistics(network),
        Centers(10, backbone.feature_dim, recipe.ifl.center, recipe.ifl.center_lr, 0),
    )
    sync, state = (
        StepSync(comm, recipe.batch.size, smaller_way(centers, comm, recipe.batch.size), torch.device("cpu")),
        State(weights=[None, np.ones(len(counts) * 418)]),
    )
    side, folder_of = recipe.data.image_size, Path(folder)

    def step() -> None:
        for micro, rows in enumerate(mine):
            images, labels = (
                torch.randint(0, 256, (len(rows), 3, side, side), dtype=torch.uint8),
                torch.from_numpy(rows % 10),
            )
            output = engine.forward(images)
            losses, distances = (
                torch.nn.functional.cross_entropy(output.logits_BK, labels, reduction="none"),
                centers.distances(output.features_BD, labels),
            )
            group, targets = statistics.group_statistics(), [(1.0, labels)]
            sync.add(MicroBatchSums(losses, torch.tensor(0), group, targets, distances, output.features_BD))
            last = micro + 1 == len(mine)
            if last:
                sync.start((0, 0), save=False, stop=False)
            engine.backward(losses.sum() + 1e-6 * distances.sum(), last)
            if not last:
                engine.step()
        totals = sync.wait()
        engine.step()
        statistics.update(totals.statistics)

    step()
    words = 10 * (backbone.feature_dim + 1) + len(statistics.group_statistics())
    head, rest = torch.zeros(7 + comm.size, dtype=torch.int64), torch.zeros(words, dtype=torch.int64)
    large = {"large": torch.randint(0, 256, (LARGE_BYTES,), dtype=torch.uint8)}

    def save(values: dict[str, Any], number: int) -> Path:
        return checkpoint.save(folder_of / "ckpt", engine, values, number, comm)

    (folder_of / "ckpt").mkdir(exist_ok=True)
    small_at, numbers = save({}, 1), iter(range(2, 10**6))
    size = sum(path.stat().st_size for path in small_at.rglob("*") if path.is_file()) / 1e6
    things: dict[str, Callable[[], Any]] = {
        "step": step,
        "reduction without flags and places": lambda: comm.sum(rest.clone()),
        "reduction with them": lambda: comm.sum(torch.cat([head, rest])),
        "reduction of them alone": lambda: comm.sum(head.clone()),
        "digest of parameters, centers, weights": lambda: check_equal(
            "", f"{engine.checksum()} {digest(centers.centers_KD, *state.weights)}", comm
        ),
        "finite parameters and momentum?": lambda: refuse_pollution(engine, comm, state.epoch, state.step, 0.1),
        f"verification of {size:.2f} MB": lambda: checkpoint._fault(small_at, comm.rank, comm.size),
        f"save of {size:.2f} MB": lambda: save({}, next(numbers)),
    }
    result = {name: _times(thing, n, comm) for name, thing in things.items()}
    result["save of 100 MB"] = _times(lambda: save(large, next(numbers)), 5, comm)
    newest = sorted((folder_of / "ckpt").glob("step-*"))[-1]
    result["verification of 100 MB"] = _times(lambda: checkpoint._fault(newest, comm.rank, comm.size), 5, comm)
    return result


def _times(thing: Callable[[], Any], n: int, comm: Any) -> list[float]:
    times = []
    for _ in range(n):
        comm.gather(torch.zeros(1))  # all begin together
        began = time.perf_counter()
        thing()
        times.append(1e3 * (time.perf_counter() - began))
    return times


def restarts(ranks: int, boots: int, root: Path, place: Path) -> dict[str, list[float]]:
    """Seconds of each part of `boots` restarts of one run through the real command, from the command to the end of the
    first step.
    """
    from tests.helpers.interrupted import Launch

    parts, done = defaultdict(list), 0
    for number in range(boots + 1):
        began = time.time()
        launch = Launch(root, place, f"nodes={ranks}", "schedule.epochs=500", "log.every=1", "log.eval_test_every=500")
        launch.wait_for_step(done + 1)
        ready = time.time()
        os.kill(next(iter(launch.ranks().values())), signal.SIGUSR2)
        assert launch.finish() == 99, launch.text
        lines = [json.loads(line) for line in (launch.folder / "metrics.jsonl").read_text().splitlines()]
        done = lines[-1]["step"]
        at = max(i for i, line in enumerate(lines) if line["kind"] == "boot")
        if number:  # the first is no restart
            first = 32 / lines[at + 1]["images_per_s"]
            for part, seconds in {
                **lines[at]["parts"],
                "first step": first,
                "all, from the command": ready - began,
            }.items():
                parts[part].append(seconds)
    return parts


def _row(name: str, values: list[float], unit: str, share: str = "") -> str:
    low, high = middle_half(values)
    return f"{name:42} {median(values):10.2f} {unit:3} ({low:.2f} to {high:.2f}) n={len(values):<3} {share}"


def main(words: list[str]) -> None:
    values = values_of(words, {"n": 30, "boots": 5}, zero=("boots",))
    n, boots = values["n"], values["boots"]
    for size in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            result = started(size).run(measured, folder, n, timeout=600)[0]
        began = median(result["step"])
        print(f"\n{size} rank{'s' * (size > 1)}; shares are of a step's time")
        for name, values in result.items():
            print(_row(name, values, "ms", "" if name == "step" else f"{100 * median(values) / began:.2f} %"))
        extra = median(result["reduction with them"]) - median(result["reduction without flags and places"])
        print(
            f"flags and places, in the reduction that is made anyway: {1e3 * extra:.0f} us, {100 * extra / began:.2f} %"
        )
        started(size).close()
    if boots:
        from tests.helpers.digits import digits, twentieth

        with tempfile.TemporaryDirectory() as folder:
            root = twentieth(digits(Path(folder) / "whole"), Path(folder) / "tiny")
            for size in (1, 2):
                print(f"\na restart on {size} rank{'s' * (size > 1)} (tiny data set)")
                for part, seconds in restarts(size, boots, root, Path(folder) / f"runs-{size}").items():
                    print(_row(part, seconds, "s"))


if __name__ == "__main__":
    from tests.bench import safety  # ranks find its functions by this name

    assert Path.cwd() == PROJECT, "run it in the project's folder"
    safety.main(sys.argv[1:])
