"""The loader feeds the device: each decoder, the decoded cache, and the hand-written loop on the same loader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from sharding.images import decoders
from tests.bench.gpu.bench import Bench, Cell, Peer
from tests.bench.gpu.ours import Ours
from tests.bench.gpu.plain import Plain
from tests.bench.gpu.trace import traced

ON_DEVICE = "nvjpeg"
"""The decoder that decodes on the device, where the code has it."""
FED = 0.95
"""Wanted: the share of its synthetic rate that a step reaches when the decoded cache feeds it."""


def section(bench: Bench) -> None:
    """Time each way to feed the step in turns, then the device's idle share under each."""
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
            peer = Peer(held, least=FED if "cache" in what else None)
            make = _kept(steps, name, lambda words=words, side=side: Ours(bench, *words, side=side, held=False).take)
            cells.append(Cell(name, make, scale.batch, (peer,), warm=ahead))
    side, last = scale.sides[0], list(ways)[-1]
    plain = f"plain, eager, at {side}: {last}"
    feed = _kept(steps, plain, lambda: _plain_on_loader(bench, side, ways[last]).take)
    cells.append(Cell(plain, feed, scale.batch, (Peer(f"suite at {side}: {last}"),), warm=ahead))
    bench.note(f"{workers} loader workers; a turn begins with {ahead} steps that do not count")
    bench.measure(cells, kept=0.3)
    _idle(bench, steps, ahead)


def _ways(bench: Bench, workers: int) -> dict[str, list[str]]:
    """Words of each way to feed, by name; the decoded cache last."""
    at_hand, side = decoders.available(), 256 if bench.scale.gpu else 32
    names = [name for name in at_hand if name != ON_DEVICE]
    if ON_DEVICE not in decoders.ORDER:
        bench.leave_out(f"data.decoder={ON_DEVICE}", "this code has no decoder of that name")
    elif ON_DEVICE in at_hand:
        names.append(ON_DEVICE)
    for name in decoders.ORDER:
        if name not in at_hand:
            bench.leave_out(f"data.decoder={name}", "it is not on this machine")
    given = f"data.workers={workers}"
    ways = {name: [given, f"data.decoder={name}"] for name in (names if bench.scale.gpu else names[:1])}
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
