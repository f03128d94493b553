"""CLIP models of the library open_clip: the image tower with its projection as a backbone, and both towers.

Weights are a file; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from recipes.common.cli import nearest
from recipes.common.errors import RunError, one_line
from sharding.images.torchvision_operators import define_missing

if TYPE_CHECKING:
    from types import ModuleType

LACKING = (
    "open_clip models need the package open_clip_torch, which is not installed: `.venv/bin/python -m pip install "
    "open_clip_torch`, or leave the model out"
)
ARGS = ("force_quick_gelu", "force_image_size", "force_patch_dropout", "force_context_length", "force_custom_text")
"""Arguments of open_clip's `create_model` that a user may give."""


class ImageTower(nn.Module):
    """float32 [B, 3, H, W], normalised -> float32 [B, D]: the image features in the space that text shares, any length.

    Attributes:
        feature_dim: D, CLIP's embedding width; 512 for ViT-B-32.
        image_size: H = W, pixels.
        mean, std: of each channel, of pixels in 0..1, by the model's own configuration.
    """

    def __init__(self, visual: nn.Module, feature_dim: int, preprocess: Mapping[str, Any]) -> None:
        super().__init__()
        self.visual, self.feature_dim = visual, feature_dim
        size = preprocess["size"]
        self.image_size: int = size if isinstance(size, int) else max(size)
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the projected features; they are not brought to length 1, which a cosine classifier does."""
        features: torch.Tensor = self.visual(images)
        return features


def library() -> ModuleType:
    """Import open_clip.

    Raises:
        RunError: it is not installed; with the command that does.
    """
    if find_spec("open_clip") is None:
        raise RunError(LACKING)
    define_missing()  # it imports torchvision
    import open_clip

    return open_clip


def open_clip_model(name: str, args: Mapping[str, Any], weights: Path | None) -> nn.Module:
    """Build a CLIP model, both towers, in evaluation mode.

    Args:
        name: as open_clip has it, such as `ViT-B-32`; `local-dir:`, `hf-hub:` and tags are not for it, since a file of
            weights is named.
        args: keyword arguments of open_clip's `create_model`, those of `ARGS`.
        weights: a checkpoint of open_clip's or OpenAI's layout, safetensors or a torch file (read with weights_only);
            None draws random ones from torch's global generator.

    Raises:
        RunError: the library, the name, an argument or the file is not what is needed.
    """
    clip = library()
    if name not in clip.list_models():
        raise RunError(f"open_clip:{name} is no model of open_clip; {nearest(name, clip.list_models())}")
    for key in args:
        if key not in ARGS:
            raise RunError(f"the argument {key} of open_clip:{name} is not legal; {nearest(key, ARGS)}")
    if weights is not None and not weights.is_file():
        raise RunError(f"the weights {weights} of open_clip:{name} are no file; a checkpoint of that model is legal")
    given = {"pretrained_text": False, **args, "pretrained": None if weights is None else str(weights.absolute())}
    try:
        model: nn.Module = clip.create_model(name, **given)
    except Exception as error:  # for a wrong file or value the libraries raise errors of many types
        whose = f"{weights} does not hold the weights of" if weights else "the arguments do not build"
        raise RunError(one_line(f"{whose} open_clip:{name}: {str(error).strip() or type(error).__name__}")) from error
    return model.eval()


def open_clip_backbone(name: str, args: Mapping[str, Any], weights: Path | None) -> ImageTower:
    """Build the image tower of a CLIP model with its projection; the arguments are those of `open_clip_model`.

    Source: CLIP, Radford et al., ICML 2021, section 3.1.2: images and texts are compared in the projected space.

    Raises:
        RunError: as `open_clip_model`.
    """
    model = open_clip_model(name, args, weights)
    visual = model.visual
    assert isinstance(visual, nn.Module), "every model of open_clip has an image tower"
    return ImageTower(visual.train(), embed_dim(name), library().get_model_preprocess_cfg(model))


def embed_dim(name: str) -> int:
    """Return D of an open_clip model by its configuration."""
    return int(library().get_model_config(name)["embed_dim"])
