"""Imports torchvision where its compiled operators are missing.

The wheel of torchvision is built for the CUDA build of torch. Beside the CPU build its library does not load, and the
import then stops at the operators for which it registers shapes. Their schemas, defined first, let the import pass;
the models and transforms written in Python work, the compiled operators and image decoders do not.
"""

from __future__ import annotations

import torch

if not torch.cuda.is_available() and torch.version.cuda is None:
    _library = torch.library.Library("torchvision", "DEF")  # kept: the schemas live as long as it does
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402

__all__ = ["torchvision"]
