"""A CLIP of both towers, of width 32 and two blocks each, with random weights in a file of open_clip's own layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

NAME = "tiny-clip"
DIM, SIDE = 16, 32
CONFIG = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
"""The vocabulary is that of CLIP's tokenizer."""
MODEL = """
from pathlib import Path
from ifl.backbones.open_clip import open_clip_backbone
from sharding.images.open_clip_models import library

def build():
    library().add_model_config(Path(__file__).parents[2] / "{name}.json")
    return open_clip_backbone("{name}", {{}}, None, Path(__file__).parents[2] / "{name}.safetensors")
"""
"""A user's model file: the image tower."""


def make(folder: Path) -> tuple[nn.Module, Path]:
    """Make the model known to open_clip, and a folder of GLT_PATH with its weights and `ifl/models/own_clip.py`.

    Returns:
        The model, and the file of its weights.
    """
    from safetensors.torch import save_file

    from sharding.images.open_clip_models import library, open_clip_model

    (folder / "ifl/models").mkdir(parents=True)
    config, weights = folder / f"{NAME}.json", folder / f"{NAME}.safetensors"
    config.write_text(json.dumps(CONFIG))
    library().add_model_config(config)
    torch.manual_seed(3)
    model = open_clip_model(NAME, {}, None)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    (folder / "ifl/models/own_clip.py").write_text(MODEL.format(name=NAME))
    return model, weights
