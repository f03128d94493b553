"""An exponential moving average of the parameters (Polyak averaging), which is evaluated in their place.

After each step `average <- decay * average + (1 - decay) * parameters`, from the first parameters on. Buffers, such as
the running statistics of batch normalisation, are not averaged: the network's own hold for both. It costs one more
float32 copy of the trained parameters on each rank, whole with ZeRO too, and one pass over them a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """The average of a network's trained parameters.

    Attributes:
        tensors: the average by the parameters' names, float32, equal on all ranks.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin with the parameters as they are; `decay` in 0..1, without 1."""
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        every = network.named_parameters(remove_duplicate=False)
        first = {id(parameter): name for name, parameter in self._parameters.items()}
        self._names = {name: first[id(parameter)] for name, parameter in every if id(parameter) in first}
        self._move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.tensors = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def update(self) -> None:
        """Move towards the parameters, after each step of the optimiser."""
        self._move(list(self.tensors.values()), [p.detach() for p in self._parameters.values()], 1)

    def laid_over(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a network's state dict with the average in the place of its parameters."""
        state.update({name: self.tensors[first] for name, first in self._names.items()})
        return state

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the average for a while; afterwards it has the bits of its own parameters again."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._parameters.items():
            own = parameter.clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(own)

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from the average of a checkpoint."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
