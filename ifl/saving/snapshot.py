"""What a checkpoint will hold, copied into host memory: the run goes on while a thread serialises and writes it."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ifl.engine import Engine, serialised


class HostMemory:
    """Copies of tensors in host memory that is used again for the next copies, since new memory costs as much again.

    On a GPU the memory is pinned: the copies are queued behind the step, before the next one, and nobody waits for
    them here.
    """

    def __init__(self) -> None:
        self._rooms: list[torch.Tensor] = []

    def copied(self, value: Any) -> tuple[Any, torch.Event | None]:
        """Copy nested plain values with all tensors in them; the copies before are overwritten.

        Tensors that share memory share it afterwards, so the copy is serialised to the same bytes.

        Returns:
            The copy, and on a GPU the event to wait for before it is read.
        """
        copies: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}  # of each memory: its bytes, the room
        result = self._copied(value, copies)
        if not copies:
            return result, None
        sources, rooms = zip(*copies.values(), strict=True)
        torch._foreach_copy_(list(rooms), list(sources), non_blocking=True)
        device = next((source.device for source in sources if source.device.type == "cuda"), None)
        if device is None:
            return result, None
        arrived = torch.Event(device)
        arrived.record()
        return result, arrived

    def _copied(self, value: Any, copies: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]) -> Any:
        if isinstance(value, torch.Tensor):
            return self._copied_tensor(value, copies)
        if isinstance(value, dict):
            same = copy.copy(value)  # with the class and the attributes that it has
            same.update((key, self._copied(inner, copies)) for key, inner in value.items())
            return same
        if isinstance(value, list):
            return [self._copied(inner, copies) for inner in value]
        if isinstance(value, tuple):
            parts = [self._copied(inner, copies) for inner in value]
            changed = any(part is not inner for part, inner in zip(parts, value, strict=True))
            return tuple(parts) if changed else value
        return value

    def _copied_tensor(
        self, tensor: torch.Tensor, copies: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        memory = tensor.untyped_storage()
        key = (memory.data_ptr(), memory.nbytes())
        if key not in copies:
            source = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(memory)
            copies[key] = source, self._room(len(copies), source)
        same = torch.empty(0, dtype=tensor.dtype)
        same.set_(copies[key][1].untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(same, tensor.requires_grad)
        return same.requires_grad_(tensor.requires_grad)

    def _room(self, number: int, source: torch.Tensor) -> torch.Tensor:
        """Return the host memory of copy `number`, uint8 as long as `source`."""
        if number == len(self._rooms):
            self._rooms.append(torch.empty(0, dtype=torch.uint8))
        if self._rooms[number].shape != source.shape:
            self._rooms[number] = torch.empty(source.shape, dtype=torch.uint8, pin_memory=source.device.type == "cuda")
        return self._rooms[number]


class Snapshot:
    """An engine and the run's state as they were; `checkpoint.save` takes it in the engine's place.

    Attributes:
        state: the copy of the state.
        zero: ZeRO's stage.
        device: the CPU: the ranks' messages about it are not made on their GPUs, which train.
    """

    def __init__(self, engine: Engine, state: dict[str, Any], memory: HostMemory) -> None:
        """Copy both into `memory`, until the next snapshot. A collective."""
        (self._parts, self.state), self._arrived = memory.copied((engine.parts(), state))
        self.zero, self.device = engine.zero, torch.device("cpu")

    def save(self) -> dict[str, memoryview]:
        """Return the files that this rank has to write, by their paths in a checkpoint's folder."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return {path: serialised(part) for path, part in self._parts.items()}
