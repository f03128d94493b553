"""Features of a user's images by pixels, by a network and from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.common.errors import DataError
from sharding.datasets.samples import features
from sharding.images import library_backbones
from sharding.images.backbones import network, weights_file


@dataclass(frozen=True)
class Few:
    """Made-up pictures [N, H, W] or [N, H, W, 3], as an index gives them."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def picture(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row])


@pytest.fixture(autouse=True)
def smaller_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 numbers a picture are enough for the tests, and quick."""
    monkeypatch.setattr(features, "GREY_SIDE", 8)
    monkeypatch.setattr(features, "RGB_SIDE", 6)


def grey(count: int = 90, seed: int = 0) -> Few:
    """Two kinds of pictures, light on the left and light above, with noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (count, 8, 8))
    pixels[::2, :, :4] += 150
    pixels[1::2, :4] += 150
    return Few(pixels.astype(np.uint8))


def of_all(pictures: Few, seed: int = 0, workers: int = 1) -> np.ndarray:
    axes = features.pixel_axes(pictures, seed, workers)
    return np.concatenate([some for some, _ in features.of_pixels(pictures, axes, np.arange(len(pictures)), workers)])


def test_pixel_features_are_principal_components() -> None:
    """Their variances are the largest eigenvalues of the covariance of the pixels, falling, without correlation."""
    pictures = grey()
    found = of_all(pictures).astype(np.float64)
    flat = pictures.pixels.reshape(90, -1).astype(np.float64)
    variances = np.linalg.svd(flat - flat.mean(0), compute_uv=False)[:50] ** 2 / 90
    assert found.shape == (90, 50)
    np.testing.assert_allclose(found.T @ found / 90, np.diag(variances), rtol=1e-4, atol=1e-2)


def test_the_first_component_tells_the_kinds_apart() -> None:
    """What differs most in the pixels comes first."""
    first = of_all(grey())[:, 0]
    assert len({*np.sign(first[::2]), *-np.sign(first[1::2])}) == 1


def test_axes_have_fixed_signs() -> None:
    """Of each axis the number that is farthest from 0 is positive, so that no library chooses."""
    axes = features.pixel_axes(grey(), 0, 1).axes
    assert (axes[np.arange(50), np.abs(axes).argmax(1)] > 0).all()


def test_covariance_is_exact_in_any_order() -> None:
    """The sums are whole numbers, so the order of images changes nothing."""
    pictures = grey()
    turned = Few(pictures.pixels[::-1].copy())
    one, other = features.pixel_axes(pictures, 0, 1), features.pixel_axes(turned, 0, 1)
    assert one.mean.tolist() == other.mean.tolist() and one.axes.tobytes() == other.axes.tobytes()


def test_a_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many images the seed draws those that the axes are found from; all get features."""
    monkeypatch.setattr(features, "SAMPLE", 40)
    pictures = grey()
    one, again, other = (features.pixel_axes(pictures, seed, 1) for seed in (1, 1, 2))
    assert one.axes.tobytes() == again.axes.tobytes() != other.axes.tobytes()
    assert of_all(pictures).shape == (90, 50)


def test_colours_count() -> None:
    """Pictures that differ in their colour alone have different features, and RGB has three numbers a pixel."""
    pixels = np.zeros((60, 20, 30, 3), np.uint8)
    pixels[::2, ..., 0], pixels[1::2, ..., 2] = 200, 200
    pictures = Few(pixels)
    assert features.pixel_axes(pictures, 0, 1).axes.shape == (50, 108)
    assert len(np.unique(of_all(pictures)[:, 0].round())) == 2


def test_saved_features_come_back(tmp_path: Path) -> None:
    """Batches are written as they come, and read as one array."""
    batches = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 3), np.float32)]
    features.save(tmp_path / "f.npy", iter(batches), 3)
    assert features.from_file(tmp_path / "f.npy", 3).tolist() == [[0, 1, 2], [3, 4, 5], [1, 1, 1]]


def write_npy(path: Path, array: object) -> None:
    np.save(path, np.asarray(array), allow_pickle=True)


@pytest.mark.parametrize(
    "write, sentence",
    [
        (lambda path: write_npy(path, np.zeros((4, 2))), "has the shape [4, 2]; numbers [3, D], one row an image"),
        (lambda path: write_npy(path, np.zeros(3)), "has the shape [3]; numbers [3, D]"),
        (lambda path: write_npy(path, [[1.0], [np.nan], [2.0]]), "row 1 has a number that is not finite"),
        (lambda path: write_npy(path, [[1.0], [2.0], [-1e30]]), "row 2 has a number that is not finite or beyond 1e15"),
        (lambda path: write_npy(path, [["a"], ["b"], ["c"]]), "is no array of numbers"),
        (lambda path: write_npy(path, np.array([[{}], [1], [2]], object)), "cannot be read: it is not an .npy"),
        (lambda path: path.write_bytes(b"no array"), "cannot be read: it is not an .npy of numbers"),
        (lambda path: path.write_bytes(b""), "cannot be read: it is not an .npy of numbers"),
        (lambda path: None, "cannot be read: No such file or directory"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, write: Callable[[Path], None], sentence: str) -> None:
    """An array of another length, with a number that is not finite, or no array at all is one sentence."""
    path = tmp_path / "f.npy"
    write(path)
    with pytest.raises(DataError) as error:
        features.from_file(path, 3)
    assert f"features={path}" in str(error.value) and sentence in str(error.value)


def test_other_networks_give_what_their_last_layer_would_get(tmp_path: Path) -> None:
    """A network by its name in torchvision, with weights of a file: features of the width before its last layer."""
    import torch

    from sharding.images.torchvision_cpu import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model("mnasnet0_5").eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    pictures = Few(np.random.default_rng(0).integers(0, 255, (2, 40, 50, 3)).astype(np.uint8))
    found = [some for some, _ in features.of_backbone(pictures, "mnasnet0_5", tmp_path / "w.pth", np.arange(2), 1)]
    assert [batch.shape for batch in found] == [(2, 1280)]
    last = model.classifier[-1]
    pixels = features._views((pictures, 256, 260), np.arange(2))[0]
    with torch.inference_mode():
        logits = model(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).numpy()
        np.testing.assert_allclose(last(torch.from_numpy(found[0])).numpy(), logits, rtol=1e-3, atol=1e-4)


def test_networks_that_are_refused(tmp_path: Path) -> None:
    """A network that torchvision does not have, and one without its weights."""
    with pytest.raises(DataError, match="features=resnet5000 is no network of torchvision; near are resnet50"):
        network("resnet5000", tmp_path / "w.pth")
    with pytest.raises(DataError, match="features=resnet18 needs weights=FILE, a state dict of torchvision's resnet18"):
        weights_file(None, "resnet18")


# ------------------------------------------------------------------------------------------------ networks of libraries
def noise(count: int = 3) -> Few:
    return Few(np.random.default_rng(0).integers(0, 255, (count, 40, 50, 3)).astype(np.uint8))


def by_library(name: str, weights: Path) -> np.ndarray:
    pictures = noise()
    return np.concatenate(
        [some for some, _ in features.of_backbone(pictures, name, weights, np.arange(len(pictures)), 1)]
    )


def test_timm_networks_see_images_as_they_were_trained(tmp_path: Path) -> None:
    """`timm:NAME` gives what timm's own model gives before its classifier, at the size, mean and standard deviation of
    its configuration; twice the same bits, and the same from a safetensors and a torch file. The classifier may be in
    the file or not; other entries must fit."""
    import torch
    from safetensors.torch import save_file

    from sharding.images.torchvision_operators import define_missing

    define_missing()
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=5).eval()
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save({key: value for key, value in state.items() if not key.startswith("head.")}, tmp_path / "w.pth")
    found = by_library("timm:test_vit", tmp_path / "w.safetensors")
    for again in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        assert by_library("timm:test_vit", again).tobytes() == found.tobytes()
    pixels = features._views((noise(), 160, 168), np.arange(3))[0]  # 160 of 160 / .95, mean and deviation .5
    with torch.inference_mode():
        batch_BCHW = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        own = model.forward_head(model.forward_features(batch_BCHW), pre_logits=True)
    np.testing.assert_allclose(found, own.numpy(), rtol=1e-4, atol=1e-5)
    torch.save({key: value for key, value in state.items() if key != "norm.weight"}, tmp_path / "less.pth")
    with pytest.raises(DataError, match=r"^weights=\S+less\.pth are not those of timm:test_vit: [^\n]*norm\.weight"):
        by_library("timm:test_vit", tmp_path / "less.pth")


def test_torchvisions_networks_of_the_two_names_differ_by_their_pixels(tmp_path: Path) -> None:
    """`torchvision:NAME` normalises by the configuration of its weights, at 224 of 256 here; `NAME`, as the paper, does
    not."""
    import torch

    from sharding.images.torchvision_cpu import torchvision

    model = torchvision.models.get_model("mnasnet0_5").eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    found = by_library("torchvision:mnasnet0_5", tmp_path / "w.pth")
    pixels = features._views((noise(), 224, 232), np.arange(3))[0]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        batch_BCHW = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        logits = model((batch_BCHW - mean) / std)
        np.testing.assert_allclose(model.classifier[-1](torch.from_numpy(found)), logits, rtol=1e-3, atol=1e-4)


def test_open_clips_image_tower_gives_features(tmp_path: Path) -> None:
    """`open_clip:NAME` is encode_image of the model."""
    import torch

    from tests.helpers import tiny_clip

    model, weights = tiny_clip.make(tmp_path)
    found = by_library(f"open_clip:{tiny_clip.NAME}", weights)
    pixels = torch.from_numpy(features._views((noise(), 32, 32), np.arange(3))[0]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.visual.image_mean, model.visual.image_std))
    with torch.inference_mode():
        np.testing.assert_allclose(found, model.encode_image((pixels - mean) / std), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("tim:test_vit", "features=tim:test_vit names no library; did you mean timm?"),
        ("timm:test_vitt", "features=timm:test_vitt is no model of timm; near are timm:test_vit, timm:test_vit"),
        (
            "torchvision:resnet5000",
            "features=torchvision:resnet5000 is no network of torchvision; near are torchvision:res",
        ),
        ("open_clip:vit-b-31", "open_clip:vit-b-31 is no model of open_clip; near are open_clip:ViT-B-32, open"),
    ],
)
def test_networks_that_no_library_has(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(DataError) as refused:
        by_library(name, tmp_path)
    assert sentence in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_a_network_of_a_library_needs_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None are drawn at random, and where timm lacks the sentence says how to get it."""
    with pytest.raises(
        DataError, match=r"^features=timm:test_vit needs weights=FILE: features of an untrained network"
    ):
        weights_file(None, "timm:test_vit")
    with pytest.raises(DataError, match=r"w does not exist; a state dict of timm:test_vit would be legal"):
        weights_file(tmp_path / "w", "timm:test_vit")
    monkeypatch.setattr(library_backbones, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"python -m pip install timm`"):
        by_library("timm:test_vit", tmp_path)
