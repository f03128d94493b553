"""What the profiler saw of some steps: how long the device was busy, and where the host waited for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ifl.supervision.profiling import busy_us
from tests.bench.gpu.device import Device

BUSY = {"kernel", "gpu_memcpy", "gpu_memset"}
"""Categories of a trace that are work of a GPU."""
CALLS = {"cuda_runtime", "cuda_driver"}
WAITS = {
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cuStreamSynchronize",
    "cuEventSynchronize",
    "cuCtxSynchronize",
    "cudaMemcpy",
}
"""Calls that return only when the device is done. cudaDeviceSynchronize is left out: the profiler and the bench call
it, the suite never does."""
ALLOCATES = {"cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaFreeHost"}
"""Calls that take memory, or give it back, and wait, too; once the caches of torch are warm there should be none."""
ON_CPU = {"aten::_local_scalar_dense"}
"""On a CPU nothing waits; what would is counted."""


@dataclass(frozen=True)
class Trace:
    """A profile of some steps.

    Attributes:
        events: as in Chrome's format: `name`, `cat`, `ts` and `dur` in microseconds.
        wall_s: seconds from the first call to the end of the last one's work.
        steps: how many.
    """

    events: list[dict[str, Any]]
    wall_s: float
    steps: int

    @property
    def idle(self) -> float:
        """The share of the time in which no kernel ran and nothing was copied; on a CPU, no operator."""
        gpu = any(event.get("cat") in CALLS for event in self.events)
        kinds = BUSY if gpu else {"cpu_op"}
        busy = ((event["ts"], event["ts"] + event["dur"]) for event in self.events if event.get("cat") in kinds)
        return max(0.0, 1 - busy_us(busy) / 1e6 / self.wall_s)

    @property
    def allocations(self) -> Counter[str]:
        """How often memory was taken or given back, by the call's name, over all steps and threads."""
        return Counter(
            event["name"] for event in self.events if event.get("cat") in CALLS and event["name"] in ALLOCATES
        )

    @property
    def waits(self) -> Counter[str]:
        """How often the host waited for the device, by the call's name, over all steps."""
        return Counter(
            event["name"]
            for event in self.events
            if (event.get("cat") in CALLS and event["name"].removesuffix("_v2") in WAITS)
            or (event.get("cat") == "cpu_op" and event["name"] in ON_CPU)
        )


def traced(device: Device, step: Callable[[], object], steps: int, folder: Path) -> Trace:
    """Profile some steps. The profiler's first start in a process takes long: make one that does not count."""
    with torch.profiler.profile(activities=[device.activity]) as profile:
        took = device.timed(step, steps)
    path = folder / "trace.json"
    profile.export_chrome_trace(str(path))
    found = json.loads(path.read_text())["traceEvents"]
    path.unlink()
    return Trace([event for event in found if "dur" in event and "ts" in event], took.host_s, steps)
