"""What a run says and does when its data cannot be read for a while or for good, and when a loader worker is lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.common import retries
from recipes.common.errors import DataError, UserError
from sharding import loader_workers
from sharding.cache.prefetcher import Prefetcher
from sharding.format.dataset import RemoteShards, Split
from sharding.loader_workers import death
from sharding.open import open_dataset
from sharding.plan.ranks import Draws
from sharding.reader import MicroBatches, Reader, TrainView


@pytest.fixture
def split(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Split]:
    monkeypatch.setattr(retries, "PAUSES_S", (0.0, 0.0))
    opened = open_dataset(tiny_root, "digits_glt").split("glt", "train")
    yield opened
    opened.close()


@pytest.fixture
def stale(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes whatever is read through a file that is open by now fail with an errno; or what is opened later, too."""

    def begin(number: int, ever: bool) -> None:
        fresh: dict[int, bool] = {}
        real_open, real_pread, real_dup2 = os.open, os.pread, os.dup2

        def opened(*words: object, **more: object) -> int:
            fd = real_open(*words, **more)
            fresh[fd] = not ever
            return fd

        def doubled(source: int, target: int, **more: bool) -> int:
            fresh[target] = fresh.get(source, False)
            return real_dup2(source, target, **more)

        def pread(fd: int, size: int, offset: int) -> bytes:
            if not fresh.get(fd, False):
                raise OSError(number, os.strerror(number))
            return real_pread(fd, size, offset)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "dup2", doubled)
        monkeypatch.setattr(os, "pread", pread)

    return begin


def refusal(batches: Iterator[Any]) -> str:
    """What the next batch is refused with. (A traceback that is kept would leave the workers to the collector.)"""
    try:
        next(batches)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("the batch came")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EACCES, errno.ENOENT])
def test_a_failed_read_is_made_again_with_the_file_opened_anew(
    number: int, split: Split, stale: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stale handle stays stale; the new one takes its number, so that none is left behind, and the log says it."""
    first = split.read(0)
    before = descriptors()
    stale(number, ever=False)
    assert split.read(0) == first and split.read(1)
    assert descriptors() == before
    shard = split.folder / str(split.index.shard_name[split.index.shard[0]])
    assert capsys.readouterr().err.startswith(f"shard {shard}: {errno.errorcode[number]} ({os.strerror(number)});")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_read_that_keeps_failing_ends_in_one_sentence(split: Split, stale: Callable, workers: int) -> None:
    """It names shard, error and byte offset, and crosses from a worker as it is."""
    stale(errno.ESTALE, ever=True)
    ids = np.array([5])
    draws = Draws(ids, ids, np.zeros_like(ids), 0, 0)
    shard = split.folder / str(split.index.shard_name[split.index.shard[5]])
    assert refusal(Reader(MicroBatches(split, TrainView(32)), workers).read([draws])) == (
        f"DataError: shard {shard} cannot be read: ESTALE (Stale file handle) at byte offset {split.index.offset[5]}"
    )


@pytest.mark.parametrize("name", ["dataset.json", "index.npz"])
def test_the_files_of_a_start_are_read_again_too(
    name: str, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index or a dataset.json that fails once is read; one that keeps failing is refused by name and errno."""
    monkeypatch.setattr(retries, "PAUSES_S", (0.0,))
    left = [errno.ESTALE]

    def failing(real: Callable) -> Callable:
        def read(path: Path, *words: object, **more: object) -> object:
            if path.name == name and left:
                raise OSError(number := left.pop(), os.strerror(number))
            return real(path, *words, **more)

        return read

    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes))
    monkeypatch.setattr(np, "load", failing(np.load))
    assert len(open_dataset(tiny_root, "digits_glt").split("glt", "val"))
    assert f"{name}: ESTALE (Stale file handle); trying again" in capsys.readouterr().err
    left.extend([errno.EIO] * 9)
    with pytest.raises(DataError, match=f"{name} cannot be .*Input/output error"):
        open_dataset(tiny_root, "digits_glt").split("glt", "val")


def test_what_fetches_ahead_leaves_a_disk_s_refusal_to_the_reader(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads end without a traceback; the reader that needs the shard meets the same and says it in a sentence."""

    class Refusing:
        folder = split.folder

        def fetch_ahead(self, *_: object) -> bool:
            asked.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        def shard(self, *_: object) -> Path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    asked, unseen = threading.Event(), []
    monkeypatch.setattr(threading, "excepthook", unseen.append)
    afar = Split(split.folder / "nowhere", split.index, RemoteShards(Refusing(), "glt/train"))
    batches = Prefetcher(afar).all(iter([1]))
    assert asked.wait(5) and list(batches) == [1]
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join()
    assert unseen == []
    with pytest.raises(DataError, match=r"cannot be read: EIO \(Input/output error\) at byte offset"):
        afar.read(0)


# ------------------------------------------------------------------------------------------------------- lost workers
class StandIn(torch.utils.data.Dataset):
    split = types.SimpleNamespace(files=0)
    """The files that a reader counts."""


class Numbers(StandIn):
    """Any draw's batch is a number."""

    def __getitem__(self, draws: Draws) -> torch.Tensor:
        return torch.zeros(1)


class Greedy(StandIn):
    def __getitem__(self, draws: Draws) -> torch.Tensor:
        raise MemoryError("Unable to allocate 13.3 GiB")


def draws_of(count: int) -> list[Draws]:
    one = np.zeros(1, dtype=int)
    return [Draws(one, one, one, 0, 0)] * count


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_ends_the_run_in_one_sentence(kill: signal.Signals) -> None:
    """It says which worker, by which signal, what that most likely was and what to change; no handler of torch's is
    left to raise in the midst of something else."""
    before, there = signal.getsignal(signal.SIGCHLD), set(multiprocessing.active_children())
    batches = Reader(Numbers(), 2).read(draws_of(9))
    next(batches)
    victim = min(set(multiprocessing.active_children()) - there, key=lambda worker: worker.pid)
    os.kill(victim.pid, kill)
    victim.join()
    assert signal.getsignal(signal.SIGCHLD) == before
    said = refusal(batches)
    assert re.sub(r"[0-9.]+ are free now", "", said) == re.sub(
        r"[0-9.]+ are free now", "", f"RunError: loader worker 1 of 2 (pid {victim.pid}) {death(-kill)}"
    )
    assert kill.name in said


def test_a_worker_without_memory_ends_the_run_in_one_sentence() -> None:
    """An allocation that fails, as under ulimit -v, kills nobody; the sentence says what there is and what to do."""
    assert re.fullmatch(
        r"RunError: a batch of 1 images found no memory \(Unable to allocate 13.3 GiB\): .*GiB.*; a smaller "
        "data.workers .*",
        refusal(Reader(Greedy(), 1).read(draws_of(1))),
    )


class Broken(StandIn):
    def __getitem__(self, draws: Draws) -> torch.Tensor:
        raise OSError(errno.ENOSPC, "two\nlines")


@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_befalls_a_worker_ends_the_run_in_one_sentence(
    workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says which worker, the kind of the error and its text; the traceback is in the rank's log alone."""
    who = r"loader worker 1 of 1 \(pid \d+\)" if workers else "the loader"
    said = refusal(Reader(Broken(), workers).read(draws_of(1)))
    assert re.fullmatch(rf"RunError: {who} failed at a batch of 1 images: OSError: \[Errno 28\] two lines", said)
    assert "Traceback" in (log := capfd.readouterr().err) and "in __getitem__" in log


def test_what_a_lost_worker_most_likely_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its exit code, and for SIGKILL by whether the kernel counts a kill for want of memory."""

    class Known:
        def __init__(self, kills: int | None) -> None:
            self.kills = kills

        def __str__(self) -> str:
            return "8.0 GiB"

    for kills in (1, None):
        monkeypatch.setattr(loader_workers, "memory_of_job", lambda kills=kills: Known(kills))
        assert "most likely for want of memory: 8.0 GiB; a smaller data.workers" in death(-signal.SIGKILL)
    monkeypatch.setattr(loader_workers, "memory_of_job", lambda: Known(0))
    assert re.search(r"the kernel counts no kill .*\(8.0 GiB\); .*data.workers .* slurm.mem", death(-signal.SIGKILL))
    assert "/dev/shm" in death(-signal.SIGBUS) and "data.cache_folder" in death(-signal.SIGBUS)
    assert "data.decoder=pillow" in death(-signal.SIGSEGV) and "SIGUSR1" in death(-signal.SIGUSR1)
    assert "code 3" in death(3)
