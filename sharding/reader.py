"""The reader: planned draws in, uint8 batches out. It does the I/O and decides nothing.

A micro-batch is made by a `webdataset.DataPipeline` whose first stage yields the planned samples (positioned reads in
ordinary tars, checked against their sha256) and whose later stages are ordinary webdataset stages: functions from an
iterator of sample dictionaries to an iterator. Whoever knows webdataset can add one.

Webdataset's own shard splitters, shuffle buffers and resampling are not used: they give ranks different numbers of
samples and forget their place. Here a DataLoader's sampler hands each worker the draws of whole micro-batches, so the
order is the plan's for any number of workers, and only consumed steps count for a resume.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader

from recipes.common.errors import DataError, RunError, UserError, one_line
from recipes.common.memory import memory_of_job
from sharding.cache.decoded_images import PixelCache
from sharding.format.dataset import Split
from sharding.images import decoders
from sharding.images.decoders import Decoder, Pixels, whole
from sharding.images.dice import draw_rng
from sharding.images.transforms import eval_pixels, shrunk, train_pixels
from sharding.loader_workers import LESS, Fork, Handover, begun, check_workers, own_name, quiet_worker
from sharding.plan.ranks import Draws

Sample = dict[str, Any]
Stage = Callable[[Iterator[Sample]], Iterator[Sample]]
Value = TypeVar("Value")


class Batch(NamedTuple):
    """A micro-batch of M samples.

    Attributes:
        images: uint8 [M, 3, H, W], not normalised, channels last in memory as they were decoded.
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
    """How training samples are seen: random crops.

    Attributes:
        size: pixels of the square crop's side.
        crop_scale: the range of the crop's share of the area, 0 < low <= high <= 1.
        hflip: whether half of the crops are mirrored.
        randaug: whether RandAug comes last.
        short_side: pictures are first made this small; see `shrunk`.
        randaug_pixels: how RandAug draws its operations.
    """

    size: int
    crop_scale: tuple[float, float] = (1.0, 1.0)
    hflip: bool = False
    randaug: bool = False
    short_side: int | None = None
    randaug_pixels: str = "own"

    def stages(self, draws: Draws, cache: PixelCache | None) -> list[Stage]:
        """`image` -> `pixels`; the cache keeps whole pictures."""
        return [kept_whole(cache, self.short_side), augmented(draws, self)]


@dataclass(frozen=True)
class EvalView:
    """How test samples are seen: the central crop.

    Attributes:
        size: pixels of the square crop's side.
        resize: pixels of the shorter side before the crop, at least `size`.
    """

    size: int
    resize: int

    def stages(self, draws: Draws, cache: PixelCache | None) -> list[Stage]:
        """`image` -> `pixels`; the cache keeps the crops."""
        return [centred(cache, self)]


# ------------------------------------------------------------------------------------------------------------- stages
def planned_samples(split: Split, draws: Draws, kept: PixelCache | None = None) -> Callable[[], Iterator[Sample]]:
    """The pipeline's source: the planned samples, in order.

    A sample whose pixels the node has kept brings them (`pixels`), the others bring their bytes (`jpg`).
    """

    def source() -> Iterator[Sample]:
        for sample, draw, stream in zip(draws.ids.tolist(), draws.draws.tolist(), draws.streams.tolist(), strict=True):
            known = kept.get(sample) if kept is not None else None
            data = {"jpg": split.read(sample)} if known is None else {"pixels": known}
            yield {
                "__key__": str(split.index.key[sample]),
                **data,
                "cls": int(split.index.label[sample]),
                "id": sample,
                "draw": draw,
                "stream": stream,
            }

    return source


def decoded(split: Split, decoder: Decoder) -> Stage:
    """`jpg` (bytes) -> `image` (a `Picture`). An image that does not decode stops the run, by name."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if "jpg" in sample:
                try:
                    sample["image"] = decoder.opened(sample.pop("jpg"))
                except ValueError as error:
                    raise DataError(f"{split.folder}: sample {sample['__key__']} does not decode: {error}") from None
            yield sample

    return stage


def kept_whole(cache: PixelCache | None, short_side: int | None) -> Stage:
    """`image` is made small, if asked for, and kept whole for the next time; what was kept becomes `image`."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if "pixels" in sample:
                sample["image"] = Pixels(sample.pop("pixels"))
            else:
                if short_side:
                    sample["image"] = shrunk(sample["image"], short_side)
                if cache is not None and cache.takes_more:  # a full one would cost whole images where crops do
                    sample["image"] = Pixels(whole(sample["image"]))
                    cache.put(sample["id"], sample["image"].array)
            yield sample

    return stage


def augmented(draws: Draws, view: TrainView) -> Stage:
    """`image` -> `pixels` (uint8 [H, W, 3]), random in (seed, epoch, draw) alone."""

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


def centred(cache: PixelCache | None, view: EvalView) -> Stage:
    """`image` -> `pixels`: the deterministic test crop, kept for the next time."""

    def stage(samples: Iterator[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if "pixels" not in sample:
                sample["pixels"] = eval_pixels(sample.pop("image"), size=view.size, resize=view.resize)
                if cache is not None:
                    cache.put(sample["id"], sample["pixels"])
            yield sample

    return stage


def assembled(samples: Iterator[Sample]) -> Iterator[Batch]:
    """All samples -> one `Batch`."""
    rows = list(samples)
    pixels = torch.from_numpy(np.stack([row["pixels"] for row in rows]))
    columns = (torch.tensor([row[name] for row in rows], dtype=torch.int64) for name in ("cls", "id", "stream"))
    yield Batch(pixels.permute(0, 3, 1, 2), *columns)


# ------------------------------------------------------------------------------------------------------------- loader
class MicroBatches(torch.utils.data.Dataset[Batch]):
    """Map-style: indexed by `Draws`, gives their `Batch`. Holds no position, so there is none to lose.

    Args:
        split: whose samples are read.
        view: how they are seen.
        decoder: the name of the run's decoder.
        cache: where the node keeps what it decoded: training pictures whole, test crops as they are.

    Raises:
        DataError: the decoder is not on this machine.
    """

    def __init__(
        self,
        split: Split,
        view: TrainView | EvalView,
        *,
        decoder: str = "pillow",
        cache: PixelCache | None = None,
    ) -> None:
        self.split, self.view, self.decoder, self.cache = split, view, decoders.decoder(decoder), cache

    def pipeline(self, draws: Draws) -> webdataset.DataPipeline:
        """The pipeline that makes one batch."""
        return webdataset.DataPipeline(
            planned_samples(self.split, draws, self.cache),
            decoded(self.split, self.decoder),
            *self.view.stages(draws, self.cache),
            assembled,
        )

    def __getitem__(self, draws: Draws) -> Batch:
        batch: Batch = next(iter(self.pipeline(draws)))
        return batch


class Reader:
    """Feeds one rank. Persistent workers live as long as it does, whatever the number of epochs."""

    def __init__(self, dataset: MicroBatches, workers: int, pin_memory: bool = False, persistent: bool = True) -> None:
        self._handover = Handover()
        self._loader = DataLoader(
            _Telling(dataset),
            batch_size=None,
            sampler=self._handover,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            persistent_workers=persistent and workers > 0,
            worker_init_fn=quiet_worker,
            multiprocessing_context=Fork() if workers else None,
        )

    def read(self, draws: Iterable[Draws]) -> Iterator[Batch]:
        """The batches of `draws`, one each, in order. The iterator must be used up before the next call.

        Raises:
            DataError: what is wrong with the data of the next batch, in one sentence.
            RunError: a worker was killed, had no memory for the next batch, or failed at it.
        """
        self._handover.draws = draws
        return _good(begun(self._loader))


class _Telling(torch.utils.data.Dataset[Batch | UserError]):
    """Hands over what is wrong, with the data or else, instead of raising it.

    Of a worker's exception only the text of a traceback would reach its process.
    """

    def __init__(self, dataset: MicroBatches) -> None:
        self._dataset = dataset

    def __getitem__(self, draws: Draws) -> Batch | UserError:
        try:
            return self._dataset[draws]
        except UserError as error:
            return error
        except MemoryError as error:
            return RunError(f"a batch of {len(draws.ids)} images found no memory ({error}): {memory_of_job()}; {LESS}")
        except Exception as error:  # a fault of the program or of what it stands on: all of it is for the rank's log
            traceback.print_exc()
            said = " ".join(f"{type(error).__name__}: {error}".split())
            return RunError(one_line(f"{own_name()} failed at a batch of {len(draws.ids)} images: {said}"))


def _good(batches: Iterator[Batch | UserError]) -> Iterator[Batch]:
    """The batches, up to the first that cannot be had."""
    while True:
        check_workers()
        try:
            batch = next(batches, None)
        except Exception:  # torch's word for a dead worker, or what else befalls whoever talks to one
            check_workers()
            raise
        if batch is None:
            return
        if isinstance(batch, UserError):
            try:
                raise batch
            finally:
                del batch  # its traceback holds this frame: a cycle, which would hold the workers (see `Handover`)
        yield batch


def _unchanged(value: Value) -> Value:
    return value


def evaluation_draws(samples: int, rank: int, ranks: int, size: int) -> Iterator[Draws]:
    """One rank's share of a split whose every sample is read exactly once over all ranks.

    Args:
        samples: N.
        rank: takes ids rank, rank + R, ...
        ranks: R.
        size: most samples of a batch.
    """
    ids = np.arange(rank, samples, ranks, dtype=np.int64)
    for start in range(0, len(ids), size):
        mine = ids[start : start + size]
        yield Draws(mine, mine, np.zeros_like(mine), 0, -1)
