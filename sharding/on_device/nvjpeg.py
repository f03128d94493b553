"""nvJPEG, NVIDIA's JPEG decoder, through torchcodec: the one call that needs a GPU, and whether it can be made.

torchcodec's wheel holds nvJPEG, and loads beside a torch for CUDA alone. It decodes whole images, a batch at once,
on the GPU's JPEG engine where there is one (A100, H100 and later) and otherwise, or where a file is not baseline, by
kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch

from sharding.images.decoders import tiny_jpeg

NAME = "nvjpeg"
"""As `data.decoder` has it."""
INSTALL = "`.venv/bin/python -m pip install torchcodec==0.16.0`"


@cache
def _decode_jpeg() -> Any:
    """Return torchcodec's function, of 0.16 or later."""
    return import_module("torchcodec.decoders").decode_jpeg


def pictures(encoded: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Decode JPEGs.

    Args:
        encoded: the files, each uint8 [bytes] on the host.
        device: a GPU.

    Returns:
        Each picture, RGB, uint8 [3, height, width] on the device, complete when this returns.

    Raises:
        RuntimeError: one of them does not decode; nothing is said of the others.
    """
    decoded: list[torch.Tensor] = _decode_jpeg()(list(encoded), mode="RGB", device=device)
    return decoded


def lacking(device: torch.device) -> str:
    """Say in a clause why images cannot be decoded on this device; empty if they can. Decodes one."""
    if device.type != "cuda":
        return "it decodes on a GPU, and this run has none"
    try:
        pictures([torch.frombuffer(bytearray(tiny_jpeg()), dtype=torch.uint8)], device)
    except ImportError as error:
        return f"torchcodec cannot be imported ({_one_line(error)}): {INSTALL}"
    except AttributeError:
        return f"torchcodec 0.16 or later is needed: {INSTALL}"
    except (OSError, RuntimeError) as error:
        return f"torchcodec does not decode on {device} ({_one_line(error)})"
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
