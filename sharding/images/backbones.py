"""Pretrained networks of torchvision without their last layer: from pixels to features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.backbones.names import offer
from recipes.common.errors import DataError

if TYPE_CHECKING:
    import torch

PAPER = "resnet50"
"""The network by which the paper found its attributes."""
FILE = "resnet50-0676ba61.pth"
"""torchvision's first ImageNet weights of it (IMAGENET1K_V1), as torch's hub names the download."""
_NAMES = {PAPER: "ResNet-50"}


def is_of_library(name: str) -> bool:
    """Say whether a name begins with that of a library, as LIBRARY:NAME (sharding/images/library_backbones.py)."""
    return ":" in name


def weights_file(given: Path | None, name: str = PAPER) -> Path:
    """Return the file of weights to use; nothing is downloaded.

    Args:
        given: the user's, a state dict; None: the one in torch's cache, for the paper's network alone.
        name: the network's name in torchvision, or LIBRARY:NAME.

    Raises:
        DataError: it does not exist.
    """
    known = _NAMES.get(name, name)
    if given is not None:
        if not given.is_file():
            such = f", such as {FILE}," if name == PAPER else ""
            whose = name if is_of_library(name) else f"torchvision's {known}"
            raise DataError(f"weights={given} does not exist; a state dict of {whose}{such} would be legal")
        return given
    if is_of_library(name):
        raise DataError(f"features={name} needs weights=FILE: features of an untrained network make no attributes")
    if name != PAPER:
        raise DataError(f"features={name} needs weights=FILE, a state dict of torchvision's {name}")
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not cached.is_file():
        raise DataError(
            f"the weights of ResNet-50 are not in torch's cache ({cached}): fetch "
            f"https://download.pytorch.org/models/{FILE}, or say weights=FILE"
        )
    return cached


def network(name: str, weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load a network: a function from uint8 [B, H, W, 3] to float32 [B, D], what its last linear layer would get.

    Pixels go in as 0..1: mean and standard deviation are not subtracted, for the paper's attributes were found so.

    Raises:
        DataError: torchvision has no such network, or the weights are not its own.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = torchvision_model(name, weights, name)
    model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def forward(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
            found: np.ndarray = model(batch).flatten(1).cpu().numpy()
            return found

    return forward


def torchvision_model(name: str, weights: Path, asked: str) -> torch.nn.Module:
    """Build a network of torchvision without its last linear layer, with the weights of a state dict.

    Args:
        name: in torchvision.
        weights: the file of the state dict, which may hold that layer.
        asked: how the user named it.

    Raises:
        DataError: torchvision has no such network, or the weights are not its own.
    """
    import torch

    from sharding.images.torchvision_cpu import torchvision

    legal = torchvision.models.list_models(module=torchvision.models)
    if name not in legal:
        raise DataError(f"features={asked} is no network of torchvision; {offer(asked, legal)}")
    model = torchvision.models.get_model(name, weights=None)
    last = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)][-1:]
    for path in last:
        model.set_submodule(path, torch.nn.Identity())
    try:
        state: dict[str, torch.Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
        for key in [key for key in state if key.startswith(tuple(f"{path}." for path in last))]:
            del state[key]  # from the dict itself, which knows the versions of the layers, too
        model.load_state_dict(state)
    except Exception as error:  # for a wrong file torch raises errors of many types
        raise DataError(
            f"weights={weights} are not those of torchvision's {_NAMES.get(name, name)}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        ) from None
    loaded: torch.nn.Module = model
    return loaded
