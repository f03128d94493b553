"""`data.decoder=nvjpeg`: what a device makes of encoded images is, to the bit, what the host makes of the same decoded
pixels. No GPU is needed: the tensors lie on the CPU, and Pillow stands in for the one call that decodes on a GPU.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import itertools
import multiprocessing
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from recipes.common.errors import RunError
from sharding import transport
from sharding.format.dataset import Split
from sharding.images.decoders import decode
from sharding.images.dice import draw_rng
from sharding.images.randaug import LEVELS, POLICIES, Drawn, apply_policy, draw_operations, draw_strength
from sharding.images.transforms import central_window, resized
from sharding.on_device import nvjpeg
from sharding.on_device.device_images import DeviceImages
from sharding.on_device.jpeg_headers import plain_jpeg
from sharding.on_device.randaug_tensors import OPERATIONS, apply_drawn
from sharding.on_device.resampling import Windows, views
from sharding.open import open_dataset
from sharding.plan.ranks import Draws
from sharding.reader import Batch, EvalView, MicroBatches, Reader, TrainView, evaluation_draws
from tests.helpers import stand_in_nvjpeg, toy
from tests.helpers.batches import assert_equal

CPU = torch.device("cpu")
TRAIN = TrainView(24, (0.1, 1.0), hflip=True, randaug=True)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, width, height)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def jpeg(pixels: np.ndarray | Image.Image, form: str = "JPEG", **style: Any) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **style)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------------------ resizing
def test_views_of_many_sizes_are_torchs_to_the_bit() -> None:
    """Boxes of many sizes, enlarged and shrunk up to 90 times, mirrored or not, are resized together, with the bits of
    each alone by the host's way; of a test view only the window that is kept is made."""
    rng, side, wanted, parts, rows = np.random.default_rng(0), 13, [], [], []
    sizes = [(1, 1), (1, 40), (40, 1), (13, 13), (500, 375), (1170, 9), (64, 31)]
    sizes += [tuple(rng.integers(1, 120, 2).tolist()) for _ in range(60)]
    for number, (width, height) in enumerate(sizes):
        picture = noise(width, height, number)
        if number % 3:
            left, top = int(rng.integers(width)), int(rng.integers(height))
            box = left, top, int(rng.integers(left, width)) + 1, int(rng.integers(top, height)) + 1
            window: tuple[Any, ...] = (box, side, side, 0, 0)
        else:
            window = central_window(width, height, side, side + number % 8)
        (left, top, right, bottom), wide, high, x, y = window
        view = resized(picture[top:bottom, left:right], wide, high)[y : y + side, x : x + side]
        flipped = bool(rng.integers(2))
        wanted.append(view[:, ::-1] if flipped else view)
        parts.append(picture.transpose(2, 0, 1).reshape(-1))
        rows.append((sum(map(len, parts[:-1])), (width, height), window[0], (wide, high), (x, y), flipped))
    windows = Windows(*(np.array(column) for column in zip(*rows, strict=True)))
    found = views(torch.from_numpy(np.concatenate(parts)), windows, side)
    assert found.dtype == torch.uint8 and found.is_contiguous(memory_format=torch.channels_last)
    unlike = [sizes[k] for k, view in enumerate(wanted) if not np.array_equal(found[k].permute(1, 2, 0).numpy(), view)]
    assert unlike == []


# ------------------------------------------------------------------------------------------------------------- RandAug
def photos(side: int, count: int) -> torch.Tensor:
    """Smooth pictures, one colour, two, and noise of many ranges: uint8 [count, 3, side, side], channels last."""
    x = np.arange(side) / side
    smooth = np.stack([20 + 200 * x + 0 * x[:, None], 60 + 150 * x[:, None] + 0 * x, 30 + 180 * np.outer(x, x)], -1)
    kinds = [smooth.astype(np.uint8), np.full((side, side, 3), 77, np.uint8), noise(side, side) & 128]
    rng = np.random.default_rng(side)
    while len(kinds) < count:
        low, high = np.sort(rng.choice(256, 2, replace=False))
        kinds.append(rng.integers(low, high + 1, (side, side, 3), dtype=np.uint8))
    return torch.from_numpy(np.stack(kinds)).permute(0, 3, 1, 2)


def by_pillow(images: torch.Tensor, drawn: Iterable[list[Drawn]]) -> np.ndarray:
    """What the host makes of a batch: uint8 [M, S, S, 3]."""
    found = []
    for image, each in zip(images.permute(0, 2, 3, 1).numpy(), drawn, strict=True):
        seen = Image.fromarray(image)
        for one in each:
            seen = one.applied(seen)
        found.append(np.asarray(seen))
    return np.stack(found)


@pytest.mark.parametrize("pixels", POLICIES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_tensors_is_pillows_to_the_bit(name: str, pixels: str) -> None:
    """At every level, with both signs and many places, on pictures of all kinds and of even and odd sides: not one grey
    level differs, geometry and blending included."""
    operation = next(each for each in POLICIES[pixels] if each.name == name)
    for side in (32, 21):
        drawn = [
            [draw_strength(operation, level, draw_rng(0, level, draw), (side, side))]
            for level in LEVELS
            for draw in range(12)
        ]
        images = photos(side, len(drawn))
        wanted = by_pillow(images, drawn)
        assert np.array_equal(apply_drawn(images, drawn, pixels).permute(0, 2, 3, 1).numpy(), wanted)


@pytest.mark.parametrize("pixels", POLICIES)
def test_the_policy_on_a_batch_is_that_on_each_image(pixels: str) -> None:
    """Pairs drawn by the host's dice, applied to a batch at once, give the pixels of `apply_policy` image by image."""
    images = photos(28, 300)
    wanted = [
        np.asarray(apply_policy(Image.fromarray(image), draw_rng(3, 1, draw), pixels))
        for draw, image in enumerate(images.permute(0, 2, 3, 1).numpy())
    ]
    drawn = [draw_operations(draw_rng(3, 1, draw), (28, 28), pixels) for draw in range(300)]
    assert {len(each) for each in drawn} == {0, 1, 2}
    assert np.array_equal(apply_drawn(images, drawn, pixels).permute(0, 2, 3, 1).numpy(), np.stack(wanted))


# ------------------------------------------------------------------------------------------------------------- headers
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
@pytest.mark.parametrize("progressive", [False, True])
def test_plain_jpegs_are_left_to_the_device(subsampling: str, progressive: bool) -> None:
    """Grey and colour in all usual samplings, baseline and progressive, with their size; the pixels stay the file's."""
    pixels = noise(37, 50)
    if progressive or subsampling == "Gray":
        image = Image.fromarray(pixels).convert("L" if subsampling == "Gray" else "RGB")
        style = {} if subsampling in ("Gray", "440", "411") else {"subsampling": ":".join(subsampling)}
        data = jpeg(image, progressive=progressive, **style)
    else:
        data = simplejpeg.encode_jpeg(pixels, 90, colorsubsampling=subsampling)
    plain = plain_jpeg(data)
    assert plain is not None and plain.size == (37, 50)
    assert np.array_equal(np.asarray(decode(plain.data)), np.asarray(decode(data)))


def test_an_orientation_is_cut_out() -> None:
    """EXIF data do not reach torchcodec, which would turn the picture as they say, unlike all other decoders here."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = jpeg(noise(40, 30), exif=exif)
    plain = plain_jpeg(data)
    assert b"Exif" in data and plain is not None and b"Exif" not in plain.data and plain.size == (40, 30)
    assert np.array_equal(np.asarray(decode(plain.data)), np.asarray(decode(data)))


def test_whatever_is_unusual_goes_to_pillow() -> None:
    """PNG, CMYK, RGB JPEGs by either sign, 12 bits, arithmetic and lossless frames, odd samplings, two frames, files
    cut anywhere, with bytes after their end or a broken segment: none is left to the device."""
    data = jpeg(noise(40, 30))
    frame = data.index(b"\xff\xc0")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"

    def changed(at: int, *values: int) -> bytes:
        return data[:at] + bytes(values) + data[at + len(values) :]

    unusual = {
        "PNG": jpeg(noise(40, 30), "PNG"),
        "CMYK": jpeg(Image.fromarray(noise(40, 30)).convert("CMYK")),
        "RGB, says Adobe": data[:2] + adobe + data[2:],
        "RGB by names": changed(frame + 10, ord("R"), 0x22, 0, ord("G"), 0x11, 1, ord("B")),
        "12 bits": changed(frame + 4, 12),
        "arithmetic": changed(frame + 1, 0xC9),
        "lossless": changed(frame + 1, 0xC3),
        "odd sampling": changed(frame + 11, 0x31),
        "no height": changed(frame + 5, 0, 0),
        "two frames": data[:frame] + data[frame : frame + 19] + data[frame:],
        "no frame": data[:frame] + data[frame + 19 :],
        "bytes behind": data + b"\0",
        "broken segment": changed(frame, 0),
        **{f"cut at {end}": data[:end] for end in range(0, len(data), 7)},
    }
    assert plain_jpeg(data) is not None
    assert [name for name, file in unusual.items() if plain_jpeg(file) is not None] == []


# ------------------------------------------------------------------------------------------------------------- batches
@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """JPEGs of several sizes, among them a CMYK file, one with an orientation and one with bytes after its end; 23
    samples."""
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = [
        jpeg(Image.fromarray(noise(44, 50)).convert("CMYK")),
        jpeg(noise(61, 30), exif=exif),
        jpeg(noise(33, 70)) + b"\0\0",
        jpeg(Image.fromarray(noise(52, 47)).convert("L")),
        jpeg(noise(120, 90), progressive=True),
    ]

    def change(relative: str, samples: list[Any]) -> list[Any]:
        if relative != "glt/train":
            return samples
        return [dataclasses.replace(sample, jpg=odd[k]) if k < len(odd) else sample for k, sample in enumerate(samples)]

    root = tmp_path_factory.mktemp("odd")
    toy.build(root, change=change)
    return open_dataset(root, "toy").split("glt", "train")


@pytest.fixture(autouse=True)
def by_stand_in() -> Iterator[None]:
    with stand_in_nvjpeg.stand_in():
        yield


def draws_of(split: Split, epoch: int = 0, size: int = 6) -> list[Draws]:
    """Each sample three times an epoch, in batches of `size`."""
    ids = np.random.default_rng(epoch).permutation(np.repeat(np.arange(len(split)), 3))
    numbers = np.arange(len(ids))
    return [
        Draws(ids[k : k + size], numbers[k : k + size], numbers[k : k + size] % 2, 5, epoch)
        for k in range(0, len(ids), size)
    ]


def assert_as_the_hosts(found: Iterable[Batch], wanted: Iterable[Batch]) -> None:
    found = assert_equal(found, wanted)
    assert all(mine.images.is_contiguous(memory_format=torch.channels_last) for mine in found)


@pytest.mark.parametrize("pixels", POLICIES)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_hosts_to_the_bit(split: Split, workers: int, pixels: str) -> None:
    """Crops, mirroring and RandAug have the same draws, order and resume: over two epochs of one reader, and from the
    middle of one, batches equal those of the host that decodes by the same library, files that go to Pillow included.
    """
    view = dataclasses.replace(TRAIN, randaug_pixels=pixels)
    mine, theirs = Reader(DeviceImages(split, view, CPU), workers), Reader(MicroBatches(split, view), 0)
    for epoch in (0, 1):
        assert_as_the_hosts(mine.read(draws_of(split, epoch)), theirs.read(draws_of(split, epoch)))
    whole = list(theirs.read(draws_of(split, 1)))
    assert_as_the_hosts(mine.read(draws_of(split, 1)[4:]), whole[4:])


def test_test_crops_are_the_hosts_to_the_bit(split: Split) -> None:
    """Also where nothing is resampled, and whether they are enlarged or shrunk."""
    for view in (EvalView(24, 28), EvalView(30, 30), EvalView(60, 71)):
        draws = list(evaluation_draws(len(split), 0, 1, 7))
        assert_as_the_hosts(
            Reader(DeviceImages(split, view, CPU), 0).read(draws), Reader(MicroBatches(split, view), 0).read(draws)
        )


def test_encoded_batches_travel_in_a_pipe_too(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shared memory is not to be had, with the same bits."""
    monkeypatch.setattr(transport, "has_files", lambda files: False)
    found = Reader(DeviceImages(split, TRAIN, CPU), 2, persistent=False).read(draws_of(split))
    assert_as_the_hosts(found, Reader(MicroBatches(split, TRAIN), 0).read(draws_of(split)))


def test_the_next_batch_is_decoded_while_one_is_used(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread, and no more than one ahead; when the batches are given up, no thread is left."""
    decoded: list[str] = []
    two = threading.Event()

    def noted(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        decoded.append(threading.current_thread().name)
        if len(decoded) == 2:
            two.set()
        return stand_in_nvjpeg.pictures(encoded, device)

    monkeypatch.setattr(nvjpeg, "pictures", noted)
    batches = Reader(DeviceImages(split, TRAIN, CPU), 0).read(draws_of(split))
    next(batches)
    assert two.wait(30)
    next(batches)
    assert 2 <= len(decoded) <= 3 and all(name.startswith("decode") for name in decoded)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("fails", [False, True])
def test_batches_that_are_given_up_take_workers_and_thread_along(
    split: Split, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-epoch, or after an error that somebody still holds, without a garbage collection."""
    before, calls = set(multiprocessing.active_children()), itertools.count()

    def pictures(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        if fails and next(calls):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stand_in_nvjpeg.pictures(encoded, device)

    monkeypatch.setattr(nvjpeg, "pictures", pictures)
    gc.disable()
    try:
        reader = Reader(DeviceImages(split, TRAIN, CPU), 2)
        batches = reader.read(draws_of(split))
        next(batches)
        workers = set(multiprocessing.active_children()) - before
        error = None
        if fails:
            with pytest.raises(torch.OutOfMemoryError) as error:
                list(batches)
        del reader, batches
        assert len(workers) == 2 and not any(worker.is_alive() for worker in workers), error
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------------------------- faults
def test_what_nvjpeg_refuses_is_decoded_by_pillow(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that names no file costs only the pictures that have it, and so does a picture of another size than its
    header says; a sentence tells of it once. The batches are the same."""
    said: list[str] = []
    monkeypatch.setattr("sharding.on_device.device_images.say", said.append)

    def capricious(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        if any(len(file) % 3 == 0 for file in encoded):
            raise RuntimeError("nvjpegDecode failed: 6")
        return [
            picture[:, 1:] if len(file) % 3 == 1 else picture
            for file, picture in zip(encoded, stand_in_nvjpeg.pictures(encoded, device), strict=True)
        ]

    monkeypatch.setattr(nvjpeg, "pictures", capricious)
    found = Reader(DeviceImages(split, TRAIN, CPU), 0).read(draws_of(split))
    assert_as_the_hosts(found, Reader(MicroBatches(split, TRAIN), 0).read(draws_of(split)))
    assert set(said) == {
        "nvJPEG refused an image (nvjpegDecode failed: 6): Pillow decodes it, and others like it",
    }


def test_memory_that_is_short_is_no_fault_of_an_image(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, which torch tells as a runtime error, ends the run."""

    def no_room(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(nvjpeg, "pictures", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        list(Reader(DeviceImages(split, TRAIN, CPU), 0).read(draws_of(split)))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["text", "tables"])
def test_a_damaged_image_stops_at_its_batch(kind: str, workers: int, tmp_path: Path) -> None:
    """What Pillow does not decode either, found by a worker or only on the device, is named after the batches before
    it have come."""
    broken = bytearray(jpeg(noise(40, 30)))
    broken[broken.index(b"\xff\xc4") + 5] = 255  # more codes of one bit than there are
    bad = {"text": b"\xff\xd8 no image", "tables": bytes(broken)}[kind]
    assert (plain_jpeg(bad) is None) == (kind == "text")

    def change(relative: str, samples: list[Any]) -> list[Any]:
        return [dataclasses.replace(sample, jpg=bad) if k == 13 else sample for k, sample in enumerate(samples)]

    toy.build(tmp_path, per_class=(20, 1, 1, 1), change=change)
    split = open_dataset(tmp_path, "toy").split("glt", "train")
    draws = [Draws(ids, ids, 0 * ids, 0, 0) for ids in np.split(np.arange(20), 5)]
    came, error = until_error(Reader(DeviceImages(split, EvalView(24, 28), CPU), workers).read(iter(draws)))
    assert error.startswith(f"DataError: {split.folder}: sample {split.index.key[13]} does not decode: ")
    assert [batch.ids.tolist() for batch in came] == [each.ids.tolist() for each in draws[:3]]


def until_error(batches: Iterable[Batch]) -> tuple[list[Batch], str]:
    """The batches before the first error, and that; held, its traceback would keep the workers."""
    came: list[Batch] = []
    try:
        for batch in batches:
            came.append(batch)
    except Exception as error:
        return came, f"{type(error).__name__}: {error}"
    return came, ""


# ------------------------------------------------------------------------------------------------------- is it at hand?
def fake_torchcodec(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    for name in ("torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, function in functions.items():
        monkeypatch.setattr(sys.modules["torchcodec.decoders"], name, function, raising=False)
    nvjpeg._decode_jpeg.cache_clear()


def test_without_a_gpu_or_torchcodec_a_clause_says_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, no torchcodec, one without image decoders, one that does not load or decode: each has its words, and
    where torchcodec decodes a batch of one nothing is lacking."""
    monkeypatch.undo()
    asked: list[Any] = []

    def decode_jpeg(source: list[torch.Tensor], *, mode: str = "RGB", device: Any = "cpu") -> list[torch.Tensor]:
        asked.append((mode, device))
        return stand_in_nvjpeg.pictures(source, CPU)

    def fails(source: list[torch.Tensor], *, mode: str = "RGB", device: Any = "cpu") -> list[torch.Tensor]:
        raise RuntimeError("Failed to initialize nvjpeg\nwith hardware backend: 2")

    gpu = torch.device("cuda", 0)
    with stand_in_nvjpeg.mock.patch.object(nvjpeg, "pictures", PICTURES):
        assert LACKING(CPU) == "it decodes on a GPU, and this run has none"
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
        nvjpeg._decode_jpeg.cache_clear()
        assert "torchcodec cannot be imported" in LACKING(gpu) and "pip install torchcodec" in LACKING(gpu)
        fake_torchcodec(monkeypatch)
        assert "torchcodec 0.16 or later is needed" in LACKING(gpu)
        fake_torchcodec(monkeypatch, decode_jpeg=fails)
        assert LACKING(gpu) == (
            "torchcodec does not decode on cuda:0 (Failed to initialize nvjpeg with hardware backend: 2)"
        )
        fake_torchcodec(monkeypatch, decode_jpeg=decode_jpeg)
        assert LACKING(gpu) == "" and asked == [("RGB", gpu)]
    nvjpeg._decode_jpeg.cache_clear()


PICTURES, LACKING = nvjpeg.pictures, nvjpeg.lacking
"""The real ones, before any test puts a stand-in in their place."""


def test_an_error_of_reading_comes_after_the_batch_before_it(split: Split) -> None:
    """The last whole batch is not lost to an error of the next one, which is asked for first."""
    images = DeviceImages(split, TRAIN, CPU)
    draws = draws_of(split)

    def read() -> Iterator[Any]:
        yield images[draws[0]]
        yield images[draws[1]]
        raise RunError("a worker is gone")

    came, error = until_error(images.finished(read()))
    assert error == "RunError: a worker is gone"
    assert_as_the_hosts(came, list(Reader(MicroBatches(split, TRAIN), 0).read(draws[:2])))
