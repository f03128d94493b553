"""Answers what a network of timm, torchvision or open_clip is, for the launcher, which imports no torch.

`python -m ifl.network.library_facts '{"name": "timm:resnet50d", "args": {}}'` prints one line of JSON: `facts`, or the
sentence `fault`. With `form` and `image_size` it says whether such a network can be built and takes such images. The
network is built without memory for its parameters (torch's device `meta`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ifl.backbones.forms import forms_of
from ifl.backbones.library import create, without_memory
from ifl.backbones.open_clip import ImageTower
from ifl.network.backbone import build_backbone, feature_dim_of
from ifl.network.drop_path import drawn_by_row
from ifl.network.network import prepared
from recipes.backbones.facts import library_of, version_of
from recipes.common.errors import RunError, one_line
from recipes.schema import Model

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and std where a network says none, as torchvision's do not without weights."""
ROWS = 4
"""Of a batch that is tried: two for each of two branches, fewer than which batch normalisation refuses."""


def facts(name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `recipes.backbones.facts.Facts` holds, of a network.

    Raises:
        RunError: there is no such network, or it does not take the arguments.
    """
    network = without_memory(lambda: create(name, args))
    size, resize, mean, std = _configuration(name, network)
    return {
        "image_size": size,
        "test_resize": resize,
        "mean": mean,
        "std": std,
        "normalises": any(isinstance(layer, _BatchNorm) for layer in network.modules()),
        "forms": forms_of(network),
        "version": version_of(library_of(name)),
    }


def _configuration(name: str, network: nn.Module) -> tuple[int, int, Any, Any]:
    """Return side and shorter side before the crop, in pixels, mean and std, as the network's library has them.

    timm's configuration goes with the name and its tag; torchvision's with the default weights of the name.
    """
    if isinstance(network, ImageTower):
        return network.image_size, network.image_size, network.mean, network.std
    said: Any = getattr(network, "pretrained_cfg", None)
    if said is not None:
        size = int(said["input_size"][-1])
        share = float(said.get("crop_pct") or 1)
        return size, max(size, round(size / share)), said["mean"], said["std"]
    from sharding.images.torchvision_cpu import torchvision

    weights: Any = torchvision.models.get_model_weights(name.partition(":")[2])
    if not len(weights):
        return 224, 256, *IMAGENET
    view = weights.DEFAULT.transforms()
    return int(view.crop_size[0]), int(view.resize_size[0]), view.mean, view.std


def unfit(model: Model, form: str, image_size: int) -> str:
    """Say why a network cannot be built in a form, take images of a size or train so; empty where it can."""
    where = f"model.name={model.name} with data.image_size={image_size}"
    try:
        try:
            with torch.device("meta"):
                wanted, found = _tried(model, form, image_size)
        except NotImplementedError:  # an operator that the device without numbers has not: once more with numbers
            wanted, found = _tried(model, form, image_size)
    except RunError as error:
        return str(error)
    except Exception as error:  # networks refuse sizes by any type
        return one_line(f"{where} ({form}) takes no such images: {type(error).__name__}: {error}")[:500]
    for given in found:
        if not isinstance(given, torch.Tensor) or list(given.shape) != wanted:
            shape = list(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
            return (
                f"{where} gives {shape}, and pooled features [B, D] = {wanted} are legal: model.args must keep pooling"
            )
    return ""


@torch.no_grad()
def _tried(model: Model, form: str, image_size: int) -> tuple[list[int], list[Any]]:
    """Return the shape that features of `ROWS` images must have, and what a network gives in evaluation and training.

    It is prepared for training as a run does it.
    """
    network, images = build_backbone(model, form, image_size), torch.empty(ROWS, 3, image_size, image_size)
    given = [network.eval()(images)]
    if model.drop_path:
        drawn_by_row(network, model.name).begin(0, 0, 0, np.arange(ROWS), ROWS)
    prepared(network, model, image_size)
    if model.train != "head":
        given.append(network.train()(images))
    return [ROWS, feature_dim_of(network)], given


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a question as the module's text has it."""
    try:
        if "form" not in question:
            return {"facts": facts(question["name"], question["args"])}
        of_model = {key: value for key, value in question.items() if key not in ("form", "image_size")}
        sentence = unfit(Model(**of_model), question["form"], question["image_size"])
        return {"fault": sentence} if sentence else {}
    except RunError as error:
        return {"fault": str(error)}


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
