"""The start of a classifier from class vectors.

The rule: every class vector of the head becomes the class's text vector, of length 1, and a bias becomes 0. So before
the first step a linear classifier's logit is |x| cos(x, t_k), and a cosine classifier's its scale times the cosine: row
by row the zero-shot logits times a positive number, and the same prediction.

Axes: K classes, D feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ifl.clip.class_vectors import ClassVectors, read_vectors
from recipes.common.errors import RunError
from recipes.schema import Recipe


def start_from_text(head: nn.Module, recipe: Recipe, class_names: Sequence[str]) -> None:
    """Start a head from the file `method.text`, in place; it stays as it is where the recipe names none.

    Raises:
        RunError: the file is not such a one, is of other classes than `class_names`, or does not fit the head.
    """
    if recipe.method.text is not None:
        file = Path(recipe.method.text)
        start_head(head, read_vectors(file, class_names, recipe.method.text_sha256), file, recipe.method.name)


def said_of_text(recipe: Recipe, class_names: Sequence[str]) -> dict[str, Any]:
    """Return what meta.json says of the file `method.text`; empty where the recipe names none.

    Raises:
        RunError: as `start_from_text`.
    """
    if recipe.method.text is None:
        return {}
    made = read_vectors(Path(recipe.method.text), class_names, recipe.method.text_sha256)
    return {"text": {"sha256": recipe.method.text_sha256, "templates": list(made.templates), **made.made_by}}


@torch.no_grad()
def start_head(head: nn.Module, made: ClassVectors, file: Path, method: str) -> None:
    """Put text vectors in the place of a head's class vectors, in place; of each expert's, where it has several.

    A head's class vectors are its one parameter float [..., K, D], such as a linear layer's weight.

    Args:
        head: the method's.
        made: the class vectors.
        file: where they come from, for messages.
        method: its name, for messages.

    Raises:
        RunError: the head has no class vectors of that shape, or more than one set.
    """
    shape = made.vectors_KD.shape
    own = dict(head.named_parameters())
    fitting = [name for name, parameter in own.items() if parameter.dim() >= 2 and parameter.shape[-2:] == shape]
    if len(fitting) != 1:
        shapes = ", ".join(f"{name} {list(parameter.shape)}" for name, parameter in own.items()) or "no parameters"
        raise RunError(
            f"method.text={file} has vectors [K, D] = {list(shape)}, and the classifier of the method {method} has "
            f"{shapes}: exactly one [..., K, D] is legal; an image tower with its projection has the text's D, such as "
            "open_clip:NAME"
        )
    own[fitting[0]].copy_(made.vectors_KD.expand_as(own[fitting[0]]))
    bias = own.get(f"{fitting[0].removesuffix('weight')}bias")
    if bias is not None:
        bias.zero_()
