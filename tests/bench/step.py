"""What IFL costs: `python -m tests.bench.step [networks=small_resnet,resnext50_32x4d] [ranks=1,2] [n=40] [large_n=5]
[data=DIR]` prints milliseconds a step with and without it, their ratio, and where the difference goes; `python -m
tests.bench.step shares=examples/fashion_glt` prints where whole runs' time went.

Both train by the real loop (reader, DeepSpeed, gloo, CPU) at equal images: `glt_ifl` with batch.budget=matched, its
center term on and every sample scored, against `glt_baseline`. The two take turns step by step, while one computes the
other waits, so that a busy machine slows both; the ratio is the median of the rounds' own.

small_resnet trains digits_glt at 32 x 32, 128 images a step, 10 classes: so cheap a network that fixed costs show.
resnext50_32x4d trains at 112 x 112, 64 images a step, with 1,000 classes and 2,048 features, as ImageNet-GLT has them,
on painted images.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from tests.bench.spread import middle_half
from tests.bench.words import some_of, values_of
from tests.helpers.digits import digits
from tests.helpers.paths import PROJECT
from tests.helpers.ranks import Ranks, my_rank

CORES = 2
RECIPES = {
    "baseline": ["recipe=glt_baseline"],
    "ifl": ["recipe=glt_ifl", "ifl.milestones=[0,1]", "ifl.rebuild=every_epoch", "batch.budget=matched"],
}
QUIET = ["log.every=100000", "log.save_every_s=100000", "cluster=local", "schedule.epochs=2", "data.workers=0"]
NETWORKS = {
    "small_resnet": ["data=digits_glt", "batch.draws_per_epoch=32", "log.digest_every=10"],
    "resnext50_32x4d": ["data=imagenet_glt", "batch.size=64", "batch.bn=32", "log.digest_every=3"],
}
LARGE, CLASSES = 115_000, 1000


TURN_S = 300.0
"""A step that takes longer never ends: a rank of the other group has failed."""


class Turns:
    """Two groups of ranks step in turn: each waits, by files in one folder, until the other has made its step. Polls a
    thousand times a second.
    """

    def __init__(self, folder: Path, group: int, ranks: int) -> None:
        self.folder, self.group, self.ranks = folder, group, ranks

    def tell(self, what: str, step: int) -> None:
        (self.folder / f"{what}-{step}-{self.group}-{my_rank()}").touch()

    def wait(self, what: str, step: int, group: int) -> None:
        ends = time.monotonic() + TURN_S
        for rank in range(self.ranks):
            while not (self.folder / f"{what}-{step}-{group}-{rank}").exists():
                if time.monotonic() > ends:
                    raise TimeoutError(f"rank {rank} of group {group} has not told '{what}' of step {step}")
                time.sleep(0.001)

    def begin(self, step: int) -> None:
        self.tell("ready", step)
        self.wait("ready", step, 1 - self.group)
        if self.group:
            self.wait("done", step + 1, 0)

    def end(self, step: int) -> None:
        self.tell("done", step)
        if not self.group:
            self.wait("done", step, 1)


def trained(words: list[str], turns: str, group: int, ranks: int, n: int) -> dict[str, list[float]]:
    """In a rank: milliseconds of `n` steps, of which the parts named here took so many; comparisons of digests stand
    apart, one entry each.
    """
    from ifl import train as loop
    from ifl.engine import Engine
    from ifl.invariance.centers import Centers
    from ifl.invariance.confidence import ConfidenceTable
    from ifl.step_reduction import StepSync
    from recipes.resolve import resolve
    from slurm.run_folder import prepare

    torch.set_num_threads(max(1, CORES // ranks))
    recipe, turn = resolve(words), Turns(Path(turns), group, ranks)
    if my_rank() == 0:
        prepare(recipe, recipe.run_folder)
    parts: dict[str, float] = defaultdict(float)
    result: dict[str, list[float]] = defaultdict(list)
    at = {"step": -1, "began": 0.0}

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                parts[part] += 1e3 * (time.perf_counter() - began)

        return wrapper

    for owner, name, part in (
        (StepSync, "add", "collected for the reduction"),
        (StepSync, "start", "reduction begun"),
        (StepSync, "wait", "reduction awaited"),
        (Centers, "distances", "distances"),
        (Centers, "move", "centers moved"),
        (ConfidenceTable, "add", "confidence table"),
        (loop, "digest", "digests"),
        (Engine, "checksum", "digests"),
        (loop, "check_equal", "digests"),
    ):
        setattr(owner, name, timed(part, getattr(owner, name)))

    def heartbeat(section: str | None = None) -> None:
        match = re.fullmatch(r"epoch 0, step (\d+)", section or "")
        if not match or int(match[1]) == at["step"]:
            return
        spent, at["step"] = 1e3 * (time.perf_counter() - at["began"]), int(match[1])
        if at["step"]:
            turn.end(at["step"])
            for part, value in parts.items():
                result[part].append(value)
            result["step"].append(spent - parts["digests"])
        parts.clear()
        if at["step"] < n:
            turn.begin(at["step"])
        at["began"] = time.perf_counter()

    loop.train(recipe, recipe.run_folder, lambda: at["step"] + 1 >= n, heartbeat)
    return dict(result)


def rebuilt(n: int, samples: int, classes: int) -> list[float]:
    """In a rank: milliseconds of what makes an epoch's environment weights from the confidence table, its reduction
    over ranks included.
    """
    from ifl.distributed.comm import Comm
    from ifl.invariance.confidence import ConfidenceTable, mean_scores
    from ifl.invariance.environments import stream_weights

    comm, table = Comm(), ConfidenceTable(samples)
    labels = np.sort(np.random.default_rng(0).integers(0, classes, samples))
    table.add(torch.arange(samples), torch.rand(samples, generator=torch.Generator().manual_seed(0)))
    times = []
    for _ in range(n):
        began = time.perf_counter()
        stream_weights(2, mean_scores(table.total(comm)), labels, sample_scale=4.0, class_balanced=True, unseen="zero")
        times.append(1e3 * (time.perf_counter() - began))
    return times


def _pair(network: str, ranks: int, n: int, root: Path, folder: Path) -> None:
    groups = {name: Ranks(ranks) for name in RECIPES}
    (folder / "turns").mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool, contextlib.ExitStack() as stack:
        for group in groups.values():
            stack.callback(group.close)  # before the threads are waited for, which wait for the ranks
        waiting = {
            name: pool.submit(
                groups[name].run,
                trained,
                [*words, *NETWORKS[network], *QUIET, f"data.root={root}", f"runs={folder / name}"],
                str(folder / "turns"),
                place,
                ranks,
                n,
                timeout=900,
            )
            for place, (name, words) in enumerate(RECIPES.items())
        }
        answers = {name: future.result() for name, future in waiting.items()}
        rebuild = max(groups["ifl"].run(rebuilt, 5, LARGE, CLASSES), key=median)
    warm = 1 if n < 10 else 3
    steps = {
        name: [max(together) for together in zip(*(answer["step"] for answer in answers[name]), strict=True)][warm:]
        for name in RECIPES
    }
    ratios = [ifl / baseline for ifl, baseline in zip(steps["ifl"], steps["baseline"], strict=True)]
    low, high = middle_half(ratios)
    usual = median(steps["baseline"])
    print(
        f"\n{network}, {ranks} rank{'s' * (ranks > 1)} of {max(1, CORES // ranks)} "
        f"thread{'s' * (CORES // ranks > 1)}, n = {len(ratios)} rounds"
    )
    print(
        f"  baseline {usual:.1f} ms, IFL {median(steps['ifl']):.1f} ms a step; IFL / baseline {median(ratios):.3f} "
        f"(middle half {low:.3f} to {high:.3f})"
    )
    mine, its = answers["ifl"][0], answers["baseline"][0]
    for part in dict.fromkeys((*mine, *its)):
        if part not in ("step", "digests"):
            extra = median(mine[part][warm:]) - median(its.get(part, [0.0])[warm:] or [0.0])
            print(
                f"  {part:30} {median(mine[part][warm:]):9.3f} ms, of which IFL's {extra:8.3f} ms: "
                f"{100 * extra / usual:6.2f} % of a step"
            )
    digests = [[value for value in answer.get("digests", ()) if value] for answer in (mine, its)]
    if all(digests):  # a few steps have none
        extra = median(digests[0]) - median(digests[1])
        print(
            f"  {'digests, every 50 steps':30} {extra / 50:9.3f} ms a step more than the baseline's: "
            f"{2 * extra / usual:6.2f} % of a step"
        )
    print(
        f"  environments rebuilt once an epoch, {LARGE:,} samples of {CLASSES:,} classes: {median(rebuild):.0f} ms "
        f"({min(rebuild):.0f} to {max(rebuild):.0f}, n = {len(rebuild)})",
        flush=True,
    )


def shares(runs: Path) -> None:
    """Where the time of finished runs went, from their `done` files."""
    spent = [json.loads(path.read_text())["seconds"] for path in sorted(runs.glob("*/done"))]
    whole = [seconds for seconds in spent if seconds.get("train")]  # a later judgement trains nothing
    print(
        f"{len(whole)} runs in {runs}, {sum(sum(seconds.values()) for seconds in whole) / 3600:.1f} hours; median "
        "share of a run (smallest to largest)"
    )
    for part in dict.fromkeys(part for seconds in whole for part in seconds):
        of_run = [100 * seconds.get(part, 0.0) / sum(seconds.values()) for seconds in whole]
        print(
            f"  {part:10} {median(of_run):6.2f} % ({min(of_run):.2f} to {max(of_run):.2f}), "
            f"{median(seconds.get(part, 0.0) for seconds in whole):8.2f} s"
        )


def main(words: list[str]) -> None:
    usual = {"networks": "", "ranks": "1,2", "n": 40, "large_n": 5, "data": "", "shares": ""}
    values = values_of(words, usual)
    if values["shares"]:
        return shares(Path(values["shares"]))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ranks and scratch folder go, too
    networks = some_of("networks", values["networks"], NETWORKS)
    many = some_of("ranks", values["ranks"], ("1", "2", "4"))
    with tempfile.TemporaryDirectory() as scratch:
        roots = {
            "small_resnet": Path(values["data"] or f"{scratch}/digits"),
            "resnext50_32x4d": Path(scratch) / "painted",
        }
        for network in networks:
            if network == "small_resnet" and not values["data"]:
                digits(roots[network])
            elif network == "resnext50_32x4d":
                from tests.helpers import toy

                roots[network].mkdir()
                toy.build(
                    roots[network],
                    "imagenet_glt",
                    [2] * CLASSES,
                    [label * 3 // CLASSES for label in range(CLASSES)],
                    shard_samples=1000,
                    size=(150, 112),
                )
            for ranks in map(int, many):
                n = values["n"] if network == "small_resnet" else values["large_n"] + 1
                _pair(network, ranks, n, roots[network], Path(scratch) / f"{network}-{ranks}")


if __name__ == "__main__":
    from tests.bench import step  # ranks find its functions by this name

    assert Path.cwd() == PROJECT, "run it in the project's folder"
    step.main(sys.argv[1:])
