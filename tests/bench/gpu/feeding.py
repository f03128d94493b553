"""The loader feeds the device: each decoder, on the host or by nvJPEG, each with RandAug on its own side, the decoded
cache, and the hand-written loop on the same loader.

At toy size, where no GPU is, Pillow stands in for nvJPEG: everything but its own call runs.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator

from sharding.images import decoders
from sharding.on_device import nvjpeg
from tests.bench.gpu.bench import Bench, Cell, Peer
from tests.bench.gpu.ours import Ours
from tests.bench.gpu.plain import Plain
from tests.bench.gpu.trace import traced
from tests.helpers.stand_in_nvjpeg import stand_in

FED = 0.95
"""Wanted: the share of its synthetic rate that a step reaches when the decoded cache feeds it."""


def section(bench: Bench) -> None:
    """Time each way to feed the step in turns, then the device's idle share under each."""
    with contextlib.nullcontext() if bench.scale.gpu else stand_in():
        _measure(bench)


def _measure(bench: Bench) -> None:
    scale = bench.scale
    workers = bench.workers
    # A turn begins with what workers had made ahead, two batches each: it must be used up before anything counts.
    ahead = 2 * workers + 2 if scale.gpu else scale.warm
    ways = _ways(bench, workers)
    cells, steps = [], {}
    for side in scale.sides:
        held = f"suite at {side}: batches on the device"
        cells.append(Cell(held, _kept(steps, held, lambda side=side: Ours(bench, side=side).take), scale.batch))
        for what, words in ways.items() if side == scale.sides[0] else list(ways.items())[-1:]:
            name = f"suite at {side}: {what}"
            peers: tuple[Peer, ...] = (Peer(held, least=FED if "cache" in what else None),)
            if what.startswith(nvjpeg.NAME):
                peers += (Peer(name.replace(nvjpeg.NAME, decoders.available()[0])),)
            make = _kept(steps, name, lambda words=words, side=side: Ours(bench, *words, side=side, held=False).take)
            cells.append(Cell(name, make, scale.batch, peers, warm=ahead))
    side, last = scale.sides[0], list(ways)[-1]
    plain = f"plain, eager, at {side}: {last}"
    feed = _kept(steps, plain, lambda: _plain_on_loader(bench, side, ways[last]).take)
    cells.append(Cell(plain, feed, scale.batch, (Peer(f"suite at {side}: {last}"),), warm=ahead))
    if not scale.gpu:
        bench.note(f"{nvjpeg.NAME}: Pillow in its place")
    bench.note(f"{workers} loader workers; a turn begins with {ahead} steps that do not count")
    bench.measure(cells, kept=0.3)
    _idle(bench, steps, ahead)


def _ways(bench: Bench, workers: int) -> dict[str, list[str]]:
    """Words of each way to feed, by name; the decoded cache last."""
    at_hand, side = decoders.available(), 256 if bench.scale.gpu else 32
    for name in decoders.ORDER:
        if name not in at_hand:
            bench.leave_out(f"data.decoder={name}", "it is not on this machine")
    names = at_hand if bench.scale.gpu else at_hand[:1]
    if reason := nvjpeg.lacking(bench.device.torch):
        bench.leave_out(f"data.decoder={nvjpeg.NAME}", reason)
    else:
        names = [*names, nvjpeg.NAME]
    given = f"data.workers={workers}"
    ways = {name: [given, f"data.decoder={name}"] for name in names}
    for name in [name for name in names if name in (names[0], nvjpeg.NAME)]:  # on the host, and on the device
        ways[f"{name}, RandAug"] = [*ways[name], "recipe=glt_randaug"]
    cache = ["data.cache=decoded", f"data.cache_folder={bench.scratch / 'cache'}", f"data.cache_short_side={side}"]
    return {**ways, f"decoded cache, short side {side}": [given, *cache]}


def _plain_on_loader(bench: Bench, side: int, words: list[str]) -> Plain:
    batches: Iterator = Ours(bench, *words, side=side, held=False).batches()
    return Plain(bench, side, compiled=False, batches=batches)


def _kept(
    steps: dict[str, Callable[[], object]], name: str, make: Callable[[], Callable[[], object]]
) -> Callable[[], Callable[[], object]]:
    """The maker, which also notes under `name` what it made."""

    def made() -> Callable[[], object]:
        steps[name] = make()
        return steps[name]

    return made


def _idle(bench: Bench, steps: dict[str, Callable[[], object]], ahead: int) -> None:
    """Write the idle share of the device for each step that was made."""
    shares: dict[str, list[float]] = defaultdict(list)
    for number in range(min(3, bench.scale.rounds)):
        for name, step in steps.items():
            if number and bench.left_s < 10:
                continue
            with bench.guarded(f"idle share, {name}"):
                for _ in range(ahead):
                    step()
                shares[name].append(100 * traced(bench.device, step, bench.scale.steps, bench.scratch).idle)
    for name, found in shares.items():
        bench.row(f"idle share of the device, {name}", "%", found)
