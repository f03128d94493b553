"""How long a save keeps the steps waiting, against a plain copy of the same bytes: `python -m tests.bench.saving
[mb=100] [n=15] [ranks=2]`.

A network of `mb` megabytes with its momentum, without the loader. In each of n rounds rank 0, which has all to write,
copies as many bytes from one array to another, both used before; then the ranks save, and the thread writes (without
fsync, which the tests' ranks leave out) while nothing else is done. Then rank 0 writes the network's weights as a new
best epoch's, which are half of the bytes: at once, as it did once, and by the thread. Median and the middle half, and
the ratio of blocked time and copy in each round.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from tests.bench.spread import middle_half
from tests.bench.words import values_of
from tests.helpers.ranks import comms, started

SIDE = 280
"""Of a layer, which has about as many numbers as one of ResNeXt-50 on average: 78 thousand."""


class Layers(nn.Module):
    """So many equal layers, each added to what came before."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIDE, SIDE) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for layer in self.layers:
            x = x + 0.01 * layer(x)
        return x, x


class Lines:
    """Keeps what a save says of itself."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def write(self, **values: Any) -> None:
        self.kept.append(values)

    def offset(self) -> int:
        return 0

    def held(self) -> list[Any]:
        return []

    def sync(self) -> None:
        pass


def measured(folder: str, mb: int, n: int) -> dict[str, list[float]]:
    """In a rank: milliseconds of each thing in each round, and the megabytes."""
    from ifl.engine import Engine
    from ifl.invariance.invariance import Off
    from ifl.saving.saver import Saver
    from ifl.saving.state import State
    from ifl.saving.weights import write_weights
    from ifl.step import refuse_pollution
    from recipes.resolve import resolve
    from recipes.schema import Optim

    comm, lines = comms()[torch.distributed.get_world_size()], Lines()
    network = Layers(round(mb * 1e6 / (4 * SIDE * (SIDE + 1)) / 2))  # with as much momentum
    engine = Engine(network, Optim(momentum=0.9), 8, 8, 1, torch.device("cpu"))
    saver = Saver(
        recipe=resolve(["recipe=glt_baseline", "data=digits_glt"]),
        folder=Path(folder),
        steps=10**6,
        engine=engine,
        invariance=Off(),
        comm=comm.apart(600.0),
        fence=None,
        log=lines,
        identity={},
        refuse_pollution=functools.partial(refuse_pollution, lr=0.1),
        heartbeat=lambda section: None,
    )
    names = ("copy", "blocked", "written", "weights at once", "weights blocked", "weights written")
    result: dict[str, list[float]] = {name: [] for name in names}
    state, beside = State(), Path(folder) / "ckpt" / "beside.pt"
    with saver:
        for number in range(n + 2):  # the first two find new memory
            engine.backward(engine.forward(torch.randn(8, SIDE)).features_BD.sum() * 1e-9, last=True)
            engine.step()
            state.step += 1
            copied_ms = _copied_ms(saver._memory.size) if number else 0.0
            comm.gather(torch.zeros(1))  # all begin together
            saver.save(state)
            saver.wait()
            if number > 1:
                result["copy"].append(copied_ms)
                result["blocked"].append(1e3 * lines.kept[-1]["blocked_s"])
                result["written"].append(1e3 * lines.kept[-1]["written_s"])
            if comm.rank == 0:
                at_once_ms = _took_ms(lambda: write_weights(beside, engine.weights()))
                blocked_ms = _took_ms(lambda: saver.weights.begin("last.pt"))
                written_ms = blocked_ms + _took_ms(saver.weights.wait)
                if number > 1:
                    result["weights at once"].append(at_once_ms)
                    result["weights blocked"].append(blocked_ms)
                    result["weights written"].append(written_ms)
    return {**result, "mb": [saver._memory.size / 1e6]}


def _took_ms(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - began)


def _copied_ms(size: int) -> float:
    """Return the median milliseconds of three copies of `size` bytes into memory that was used before."""
    source, target, times = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8), []
    for _ in range(3):
        began = time.perf_counter()
        target.copy_(source)
        times.append(1e3 * (time.perf_counter() - began))
    return median(times)


def main(words: list[str]) -> None:
    values = values_of(words, {"mb": 100, "n": 15, "ranks": 2})
    mb, n, ranks = values["mb"], values["n"], values["ranks"]
    with tempfile.TemporaryDirectory() as folder:
        found = started(ranks).run(measured, folder, mb, n, timeout=600)[0]
    found["blocked, in copies"] = [
        blocked / copied for blocked, copied in zip(found["blocked"], found["copy"], strict=True)
    ]
    print(f"{found['mb'][0]:.0f} MB, {ranks} rank{'s' * (ranks > 1)}, n = {n}: median (middle half)")
    for name in [*(name for name in found if name not in ("mb", "blocked, in copies")), "blocked, in copies"]:
        low, high = middle_half(found[name])
        unit = "" if name.endswith("copies") else " ms"
        print(f"{name:20} {median(found[name]):8.2f}{unit} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    from tests.bench import saving  # ranks find its functions by this name

    saving.main(sys.argv[1:])
