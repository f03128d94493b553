"""The reader: planned draws in, uint8 batches out. It does only I/O; the plan decides what is read.

A micro-batch is made by a `webdataset.DataPipeline`. Its first stage yields the planned samples (positioned reads in
ordinary tars, checked against their sha256). The later stages are ordinary webdataset stages, functions from an
iterator of sample dictionaries to an iterator. You can add your own.

Webdataset's own shard splitters, shuffle buffers and resampling are not used: they give ranks different numbers of
samples and cannot resume in the middle. Here a DataLoader's sampler gives each worker the draws of whole
micro-batches, so the order is the plan's for any number of workers, and resuming needs only the number of steps done.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from recipes.common.errors import DataError, RunError, UserError, one_line
from recipes.common.process_limits import memory_of_job
from recipes.schema import Augment, Data
from sharding.format.dataset import Split
from sharding.images import decoders
from sharding.images.decoders import Decoder, Pixels, whole
from sharding.images.dice import draw_rng
from sharding.images.transforms import eval_pixels, shrunk, train_pixels
from sharding.loader_workers import LESS, Fork, Handover, begun, check_workers, own_name, quiet_worker
from sharding.plan.ranks import Draws
from sharding.transport import Piped, Tensors, Transport, say

Sample = dict[str, Any]
Stage = Callable[[Iterator[Sample]], Iterator[Sample]]
Value = TypeVar("Value")


class Cache(Protocol):
    """Keeps the decoded images of a split: `PixelCache` for a node, `OwnPixels` for this process."""

    @property
    def takes_more(self) -> bool:
        """False once it is full."""
        ...

    def get(self, sample: int) -> np.ndarray | None:
        """Return uint8 [H, W, 3] of a sample, not to be changed; None if it is not here."""
        ...

    def put(self, sample: int, pixels: np.ndarray) -> None:
        """Keep uint8 [H, W, 3] for a sample, unless the cache is full."""
        ...


class Batch(NamedTuple):
    """A micro-batch of M samples.

    Attributes:
        images: uint8 [M, 3, H, W], not normalised, channels last in memory as they were decoded; or features of them,
            float32 [M, D].
        labels: int64 [M], class ids.
        ids: int64 [M], sample ids.
        streams: int64 [M].
    """

    images: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    streams: torch.Tensor


@dataclass(frozen=True)
class TrainView:
    """How training samples are viewed: as random crops.

    Attributes:
        size: pixels of the square crop's side.
        crop_scale: the range of the crop's share of the area, 0 < low <= high <= 1.
        hflip: whether half of the crops are mirrored.
        randaug: whether RandAug comes last.
        short_side: pixels to which pictures are first shrunk; see `shrunk`.
        randaug_pixels: how RandAug draws its operations.
    """

    size: int
    crop_scale: tuple[float, float] = (1.0, 1.0)
    hflip: bool = False
    randaug: bool = False
    short_side: int | None = None
    randaug_pixels: str = "own"

    @classmethod
    def of(cls, data: Data, augment: Augment) -> TrainView:
        """Return what the two sections of a recipe say."""
        pixels, short_side = augment.randaug_pixels, data.cache_short_side
        return cls(data.image_size, augment.crop_scale, augment.hflip, augment.randaug, short_side, pixels)

    def stages(self, draws: Draws, cache: Cache | None) -> list[Stage]:
        """Return the stages from `image` to `pixels`; the cache keeps whole pictures."""
        return [kept_whole(cache, self.short_side), augmented(draws, self)]


@dataclass(frozen=True)
class EvalView:
    """How test samples are viewed: as central crops.

    Attributes:
        size: pixels of the square crop's side.
        resize: pixels of the shorter side before the crop, at least `size`.
    """

    size: int
    resize: int

    def stages(self, draws: Draws, cache: Cache | None) -> list[Stage]:
        """Return the stages from `image` to `pixels`; the cache keeps the crops."""
        return [centred(cache, self)]


# ------------------------------------------------------------------------------------------------------------- stages
def planned_samples(split: Split, draws: Draws, kept: Cache | None = None) -> Callable[[], Iterator[Sample]]:
    """Return the pipeline's source, which yields the planned samples in order.

    A sample that is in the cache has `pixels`; the others have their bytes, `jpg`.
    """

    def source() -> Iterator[Sample]:
        index = split.index
        columns = (index.key[draws.ids], index.label[draws.ids], draws.ids, draws.draws, draws.streams)
        for key, label, sample, draw, stream in zip(*(column.tolist() for column in columns), strict=True):
            known = kept.get(sample) if kept is not None else None
            data = {"jpg": split.read(sample)} if known is None else {"pixels": known}
            yield {"__key__": key, **data, "cls": label, "id": sample, "draw": draw, "stream": stream}

    return source


def decoded(split: Split, decoder: Decoder) -> Stage:
    """Return the stage from `jpg` (bytes) to `image` (a `Picture`); it names an image that does not decode."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if "jpg" in sample:
                try:
                    sample["image"] = decoder.opened(sample.pop("jpg"))
                except ValueError as error:
                    raise DataError(f"{split.folder}: sample {sample['__key__']} does not decode: {error}") from None
            yield sample

    return stage


def kept_whole(cache: Cache | None, short_side: int | None) -> Stage:
    """Return the stage that shrinks `image` if asked to and puts it into the cache; `pixels` become `image`."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if "pixels" in sample:
                sample["image"] = Pixels(sample.pop("pixels"))
            else:
                if short_side:
                    sample["image"] = shrunk(sample["image"], short_side)
                if cache is not None and cache.takes_more:  # with a full cache, decoding only the crop is cheaper
                    sample["image"] = Pixels(whole(sample["image"]))
                    cache.put(sample["id"], sample["image"].array)
            yield sample

    return stage


def augmented(draws: Draws, view: TrainView) -> Stage:
    """Return the stage from `image` to `pixels` (uint8 [H, W, 3]), a function of (seed, epoch, draw)."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            sample["pixels"] = train_pixels(
                sample.pop("image"),
                draw_rng(draws.seed, draws.epoch, sample["draw"]),
                size=view.size,
                crop_scale=view.crop_scale,
                hflip=view.hflip,
                randaug=view.randaug,
                randaug_pixels=view.randaug_pixels,
            )
            yield sample

    return stage


def centred(cache: Cache | None, view: EvalView) -> Stage:
    """Return the stage from `image` to `pixels`: the deterministic test crop, which is put into the cache."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if "pixels" not in sample:
                sample["pixels"] = eval_pixels(sample.pop("image"), size=view.size, resize=view.resize)
                if cache is not None:
                    cache.put(sample["id"], sample["pixels"])
            yield sample

    return stage


def assembled(samples: Iterator[Sample]) -> Iterator[Batch]:
    """Yield one `Batch` of all samples."""
    rows = list(samples)
    pixels = torch.from_numpy(np.stack([row["pixels"] for row in rows]))
    columns = (torch.tensor([row[name] for row in rows], dtype=torch.int64) for name in ("cls", "id", "stream"))
    yield Batch(pixels.permute(0, 3, 1, 2), *columns)


# ------------------------------------------------------------------------------------------------------------- loader
# Of one whose queues could not be made torch would else print a traceback.
_MultiProcessingDataLoaderIter._shutdown = True


class MicroBatches(torch.utils.data.Dataset[Batch]):
    """A map-style data set: indexed by `Draws`, it returns their `Batch`, and has no position to resume from.

    Args:
        split: whose samples are read.
        view: how they are viewed.
        decoder: the name of the run's decoder.
        cache: of decoded images: whole training pictures, or test crops.

    Raises:
        DataError: the decoder is not on this machine.
    """

    def __init__(
        self,
        split: Split,
        view: TrainView | EvalView,
        *,
        decoder: str = "pillow",
        cache: Cache | None = None,
    ) -> None:
        self.split, self.view, self.decoder, self.cache = split, view, decoders.decoder(decoder), cache

    def pipeline(self, draws: Draws) -> webdataset.DataPipeline:
        """Return the pipeline that makes one batch."""
        return webdataset.DataPipeline(
            planned_samples(self.split, draws, self.cache),
            decoded(self.split, self.decoder),
            *self.view.stages(draws, self.cache),
            assembled,
        )

    def __getitem__(self, draws: Draws) -> Batch:
        batch: Batch = next(iter(self.pipeline(draws)))
        return batch


class Source(Protocol):
    """A map-style data set of micro-batches: `MicroBatches`, or features in the place of images."""

    @property
    def split(self) -> Split:
        """Whose samples are read."""
        ...

    def __getitem__(self, draws: Draws) -> Tensors:
        """Return the batch of some draws: a `Batch`, or what an `Unfinished` source makes one of."""
        ...


@runtime_checkable
class Unfinished(Protocol):
    """A source whose batches come from the workers unfinished; see `sharding.on_device.device_images.DeviceImages`."""

    def finished(self, batches: Iterator[Tensors]) -> Iterator[Batch]:
        """Yield the batches of unfinished ones, in order; called in the rank's own process."""
        ...


class Reader:
    """Reads the batches of one rank. Its persistent workers live as long as it does, over all epochs."""

    def __init__(self, dataset: Source, workers: int, pin_memory: bool = False, persistent: bool = True) -> None:
        self._handover = Handover()
        self._dataset, self._pin_memory, self._persistent = dataset, pin_memory, persistent
        self._loader = self._with(workers)

    def _with(self, workers: int) -> DataLoader[Tensors | Piped | UserError]:
        return DataLoader(
            _ErrorsAsItems(self._dataset, Transport(workers, self._dataset.split.files)),
            batch_size=None,
            sampler=self._handover,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=self._pin_memory,
            persistent_workers=self._persistent and workers > 0,
            worker_init_fn=quiet_worker,
            multiprocessing_context=Fork() if workers else None,
        )

    def read(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """Return the batches of `draws`, in order. The iterator must be exhausted before the next call.

        Where no worker can be started, this process reads by itself.

        Raises:
            DataError: what is wrong with the data of the next batch, in one sentence.
            RunError: a worker was killed, had no memory for the next batch, failed at it or could not hand it over.
        """
        self._handover.draws = draws
        try:
            batches = begun(self._loader)
        except OSError as error:  # no room for a queue's semaphores in /dev/shm, no open file, no process
            say(f"no loader worker can be started here ({error.strerror}): this process loads by itself, more slowly")
            self._loader = self._with(0)
            batches = begun(self._loader)
        if isinstance(self._dataset, Unfinished):
            return self._dataset.finished(_until_error(batches, lambda *tensors: tensors))
        return _until_error(batches, Batch)


class _ErrorsAsItems(torch.utils.data.Dataset[Tensors | Piped | UserError]):
    """Returns errors, of the data or others, instead of raising them.

    An exception raised in a worker would reach its rank only as the text of a traceback.
    """

    def __init__(self, dataset: Source, transport: Transport) -> None:
        self._dataset, self._transport = dataset, transport

    def __getitem__(self, draws: Draws) -> Tensors | Piped | UserError:
        try:
            batch = self._dataset[draws]
            in_worker = torch.utils.data.get_worker_info() is not None
            return (self._transport.packed(batch) if in_worker else None) or batch
        except UserError as error:
            return error
        except MemoryError as error:
            return RunError(f"a batch of {len(draws.ids)} images found no memory ({error}): {memory_of_job()}; {LESS}")
        except Exception as error:  # a fault of the program or of what it stands on: all of it is for the rank's log
            traceback.print_exc()
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return RunError(one_line(f"{own_name()} failed at a batch of {len(draws.ids)} images: {said}"))


def _until_error(batches: Iterator[Any], made: Callable[..., Value]) -> Iterator[Value]:
    """Yield the batches up to the first error, and raise that; a batch in a pipe is `made` of its tensors."""
    while True:
        check_workers()
        try:
            batch = next(batches, None)
        except Exception:  # torch's own error for a dead worker, or any error of the connection to it
            check_workers()
            raise
        if batch is None:
            return
        if isinstance(batch, UserError):
            try:
                raise batch
            finally:
                del batch  # its traceback refers to this frame, a cycle that keeps the workers alive (see `Handover`)
        yield made(*batch.tensors()) if isinstance(batch, Piped) else batch


def _unchanged(value: Value) -> Value:
    return value


def evaluation_draws(samples: int, rank: int, ranks: int, size: int) -> Iterator[Draws]:
    """Yield one rank's draws of a split; over all ranks every sample is read exactly once.

    Args:
        samples: N.
        rank: this rank, which takes ids rank, rank + R, ...
        ranks: R.
        size: largest number of samples in a batch.
    """
    ids = np.arange(rank, samples, ranks, dtype=np.int64)
    for start in range(0, len(ids), size):
        mine = ids[start : start + size]
        yield Draws(mine, mine, np.zeros_like(mine), 0, -1)
