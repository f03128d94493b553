"""What a loader worker hands to its rank in the place of pixels: encoded images, and all that was drawn for them.

The draws are those of the host's way (`sharding.images.transforms`), in its order. What nvJPEG is not given is decoded
here, by Pillow, and the box that a view needs of it travels as pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import webdataset

from sharding.format.dataset import Split
from sharding.images import decoders
from sharding.images.decoders import MAX_PIXELS, Decoder, Picture, whole
from sharding.images.dice import draw_rng
from sharding.images.randaug import POLICIES, Drawn, draw_operations
from sharding.images.transforms import Window, central_window, draw_crop
from sharding.images.turbojpeg import Box
from sharding.on_device.jpeg_headers import plain_jpeg
from sharding.on_device.nvjpeg import NAME
from sharding.plan.ranks import Draws
from sharding.reader import EvalView, Sample, Stage, TrainView, decoded, planned_samples

ROW = np.dtype(
    [
        *((name, "i8") for name in ("label", "id", "stream", "bytes", "decoded")),
        ("size", "i8", 2),
        ("box", "i8", 4),
        ("resized", "i8", 2),
        ("corner", "i8", 2),
        ("flipped", "i8"),
        ("operation", "i8", 2),
        ("value", "f8", 2),
        ("place", "i8", (2, 2)),
    ]
)
"""A sample: its part of a batch's data in bytes, whether these are pixels, the size of the picture, the view's `Window`
and mirroring, and RandAug's operations by their number in the policy (-1: none), with their values and places."""


class EncodedBatch(NamedTuple):
    """A micro-batch of M samples on its way, as plain tensors.

    Attributes:
        data: uint8 [bytes], of each sample a JPEG file or pixels [3, height, width], one after the other.
        rows: int64 [M, C], the bits of `ROW`.
    """

    data: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """A picture that the device decodes.

    Attributes:
        data: the file.
        size: width and height in pixels.
    """

    data: bytes
    size: tuple[int, int]

    def region(self, box: Box) -> np.ndarray:
        """Return the pixels of a box, which Pillow decodes."""
        return decoders.decoder("pillow").opened(self.data).region(box)


def opened(data: bytes) -> Picture:
    """Return the picture of a file: encoded where it is a plain JPEG, decoded where it is something else.

    Raises:
        ValueError: it is no image, in one sentence.
    """
    plain = plain_jpeg(data)
    if plain is None or plain.size[0] * plain.size[1] > MAX_PIXELS:
        return decoders.decoder("pillow").opened(data)
    return Encoded(*plain)


def drawn(draws: Draws, view: TrainView | EvalView) -> Stage:
    """Return the stage from `image` to `data` (uint8 [bytes]) and `row`, a function of (seed, epoch, draw)."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            picture = sample.pop("image")
            window, flipped, operations = _drawn(picture.size, draws, sample["draw"], view)
            size, box = picture.size, window.box
            if isinstance(picture, Encoded):
                data = np.frombuffer(picture.data, np.uint8)
            else:
                left, top, right, bottom = box
                size = right - left, bottom - top
                data, box = picture.region(window.box).transpose(2, 0, 1).reshape(-1), (0, 0, *size)
            row = np.zeros((), ROW)
            row["label"], row["id"], row["stream"] = sample["cls"], sample["id"], sample["stream"]
            row["bytes"], row["decoded"], row["flipped"] = len(data), not isinstance(picture, Encoded), flipped
            row["size"], row["box"], row["resized"], row["corner"] = size, box, window[1:3], window[3:5]
            row["operation"] = -1
            for number, (operation, each) in enumerate(operations):
                row["operation"][number], row["value"][number], row["place"][number] = operation, each.value, each.place
            yield {"data": data, "row": row}

    return stage


def _drawn(
    size: tuple[int, int], draws: Draws, draw: int, view: TrainView | EvalView
) -> tuple[Window, bool, list[tuple[int, Drawn]]]:
    """Draw what becomes of a picture of `size`: where the view lies, whether it is mirrored, and RandAug's operations,
    each with its number in the policy."""
    if isinstance(view, EvalView):
        return central_window(*size, view.size, view.resize), False, []
    dice = draw_rng(draws.seed, draws.epoch, draw)
    box, flipped = draw_crop(*size, dice, view.crop_scale, view.hflip)
    operations = draw_operations(dice, (view.size, view.size), view.randaug_pixels) if view.randaug else []
    policy = POLICIES[view.randaug_pixels]
    return (
        Window(box, view.size, view.size, 0, 0),
        flipped,
        [(policy.index(each.operation), each) for each in operations],
    )


def operations_of(rows: np.ndarray, pixels: str) -> list[list[Drawn]]:
    """Return RandAug's operations of each of some rows; `pixels` is a key of `randaug.POLICIES`."""
    policy = POLICIES[pixels]
    return [
        [
            Drawn(policy[number], value, (place[0], place[1]))
            for number, value, place in zip(*columns, strict=True)
            if number >= 0
        ]
        for columns in zip(rows["operation"].tolist(), rows["value"].tolist(), rows["place"].tolist(), strict=True)
    ]


def packed(samples: Iterator[Sample]) -> Iterator[EncodedBatch]:
    """Yield one `EncodedBatch` of all samples."""
    found = list(samples)
    rows = np.stack([sample["row"] for sample in found])
    data = torch.empty(int(rows["bytes"].sum()), dtype=torch.uint8)
    np.concatenate([sample["data"] for sample in found], out=data.numpy())
    yield EncodedBatch(data, torch.from_numpy(rows.view(np.int64).reshape(len(rows), -1)))


class EncodedImages(torch.utils.data.Dataset[EncodedBatch]):
    """A map-style data set: indexed by `Draws`, it returns their `EncodedBatch`."""

    def __init__(self, split: Split, view: TrainView | EvalView) -> None:
        """Read the samples of `split`, to be viewed as `view` says."""
        self.split, self.view = split, view

    def __getitem__(self, draws: Draws) -> EncodedBatch:
        pipeline = webdataset.DataPipeline(
            planned_samples(self.split, draws),
            decoded(self.split, Decoder(NAME, "", opened)),
            drawn(draws, self.view),
            packed,
        )
        batch: EncodedBatch = next(iter(pipeline))
        return batch


def pixels_of(data: bytes) -> np.ndarray:
    """Return all pixels of a file that nvJPEG did not decode, uint8 [3, height, width].

    Raises:
        ValueError: Pillow does not decode it either, in one sentence.
    """
    return np.ascontiguousarray(whole(decoders.decoder("pillow").opened(data)).transpose(2, 0, 1))
