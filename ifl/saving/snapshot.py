"""What a checkpoint will hold, copied into host memory: the run goes on while a thread serialises and writes it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch

from ifl.engine import Engine, are_finite, serialised

Memory = tuple[int, int]
"""Address and bytes."""


class HostMemory:
    """Copies of tensors in host memory that is used again for the next copies, since new memory costs as much again.

    On a GPU the memory is pinned: the copies are queued behind the step, before the next one, and nobody waits for
    them here.
    """

    def __init__(self) -> None:
        self._rooms: dict[Memory, torch.Tensor] = {}

    @property
    def size(self) -> int:
        """Return how many bytes the last copies have."""
        return sum(room.numel() for room in self._rooms.values())

    def take(self, value: Any) -> tuple[Any, torch.Event | None]:
        """Copy the bytes of all tensors in nested plain values; the copies before are overwritten.

        Returns:
            The values, for `copied`, and on a GPU the event to wait for before it; until then they must be kept.
        """
        sources: dict[Memory, torch.Tensor] = {}
        rooms: dict[Memory, torch.Tensor] = {}

        def noted(tensor: torch.Tensor) -> torch.Tensor:
            memory = memory_of(tensor)
            if memory not in rooms:
                sources[memory] = _bytes_of(tensor)
                rooms[memory] = self._rooms[memory] if memory in self._rooms else _room_for(sources[memory])
            return tensor

        kept, self._rooms = mapped(value, noted), rooms
        if rooms:
            torch._foreach_copy_(list(rooms.values()), list(sources.values()), non_blocking=True)
        device = next((source.device for source in sources.values() if source.device.type == "cuda"), None)
        if device is None:
            return kept, None
        arrived = torch.Event(device)
        arrived.record()
        return kept, arrived

    def copied(self, kept: Any) -> Any:
        """Return the values that `take` gave with a copy in each tensor's place.

        Tensors that share memory share it in the copies, so these are serialised to the same bytes.
        """
        return mapped(kept, self._copy_of)

    def _copy_of(self, tensor: torch.Tensor) -> torch.Tensor:
        room = self._rooms[memory_of(tensor)].untyped_storage()
        same = torch.empty(0, dtype=tensor.dtype)
        same.set_(room, tensor.storage_offset(), tensor.size(), tensor.stride())
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(same, tensor.requires_grad)
        return same.requires_grad_(tensor.requires_grad)


def memory_of(tensor: torch.Tensor) -> Memory:
    """Name the memory that a tensor lies in."""
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return all bytes of a tensor's memory, uint8."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _room_for(source: torch.Tensor) -> torch.Tensor:
    return torch.empty(source.shape, dtype=torch.uint8, pin_memory=source.device.type == "cuda")


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return nested plain values with each tensor changed; containers are new ones of the same kind."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        same = copy.copy(value)  # with the attributes that it has
        same.update([(key, mapped(inner, change)) for key, inner in value.items()])
        return same
    if isinstance(value, list):
        return [mapped(inner, change) for inner in value]
    if isinstance(value, tuple) and any(isinstance(inner, torch.Tensor | dict | list | tuple) for inner in value):
        return tuple(mapped(inner, change) for inner in value)
    return value


class Snapshot:
    """An engine and the run's state as they were; `checkpoint.save` takes it in the engine's place.

    Attributes:
        zero: ZeRO's stage.
        device: the CPU: the ranks' messages about it are not made on their GPUs, which train.
    """

    def __init__(self, engine: Engine, state: dict[str, Any], memory: HostMemory) -> None:
        """Copy both into `memory`, until the next snapshot."""
        self._kept, self._arrived = memory.take((engine.parts(), state, engine.largest_norm))
        self._memory, self._skipped_steps = memory, engine.skipped_steps
        self.zero: int = engine.zero
        self.device = torch.device("cpu")

    @functools.cached_property
    def _copies(self) -> tuple[dict[str, Any], dict[str, Any], torch.Tensor]:
        """The files' parts, the state, and the largest norm of clipped gradients."""
        if self._arrived is not None:
            self._arrived.synchronize()
        parts, state, largest_norm = self._memory.copied(self._kept)
        return parts, state, largest_norm

    @property
    def state(self) -> dict[str, Any]:
        """Return the copy of the state."""
        return self._copies[1]

    def finite(self) -> bool:
        """Return whether all that this rank has to write of the engine is finite; see `Engine.finite`."""
        found: list[torch.Tensor] = []

        def noted(tensor: torch.Tensor) -> torch.Tensor:
            found.append(tensor)
            return tensor

        mapped((self._copies[0], self._copies[2]), noted)
        return self._skipped_steps == 0 and are_finite(found)

    def save(self) -> dict[str, memoryview]:
        """Return the files that this rank has to write, by their paths in a checkpoint's folder."""
        return {path: serialised(part) for path, part in self._copies[0].items()}
