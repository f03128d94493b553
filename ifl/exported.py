"""The file of `export=RUN out=FILE`, and a network made from it again: `load(FILE).predict(IMAGE)`.

A safetensors file: the network's parameters and buffers by their names, and in its metadata all that is needed to use
them. `load` needs this project, a GPU, a data set or DeepSpeed it does not need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError

from ifl.method import BaseMethod, Output
from ifl.network import lora
from ifl.network.network import Network, build_network
from recipes.common.errors import RunError
from recipes.identity import science
from recipes.schema import Recipe
from sharding.images import decoders
from sharding.images.decoders import Picture, Pixels, picture_of
from sharding.images.transforms import eval_pixels

INPUT = (
    "RGB; the shorter side is made test_resize pixels (bilinear, antialiased), and the central square of image_size "
    "pixels is cut out: uint8 [B, 3, image_size, image_size] in 0..255. The network itself takes x / 255, minus mean, "
    "by std"
)
"""What the network is given, as the file says it."""


def plain_weights(recipe: Recipe, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a run's weights as they are exported: LoRA's updates are added to the weights that they update."""
    return lora.merged(weights, recipe.model.scale) if recipe.model.train == "lora" else weights


def plain_recipe(recipe: Recipe) -> Recipe:
    """Return what makes the network of exported weights: one with LoRA is a plain one there."""
    if recipe.model.train != "lora":
        return recipe
    update = {"train": "all", "rank": None, "alpha": None}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=update)})


TRAINED = {
    "all": "all of the network trained",
    "head": "the classifier trained, the backbone did not",
    "lora": "LoRA trained, and its updates are added to the weights: the network is a plain one",
    "adapter": "AdaptFormer's bottlenecks trained: they are the entries with .adapter. in their names, beside those of "
    "the plain network",
    "norm": "the backbone's normalisations and the classifier trained",
}
"""What of a network trained, by model.train, as the file says it."""


def description(recipe: Recipe, meta: Mapping[str, Any]) -> dict[str, str]:
    """Return what an exported file says of its network; values that are no text are JSON.

    Args:
        recipe: the run's.
        meta: the content of its meta.json.
    """
    about = {
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "image_size": recipe.data.image_size,
        "test_resize": recipe.data.test_resize,
        "class_names": meta["class_names"],
        "class_counts": meta["class_counts"],
        "science": science(recipe),
    }
    text = {
        "commit": meta["commit"],
        "model": recipe.model.name,
        "method": recipe.method.name,
        "decoder": meta["decoder"],
        "trained": TRAINED[recipe.model.train],
        "input": INPUT,
    }
    return text | {key: json.dumps(value) for key, value in about.items()}


@dataclass(frozen=True)
class Prediction:
    """What a network takes an image for.

    Attributes:
        label: the class id.
        name: the class's name.
        confidence: the softmax's maximum, as in the run's preds/.
        probabilities_K: the softmax, float32 [K].
    """

    label: int
    name: str
    confidence: float
    probabilities_K: np.ndarray


@dataclass(frozen=True)
class Exported:
    """A finished run's network, for single images.

    Attributes:
        recipe: what it was trained by; where and how fast that was done is not in it.
        network: uint8 [B, 3, H, W] -> `Output`, in evaluation mode.
        method: whose rule turns an `Output` into logits.
        class_names: by class id.
        decoder: of the run; where it is not on this machine, the fastest that is.
        device: where the network is.
    """

    recipe: Recipe
    network: Network
    method: BaseMethod
    class_names: list[str]
    decoder: str
    device: torch.device

    @torch.no_grad()
    def predict(self, image: str | Path | bytes | np.ndarray | Image.Image) -> Prediction:
        """Predict an image's class, as the run's own evaluation does.

        Args:
            image: the name or the bytes of a JPEG or PNG file, pixels uint8 [H, W, 3] in RGB, or a Pillow image.

        Raises:
            ValueError: it is no such image; one sentence.
        """
        size, resize = self.recipe.data.image_size, self.recipe.data.test_resize
        pixels = torch.from_numpy(np.array(eval_pixels(self._picture(image), size=size, resize=resize)))
        bf16 = self.recipe.optim.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            features, logits, *parts = self.network(pixels.permute(2, 0, 1)[None].to(self.device))
        output = Output(features.float(), logits.float(), tuple(part.float() for part in parts))
        shares = self.method.predict(output).float().softmax(1)[0].cpu().numpy()
        label = int(shares.argmax())
        return Prediction(label, self.class_names[label], float(shares[label]), shares)

    def _picture(self, image: str | Path | bytes | np.ndarray | Image.Image) -> Picture:
        if isinstance(image, Image.Image):
            return picture_of(image)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ValueError(f"an array of {image.dtype} {list(image.shape)} is no image; uint8 [H, W, 3] is")
            return Pixels(image)
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        return decoders.decoder(self.decoder).opened(data)


def load(file: str | Path, device: str | torch.device = "cpu") -> Exported:
    """Make the network of an exported file.

    Raises:
        RunError: the file is missing, is none of `export=`, or needs a method or model that is not here.
    """
    about, tensors = _read(Path(file))
    try:
        recipe = Recipe.model_validate(json.loads(about["science"]))
        names, counts = json.loads(about["class_names"]), np.array(json.loads(about["class_counts"]))
        gpus = torch.cuda.device_count() if torch.cuda.is_initialized() else 0  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(range(gpus)):  # it is initialised by the run's seed, and the caller's numbers go on
            network, method = build_network(plain_recipe(recipe), counts)
        network.load_state_dict(tensors)
    except KeyError as error:
        raise RunError(
            f"{file} does not say its {error.args[0]}: older code wrote it; export=RUN writes it anew"
        ) from None
    except (ValidationError, ValueError, RuntimeError, ImportError) as error:
        raise RunError(
            f"{file} holds {about.get('model')} trained by {about.get('method')} at commit {about.get('commit')}, "
            f"which the code here does not make: {' '.join(str(error).split())[:300]}"
        ) from None
    place, here = torch.device(device), decoders.available()
    method.to(place)
    decoder = about["decoder"] if about["decoder"] in here else here[0]
    return Exported(recipe, network.to(place).eval(), method, names, decoder, place)


def _read(file: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Read a safetensors file: its metadata, and its tensors by name."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(file, "pt") as opened:
            return opened.metadata() or {}, load_file(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read as a file of export=: {error}") from None
