"""Copies between the host and a GPU for which neither waits longer than it must.

A plain copy waits until the device has done all that it was asked for before, and then the device is idle until the
host has asked for more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ifl.distributed.comm import Pending


def to_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring values of the host to the device; on a GPU they travel while the host goes on."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class FirstNumbers:
    """Reads the first numbers of a sum over the ranks, as soon as they are there.

    On a GPU they are copied on a stream of their own, so the host waits for the sum alone, and not for the backward
    pass that the device has been asked for since.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare to read from `device`."""
        self._device = device
        stream: Any = torch.cuda.Stream  # which comes without types
        self._stream = stream(device) if device.type == "cuda" else None

    def begin(self, pending: Pending, count: int) -> None:
        """Ask for the first `count` numbers of a flat sum that is under way, before more is asked of the device."""
        self._pending, self._count = pending, count
        if self._stream is None:
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            summed = pending.wait()  # this stream waits, and not the host
            self._host = _pinned(count, summed.dtype)
            self._host.copy_(summed[:count], non_blocking=True)
            self._arrived = self._stream.record_event()
        summed.record_stream(self._stream)

    def tolist(self) -> list[int]:
        """Wait for the numbers and return them."""
        if self._stream is None:
            return self._pending.wait()[: self._count].tolist()
        self._arrived.synchronize()
        return self._host.tolist()


def _pinned(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Return memory of the host that a GPU can write while the host does something else."""
    return torch.empty(count, dtype=dtype, pin_memory=True)
