"""How long a plan that is made in a thread holds the training thread up at once: `python -m tests.bench.plan_thread
[samples=1e7] [n=3]`.

Of what a plan does with numpy, `np.repeat` alone keeps Python's lock while it works, and all other threads wait for it:
the longest such call, in CPU time, which other work on the machine does not lengthen. Beside it, by the clock, by how
much the latest tick of a thread came late that ticks every half millisecond while the plan is made, and while nothing
is. Two streams with replacement are planned, the second weighted: by random numbers, and so that a hundredth of the
samples, side by side, gets half of the draws, as in a class-balanced stream of a long tail. Median (range).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from sharding.plan.ahead import Planner
from sharding.plan.epoch import BatchShape, stream_draws
from tests.bench.words import values_of

TICK_S = 0.0005


def weights_of(samples: int, skewed: bool) -> np.ndarray:
    """float64 [N]."""
    weights = np.random.default_rng(0).random(samples)
    if skewed:
        rare = samples // 100
        weights[-rare:] *= (samples - rare) / rare
    return weights


def latest_ms(over: Callable[[], bool]) -> float:
    """Tick until it is over; return by how many milliseconds the latest tick came late."""
    worst, last = 0.0, time.perf_counter()
    while not over():
        time.sleep(TICK_S)
        now = time.perf_counter()
        worst, last = max(worst, now - last - TICK_S), now
    return 1e3 * worst


def main(words: list[str]) -> None:
    values = values_of(words, {"samples": 1e7, "n": 3})
    samples, n = int(values["samples"]), values["n"]
    repeat, held = np.repeat, [0.0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        result = repeat(*args, **kwargs)
        held.append(1e3 * (time.thread_time() - began))
        return result

    np.repeat = timed
    print(f"N = {samples:.0e}, n = {n}, ms\n\n| weights | longest np.repeat | latest tick | with nothing beside |")
    print("|---|---|---|---|")
    for skewed in (False, True):
        weights, cells = weights_of(samples, skewed), []
        planner = Planner(lambda given: stream_draws(given, samples, replacement=True), BatchShape(256, 128, 2), 0)
        for number in range(n):
            held[:] = [0.0]
            began = time.perf_counter()
            planner.begin(number, [None, weights])
            assert planner._ahead is not None
            beside = latest_ms(planner._ahead.orders.done)
            end = 2 * time.perf_counter() - began
            cells.append((max(held), beside, latest_ms(lambda end=end: time.perf_counter() > end)))
        shown = [f"{median(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in zip(*cells, strict=True)]
        print(f"| {'half of the draws to a hundredth' if skewed else 'random'} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
