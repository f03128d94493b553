"""Batches of images that the rank's device decodes, crops, resizes, mirrors and augments.

While the network trains on a batch, a thread decodes the next one, on a stream beside the training's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from recipes.common.errors import DataError, UserError
from sharding.format.dataset import Split
from sharding.on_device import nvjpeg
from sharding.on_device.encoded_batches import ROW, EncodedBatch, EncodedImages, operations_of, pixels_of
from sharding.on_device.randaug_tensors import apply_drawn
from sharding.on_device.resampling import Windows, views
from sharding.reader import Batch, EvalView, TrainView
from sharding.transport import Tensors, say

Decode = Callable[[Sequence[torch.Tensor], torch.device], list[torch.Tensor]]
"""As `nvjpeg.pictures`."""


class DeviceImages(EncodedImages):
    """A source of micro-batches whose images are made on a device.

    Workers read, check and draw; `finished` makes their encoded batches into batches, in the rank's own process. Given
    the same decoded pixels, the batches are bit for bit those of `MicroBatches`.
    """

    def __init__(self, split: Split, view: TrainView | EvalView, device: torch.device) -> None:
        """Read the samples of `split` and view them as `view` says, on `device`."""
        super().__init__(split, view)
        self.device = device

    def finished(self, batches: Iterator[Tensors]) -> Iterator[Batch]:
        """Yield the batches of encoded ones, in order; one is made ahead of the one that is asked for.

        Raises:
            DataError: an image of the next batch does not decode.
            UserError: what went wrong with the reading of the next batch.
        """
        maker = _Maker(self.split, self.view, self.device)
        with ThreadPoolExecutor(1, thread_name_prefix="decode") as thread:
            coming: Future[_Made] | None = None
            error: UserError | None = None
            while error is None:
                try:
                    columns = next(batches, None)
                except UserError as found:  # the batch before is whole
                    columns, error = None, found
                ready, coming = coming, None if columns is None else thread.submit(maker.made, EncodedBatch(*columns))
                if ready is not None:
                    try:
                        batch = maker.handed_over(ready.result())
                    except BaseException:
                        del batches, ready  # the error's traceback refers to this frame: a cycle that keeps the workers
                        raise
                    yield batch
                if coming is None:
                    break
        if error is not None:
            try:
                raise error
            finally:
                del error, batches  # likewise


_Made = tuple[Batch, Any]
"""A batch, and on a GPU the event after which it is complete."""


class _Maker:
    """Makes batches of encoded ones, on a stream of its own where the device is a GPU."""

    def __init__(self, split: Split, view: TrainView | EvalView, device: torch.device) -> None:
        self._split, self._view, self._device = split, view, device
        stream: Any = torch.cuda.Stream  # which comes without types
        self._stream = stream(device) if device.type == "cuda" else None

    def made(self, encoded: EncodedBatch) -> _Made:
        """Ask the device for a batch."""
        if self._stream is None:
            return self._batch(encoded), None
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            return self._batch(encoded), self._stream.record_event()

    def handed_over(self, made: _Made) -> Batch:
        """Return a batch that what the device is asked for from now on may use; the host does not wait for it."""
        batch, event = made
        if event is not None:
            user = torch.cuda.current_stream(self._device)
            user.wait_event(event)
            for column in batch:
                if column.is_cuda:
                    column.record_stream(user)
        return batch

    def _batch(self, encoded: EncodedBatch) -> Batch:
        rows = np.ascontiguousarray(encoded.rows.numpy()).view(ROW)[:, 0]
        pixels, sizes = self._pixels(encoded.data, rows)
        planes = 3 * sizes.prod(1)
        windows = Windows(
            starts=np.cumsum(planes) - planes,
            sizes=sizes,
            boxes=rows["box"],
            resized=rows["resized"],
            corners=rows["corner"],
            flipped=rows["flipped"] == 1,
        )
        images = views(pixels, windows, self._view.size)
        if isinstance(self._view, TrainView) and self._view.randaug:
            policy = self._view.randaug_pixels
            images = apply_drawn(images, operations_of(rows, policy), policy)
        columns = (np.ascontiguousarray(rows[name]) for name in ("label", "id", "stream"))
        return Batch(images, *(torch.from_numpy(column).to(self._device) for column in columns))

    def _pixels(self, data: torch.Tensor, rows: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Decode what is encoded.

        Returns:
            uint8 [N] on the device, the pixels of one picture after the other; int64 [M, 2], their widths and heights.
        """
        parts = list(torch.split(data, rows["bytes"].tolist()))
        encoded = [number for number, row in enumerate(rows) if not row["decoded"]]
        sizes = rows["size"]
        for number, picture in zip(encoded, self._decoded([parts[number] for number in encoded]), strict=True):
            width, height = sizes[number].tolist()
            if picture is None or picture.shape != (3, height, width):
                picture = self._by_pillow(parts[number], int(rows["id"][number]), (width, height))
            parts[number] = picture.flatten()
        return torch.cat([part.to(self._device, non_blocking=True) for part in parts]), sizes

    def _decoded(self, files: list[torch.Tensor]) -> Sequence[torch.Tensor | None]:
        """Return the pictures of files, uint8 [3, height, width]; None for what nvJPEG does not decode."""
        try:
            return nvjpeg.pictures(files, self._device) if files else []
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # which file is at fault, it does not say
            if len(files) > 1:
                return [picture for file in files for picture in self._decoded([file])]
            say(f"nvJPEG refused an image ({' '.join(str(error).split())}): Pillow decodes it, and others like it")
            return [None]

    def _by_pillow(self, file: torch.Tensor, sample: int, size: tuple[int, int]) -> torch.Tensor:
        """Decode a file on the host, whose size must be what its header says; `sample` is its id."""
        try:
            pixels = pixels_of(file.numpy().tobytes())
            if pixels.shape[:0:-1] != size:
                raise ValueError("its header gives another size than its pixels have")
        except ValueError as error:
            key = self._split.index.key[sample]
            raise DataError(f"{self._split.folder}: sample {key} does not decode: {error}") from None
        return torch.from_numpy(pixels)
