"""A finished run's weights, one file each for the last and the best epoch.

Second stages, later evaluations and exports start from them.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ifl.method import BaseMethod
from ifl.saving.checkpoint import CheckpointError
from recipes.common.files import file_digest, write_whole
from recipes.common.json_text import OF_A_RUN, read_object

Weights = dict[str, torch.Tensor]


def write_weights(path: Path, weights: Weights) -> str:
    """Write a network as it is evaluated (`Engine.weights`), and return the file's sha256."""
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    data = buffer.getvalue()
    write_whole(path, data)
    return hashlib.sha256(data).hexdigest()


def read_weights(path: Path, digest: str) -> Weights:
    """Read the weights of a file, on the CPU.

    Raises:
        CheckpointError: the file is missing, or not what was written.
    """
    if not path.is_file() or file_digest(path) != digest:
        raise CheckpointError(
            f"{path} is missing or not what was written: put a copy of the file back, or make the run again "
            "(by its command with again=yes, which keeps the old folder beside it)"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def load_run(run: Path, select: Literal["last", "best"]) -> Weights:
    """Read the weights of a finished run, those of its last epoch or of the one best on val.

    Raises:
        CheckpointError: the run is not finished or trains nothing itself, or its weights are gone.
        DataError: its `done` is damaged.
    """
    if not (run / "done").is_file():
        raise CheckpointError(f"{run} is not finished: this run needs its weights")
    if eval_of := read_object(run / "done", {}).get("eval_of"):
        raise CheckpointError(f"{run.name} has no weights of its own: it judges those of {eval_of}")
    named = read_object(run / "done", {"weights": dict})["weights"].get(select)
    if not isinstance(named, list) or [type(part) for part in named] != [str, str]:
        raise CheckpointError(f"{run / 'done'} is damaged (it names no {select} weights); {OF_A_RUN}")
    file, digest = named
    return read_weights(run / "ckpt" / file, digest)


def start_from(network: nn.Module, method: BaseMethod, weights: Weights) -> None:
    """Put a first stage's weights into a network, those that the method adopts.

    Raises:
        CheckpointError: the backbones do not fit each other.
    """
    adopted, own = method.adopt(weights), network.state_dict()
    unfit = sorted(name for name, value in adopted.items() if name not in own or own[name].shape != value.shape)
    # `num_batches_tracked` is not a state: see RunningStatistics.
    missing = sorted(
        name
        for name in own
        if name not in adopted and not name.startswith("head.") and not name.endswith(".num_batches_tracked")
    )
    if unfit or missing:
        raise CheckpointError(
            f"the first stage's network is another: {(unfit + missing)[0]} "
            f"{'does not fit' if unfit else 'is not in it'}; "
            "method.init_from or method.eval_of must name a run of the same model.name and form"
        )
    own.update(adopted)  # in place: a plain dict would lack the versions that torch keeps beside the tensors
    network.load_state_dict(own)
