"""CLIP models of the library open_clip, both towers. Weights are a file; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from recipes.backbones.names import offer
from recipes.common.cli import nearest
from recipes.common.errors import DataError, one_line
from sharding.images.torchvision_operators import define_missing

if TYPE_CHECKING:
    from torch import nn

LACKING = (
    "open_clip models need the package open_clip_torch, which is not installed: `.venv/bin/python -m pip install "
    "open_clip_torch`, or leave the model out"
)
ARGS = ("force_quick_gelu", "force_patch_dropout", "force_context_length", "force_custom_text")
"""Arguments of open_clip's `create_model` that a user may give."""


def library() -> ModuleType:
    """Import open_clip.

    Raises:
        DataError: it is not installed; with the command that does.
    """
    if find_spec("open_clip") is None:
        raise DataError(LACKING)
    define_missing()  # it imports torchvision
    return import_module("open_clip")


def open_clip_model(
    name: str, args: Mapping[str, Any], weights: Path | None, image_size: int | None = None
) -> nn.Module:
    """Build a CLIP model, both towers, in evaluation mode.

    Args:
        name: as open_clip has it, such as `ViT-B-32`; no tag, and no `local-dir:` or `hf-hub:`.
        args: keyword arguments of open_clip's `create_model`, those of `ARGS`.
        weights: a checkpoint of open_clip's or OpenAI's layout, safetensors or a torch file (read with weights_only);
            None draws random ones from torch's global generator.
        image_size: H = W, pixels; position embeddings of a checkpoint are brought to it. None: the model's own.

    Raises:
        DataError: the library, the name, an argument or the file is not what is needed.
    """
    clip = library()
    if name not in clip.list_models():
        raise DataError(f"open_clip:{name} is no model of open_clip; {offer(f'open_clip:{name}', clip.list_models())}")
    for key in args:
        if key not in ARGS:
            raise DataError(f"the argument {key} of open_clip:{name} is not legal; {nearest(key, ARGS)}")
    if weights is not None and not weights.is_file():
        raise DataError(f"the weights {weights} of open_clip:{name} are no file; a checkpoint of that model is legal")
    size = {} if image_size is None else {"force_image_size": image_size}
    file = None if weights is None else str(weights.absolute())
    given = {"pretrained_text": False, **args, **size, "pretrained": file}
    try:
        model: nn.Module = clip.create_model(name, **given)
    except NotImplementedError:  # without memory for parameters not every model can be built
        raise
    except Exception as error:  # for a wrong file or value the libraries raise errors of many types
        whose = f"{weights} does not hold the weights of" if weights else "the arguments do not build"
        raise DataError(one_line(f"{whose} open_clip:{name}: {str(error).strip() or type(error).__name__}")) from error
    model.train(False)
    return model


def embed_dim(name: str) -> int:
    """Return D of an open_clip model by its configuration, the length of what both towers give."""
    return int(library().get_model_config(name)["embed_dim"])
