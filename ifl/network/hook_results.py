"""Looks at all that a method's and a model's file give: at its shape and type, which wait for no device.

A result of another shape often trains on, wrongly: one mean loss instead of one loss a row makes gradients too small
by the size of a micro-batch. It may be of another shape from some epoch on, so every one is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ifl.method import BaseMethod, Output, Rows
from ifl.network.backbone import origin_of
from recipes.common import search_path
from recipes.common.errors import RunError


class WrongResult(RunError):
    """A method's or a model's file gives something else than its contract says."""


def look_at_network(backbone: nn.Module, head: nn.Module, model: str, method: str, feature_dim: int, k: int) -> None:
    """Check all features and logits that a network gives.

    Args:
        backbone: of the file `ifl/models/MODEL.py`, or of a library.
        head: of the file `ifl/methods/METHOD.py`.
        model: its name.
        method: its name.
        feature_dim: D, which the backbone says.
        k: K, the number of classes.
    """

    def features(images: torch.Tensor, given: Any) -> None:
        wanted = f"float [B, D] = [{len(images)}, {feature_dim}] is legal, with D its own feature_dim"
        file = origin_of(model)
        _check(f"{file}: the model", given, (len(images), feature_dim), wanted)

    def logits(features_BD: torch.Tensor, given: Any) -> None:
        first = given[0] if isinstance(given, tuple) and given else given
        wanted = f"logits float [B, K] = [{len(features_BD)}, {k}] are legal, alone or first in a tuple of tensors"
        file = search_path.place(search_path.METHODS, method)
        _check(f"{file}: the module of head()", first, (len(features_BD), k), wanted)

    backbone.register_forward_hook(lambda module, arguments, given: features(arguments[0], given))
    head.register_forward_hook(lambda module, arguments, given: logits(arguments[0], given))


def refuse_untrained(method: BaseMethod, head: nn.Module, name: str) -> None:
    """Refuse parameters that a method holds beside its head: nothing would train, save or export them.

    Args:
        method: of the file `ifl/methods/NAME.py`.
        head: what its head() gave, whose parameters the method may hold, too.
        name: the method's.

    Raises:
        WrongResult: an attribute holds such a parameter.
    """
    trained = set(map(id, head.parameters()))
    for key, value in vars(method).items():
        if any(part.requires_grad and id(part) not in trained for part in _tensors_in(value)):
            raise WrongResult(
                f"{search_path.place(search_path.METHODS, name)}: self.{key} holds parameters that nothing trains or "
                "saves: legal are those of the module that head() gives, and constants, by requires_grad_(False)"
            )


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """List the tensors of an attribute: itself, a module's parameters, and those of what a list or mapping holds."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_in(item)


def look_at_method(method: BaseMethod, name: str, k: int, trains: bool = True) -> None:
    """Check all that a method's losses, predict and notes give, and what it remembers.

    Args:
        method: of the file `ifl/methods/NAME.py`.
        name: its name.
        k: K, the number of classes.
        trains: whether anything of it is trained, so that it has losses.

    Raises:
        WrongResult: a hook is missing; and at the use of one that is not what `BaseMethod` promises.
    """

    file = search_path.place(search_path.METHODS, name)
    own = _own_hooks(method, file, trains)

    def losses(given: Any, output: Output, rows: Rows) -> None:
        b = len(rows.labels)
        wanted = f"float [B] = [{b}] is legal, one loss a row, as by reduction='none'"
        _check(f"{file}: losses()", given, (b,), wanted)
        if torch.is_grad_enabled() and not given.requires_grad and any(part.requires_grad for part in _tensors(output)):
            raise WrongResult(
                f"{file}: losses() gave losses without gradients, as .detach(), .data or torch.no_grad() leave them: "
                "losses are legal that come from the output's features, logits or parts"
            )

    def predict(given: Any, output: Output) -> None:
        b = len(output.logits_BK)
        _check(f"{file}: predict()", given, (b, k), f"float [B, K] = [{b}, {k}] is legal")

    noted: dict[int, int | None] = {}  # of the present epoch: the columns of its first notes

    def notes(given: Any, output: Output, rows: Rows) -> None:
        b, columns = len(rows.labels), None
        if given is not None:
            columns = given.shape[1] if isinstance(given, torch.Tensor) and given.dim() == 2 else 1
            wanted = f"None or float [B, C] = [{b}, C] is legal"
            _check(f"{file}: notes()", given, (b, columns), wanted)
        if rows.epoch not in noted:
            noted.clear()
        first = noted.setdefault(rows.epoch, columns)
        if columns != first:
            said = ["None" if number is None else f"{number} columns" for number in (columns, first)]
            raise WrongResult(
                f"{file}: notes() gave {said[0]} after {said[1]} in epoch {rows.epoch}: of all rows of an epoch the "
                "same is legal"
            )

    looks: tuple[Callable[..., None], ...] = (losses, predict, notes)
    for look in looks:
        if look.__name__ in own:
            _at_every_call(method, look)
    if "remember" in own:
        _look_at_memory(method, file)


def _own_hooks(method: BaseMethod, file: str, trains: bool) -> set[str]:
    """Return which hooks a method has; refuse that one is missing that it cannot do without."""
    hooks = ("losses", "predict", "notes", "remember")
    own = {hook for hook in hooks if getattr(type(method), hook) is not getattr(BaseMethod, hook)}
    if trains and "losses" not in own:
        raise WrongResult(f"{file}: class Method has no losses(output, rows), which give float [B], each row's loss")
    if len(alone := own & {"notes", "remember"}) == 1:
        raise WrongResult(
            f"{file}: class Method has {alone.pop()}() alone: remember() takes what notes() give, so both or none are "
            "legal"
        )
    return own


def _look_at_memory(method: BaseMethod, file: str) -> None:
    """Refuse that `remember` changes anything but `memory`: no checkpoint would hold it, and a resume would lose it."""
    usual = method.remember

    def held() -> dict[str, Any]:
        return {
            key: (
                [(id(part), part._version) for part in _tensors_in(value)],
                value if isinstance(value, int | float) else None,
            )
            for key, value in vars(method).items()
            if key != "memory"
        }

    def remember(ids_G: torch.Tensor, labels_G: torch.Tensor, notes_GC: torch.Tensor) -> None:
        before = held()
        usual(ids_G, labels_G, notes_GC)
        after = held()
        if changed := next((key for key in after if after[key] != before.get(key)), None):
            raise WrongResult(
                f"{file}: remember() changed self.{changed}, which no checkpoint holds: legal are tensors in "
                f"self.memory, such as self.memory[{changed!r}]"
            )

    method.remember = remember  # type: ignore[method-assign]


def _at_every_call(method: BaseMethod, look: Callable[..., None]) -> None:
    """Let `look` see every result of the hook of its name."""
    usual = getattr(method, look.__name__)

    def looked_at(*arguments: Any) -> Any:
        given = usual(*arguments)
        look(given, *arguments)
        return given

    setattr(method, look.__name__, looked_at)


def _tensors(output: Output) -> tuple[torch.Tensor, ...]:
    return (output.features_BD, output.logits_BK, *output.parts)


def _check(whose: str, given: Any, shape: tuple[int, ...], wanted: str) -> None:
    if isinstance(given, torch.Tensor) and given.is_floating_point() and tuple(given.shape) == shape:
        return
    if isinstance(given, torch.Tensor):
        said = f"{str(given.dtype).removeprefix('torch.')} {list(given.shape)}"
        said += ", one number" if given.dim() == 0 else ""
    else:
        said = f"{type(given).__name__}"
    raise WrongResult(f"{whose} gave {said}: {wanted}")
