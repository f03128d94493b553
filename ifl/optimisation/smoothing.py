"""Label smoothing (Szegedy et al., CVPR 2016, section 7) in the losses of any method that declares `SMOOTHS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def smoothed(share: float) -> AbstractContextManager[object]:
    """Within it every `F.cross_entropy` gives this share of each label to all classes alike; 0 changes nothing.

    So the loss of a row is `(1 - share) CE(y) + share mean_k CE(k)`, and a method's file stays as it is.
    """
    return _Smoothed(share) if share else nullcontext()


class _Smoothed(TorchFunctionMode):
    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is F.cross_entropy:
            given["label_smoothing"] = self._share
        return func(*args, **given)
