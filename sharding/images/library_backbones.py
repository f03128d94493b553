"""Pretrained networks of timm, torchvision and open_clip by their names: from pixels to features, as each was trained.

`timm:NAME`, `torchvision:NAME`, `open_clip:NAME`; weights are a safetensors (but torchvision's) or a torch file, read
with weights_only. Size, mean and standard deviation are the model's own; images are resized as everywhere in the suite,
bilinear and antialiased. (A bare NAME is `backbones.network`, as in the paper.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.backbones.names import offer
from recipes.common.cli import nearest
from recipes.common.errors import DataError, one_line
from sharding.images.backbones import torchvision_model

if TYPE_CHECKING:
    import torch

LACKING = (
    "timm models need the package timm, which is not installed: `.venv/bin/python -m pip install timm`, or leave the "
    "model out"
)


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier, and what it is given.

    Attributes:
        model: float32 [B, 3, size, size], normalised -> float32 [B, D].
        size: pixels of the central crop's side.
        resize: pixels of the shorter side before it, at least `size`.
        mean, std: of each channel, of pixels in 0..1.
    """

    model: torch.nn.Module = field(repr=False)
    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def forward(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function from uint8 [B, size, size, 3] to float32 [B, D], on a GPU if there is one."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = self.model.to(device).eval().requires_grad_(False)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (self.mean, self.std))

        def features(pixels: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
                found: np.ndarray = model((batch - mean) / std).flatten(1).float().cpu().numpy()
                return found

        return features


def library_backbone(name: str, weights: Path) -> Backbone:
    """Build a network by LIBRARY:NAME with the weights of a file.

    Raises:
        DataError: there is no such library or network, or the weights are not its own.
    """
    library, _, own = name.partition(":")
    if library not in _BUILDERS:
        raise DataError(f"features={name} names no library; {nearest(library, _BUILDERS)}")
    return _BUILDERS[library](own, weights)


def _of_timm(name: str, weights: Path) -> Backbone:
    if find_spec("timm") is None:
        raise DataError(LACKING)
    from sharding.images.torchvision_operators import define_missing

    define_missing()  # it imports torchvision
    timm: Any = import_module("timm")  # which comes without types

    if not timm.is_model(name.partition(".")[0]):
        raise DataError(f"features=timm:{name} is no model of timm; {offer(f'timm:{name}', timm.list_models())}")
    try:
        model: Any = timm.create_model(name, pretrained=False, num_classes=0)
        cfg = timm.data.resolve_model_data_config(model)
        classifier = model.pretrained_cfg.get("classifier") or ()
        names = tuple(f"{each}." for each in ([classifier] if isinstance(classifier, str) else classifier))
        state = timm.models.load_state_dict(str(weights), weights_only=True)
        model.load_state_dict({key: value for key, value in state.items() if not key.startswith(names)})
    except Exception as error:  # of a wrong tag or file the library raises errors of many types
        said = one_line(str(error).strip())[:300] or type(error).__name__
        raise DataError(f"weights={weights} are not those of timm:{name}: {said}") from None
    size = max(cfg["input_size"][1:])
    return Backbone(model, size, math.floor(size / cfg["crop_pct"]), tuple(cfg["mean"]), tuple(cfg["std"]))


def _of_torchvision(name: str, weights: Path) -> Backbone:
    from sharding.images.torchvision_cpu import torchvision

    model = torchvision_model(name, weights, f"torchvision:{name}")
    view = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Backbone(model, view.crop_size[0], view.resize_size[0], tuple(view.mean), tuple(view.std))


def _of_open_clip(name: str, weights: Path) -> Backbone:
    from sharding.images.open_clip_models import library, open_clip_model

    model = open_clip_model(name, {}, weights)
    cfg = library().get_model_preprocess_cfg(model)
    size = cfg["size"] if isinstance(cfg["size"], int) else max(cfg["size"])
    visual: Any = model.visual
    return Backbone(visual, size, size, tuple(cfg["mean"]), tuple(cfg["std"]))


_BUILDERS: dict[str, Callable[[str, Path], Backbone]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "open_clip": _of_open_clip,
}
