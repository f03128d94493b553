"""The collectives that the suite uses, on one rank: each works on this device and gives back what went in.

`Comm` itself makes no collective where there is one rank, so these are the calls that it makes with more.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from ifl.engine import connect
from tests.bench.gpu.bench import Bench

SIZE = 1 << 17
"""Numbers of a message, about those of ResNeXt-50's batch statistics with the head."""


def section(bench: Bench) -> None:
    """Join the only rank, then make each collective and time it."""
    device = connect(60.0)
    if device.type != bench.device.torch.type:
        raise RuntimeError(f"the suite chose {device}, and {bench.device.torch} was asked for")
    group = dist.new_group()
    bench.note(f"backend {dist.get_backend(group)}, DeepSpeed's {dist.get_backend()}")

    def reduced(tensor: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(tensor, group=group, async_op=True).wait()
        return tensor

    def gathered(tensor: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(tensor)
        dist.all_gather_single(out, tensor, group=group, async_op=True).wait()
        return out

    whole = torch.arange(SIZE, device=device) * 2**40
    calls: list[tuple[str, Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = [
        ("sum of int64", reduced, whole),
        ("sum of float32", reduced, whole.float()),
        ("gathering float32", gathered, whole.float()),
        ("gathering float64", gathered, whole.double()),
        ("gathering bytes", gathered, (whole >> 40).to(torch.uint8)),
    ]
    for what, call, tensor in calls:
        with bench.guarded(what):
            _time(bench, what, call, tensor)


def _time(bench: Bench, what: str, call: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> None:
    if not torch.equal(call(tensor.clone()), tensor):
        raise RuntimeError("another value came back")
    times = []
    for _ in range(5 * bench.scale.rounds):
        given = tensor.clone()
        bench.device.wait()
        began = time.perf_counter()
        call(given)
        bench.device.wait()
        times.append(1e6 * (time.perf_counter() - began))
    bench.row(f"{what}, {tensor.numel() * tensor.element_size() / 1e6:.2f} MB", "us", times)
