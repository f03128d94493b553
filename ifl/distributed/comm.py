"""All use of torch.distributed, except DeepSpeed's own gradients.

Every call here is a collective: all ranks make the same calls in the same order, never inside an `if` on local data.
(Two ranks that issue reductions in different orders get wrong sums and no error.)
"""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def join(patience_s: float) -> Comm:
    """Join the other ranks (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) without DeepSpeed.

    Tensors on the CPU travel by gloo, those on GPUs by NCCL; so ranks of which some lack their GPU can still meet.
    """
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(seconds=patience_s)
    )
    return Comm(patience_s=patience_s)


class Pending:
    """A tensor whose reduction is under way; `wait()` returns it once all ranks' parts have arrived."""

    def __init__(self, tensor: torch.Tensor, work: Any = None) -> None:
        self._tensor, self._work = tensor, work

    def wait(self) -> torch.Tensor:
        if self._work is not None:
            self._work.wait()
        return self._tensor


class Comm:
    """The ranks of one group; a rank gives up on the others after `patience_s` seconds.

    By default it is a separate group, so that reductions in flight never get mixed up with DeepSpeed's.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, patience_s: float = 600.0) -> None:
        self.distributed = dist.is_initialized() and dist.get_world_size() > 1
        self.group = (group or dist.new_group(timeout=timedelta(seconds=patience_s))) if self.distributed else None
        self.rank = dist.get_rank(self.group) if self.distributed else 0
        self.size = dist.get_world_size(self.group) if self.distributed else 1

    def apart(self, patience_s: float) -> Comm:
        """Return the same ranks for another thread: a group whose messages go from host to host. A collective."""
        return Comm(dist.new_group(backend="gloo", timeout=timedelta(seconds=patience_s)) if self.distributed else None)

    def start_sum(self, tensor: torch.Tensor) -> Pending:
        """Start summing `tensor` over the ranks, in place."""
        if self.size == 1:
            return Pending(tensor)
        return Pending(tensor, dist.all_reduce(tensor, group=self.group, async_op=True))

    def start_gather(self, tensor: torch.Tensor) -> Pending:
        """Start gathering the ranks' equally shaped `tensor`s, stacked in rank order: [R, ...]."""
        if self.size == 1:
            return Pending(tensor[None])
        gathered = tensor.new_empty(self.size * tensor.numel())  # flat: the one form that every backend accepts
        work = dist.all_gather_single(gathered, tensor.flatten(), group=self.group, async_op=True)
        return Pending(gathered.view(self.size, *tensor.shape), work)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.start_sum(tensor).wait()

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.start_gather(tensor).wait()

    def gather_objects(self, value: Any, device: torch.device | str) -> list[Any]:
        """Return every rank's plain value, in rank order, on all ranks."""
        data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8).to(device)
        sizes = self.gather(torch.tensor([len(data)], device=device)).flatten().tolist()
        padded = torch.nn.functional.pad(data, (0, max(sizes) - len(data)))
        rows = self.gather(padded).cpu()
        return [pickle.loads(row[:size].numpy().tobytes()) for row, size in zip(rows, sizes, strict=True)]

    def numbers_of_first(self, numbers_N: np.ndarray, device: torch.device | str) -> np.ndarray:
        """Return rank 0's float64 [N] on all ranks, by a sum of its bits: CPUs of two kinds round `log` otherwise."""
        bits_N = torch.from_numpy(numbers_N.view(np.int64)).to(device)
        return self.sum(bits_N.clone() if self.rank == 0 else torch.zeros_like(bits_N)).cpu().numpy().view(np.float64)

    def from_first(self, value: Any, device: torch.device | str) -> Any:
        """Return rank 0's plain value on all ranks."""
        return self.gather_objects(value if self.rank == 0 else None, device)[0]
