"""What is not finite is never kept: not in a step, not in a checkpoint, not in predictions."""

from __future__ import annotations

import torch

from ifl.distributed.comm import Comm
from ifl.engine import Engine


class Diverged(RuntimeError):
    """A loss, feature, batch statistic or gradient is not finite or out of range."""


def refuse_pollution(engine: Engine, comm: Comm, epoch: int, step: int, lr: float) -> None:
    """Stop on all ranks if any one's parameters, buffers, optimizer state or gradients were not finite in a step. A collective.

    A loss can be finite and its gradients are not; the step's reduction sees that in the step after at best, so this is
    asked before anything is kept.

    Raises:
        Diverged: on all ranks.
    """
    if comm.sum(torch.tensor([int(not engine.finite())], device=engine.device)):
        raise Diverged(
            f"epoch {epoch}, step {step}: gradients overflowed in a step since the last checkpoint, so parameters or optimizer state "
            f"are lost; that checkpoint stays, and a lower optim.lr={lr} may help"
        )
