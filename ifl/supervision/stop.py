"""The request to stop: one rank hears it, all ranks leave together."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ifl.distributed.comm import Comm


class StopRequest:
    """Whether this rank, or any rank, was asked to stop."""

    def __init__(self, asked: Callable[[], bool], comm: Comm, device: torch.device) -> None:
        """Listen to `asked`, which tells whether a signal reached this process (ifl/supervision/signals.py)."""
        self.asked, self._comm, self._device = asked, comm, device

    def agreed(self) -> bool:
        """Say whether any rank was asked to stop: the same answer on all ranks. A collective."""
        return bool(self._comm.sum(torch.tensor([int(self.asked())], device=self._device)))
