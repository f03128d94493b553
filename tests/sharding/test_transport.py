"""How batches travel from loader workers: in shared memory, in a pipe where there is none, and never silently lost."""

from __future__ import annotations

import multiprocessing
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


def same(mine: Batch, theirs: Batch) -> bool:
    return all(map(torch.equal, mine, theirs))


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
    transport.say.cache_clear()
    found = whole_batches(split, crops, 1)
    assert all(map(same, found, expected)) and len(found) == len(expected)
    assert [batch.images.stride() for batch in found] == [batch.images.stride() for batch in expected]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("batches travel from the loader's workers in a pipe")
    assert ("No space left" if lack == "room" else "ulimit -n") in said[0]


def test_shards_leave_less_files_for_shared_memory(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The shards that a worker keeps open count beside its batches' files: with many of them a pipe is taken at once,
    and not when no file can be opened any more."""
    limit = (len(os.listdir("/proc/self/fd")) + 200,) * 2
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limit)
    transport.say.cache_clear()
    tensors = (torch.zeros(3),)
    assert transport.Transport(2, held=80).packed(tensors) is None and capfd.readouterr().err == ""
    assert transport.Transport(2, held=100).packed(tensors) is not None and "ulimit -n" in capfd.readouterr().err


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


def test_where_no_worker_can_be_started_the_process_reads_by_itself(
    split: Split, crops: MicroBatches, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without room for a process, or for its queues, the batches are the same, and one sentence says how they came."""

    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    expected = whole_batches(split, crops, 0)
    transport.say.cache_clear()
    monkeypatch.setattr(os, "fork", refuse)
    found = whole_batches(split, crops, 1)
    assert all(map(same, found, expected)) and len(found) == len(expected)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("no loader worker can be started here (Resource temporarily unavailable): this process")


def test_workers_end_with_their_rank(split: Split, crops: MicroBatches, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that leaves at once takes its workers along, also one that is in the midst of a batch in a pipe: they hold
    the run folder's lock."""
    monkeypatch.setattr(transport, "has_files", lambda wanted: False)
    reads, writes = os.pipe()
    if (rank := os.fork()) == 0:
        batches = Reader(MicroBatches(split, TrainView(200)), 1).read(whole_epoch(split))
        next(batches)
        time.sleep(0.3)  # until the worker is stuck in the pipe
        os.write(writes, str(multiprocessing.active_children()[0].pid).encode())
        os._exit(0)
    worker = os.read(reads, 100).decode()
    os.waitpid(rank, 0)
    stat, deadline = Path(f"/proc/{worker}/stat"), time.monotonic() + 3
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.02)
