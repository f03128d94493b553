"""Lets torchvision, and what needs it, be imported where its compiled operators do not load.

The wheel of torchvision is built for the CUDA build of torch. Beside the CPU build its library does not load, and the
import then stops at the operators for which it registers shapes. Their schemas, defined first, let the import pass;
the models and transforms written in Python work, the compiled operators and image decoders do not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch


class _Operators(Protocol):
    def define(self, schema: str) -> object: ...


_kept: list[_Operators] = []
"""The schemas live as long as what defined them."""


@cache
def define_missing() -> None:
    """Define the schemas that torchvision's import needs, unless its own library brings them."""
    if torch.cuda.is_available() or torch.version.cuda is not None or _library_loads():
        return
    made: Callable[[str, str], _Operators] = torch.library.Library  # which comes without types
    library = made("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


def _library_loads() -> bool:
    """Return whether torchvision's operators load, as a CPU wheel's do; then our schemas would clash with them."""
    load: Callable[[str], None] = torch.ops.load_library  # which comes without types
    installed = find_spec("torchvision")
    if installed is None or installed.origin is None:
        return False
    for library in Path(installed.origin).parent.glob("_C*.so"):
        try:
            load(str(library))
        except OSError:
            return False
        return True
    return False
