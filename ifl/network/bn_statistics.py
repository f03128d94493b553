"""Batch-normalisation statistics that do not depend on the number of ranks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from recipes.common.errors import RunError


class RunningStatistics:
    """Running means and variances that do not depend on the number of ranks.

    A layer moves its running statistics at each forward, so a rank that takes two groups of a batch would end with
    others than two ranks that take one each. Here every layer only notes the group's own statistics (momentum 1); the
    step's average over all groups then moves the running ones once, with the layer's momentum. Layers are
    those of batch normalisation, and any other module with a `momentum` and buffers `running_...` that move by it.
    """

    def __init__(self, network: nn.Module) -> None:
        layers: list[Any] = [  # torch types a module's own attributes as Tensor | Module
            layer
            for layer in network.modules()
            if layer.training and (isinstance(layer, _BatchNorm) or hasattr(layer, "running_mean"))
        ]
        self.normalises = any(isinstance(layer, _BatchNorm) for layer in layers)
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                # It counts micro-batches, which differ with the number of ranks, so it is not a state; and counting
                # would take an operation a layer. torch's layers that synchronise ranks do not go without it.
                count = layer.num_batches_tracked if isinstance(layer, nn.SyncBatchNorm) else None
                layer.register_buffer("num_batches_tracked", count, persistent=False)
        self._device = next(network.parameters()).device
        self._buffers, momenta = [], []
        for layer in layers:
            if layer.momentum is None:
                raise ValueError(
                    "a batch-normalisation layer without momentum keeps no running statistics that could be shared"
                )
            buffers = [buffer for name, buffer in layer.named_buffers(recurse=False) if name.startswith("running_")]
            self._buffers += buffers
            momenta += [torch.full((buffer.numel(),), layer.momentum, device=self._device) for buffer in buffers]
            layer.momentum = 1.0
        self._momenta = torch.cat(momenta) if momenta else torch.zeros(0, device=self._device)
        self.refresh()

    def refresh(self) -> None:
        """Take the layers' present statistics for the running ones, as after loading a checkpoint."""
        self._running = self._flat()

    def _flat(self) -> torch.Tensor:
        return (
            torch.cat([buffer.detach().flatten() for buffer in self._buffers])
            if self._buffers
            else torch.zeros(0, device=self._device)
        )

    def group_statistics(self) -> torch.Tensor:
        """Return float32 [2 x channels of all layers]: the statistics of the last forward pass in training mode."""
        return self._flat()

    def update(self, mean: torch.Tensor) -> None:
        """Move the running statistics towards the average over the step's groups, and put them into the layers."""
        if not self._buffers:
            return
        self._running = torch.lerp(self._running, mean.to(self._running), self._momenta)
        parts = self._running.split([buffer.numel() for buffer in self._buffers])
        torch._foreach_copy_(self._buffers, list(parts))


def synchronise_groups(network: nn.Module, ranks: int, groups: int, patience_s: float) -> None:
    """Let each group's ranks take its statistics together, where there are more ranks than groups (GPU only)."""
    process_groups = [
        torch.distributed.new_group(
            list(range(g * ranks // groups, (g + 1) * ranks // groups)), timeout=timedelta(seconds=patience_s)
        )
        for g in range(groups)
    ]
    mine = process_groups[torch.distributed.get_rank() * groups // ranks]
    convert_groups(network, mine)


def convert_groups(network: nn.Module, group: Any = None) -> None:
    """Make the batch normalisation of a network one over a process group, in place.

    timm's layers that normalise and activate in one are converted by timm, which keeps what follows the normalisation.

    Raises:
        RunError: a layer is of a kind that would lose what else it does.
    """
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    kinds = {type(layer) for layer in network.modules() if isinstance(layer, _BatchNorm)} - set(plain)
    if not kinds:
        nn.SyncBatchNorm.convert_sync_batchnorm(network, group)  # in place: the network itself is not such a layer
        return
    if other := next((kind for kind in kinds if kind.__module__.partition(".")[0] != "timm"), None):
        raise RunError(
            f"{other.__module__}.{other.__name__} is batch normalisation of another kind than torch's, which ranks "
            "cannot share: as many ranks as groups, or fewer, are legal"
        )
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    if other := next((kind for kind in kinds if kind is not BatchNormAct2d), None):
        raise RunError(
            f"timm's {other.__name__} cannot be shared among ranks: as many ranks as groups, or fewer, are legal"
        )
    convert_sync_batchnorm(network, group)


def without_groups(model: str) -> str:
    """Say that a model's batch normalisation needs groups."""
    return (
        f"batch.bn=0 is for a network without batch normalisation, and {model} has it: set batch.bn to the samples of "
        "a group"
    )
