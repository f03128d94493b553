"""A stand-in for nvJPEG on a machine without a GPU: everything but the one call that needs it is the real code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch

from sharding.on_device import nvjpeg
from sharding.on_device.encoded_batches import pixels_of


def pictures(encoded: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """What `nvjpeg.pictures` does, by Pillow: whole pictures of a batch, or an error that names none of them."""
    try:
        return [torch.from_numpy(pixels_of(file.numpy().tobytes())).to(device) for file in encoded]
    except ValueError as error:
        raise RuntimeError("nvjpegDecode failed: 2") from error


@contextmanager
def stand_in() -> Iterator[None]:
    """Let images be "decoded by nvJPEG" on any device, by Pillow."""
    with mock.patch.multiple(nvjpeg, pictures=pictures, lacking=lambda device: ""):
        yield
