"""Networks of timm, torchvision and open_clip by name, without their classifiers. Nothing is downloaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ifl.backbones.open_clip import open_clip_backbone
from recipes.backbones.facts import lacking, library_of
from recipes.backbones.names import offer
from recipes.common.errors import DataError, RunError, one_line
from sharding.images.torchvision_operators import define_missing

RESERVED = {
    "pretrained": "nothing is downloaded at run time: model.weights=FILE is legal, by python -m ifl.pretrained",
    "pretrained_strict": "nothing is downloaded at run time",
    "pretrained_cfg": "a tag of the name chooses it, as in timm:vit_base_patch16_clip_224.openai",
    "pretrained_cfg_overlay": "a tag of the name chooses it, as in timm:vit_base_patch16_clip_224.openai",
    "checkpoint_path": "model.weights=FILE is legal",
    "weights": "model.weights=FILE is legal",
    "weights_backbone": "model.weights=FILE is legal",
    "cache_dir": "nothing is downloaded at run time",
    "progress": "nothing is downloaded at run time",
    "num_classes": "the method brings the classifier",
    "in_chans": "images have three channels",
    "features_only": "a network gives pooled features [B, D]",
    "out_indices": "a network gives pooled features [B, D]",
    "exportable": "it is timm's own",
    "scriptable": "it is timm's own",
    "img_size": "it is data.image_size",
    "image_size": "it is data.image_size",
    "input_size": "it is data.image_size",
    "force_image_size": "it is data.image_size",
}
"""Arguments of the factories that `model.args` cannot give, and why."""
_SIZES = ("img_size", "image_size", "input_size")
"""What factories call the side of the images."""


def create(
    name: str,
    args: Mapping[str, Any],
    image_size: int | None = None,
    drop_path: float | None = None,
    towers: str | None = None,
) -> nn.Module:
    """Build a network of a library: float32 [B, 3, H, W] -> float32 [B, D], with the int attribute `feature_dim` = D.

    timm's are built with its own pooling (`num_classes=0`); of torchvision's the last linear layer is left out; of
    open_clip's models it is the image tower with its projection.

    Args:
        name: LIBRARY:NETWORK.
        args: of the library's factory.
        image_size: H = W, pixels, for the networks whose factory takes it; None leaves it to the factory.
        drop_path: the rate of stochastic depth; None leaves it to the factory.
        towers: for open_clip, which reads them itself, a file of weights of both towers.

    Raises:
        RunError: the library is not installed, or gives no such network; one sentence.
    """
    library = library_of(name)
    if sentence := lacking(library):
        raise RunError(sentence)
    for key in args:
        if key in RESERVED:
            raise RunError(f"model.args.{key} is not legal: {RESERVED[key]}")
    define_missing()
    own, of_factory = name.partition(":")[2], {**args, **_depth(name, args, drop_path)}
    try:
        if library == "open_clip":
            network: nn.Module = open_clip_backbone(own, of_factory, image_size, Path(towers) if towers else None)
        else:
            network = (_timm if library == "timm" else _torchvision)(own, of_factory, image_size)
    except DataError as error:
        raise RunError(f"model.name={name}: {error}") from None
    except (RunError, NotImplementedError):  # the latter where a factory computes on the device `meta`
        raise
    except Exception as error:  # factories raise any type for an argument that they do not take
        given = ", ".join(f"{key}={value}" for key, value in args.items())
        raise RunError(
            one_line(
                f"model.name={name}{f' with model.args {given}' if given else ''} at {image_size or 'its own'} pixels "
                f"cannot be built: {type(error).__name__}: {error}"
            )[:600]
        ) from None
    _check(network, name, image_size)
    return network


def _check(network: nn.Module, name: str, image_size: int | None) -> None:
    """Refuse a network that would not see all of its images, or whose statistics would depend on the ranks.

    Raises:
        RunError: it is such a one.
    """
    inside = getattr(network, "patch_embed", getattr(network, "visual", None))
    patch: Any = getattr(inside, "patch_size", None)
    sides = patch if isinstance(patch, tuple) else (patch,)
    padded = getattr(getattr(network, "patch_embed", None), "dynamic_img_pad", False)
    if image_size and patch and not padded and any(image_size % side for side in sides):
        raise RunError(
            f"model.name={name} cuts images into patches of {'x'.join(map(str, sides))} pixels, of which "
            f"data.image_size={image_size} is no multiple: the rest of each image would not be seen; another size is "
            "legal, or model.args.patch_size where the network takes it"
        )
    for path, module in network.named_modules():
        if getattr(module, "running_var", None) is not None and not isinstance(module, _BatchNorm):
            raise RunError(
                f"model.name={name}: {path} ({type(module).__name__}) keeps running statistics that would depend on "
                "the number of ranks; batch normalisation and layers without running statistics are legal"
            )


def _depth(name: str, args: Mapping[str, Any], rate: float | None) -> dict[str, float]:
    """Return the rate of stochastic depth under the name that the library gives it; empty where None is asked for."""
    if rate is None:
        return {}
    own = {"timm": "drop_path_rate", "torchvision": "stochastic_depth_prob"}.get(library_of(name))
    if own is None:
        raise RunError(f"model.drop_path={rate}: {name} takes no such rate")
    if own in args:
        raise RunError(f"model.drop_path={rate} and model.args.{own}={args[own]} are one rate: one of the two is legal")
    return {own: rate}


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a network without memory for its parameters, to be looked at; with it where its factory needs numbers."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:
        return build()


def takes_size(network: nn.Module) -> bool:
    """Say whether a network's factory is told the side of the images."""
    return any(key in inspect.signature(type(network).__init__).parameters for key in _SIZES)


def _timm(name: str, args: dict[str, Any], image_size: int | None) -> nn.Module:
    import timm

    if not timm.is_model(name):
        _refuse(f"timm:{name}", timm.list_models())
    base, _, tag = name.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(base)] if tag else []
    if tag and tag not in tags:
        _refuse(f"timm:{name}", [f"{base}.{other}" for other in tags] or [base])

    def made(**size: Any) -> nn.Module:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **args, **size)
        return network

    sized = image_size is not None and takes_size(without_memory(made))
    network: Any = made(img_size=image_size) if image_size is not None and sized else made()
    network.feature_dim = int(getattr(network, "head_hidden_size", None) or network.num_features)
    return network  # type: ignore[no-any-return]


def _torchvision(name: str, args: dict[str, Any], image_size: int | None) -> nn.Module:
    from sharding.images.torchvision_cpu import torchvision

    legal = torchvision.models.list_models(module=torchvision.models)
    if name not in legal:
        _refuse(f"torchvision:{name}", legal)
    if image_size is not None:
        names = ("vit_", "maxvit")  # the networks that are told: one wants a number, the other height and width
        if name.startswith(names):
            is_vit = name.startswith(names[0])
            args = {**args, **({"image_size": image_size} if is_vit else {"input_size": (image_size, image_size)})}
    network: Any = torchvision.models.get_model(name, weights=None, **args)
    path = classifier_of(network)
    if not path or getattr(network, "aux_logits", False):
        raise RunError(
            f"model.name=torchvision:{name} has no linear layer at its end alone, in whose place the method's "
            "classifier could stand: another network is legal"
        )
    network.feature_dim = network.get_submodule(path).in_features
    network.classifier_path = path
    network.set_submodule(path, nn.Identity())
    return network  # type: ignore[no-any-return]


def classifier_of(network: nn.Module) -> str:
    """Return the path of the last linear layer of a network of torchvision; empty where it has none at its end."""
    paths = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    last = list(network.named_children())[-1][0]
    return paths[-1] if paths and paths[-1].partition(".")[0] == last else ""


def _refuse(name: str, legal: list[str]) -> None:
    raise RunError(f"model.name={name} does not exist in {library_of(name)}; {offer(name, legal)}")
