"""Looks at what a method's and a model's file give when it is first used; later steps cost nothing.

A result of another shape often trains on, wrongly: one mean loss instead of one loss a row makes gradients too small
by the size of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ifl.method import BaseMethod, Output, Rows
from recipes.common import search_path
from recipes.common.errors import RunError


class WrongResult(RunError):
    """A method's or a model's file gives something else than its contract says."""


def look_at_network(backbone: nn.Module, head: nn.Module, model: str, method: str, feature_dim: int, k: int) -> None:
    """Check the first features and logits that a network gives.

    Args:
        backbone: of the file `ifl/models/MODEL.py`.
        head: of the file `ifl/methods/METHOD.py`.
        model: its name.
        method: its name.
        feature_dim: D, which the backbone says.
        k: K, the number of classes.
    """

    def features(images: torch.Tensor, given: Any) -> None:
        wanted = f"float [B, D] = [{len(images)}, {feature_dim}] is legal, with D its own feature_dim"
        _check(f"{search_path.place(search_path.MODELS, model)}: the model", given, (len(images), feature_dim), wanted)

    def logits(features_BD: torch.Tensor, given: Any) -> None:
        first = given[0] if isinstance(given, tuple) and given else given
        wanted = f"logits float [B, K] = [{len(features_BD)}, {k}] are legal, alone or first in a tuple of tensors"
        file = search_path.place(search_path.METHODS, method)
        _check(f"{file}: the module of head()", first, (len(features_BD), k), wanted)

    _after_first_forward(backbone, features)
    _after_first_forward(head, logits)


def look_at_method(method: BaseMethod, name: str, k: int) -> None:
    """Check the first results of a method's losses, predict and notes; `k`: K, the number of classes.

    Raises:
        WrongResult: at the first use of one that is not what `BaseMethod` promises.
    """

    file = search_path.place(search_path.METHODS, name)

    def losses(given: Any, output: Output, rows: Rows) -> None:
        b = len(rows.labels)
        wanted = f"float [B] = [{b}] is legal, one loss a row, as by reduction='none'"
        _check(f"{file}: losses()", given, (b,), wanted)

    def predict(given: Any, output: Output) -> None:
        b = len(output.logits_BK)
        _check(f"{file}: predict()", given, (b, k), f"float [B, K] = [{b}, {k}] is legal")

    def notes(given: Any, output: Output, rows: Rows) -> None:
        b = len(rows.labels)
        columns = given.shape[1] if isinstance(given, torch.Tensor) and given.dim() == 2 else 1
        wanted = f"None or float [B, C] = [{b}, C] is legal"
        _check(f"{file}: notes()", given, (b, columns), wanted)

    looks: tuple[Callable[..., None], ...] = (losses, predict, notes)
    for look in looks:
        if getattr(type(method), look.__name__) is not getattr(BaseMethod, look.__name__):
            _at_first_call(method, look)


def _at_first_call(method: BaseMethod, look: Callable[..., None]) -> None:
    """Let `look` see the first result, other than None, of the hook of its name; then the class's own is back."""
    hook = look.__name__
    usual = getattr(method, hook)

    def first(*arguments: Any) -> Any:
        given = usual(*arguments)
        if given is not None or hook != "notes":
            delattr(method, hook)
            look(given, *arguments)
        return given

    setattr(method, hook, first)


def _after_first_forward(module: nn.Module, look: Callable[[torch.Tensor, Any], None]) -> None:
    def hook(module: nn.Module, arguments: tuple[torch.Tensor, ...], given: Any) -> None:
        handle.remove()
        look(arguments[0], given)

    handle = module.register_forward_hook(hook)


def _check(whose: str, given: Any, shape: tuple[int, ...], wanted: str) -> None:
    if isinstance(given, torch.Tensor) and given.is_floating_point() and tuple(given.shape) == shape:
        return
    if isinstance(given, torch.Tensor):
        said = f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
        said += ", one number" if given.dim() == 0 else ""
    else:
        said = f"{type(given).__name__}"
    raise WrongResult(f"{whose} gave {said}: {wanted}")
