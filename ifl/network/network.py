"""The network that DeepSpeed trains: normalisation, backbone, head; and its batch-normalisation statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import cast

import numpy as np
import torch
from torch import nn

from ifl.backbones.forms import cut_for
from ifl.backbones.library import create
from ifl.backbones.weights import load
from ifl.method import BaseMethod, Task, load_file, load_method
from ifl.network.branches import EXPERTS, Branches, Experts
from ifl.network.hook_results import look_at_method, look_at_network
from recipes.backbones.facts import library_of
from recipes.common import search_path
from recipes.common.errors import RunError
from recipes.declarations import declaration
from recipes.schema import Model, Recipe


def feature_dim_of(backbone: nn.Module) -> int:
    """Return D, the length of a backbone's feature, which it says in its attribute `feature_dim`."""
    return cast("int", backbone.feature_dim)


class Network(nn.Module):
    """uint8 [B, 3, H, W] -> `Output`. The pixels are normalised here, once a batch and on the device."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.still = False
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute features [B, D], logits [B, K] and anything else that the head returns.

        The pixels lie channels last, as tensor cores and the convolutions of CPUs read them, and a convolution's output
        lies as its input does. Parameters stay as they are: DeepSpeed sends them as plain bytes and, with ZeRO, keeps
        them end to end.
        """
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        features = self.backbone((pixels - self.mean) / self.std)
        out = self.head(features)
        return (features, *out) if isinstance(out, tuple) else (features, out)

    @property
    def size(self) -> dict[str, int]:
        """What the ranks' reductions depend on: parameters that are trained, and D."""
        return {
            "trained_parameters": sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad),
            "features": feature_dim_of(self.backbone),
        }

    def freeze_backbone(self, still: bool) -> None:
        """Train the head only.

        Args:
            still: use the backbone's batch normalisation as it is. Otherwise it normalises by the batch's statistics
                and moves its running ones.
        """
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
        self.feature_dim: int = 2 * feature_dim_of(self.first)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.first(images), self.second(images)], dim=1)


def build_backbone(model: Model, form: str = "plain", image_size: int | None = None) -> nn.Module:
    """Build a backbone in one of its forms, with the weights of `model.weights` where that is given.

    It maps float32 [B, 3, H, W] to [B, D], and has the attribute `feature_dim` = D. It is a network of timm or
    torchvision by name, or that of a file of ifl/models or of a folder of GLT_PATH.

    Args:
        model: the section of a recipe. `init` is `own`, or `torch`: all convolutions are drawn again as torch does by
            default.
        form: plain, experts, branches or twin.
        image_size: H = W, pixels, for networks whose parameters depend on it; None: their own.

    Raises:
        RunError: the library or the file gives no such network, or the weights do not fit it.
    """
    backbone = _of_library(model, form, image_size) if library_of(model.name) else _of_file(model, form)
    if model.init == "torch":
        for layer in backbone.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
    return backbone


def _of_library(model: Model, form: str, image_size: int | None) -> nn.Module:
    """Build a network of a library; each expert or branch is cut from a fresh one, so each starts by its own draws.

    With weights all of them start from the same pretrained blocks.
    """

    def fresh() -> nn.Module:
        return _with_weights(create(model.name, model.args, image_size), model)

    if form == "plain":
        return fresh()
    if form == "twin":
        return Twin(fresh)
    whole = fresh()
    cut, dim = cut_for(whole, model.name, form), feature_dim_of(whole)
    trunk = cut.trunk(whole, form)
    if form == "experts":
        return Experts(trunk, [cut.end(fresh(), form) for _ in range(EXPERTS)], dim)
    return Branches(trunk, cut.end(fresh(), form), cut.end(fresh(), form), dim)


def _with_weights(network: nn.Module, model: Model) -> nn.Module:
    if model.weights:
        left_out = load(network, model.name, model.weights, model.prefix)
        _say(
            f"{model.name} starts from {model.weights}; left out of its classifier: {', '.join(left_out) or 'nothing'}"
        )
    return network


@cache  # a network of several parts reads the file for each
def _say(line: str) -> None:
    print(line, flush=True)


def _of_file(model: Model, form: str) -> nn.Module:
    """Build the network of a file of ifl/models, or of a folder of GLT_PATH."""
    name = model.name
    build, file = getattr(load_file("models", name), "build", None), search_path.place(search_path.MODELS, name)
    if not callable(build):
        raise RunError(f"{file} has no function `build`, which gives the network")

    def checked(*forms: str) -> nn.Module:
        backbone = build(*forms)
        dim = getattr(backbone, "feature_dim", None)
        if not isinstance(backbone, nn.Module) or type(dim) is not int or dim < 1:
            raise RunError(
                f"{file}: build() gave {type(backbone).__name__} with feature_dim {dim!r}: a torch "
                "module is legal that says the length of its feature as the int `feature_dim`"
            )
        return _with_weights(backbone, model)

    return Twin(checked) if form == "twin" else checked() if form == "plain" else checked(form)


def build_network(recipe: Recipe, class_counts: np.ndarray, *, pretrained: bool = False) -> tuple[Network, BaseMethod]:
    """Build the recipe's network, initialised with its seed, and its method.

    All that the files of both give is checked where it is used.

    Args:
        recipe: the resolved recipe.
        class_counts: int64 [K], of the training set.
        pretrained: whether the backbone starts from `model.weights`, where the recipe has such and no first stage:
            a checkpoint, an export and a first stage hold all weights themselves.

    Raises:
        RunError: one of them cannot be imported, or gives no network.
    """
    declared = declaration(recipe.method.name)
    torch.manual_seed(recipe.seed)
    reads = pretrained and not (recipe.method.init_from or recipe.method.eval_of)
    model = recipe.model if reads else recipe.model.model_copy(update={"weights": None})
    backbone = build_backbone(model, declared.FORM, recipe.data.image_size)
    if recipe.method.legacy_count_order:
        class_counts = class_counts[[int(name) for name in sorted(map(str, range(len(class_counts))))]]
    method = load_method(
        recipe.method.name, Task(class_counts, feature_dim_of(backbone), recipe.schedule.epochs, recipe.method.args)
    )
    head = method.head()
    if not isinstance(head, nn.Module):
        raise RunError(
            f"{search_path.place(search_path.METHODS, recipe.method.name)}: head() gave {type(head).__name__}: a torch "
            "module is legal"
        )
    look_at_network(backbone, head, recipe.model.name, recipe.method.name, feature_dim_of(backbone), len(class_counts))
    look_at_method(method, recipe.method.name, len(class_counts))
    network = Network(backbone, head, recipe.data.mean, recipe.data.std)
    if declared.TRAINS == "head":
        network.freeze_backbone(still=bool(recipe.method.args.get("frozen_bn", False)))
    return network, method
