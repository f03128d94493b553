"""The network that DeepSpeed trains: normalisation, backbone, head; and its batch-normalisation statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ifl.method import BaseMethod, Task, load_method
from ifl.network import adapters, lora
from ifl.network.added_layers import Added
from ifl.network.backbone import build_backbone, feature_dim_of, origin_of
from ifl.network.drop_path import RowMasks, drawn_by_row
from ifl.network.hook_results import look_at_method, look_at_network, refuse_untrained
from recipes.common import search_path
from recipes.common.errors import RunError
from recipes.declarations import declaration
from recipes.schema import Model, Recipe


class Network(nn.Module):
    """uint8 [B, 3, H, W] -> `Output`. The pixels are normalised here, once a batch and on the device.

    Attributes:
        still: the kind of the backbone's layers that stay as in evaluation while the network trains; None: no kind.
        row_masks: what draws the rows that stochastic depth leaves out.
        left_out: names of the backbone's layers beside which nothing was put, since it never calls them.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.still: type[nn.Module] | None = None
        self.row_masks = RowMasks()
        self.left_out: Sequence[str] = ()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute features [B, D], logits [B, K] and anything else that the head returns.

        Args:
            images: uint8 [B, 3, H, W], or the features of images, float [B, D], where the backbone has done its part.
        """
        features = images if images.dim() == 2 else self.features(images)
        out = self.head(features)
        return (features, *out) if isinstance(out, tuple) else (features, out)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features float [B, D] of images uint8 [B, 3, H, W].

        The pixels lie channels last, as tensor cores and the convolutions of CPUs read them, and a convolution's output
        lies as its input does. Parameters stay as they are: DeepSpeed sends them as plain bytes and, with ZeRO, keeps
        them end to end.
        """
        pixels = images.contiguous(memory_format=torch.channels_last).float()
        # As pictures: a CPU's vectors would else hold no more than the three numbers of a pixel, a quarter as fast.
        mean, std = (
            of_channel.expand_as(pixels[:1]).contiguous(memory_format=torch.channels_last)
            for of_channel in (self.mean, self.std)
        )
        given: torch.Tensor = self.backbone((pixels - mean).div_(std))
        return given

    @property
    def size(self) -> dict[str, int]:
        """What the ranks' reductions depend on: parameters that are trained, and D."""
        return {
            "trained_parameters": sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad),
            "features": feature_dim_of(self.backbone),
        }

    @property
    def about(self) -> dict[str, Any]:
        """What meta.json says of it."""
        return {**self.size, **({"left_out": list(self.left_out)} if self.left_out else {})}

    def freeze_backbone(self, still: type[nn.Module] | None, but: Sequence[nn.Parameter] = ()) -> None:
        """Train the head only, and of the backbone some parameters.

        Args:
            still: the kind of the backbone's layers that are used as in evaluation. Batch normalisation which is not
                still normalises by the batch's statistics and moves its running ones.
            but: the backbone's parameters that train.
        """
        self.backbone.requires_grad_(False)
        for parameter in but:
            parameter.requires_grad_(True)
        self.still = still
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        if mode and self.still:
            for layer in self.backbone.modules():
                if isinstance(layer, self.still):
                    layer.eval()
        return self


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
    refuse_untrained(method, head, recipe.method.name)
    look_at_network(backbone, head, recipe.model.name, recipe.method.name, feature_dim_of(backbone), len(class_counts))
    look_at_method(method, recipe.method.name, len(class_counts), declared.TRAINS != "nothing")
    network = Network(backbone, head, recipe.data.mean, recipe.data.std)
    if model.drop_path:
        network.row_masks = drawn_by_row(backbone, origin_of(model.name))
    choose_trained(
        network, model, declared.TRAINS, bool(recipe.method.args.get("frozen_bn", False)), recipe.data.image_size
    )
    return network, method


def choose_trained(network: Network, model: Model, trains: str, frozen_bn: bool, image_size: int) -> None:
    """Prepare the backbone, and choose what trains. The head always does.

    A backbone that does not train at all is used as in evaluation, and so is the batch normalisation of one that trains
    by what is added. A method that trains the head alone says itself, by `frozen_bn`, whether the statistics stand;
    what its first stage added is there and does not train.

    Args:
        network: all of whose parameters train.
        model: the recipe's section.
        trains: TRAINS of the method, all or head.
        frozen_bn: its argument of that name.
        image_size: H = W, pixels.

    Raises:
        RunError: the network has no layer that this is for, or peft is not installed.
    """
    chosen = prepared(network.backbone, model, image_size)
    network.left_out = chosen.left_out
    if model.train == "head":
        network.freeze_backbone(nn.Module)
    elif trains == "head":
        network.freeze_backbone(nn.Module if frozen_bn else None)
    elif chosen.trains:
        network.freeze_backbone(None if model.train == "norm" else _BatchNorm, chosen.trains)


def prepared(backbone: nn.Module, model: Model, image_size: int) -> Added:
    """Add to a backbone what LoRA or AdaptFormer add, in place; returns what alone trains, nothing where all may.

    Raises:
        RunError: the network has no layer that this is for, or peft is not installed.
    """
    file = origin_of(model.name)
    if model.train == "lora":
        return lora.insert(backbone, model.width, model.scale, file, image_size)
    if model.train == "adapter":
        return adapters.insert(backbone, model.width, model.scale, file, image_size)
    return Added(normalisations(backbone, file)) if model.train == "norm" else Added()


def normalisations(backbone: nn.Module, file: str) -> list[nn.Parameter]:
    """Return the weights and biases of a backbone's normalising layers, known by their class's name.

    Raises:
        RunError: there are none; `file` names the model.
    """
    layers = [layer for layer in backbone.modules() if "norm" in type(layer).__name__.lower()]
    found = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
    if not found:
        raise RunError(f"model.train=norm: the network of {file} has no normalisation with weights")
    return found
