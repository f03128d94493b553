"""The network that DeepSpeed trains: normalisation, backbone, head; and its batch-normalisation statistics."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from datetime import timedelta

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ifl.method import BaseMethod, Task, load_method
from recipes.methods import declaration
from recipes.schema import Recipe


class Network(nn.Module):
    """uint8 [B, 3, H, W] -> `Output`. The pixels are normalised here, once a batch and on the device."""

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.still = False
        # Tensor cores read channels last; most CPU convolutions do not gain by it.
        self.layout = torch.channels_last if torch.cuda.is_available() else torch.contiguous_format
        self.to(memory_format=self.layout)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features [B, D], logits [B, K] and whatever else the head gives."""
        features = self.backbone((images.contiguous(memory_format=self.layout).float() - self.mean) / self.std)
        out = self.head(features)
        return (features, *out) if isinstance(out, tuple) else (features, out)

    @property
    def size(self) -> dict[str, int]:
        """What the ranks' reductions depend on: parameters that are trained, and D."""
        return {
            "trained_parameters": sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad),
            "features": self.backbone.feature_dim,
        }

    def freeze_backbone(self, still: bool) -> None:
        """Train the head alone. The backbone's batch normalisation goes on with the batch's statistics and moves its
        running ones, or, `still`, is used as it stands."""
        self.backbone.requires_grad_(False)
        self.still = still
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        self.backbone.train(mode and not self.still)
        return self


class Twin(nn.Module):
    """Two networks of one kind side by side: [B, 3, H, W] -> their features one after the other, [B, 2 D]."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = build(), build()
        self.feature_dim: int = 2 * self.first.feature_dim

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.first(images), self.second(images)], dim=1)


def build_backbone(name: str, form: str = "plain") -> nn.Module:
    """The backbone of `ifl/models/NAME.py` in one of its forms: float32 [B, 3, H, W] -> [B, D], with `feature_dim` = D."""
    module = importlib.import_module(f"ifl.models.{name}")
    return Twin(module.build) if form == "twin" else module.build() if form == "plain" else module.build(form)


def build_network(recipe: Recipe, class_counts: np.ndarray) -> tuple[Network, BaseMethod]:
    """The recipe's network, initialised with its seed, and its method; `class_counts` int64 [K] of the training set."""
    declared = declaration(recipe.method.name)
    torch.manual_seed(recipe.seed)
    backbone = build_backbone(recipe.model.name, declared.FORM)
    if recipe.method.legacy_count_order:
        class_counts = class_counts[[int(name) for name in sorted(map(str, range(len(class_counts))))]]
    method = load_method(
        recipe.method.name, Task(class_counts, backbone.feature_dim, recipe.schedule.epochs, recipe.method.args)
    )
    network = Network(backbone, method.head(), recipe.data.mean, recipe.data.std)
    if declared.TRAINS == "head":
        network.freeze_backbone(still=bool(recipe.method.args.get("frozen_bn", False)))
    return network, method


class RunningStatistics:
    """Running means and variances that do not depend on the number of ranks.

    A layer moves its running statistics at each forward, so a rank that takes two groups of a batch would end with
    others than two ranks that take one each. Here every layer only notes the group's own statistics (momentum 1); the
    step's average over all groups then moves the running ones once, with the layer's momentum. Layers are batch
    normalisation's, and whatever has a `momentum` and buffers called `running_...` that move by it.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [
            layer
            for layer in network.modules()
            if layer.training and (isinstance(layer, _BatchNorm) or hasattr(layer, "running_mean"))
        ]
        self.normalises = any(isinstance(layer, _BatchNorm) for layer in layers)
        for layer in network.modules():
            if isinstance(layer, _BatchNorm):
                layer.register_buffer(
                    "num_batches_tracked", layer.num_batches_tracked, persistent=False
                )  # counts micro-batches: no state
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

    def of_group(self) -> torch.Tensor:
        """float32 [2 x channels of all layers]: the statistics of the forward pass just made in training mode."""
        return self._flat()

    def move(self, mean: torch.Tensor) -> None:
        """Move the running statistics towards the average over the step's groups, and put them into the layers."""
        if not self._buffers:
            return
        self._running = torch.lerp(self._running, mean.to(self._running), self._momenta)
        parts = self._running.split([buffer.numel() for buffer in self._buffers])
        torch._foreach_copy_(self._buffers, list(parts))


def synchronise_groups(network: nn.Module, ranks: int, groups: int, patience_s: float) -> nn.Module:
    """For more ranks than groups (GPU only): each group's ranks take its statistics together."""
    process_groups = [
        torch.distributed.new_group(
            list(range(g * ranks // groups, (g + 1) * ranks // groups)), timeout=timedelta(seconds=patience_s)
        )
        for g in range(groups)
    ]
    mine = process_groups[torch.distributed.get_rank() * groups // ranks]
    return nn.SyncBatchNorm.convert_sync_batchnorm(network, mine)
