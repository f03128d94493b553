"""What a pretrained ResNet-50 sees in each image of ILSVRC: 2,048 numbers, float16, a file a class.

They are the network's last average pooling, after its ReLU, on Resize(260) + CenterCrop(256) pixels in 0..1, from which
mean and standard deviation are not subtracted: that is how the paper's attributes were found. A batch holds one class
only, so that a class's features do not depend on which other classes the same process works on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from recipes.common.errors import DataError
from recipes.common.files import file_digest, whole_file
from sharding.building.process_pool import in_order
from sharding.building.raw_files import Place
from sharding.datasets.imagenet_glt.archive import ClassImages
from sharding.images.decoders import picture_of
from sharding.images.encoding import opened
from sharding.images.transforms import eval_pixels
from sharding.progress import ProgressBar

FILE = "resnet50-0676ba61.pth"
"""torchvision's first ImageNet weights of ResNet-50 (IMAGENET1K_V1), as torch's hub names the download."""
WIDTH = 2048
BATCH = 64


def weights_file(given: Path | None) -> Path:
    """Return the file of weights to use; nothing is downloaded.

    Raises:
        DataError: it is not there.
    """
    if given is not None:
        if not given.is_file():
            raise DataError(
                f"weights={given} does not exist; a state dict of torchvision's ResNet-50, such as {FILE}, would be "
                "legal"
            )
        return given
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not cached.is_file():
        raise DataError(
            f"the weights of ResNet-50 are not in torch's cache ({cached}): fetch "
            f"https://download.pytorch.org/models/{FILE}, or say weights=FILE"
        )
    return cached


def extract(classes: Sequence[ClassImages], folder: Path, weights: Path, workers: int) -> None:
    """Write `folder/CLASS.npz` for each class that has none yet from the same images and weights.

    Args:
        classes: the classes to work on.
        folder: where the features go; it is made.
        weights: state dict of torchvision's ResNet-50.
        workers: number of processes that decode.

    Raises:
        DataError: an image cannot be decoded, or the weights do not fit; the sentence names the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digest = file_digest(weights)
    todo = [images for images in classes if read(folder, images, digest) is None]
    if len(todo) < len(classes):
        print(f"features of {len(classes) - len(todo)} of {len(classes)} classes are there already")
    if not todo:
        return
    forward = _network(weights)
    jobs = (
        tuple(images.place(i) for i in range(start, min(start + BATCH, len(images))))
        for images in todo
        for start in range(0, len(images), BATCH)
    )  # made as they are needed
    pixels = in_order(_pixels, None, jobs, workers)
    with ProgressBar(sum(map(len, todo)), "features", "img", smoothing=0.05) as bar:
        for images in todo:
            features = np.empty((len(images), WIDTH), np.float16)
            for start in range(0, len(images), BATCH):
                batch = next(pixels)
                features[start : start + len(batch)] = forward(batch)
                bar.update(len(batch))
            with whole_file(folder / f"{images.name}.npz") as file:
                np.savez(file, features=features, names=np.array(images.names), weights=digest)


def read(folder: Path, images: ClassImages, weights: str) -> np.ndarray | None:
    """Read the features of a class, float16 [n, 2048].

    `weights`: their sha256, hex. None where there are no features of these images by these weights.
    """
    try:
        with np.load(folder / f"{images.name}.npz") as kept:
            if str(kept["weights"]) == weights and tuple(kept["names"].tolist()) == images.names:
                features: np.ndarray = kept["features"]
                return features
    except Exception:  # none, or damaged in one of numpy's and zipfile's many ways
        pass
    return None


def _pixels(_: None, places: tuple[Place, ...]) -> np.ndarray:
    """Decode a batch: uint8 [B, 256, 256, 3]. Runs in a worker."""
    images = []
    for place in places:
        try:
            images.append(eval_pixels(picture_of(opened(place.read())), size=256, resize=260))
        except DataError:
            raise  # it names the file
        except ValueError as error:
            raise DataError(f"{place}: {error}") from None
    return np.stack(images)


def _network(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load the network: a function from uint8 [B, 256, 256, 3] to float32 [B, 2048]."""
    import torch

    from sharding.images.torchvision_cpu import torchvision

    network = torchvision.models.resnet50(weights=None)
    network.fc = torch.nn.Identity()
    try:
        state: Mapping[str, torch.Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
        network.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    except Exception as error:  # a foreign file fails in any of torch's ways
        raise DataError(
            f"weights={weights} are not those of torchvision's ResNet-50: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        ) from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def forward(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float().div_(255)
            return torch.relu(network(batch)).cpu().numpy()

    return forward
