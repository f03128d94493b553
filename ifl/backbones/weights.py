"""Pretrained weights from a file into a network: safetensors, or a torch file of tensors alone."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recipes.backbones.facts import library_of
from recipes.common.errors import RunError, one_line
from recipes.common.files import file_digest

Tensors = dict[str, torch.Tensor]
INSIDE = ("state_dict", "model")
"""Under these keys the files of training programs hold a network's weights."""
USUAL_CLASSIFIERS = ("fc", "head", "heads", "classifier")
"""What the classifier is called in networks that do not say it."""
MOST_NAMED = 3
"""Entries of a kind that a sentence names."""


def check_digest(file: str | None, sha256: str | None, needed: bool = True) -> None:
    """Require that a file of weights is the one that the recipe was resolved with.

    Args:
        file: its place; None where the recipe has the digest alone.
        sha256: what the recipe says of it.
        needed: whether it will be read; a run that goes on from a checkpoint does without it.

    Raises:
        RunError: it is another, or needed and gone.
    """
    if file is None or not Path(file).is_file():
        if needed:
            raise RunError(f"model.weights={file} is not there: put the file back, or give where it is now")
        return
    if sha256 is not None and (found := file_digest(Path(file))) != sha256:
        raise RunError(
            f"model.weights={file} has the sha256 {found[:16]}..., and this run began with one of {sha256[:16]}...: "
            "put that file back, or start another run by the same command"
        )


def read(file: str, prefix: str | None = None) -> Tensors:
    """Read a file's tensors by name, on the CPU; no code in it is run.

    Args:
        file: safetensors by its suffix, else a torch file.
        prefix: keep the entries that begin so, without it.

    Raises:
        RunError: it cannot be read, or holds no tensors, or none with the prefix.
    """
    try:
        if file.endswith(".safetensors"):
            from safetensors.torch import load_file

            held: Any = load_file(file)
        else:
            held = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file both raise errors of many types
        raise RunError(
            one_line(
                f"model.weights={file} cannot be read: safetensors (by the suffix), or a torch file of tensors alone, "
                f"is legal: {error}"
            )[:500]
        ) from None
    for key in INSIDE:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    entries = held.items() if isinstance(held, dict) else ()
    tensors = {name: value for name, value in entries if isinstance(name, str) and isinstance(value, torch.Tensor)}
    own = {name.removeprefix(prefix or ""): value for name, value in tensors.items() if name.startswith(prefix or "")}
    if own:
        return own
    begins = f" that begins with model.prefix={prefix}; it begins with {_some(tensors)}" if tensors and prefix else ""
    raise RunError(f"model.weights={file} holds no tensor{begins}")


def load(network: nn.Module, name: str, file: str, prefix: str | None = None) -> list[str]:
    """Put a file's weights into a fresh network, in place, and return the entries of a classifier that are left out.

    Position embeddings and tables of relative positions are brought to the network's image size by timm's own filter of
    the network's checkpoints, and by torchvision's for its ViTs.

    Args:
        network: plain, of a library or a file of ifl/models.
        name: `model.name`.
        file: see `read`.
        prefix: `model.prefix`.

    Raises:
        RunError: entries are missing, extra or of another shape; one sentence names some of each.
    """
    given = _fitted(network, name, read(file, prefix), file)
    own, ends = network.state_dict(), tuple(f"{end}." for end in _classifiers(network))
    left_out = sorted(key for key in given if key not in own and key.startswith(ends))
    extra = sorted(set(given) - set(own) - set(left_out))
    missing = sorted(key for key in set(own) - set(given) if not key.endswith("num_batches_tracked"))
    other = [
        f"{key} ({'x'.join(map(str, given[key].shape))}, here {'x'.join(map(str, own[key].shape))})"
        for key in sorted(set(own) & set(given))
        if own[key].shape != given[key].shape
    ]
    found = {"missing": missing, "extra": extra, "of another shape": other}
    if faults := [f"{len(names)} {kind}: {_some(names)}" for kind, names in found.items() if names]:
        raise RunError(f"model.weights={file} does not fit model.name={name}: {'; '.join(faults)}")
    own.update({key: given[key] for key in own if key in given})  # in place, with the versions that torch keeps
    network.load_state_dict(own)
    return left_out


def _fitted(network: nn.Module, name: str, given: Tensors, file: str) -> Tensors:
    """Return entries as the library's own loading would: renamed, and positions brought to the image size."""
    try:
        if library_of(name) == "timm":
            from timm.models import model_entrypoint

            room = sys.modules[model_entrypoint(name.partition(":")[2].partition(".")[0]).__module__]
            convert = getattr(room, "checkpoint_filter_fn", None)
            return dict(convert(given, network)) if convert else given
        if type(network).__module__.startswith("torchvision.") and hasattr(network, "image_size"):
            from torchvision.models.vision_transformer import interpolate_embeddings

            whole: Any = network
            return dict(interpolate_embeddings(whole.image_size, whole.patch_size, given))
    except Exception as error:  # a file of another layout
        raise RunError(
            one_line(f"model.weights={file} has not the layout of {name}: {type(error).__name__}: {error}")[:500]
        ) from None
    return given


def _classifiers(network: nn.Module) -> Collection[str]:
    """Return the paths of the classifier that the network was built without."""
    said: Any = getattr(network, "classifier_path", None) or getattr(network, "pretrained_cfg", {}).get("classifier")
    return USUAL_CLASSIFIERS if said is None else [said] if isinstance(said, str) else list(said)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:MOST_NAMED]) + (", ..." if len(listed) > MOST_NAMED else "")
