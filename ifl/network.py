"""The network that DeepSpeed trains: normalisation, backbone, head; and its batch-normalisation statistics."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ifl.method import Output


class Network(nn.Module):
    """uint8 [B, 3, H, W] -> `Output`. The pixels are normalised here, once a batch and on the device."""

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: torch.Tensor) -> Output:
        features = self.backbone((images.float() - self.mean) / self.std)
        return Output(features, self.head(features))


def build_backbone(name: str) -> nn.Module:
    """The backbone of `ifl/models/NAME.py`: float32 [B, 3, H, W] -> [B, D], with `feature_dim` = D."""
    return importlib.import_module(f"ifl.models.{name}").build()


class RunningStatistics:
    """Running means and variances that do not depend on the number of ranks.

    A layer moves its running statistics at each forward, so a rank that takes two groups of a batch would end with
    others than two ranks that take one each. Here every layer only notes the group's own statistics (momentum 1); the
    step's average over all groups then moves the running ones once, with the layers' momentum.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
        momenta = {layer.momentum for layer in self.layers}
        if len(momenta) > 1 or None in momenta:
            raise ValueError(f"batch-normalisation layers of one network must share one momentum, not {sorted(map(str, momenta))}")
        self.momentum = next(iter(momenta), 0.0)
        for layer in self.layers:
            layer.momentum = 1.0
            layer.register_buffer("num_batches_tracked", layer.num_batches_tracked, persistent=False)  # counts micro-batches: no state
        self._device = next(network.parameters()).device
        self._buffers = [buffer for layer in self.layers for buffer in (layer.running_mean, layer.running_var)]
        self.refresh()

    def refresh(self) -> None:
        """Take the layers' present statistics for the running ones, as after loading a checkpoint."""
        self._running = self._flat()

    def _flat(self) -> torch.Tensor:
        return torch.cat([buffer.detach().flatten() for buffer in self._buffers]) if self._buffers else torch.zeros(0, device=self._device)

    def of_group(self) -> torch.Tensor:
        """float32 [2 x channels of all layers]: the statistics of the forward pass just made in training mode."""
        return self._flat()

    def move(self, mean: torch.Tensor) -> None:
        """Move the running statistics towards the average over the step's groups, and put them into the layers."""
        if not self._buffers:
            return
        self._running = torch.lerp(self._running, mean.to(self._running), self.momentum)
        parts = self._running.split([buffer.numel() for buffer in self._buffers])
        torch._foreach_copy_(self._buffers, list(parts))


def synchronise_groups(network: nn.Module, ranks: int, groups: int, patience_s: float) -> nn.Module:
    """For more ranks than groups (GPU only): each group's ranks take its statistics together."""
    process_groups = [torch.distributed.new_group(list(range(g * ranks // groups, (g + 1) * ranks // groups)), timeout=timedelta(seconds=patience_s)) for g in range(groups)]
    mine = process_groups[torch.distributed.get_rank() * groups // ranks]
    return nn.SyncBatchNorm.convert_sync_batchnorm(network, mine)
