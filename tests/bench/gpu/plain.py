"""The peer: a loop that a careful person writes by hand, with none of the suite's parts but the network.

bf16 autocast, channels last for pixels and weights, fused SGD, torch.compile of network and normalisation, cuDNN's
search, gradients set to None. Each of them can be switched off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ifl.method import load_file
from tests.bench.gpu.bench import Bench

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Classifier(nn.Module):
    """uint8 [B, 3, H, W] -> logits [B, K]."""

    def __init__(self, model: str, classes: int) -> None:
        super().__init__()
        self.backbone = load_file("models", model).build()
        self.head = nn.Linear(self.backbone.feature_dim, classes, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone((images.float() - self.mean) / self.std))


def synthetic(bench: Bench, side: int, layout: torch.memory_format) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches on the device, again and again."""
    scale, dice = bench.scale, torch.Generator().manual_seed(0)
    batches = []
    for _ in range(2):
        images = torch.randint(0, 256, (scale.batch, 3, side, side), dtype=torch.uint8, generator=dice)
        labels = torch.randint(0, scale.classes, (scale.batch,), generator=dice)
        batches.append((images.to(bench.device.torch, memory_format=layout), labels.to(bench.device.torch)))
    return itertools.cycle(batches)


class Plain:
    """The hand-written loop; `take()` makes a step."""

    def __init__(
        self,
        bench: Bench,
        side: int,
        *,
        bf16: bool = True,
        channels_last: bool = True,
        compiled: bool = True,
        batches: Iterator[Any] | None = None,
    ) -> None:
        """Build it.

        Args:
            bench: the section's.
            side: pixels of an image's side.
            bf16: autocast; else float32, in which torch lets convolutions use TF32.
            channels_last: pixels and weights; else channels first.
            compiled: by torch.compile.
            batches: yields images uint8 [B, 3, H, W] and labels int64 [B] first; None: synthetic ones on the device.
        """
        self._device, self._bf16 = bench.device, bf16
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        torch.manual_seed(0)
        network: Any = Classifier(bench.scale.model, bench.scale.classes)
        network = network.to(bench.device.torch, memory_format=self._layout)
        self._optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
        self._network = torch.compile(network, backend=bench.scale.backend, dynamic=False) if compiled else network
        self._batches = synthetic(bench, side, self._layout) if batches is None else batches

    def take(self) -> None:
        """Make a step."""
        images, labels = next(self._batches)[:2]
        with self._device.searching(True):
            images = images.to(self._device.torch, non_blocking=True, memory_format=self._layout)
            labels = labels.to(self._device.torch, non_blocking=True)
            with torch.autocast(self._device.torch.type, torch.bfloat16, enabled=self._bf16):
                loss = F.cross_entropy(self._network(images).float(), labels)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
