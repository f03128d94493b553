"""The image tower of a CLIP model of the library open_clip, with its projection, as a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharding.images.open_clip_models import embed_dim, library, open_clip_model


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


class VitTower(ImageTower):
    """A tower that is a ViT."""

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Say which parameters form a layer, as timm's networks do: open_clip registers the projection first of all."""
        blocks = [(r"^visual\.transformer\.resblocks\.(\d+)", None), (r"^visual\.(?:ln_post|proj)", (99999,))]
        return {"stem": r"^visual\.(?:conv1|class_embedding|positional_embedding|ln_pre)", "blocks": blocks}


def open_clip_backbone(
    name: str, args: Mapping[str, Any], image_size: int | None = None, weights: Path | None = None
) -> ImageTower:
    """Build the image tower of a CLIP model with its projection.

    Source: CLIP, Radford et al., ICML 2021, section 3.1.2: images and texts are compared in the projected space.

    Args:
        name: as open_clip has it, such as `ViT-B-32`.
        args: `open_clip_model`'s.
        image_size: H = W, pixels; position embeddings of a checkpoint are brought to it. None: the model's own.
        weights: a checkpoint of both towers; None draws random ones from torch's global generator.

    Raises:
        DataError: as `open_clip_model`.
    """
    model = open_clip_model(name, args, weights, image_size)
    visual = model.visual
    assert isinstance(visual, nn.Module), "every model of open_clip has an image tower"
    tower = VitTower if hasattr(visual, "transformer") else ImageTower
    return tower(visual.train(), embed_dim(name), library().get_model_preprocess_cfg(model))
