"""Backbones as a recipe names them: of a library or a file, in one of their forms, with weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import cast

import torch
from torch import nn

from ifl.backbones.forms import cut_for
from ifl.backbones.library import create
from ifl.backbones.open_clip import ImageTower
from ifl.backbones.weights import load
from ifl.method import load_file
from ifl.network.branches import EXPERTS, Branches, Experts
from ifl.network.drop_path import depth_argument
from recipes.backbones.facts import library_of
from recipes.common import search_path
from recipes.common.errors import RunError
from recipes.schema import Model


def feature_dim_of(backbone: nn.Module) -> int:
    """Return D, the length of a backbone's feature, which it says in its attribute `feature_dim`."""
    return cast("int", backbone.feature_dim)


def origin_of(name: str) -> str:
    """Return where a network comes from, for messages: its file, or its name in a library."""
    return name if library_of(name) else search_path.place(search_path.MODELS, name)


class Twin(nn.Module):
    """Two networks of one kind side by side: [B, 3, H, W] -> their features one after the other, [B, 2 D]."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = build(), build()
        self.feature_dim: int = 2 * feature_dim_of(self.first)
        self.side_by_side = ["first", "second"]

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
        network = create(model.name, model.args, image_size, model.drop_path, model.weights)
        return network if isinstance(network, ImageTower) else _with_weights(network, model)

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
    depth = depth_argument(build, model.drop_path, f"{file}: build()")

    def checked(*forms: str) -> nn.Module:
        backbone = build(*forms, **depth)
        dim = getattr(backbone, "feature_dim", None)
        if not isinstance(backbone, nn.Module) or type(dim) is not int or dim < 1:
            raise RunError(
                f"{file}: build() gave {type(backbone).__name__} with feature_dim {dim!r}: a torch "
                "module is legal that says the length of its feature as the int `feature_dim`"
            )
        return _with_weights(backbone, model)

    return Twin(checked) if form == "twin" else checked() if form == "plain" else checked(form)
