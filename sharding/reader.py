"""The reader: planned draws in, uint8 batches out. It does the I/O and decides nothing.

A micro-batch is made by a `webdataset.DataPipeline` whose first stage yields the planned samples (positioned reads in
ordinary tars, checked against their sha256) and whose later stages are ordinary webdataset stages: functions from an
iterator of sample dictionaries to an iterator. Whoever knows webdataset can add one.

Webdataset's own shard splitters, shuffle buffers and resampling are not used: they give ranks different numbers of
samples and forget their place. Here a DataLoader's sampler hands each worker the draws of whole micro-batches, so the
order is the plan's for any number of workers, and only consumed steps count for a resume.
"""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.popen_fork
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader

from sharding.augment import decode, draw_rng, test_pixels, train_pixels
from sharding.dataset import DataError, Split
from sharding.plan import Draws

Sample = dict[str, Any]
Stage = Callable[[Iterator[Sample]], Iterator[Sample]]


class Batch(NamedTuple):
    """A micro-batch of M samples.

    Attributes:
        images: uint8 [M, 3, H, W], not normalised.
        labels, ids, streams: int64 [M].
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    streams: torch.Tensor


# ------------------------------------------------------------------------------------------------------------- stages
def planned_samples(split: Split, draws: Draws) -> Callable[[], Iterator[Sample]]:
    """The pipeline's source: the planned samples, in order."""

    def source() -> Iterator[Sample]:
        for sample, draw, stream in zip(draws.ids.tolist(), draws.draws.tolist(), draws.streams.tolist(), strict=True):
            key = str(split.index.key[sample])
            yield {"__key__": key, "jpg": split.read(sample), "cls": int(split.index.label[sample]), "id": sample, "draw": draw, "stream": stream}

    return source


def decoded(split: Split) -> Stage:
    """`jpg` (bytes) -> `image` (PIL, RGB). An image that does not decode stops the run, by name."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            try:
                sample["image"] = decode(sample.pop("jpg"))
            except ValueError as error:
                raise DataError(f"{split.folder}: sample {sample['__key__']} does not decode: {error}") from None
            yield sample

    return stage


def augmented(draws: Draws, **options: Any) -> Stage:
    """`image` -> `pixels` (uint8 [H, W, 3]), random in (seed, epoch, draw) alone."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            sample["pixels"] = train_pixels(sample.pop("image"), draw_rng(draws.seed, draws.epoch, sample["draw"]), **options)
            yield sample

    return stage


def centred(**options: Any) -> Stage:
    """`image` -> `pixels`: the deterministic test crop."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            sample["pixels"] = test_pixels(sample.pop("image"), **options)
            yield sample

    return stage


def assembled(samples: Iterator[Sample]) -> Iterator[Batch]:
    """All samples -> one `Batch`; the pixels move once, in the worker."""
    rows = list(samples)
    pixels = torch.from_numpy(np.stack([row["pixels"] for row in rows]))
    columns = (torch.tensor([row[name] for row in rows], dtype=torch.int64) for name in ("cls", "id", "stream"))
    yield Batch(pixels.permute(0, 3, 1, 2).contiguous(), *columns)


# ------------------------------------------------------------------------------------------------------------- loader
class MicroBatches(torch.utils.data.Dataset):
    """Map-style: indexed by `Draws`, gives their `Batch`. Holds no position, so there is none to lose."""

    def __init__(self, split: Split, *, train: bool, image_size: int, test_resize: int = 0, crop_scale: tuple[float, float] = (1.0, 1.0), hflip: bool = False,
                 randaug: bool = False) -> None:
        self.split = split
        self.train = train
        self.options = {"size": image_size, "crop_scale": crop_scale, "hflip": hflip, "randaug": randaug} if train else {"size": image_size, "resize": test_resize}

    def pipeline(self, draws: Draws) -> webdataset.DataPipeline:
        view = augmented(draws, **self.options) if self.train else centred(**self.options)
        return webdataset.DataPipeline(planned_samples(self.split, draws), decoded(self.split), view, assembled)

    def __getitem__(self, draws: Draws) -> Batch:
        return next(iter(self.pipeline(draws)))


class Reader:
    """Feeds one rank. Persistent workers live as long as it does, whatever the number of epochs."""

    def __init__(self, dataset: MicroBatches, workers: int, pin_memory: bool = False, persistent: bool = True) -> None:
        self._handover = _Handover()
        self._loader = DataLoader(dataset, batch_size=None, sampler=self._handover, num_workers=workers, collate_fn=_unchanged, pin_memory=pin_memory,
                                  persistent_workers=persistent and workers > 0, worker_init_fn=_quiet_worker, multiprocessing_context=_Fork() if workers else None)

    def read(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """The batches of `draws`, one each, in order. The iterator must be used up before the next call."""
        self._handover.draws = draws
        return iter(self._loader)


class _Handover:
    """A sampler that hands out whatever the reader was last asked for; persistent workers ask it anew every epoch.

    It does not know the reader: a cycle of references would leave the workers to the garbage collector, which closes
    their queues before it asks them to end, and then they never do.
    """

    draws: Iterable[Draws] = ()

    def __iter__(self) -> Iterator[Draws]:
        return iter(self.draws)


def _unchanged(batch: Batch) -> Batch:
    return batch


def _quiet_worker(worker: int) -> None:
    """Warning signals reach every process of a job step, and a worker that died of one would take the save with it.
    Workers end with their parent: it asks them over their queues, and at its own exit by SIGHUP (see `_Fork`)."""
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, lambda number, frame: os._exit(0))


class _Popen(multiprocessing.popen_fork.Popen):
    def terminate(self) -> None:
        self._send_signal(signal.SIGHUP)


class _Process(multiprocessing.context.ForkProcess):
    @staticmethod
    def _Popen(process: Any) -> _Popen:
        return _Popen(process)


class _Fork(multiprocessing.context.ForkContext):
    """Forked workers that Python ends by SIGHUP: at exit it would send SIGTERM, which they ignore, and wait for ever."""

    Process = _Process


def evaluation_draws(samples: int, rank: int, ranks: int, size: int) -> Iterator[Draws]:
    """Every sample of a split exactly once over all ranks: rank r takes ids r, r + R, ... in batches of at most `size`."""
    ids = np.arange(rank, samples, ranks, dtype=np.int64)
    for start in range(0, len(ids), size):
        mine = ids[start : start + size]
        yield Draws(mine, mine, np.zeros_like(mine), 0, -1)
