"""Tiny networks of timm in a folder of GLT_PATH, and runs of them on the data set of `mini`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from ifl.network.network import Network, build_network
from recipes.schema import Recipe
from tests.helpers import mini
from tests.helpers.ranks import started

MODELS = {
    "tiny_vit": '"vit_tiny_patch16_224", img_size=32, patch_size=16, embed_dim=32, depth=2, num_heads=2',
    "tiny_convnext": '"convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), ls_init_value=0.5',
}
"""A ViT of two blocks and a ConvNeXt of four stages, as arguments of timm."""
WORDS = ("recipe=glt_baseline", "schedule.epochs=2", "optim.momentum=0.9", "optim.lr=0.05", "cluster=local")


def write_models(folder: Path) -> Path:
    """Write `ifl/models/NAME.py` of the networks into a folder for GLT_PATH."""
    (folder / "ifl" / "models").mkdir(parents=True)
    for name, arguments in MODELS.items():
        (folder / "ifl" / "models" / f"{name}.py").write_text(
            "import timm\n\n\ndef build(drop_path=0.0):\n"
            f"    network = timm.create_model({arguments}, num_classes=0, drop_path_rate=drop_path)\n"
            "    network.feature_dim = network.num_features\n    return network\n"
        )
    return folder


def in_a_rank(folder: str, glt_path: str, stop_at: int | None = None) -> bool | str:
    """Train in a rank, where GLT_PATH names the networks."""
    os.environ["GLT_PATH"] = glt_path
    try:
        return mini.trained(folder, stop_at)
    finally:
        del os.environ["GLT_PATH"]


def run(recipe: Recipe, ranks: int = 2, stop_at: int | None = None) -> bool | str:
    """Train the recipe of a run folder; the ranks' one answer."""
    folder = str(recipe.run_folder)
    (answer,) = set(started(ranks).run(in_a_rank, folder, os.environ["GLT_PATH"], stop_at=stop_at))
    return answer


def network_of(recipe: Recipe) -> Network:
    """Return a recipe's network as it begins."""
    network, _ = build_network(recipe, np.array(mini.COUNTS))
    return network


def last_weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Return the weights with which a run has ended."""
    return torch.load(recipe.run_folder / "ckpt" / "last.pt", weights_only=True)
