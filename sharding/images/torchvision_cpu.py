"""Imports torchvision where its compiled operators are missing.

The wheel of torchvision is made for the CUDA build of torch. With the CPU build its library does not load, and the
import fails at the operators for which it registers shapes. Defining their schemas first lets the import succeed. Then
the models and transforms written in Python work, but not the compiled operators and image decoders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class _Operators(Protocol):
    def define(self, schema: str) -> object: ...


if not torch.cuda.is_available() and torch.version.cuda is None:
    _made: Callable[[str, str], _Operators] = torch.library.Library  # torch has no types for it
    _library = _made("torchvision", "DEF")  # keep a reference: the schemas live as long as it does
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402 - it needs the schemas

__all__ = ["torchvision"]
