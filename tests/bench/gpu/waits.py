"""Where the host waits for the device: by the profiler's trace, and by torch's own word for the places in the code."""

from __future__ import annotations

from collections import Counter

from tests.bench.gpu.bench import Bench
from tests.bench.gpu.ours import IFL, Ours
from tests.bench.gpu.trace import traced


def section(bench: Bench) -> None:
    """Trace steps that the loader feeds, with and without IFL, and compare."""
    scale, found, steps = bench.scale, {}, bench.scale.steps
    for what, words in (("baseline", ()), ("IFL", IFL)):
        ours = Ours(bench, *words, f"batch.bn={scale.bn}", f"data.workers={bench.workers}", held=False)
        for _ in range(scale.warm + 1):
            ours.take()
        traced(bench.device, ours.take, 1, bench.scratch)  # the profiler's own start
        traces = [traced(bench.device, ours.take, steps, bench.scratch) for _ in range(scale.rounds)]
        found[what] = [sum(trace.waits.values()) / steps for trace in traces]
        bench.row(f"waits of a step: {what}", "calls", found[what])
        bench.row(f"idle share of the device: {what}", "%", [100 * trace.idle for trace in traces])
        waits, allocations = Counter[str](), Counter[str]()
        for trace in traces:
            waits, allocations = waits + trace.waits, allocations + trace.allocations
        bench.note(f"{what}, calls that wait in {steps * len(traces)} steps: {_listed(waits)}")
        bench.note(f"{what}, calls that take or give back memory in these: {_listed(allocations)}")
        with bench.device.told_of_waits() as places:
            for _ in range(steps):
                ours.take()
        bench.note(f"{what}, places that wait in {steps} steps, as torch tells: {_listed(places)}")
    more = [ifl - baseline for ifl, baseline in zip(found["IFL"], found["baseline"], strict=True)]
    bench.row("waits of a step: IFL's beyond the baseline's", "calls", more, most=0)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common(12)) or "none"
