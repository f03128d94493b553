"""How batches travel from loader workers: in shared memory, in a pipe where there is none, and never silently lost."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.common.errors import RunError
from sharding import transport
from sharding.format.dataset import Split
from sharding.open import open_dataset
from sharding.plan.ranks import Draws, rank_draws
from sharding.reader import Batch, MicroBatches, Reader, TrainView
from tests.helpers.plans import micro_batches, plan_epoch


@pytest.fixture(scope="module")
def split(tiny_root: Path) -> Split:
    return open_dataset(str(tiny_root), "digits_glt").split("glt", "val")


@pytest.fixture(scope="module")
def crops(split: Split) -> MicroBatches:
    return MicroBatches(split, TrainView(24))


def whole_epoch(split: Split) -> Iterator[Draws]:
    return rank_draws(plan_epoch([None], len(split), batch=24, group=6, seed=5, epoch=0), micro_batches(24, 6, 0, 1), 5)


def whole_batches(split: Split, crops: MicroBatches, workers: int) -> list[Batch]:
    return list(Reader(crops, workers, persistent=False).read(whole_epoch(split)))


@pytest.mark.parametrize("lack", ["room", "files"])
def test_batches_come_without_shared_memory(
    split: Split, crops: MicroBatches, lack: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where /dev/shm is full, or too few files may be open, batches come in a pipe, with the same bits and the same
    order in memory, and one sentence says so.
    """
    expected = whole_batches(split, crops, 0)

    def refuse(tensor: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    if lack == "room":
        monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    else:
        limit = (len(os.listdir("/proc/self/fd")) + 40,) * 2
        monkeypatch.setattr(resource, "getrlimit", lambda kind: limit)
    transport._say.cache_clear()
    found = whole_batches(split, crops, 1)
    assert all(
        map(torch.equal, [each for batch in found for each in batch], [each for batch in expected for each in batch])
    )
    assert [batch.images.stride() for batch in found] == [batch.images.stride() for batch in expected]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("batches travel from the loader's workers in a pipe")
    assert ("No space left" if lack == "room" else "ulimit -n") in said[0]


def test_an_error_in_a_workers_own_thread_ends_the_wait(split: Split, crops: MicroBatches) -> None:
    """What a worker's sending thread cannot send ends the wait for it within seconds, in one sentence that says why."""

    class Unsendable(MicroBatches):
        def __getitem__(self, draws: Draws) -> Batch:
            batch = super().__getitem__(draws)
            return batch._replace(ids=_NoTravel(batch.ids))

    began = time.monotonic()
    unsendable = Unsendable(split, crops.view)
    with pytest.raises(
        RunError, match=r"could not hand over a batch \(OSError: \[Errno 24\] Too many open files\); a small"
    ):
        list(Reader(unsendable, 1, persistent=False).read(whole_epoch(split)))
    assert time.monotonic() - began < 4


class _NoTravel:
    """Something that a queue's thread cannot send."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def share_memory_(self) -> None:
        pass

    def __reduce__(self) -> Any:
        raise OSError(24, "Too many open files")


def test_a_worker_that_cannot_be_started_is_one_sentence(
    split: Split, crops: MicroBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no process can be forked the run ends with what to change, not with a traceback."""

    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    reader = Reader(crops, 1, persistent=False)
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(
        RunError, match=r"a loader worker cannot be started .Resource temporarily unavailable.; a small"
    ):
        list(reader.read(whole_epoch(split)))
