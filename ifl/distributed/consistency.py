"""Stops a run whose ranks hold different values of what must be equal."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from ifl.distributed.comm import Comm


class RankMismatch(RuntimeError):
    """Ranks hold different values of what must be equal; the message names them."""


def digest(*values: torch.Tensor | np.ndarray | None) -> str:
    """Return the hex digest of what must be equal on all ranks."""
    sha = hashlib.sha256()
    for value in values:
        array = value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        sha.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def check_equal(what: str, own: str, comm: Comm, device: torch.device | str = "cpu") -> None:
    """Stop on all ranks if the digest `own` is not the same on all of them; the error names the ranks that differ.

    With two ranks, or without a majority, nobody can tell who is right. A collective.

    Raises:
        RankMismatch: on all ranks.
    """
    digests = comm.gather_objects(own, device)
    if len(set(digests)) > 1:
        common = max(digests, key=digests.count)
        odd = [rank for rank, value in enumerate(digests) if value != common]
        if 2 * len(odd) >= comm.size:
            raise RankMismatch(f"{what}: the {comm.size} ranks differ, and no value is that of most of them")
        raise RankMismatch(f"{what}: {ranks_of(odd)} differ{'s' * (len(odd) == 1)} from the others of {comm.size}")


def ranks_of(ranks: list[int]) -> str:
    """Return `rank 3` or `ranks 0, 3`."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
