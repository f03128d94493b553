"""One loader in a process of its own, timed: the images of an epoch after an epoch to warm up.

    python -m tests.bench.loader.pipelines NAME SET_FOLDER SIZE [prepare]

Prints JSON: images/s and core-ms an image. Each peer is used as its documentation says, with two workers, shuffled, batches of 128 out of the loader: random
resized crop and flip, uint8 [128, 3, SIZE, SIZE] unless its name says otherwise. `prepare` writes the peer's own form of the set, once.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

WORKERS, BATCH = 2, 128
Batches = Callable[[], Iterable]
"""Gives an epoch each time it is called."""


# ---------------------------------------------------------------------------------------------------------------- the suite
def ours(folder: Path, size: int, decoder: str = "pillow", cache: str = "", randaug: bool = False) -> Batches:
    from sharding.dataset import Split
    from sharding.index import load_index
    from sharding.pixel_cache import PixelCache
    from sharding.plan import micro_batches, plan_epoch, rank_draws
    from sharding.reader import MicroBatches, Reader

    split = Split(folder / "glt" / "train", load_index(folder / "glt" / "train"))
    short = int(cache) if cache.isdigit() else None
    kept = PixelCache(folder, f"bench {decoder} {cache}", len(split)) if cache else None
    crops = MicroBatches(split, train=True, image_size=size, crop_scale=(0.08, 1.0), hflip=True, randaug=randaug, decoder=decoder, short_side=short, cache=kept)
    reader, epochs = Reader(crops, WORKERS), iter(range(10**6))

    def epoch() -> Iterable:
        plan = plan_epoch([None], len(split), batch=BATCH, group=0, seed=0, epoch=next(epochs))
        return reader.read(rank_draws(plan, micro_batches(BATCH, 0, 0, 1), 0))

    return epoch


# --------------------------------------------------------------------------------------------------------------------- peers
def usual(size: int, *more: str) -> Callable:
    """torchvision's transforms of a Pillow image, as its documentation writes them."""
    import torch

    from sharding.torchvision_cpu import torchvision  # noqa: F401
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    steps = [v2.ToImage(), v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    if "randaug" in more:
        steps = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.RandAugment(2, 9), v2.ToImage()]
    if "float" in more:
        steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]
    return v2.Compose(steps)


def webdataset(folder: Path, size: int, *more: str) -> Batches:
    import webdataset as wds

    urls = [str(path) for path in sorted((folder / "glt" / "train").glob("*.tar"))]
    samples = wds.WebDataset(urls, shardshuffle=100).shuffle(1000).decode("pil").to_tuple("jpg", "cls").map_tuple(usual(size, *more), int).batched(BATCH, partial=False)
    loader = wds.WebLoader(samples, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    return lambda: loader


def imagefolder(folder: Path, size: int) -> Batches:
    import torch

    from sharding.torchvision_cpu import torchvision

    images = torchvision.datasets.ImageFolder(folder / "tree", usual(size))
    loader = torch.utils.data.DataLoader(images, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, drop_last=True)
    return lambda: loader


def streaming(folder: Path, size: int) -> Batches:
    import torch
    from streaming import StreamingDataset

    transform = usual(size)

    class Images(StreamingDataset):
        def __getitem__(self, index: int) -> tuple:
            sample = super().__getitem__(index)
            return transform(sample["image"].convert("RGB")), sample["label"]

    images = Images(local=str(folder / "mds"), shuffle=True, batch_size=BATCH)
    loader = torch.utils.data.DataLoader(images, BATCH, num_workers=WORKERS, persistent_workers=True, drop_last=True)
    return lambda: loader


def streaming_prepare(folder: Path) -> None:
    from PIL import Image
    from streaming import MDSWriter

    with MDSWriter(out=str(folder / "mds"), columns={"image": "jpeg", "label": "int"}) as writer:
        for path in sorted(folder.glob("tree/*/*.jpg")):
            writer.write({"image": Image.open(path), "label": int(path.parent.name)})  # a JPEG file's own bytes are kept


def _litdata_sample(path: str) -> dict:
    return {"image": Path(path).read_bytes(), "label": int(Path(path).parent.name)}


def litdata(folder: Path, size: int) -> Batches:
    import io

    from litdata import StreamingDataLoader, StreamingDataset
    from PIL import Image

    transform = usual(size)

    class Images(StreamingDataset):
        def __getitem__(self, index: int) -> tuple:
            sample = super().__getitem__(index)
            return transform(Image.open(io.BytesIO(sample["image"])).convert("RGB")), sample["label"]

    loader = StreamingDataLoader(Images(str(folder / "litdata"), shuffle=True, drop_last=True), batch_size=BATCH, num_workers=WORKERS, persistent_workers=True, drop_last=True)
    return lambda: loader


def litdata_prepare(folder: Path) -> None:
    from litdata import optimize

    optimize(fn=_litdata_sample, inputs=[str(path) for path in sorted(folder.glob("tree/*/*.jpg"))], output_dir=str(folder / "litdata"), chunk_bytes="32MB", num_workers=1)


def ffcv(folder: Path, size: int, form: str) -> Batches:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    image = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    return lambda loader=Loader(str(folder / f"{form}.beton"), batch_size=BATCH, num_workers=WORKERS, order=OrderOption.RANDOM, drop_last=True, os_cache=True,
                                pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]}): loader


def ffcv_prepare(folder: Path) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    from sharding.torchvision_cpu import torchvision

    images = torchvision.datasets.ImageFolder(folder / "tree")
    for form, options in (("jpg", {"write_mode": "jpg", "jpeg_quality": 95}), ("raw", {"write_mode": "raw", "max_resolution": None})):
        if form == "jpg" or folder.name == "short256":
            DatasetWriter(str(folder / f"{form}.beton"), {"image": RGBImageField(**options), "label": IntField()}, num_workers=1).from_indexed_dataset(images)


# --------------------------------------------------------------------------------------------------------------------- floor
def floor(folder: Path, size: int) -> Batches:
    """libjpeg-turbo's decoding of the crop alone, in one process: nothing is read, resized, flipped or sent."""
    from sharding.augment import crop_box, draw_rng
    from sharding.decoders import decoder

    opened, files, epochs = decoder("turbojpeg").opened, [path.read_bytes() for path in sorted(folder.glob("tree/*/*.jpg"))], iter(range(10**6))

    def epoch() -> Iterator:
        number = next(epochs)
        for first in range(0, len(files) - BATCH + 1, BATCH):
            for i in range(first, first + BATCH):
                picture = opened(files[i])
                picture.region(crop_box(*picture.size, draw_rng(0, number, i), (0.08, 1.0)))
            yield None

    return epoch


MAKERS: dict[str, tuple[str, Callable[[Path, int], Batches]]] = {
    "floor: TurboJPEG's region decode, 1 process": ("", floor),
    **{f"ours, {name}": ("", lambda folder, size, name=name: ours(folder, size, name)) for name in ("turbojpeg", "simplejpeg", "pillow")},
    **{f"ours, cache {kind}": ("", lambda folder, size, kind=kind: ours(folder, size, "simplejpeg", kind)) for kind in ("full", "256", "160")},
    **{f"ours + RandAug, {name}": ("", lambda folder, size, name=name: ours(folder, size, name, randaug=True)) for name in ("turbojpeg", "simplejpeg")},
    "ours + RandAug, cache 256": ("", lambda folder, size: ours(folder, size, "simplejpeg", "256", randaug=True)),
    "webdataset + Pillow": ("", webdataset),
    "webdataset + Pillow, float32": ("", lambda folder, size: webdataset(folder, size, "float")),
    "webdataset + Pillow + RandAugment, float32": ("", lambda folder, size: webdataset(folder, size, "randaug", "float")),
    "ImageFolder + DataLoader": ("", imagefolder),
    "mosaicml-streaming": ("streaming", streaming),
    "litdata": ("litdata", litdata),
    "ffcv, jpg": ("ffcv", lambda folder, size: ffcv(folder, size, "jpg")),
    "ffcv, raw": ("ffcv", lambda folder, size: ffcv(folder, size, "raw")),
}
"""By name: the peer whose environment is used (the project's own where empty), and how it is made from a set's folder and the crop's side."""
PREPARE = {"streaming": ("mds", streaming_prepare), "litdata": ("litdata", litdata_prepare), "ffcv": ("jpg.beton", ffcv_prepare)}


# -------------------------------------------------------------------------------------------------------------------- timing
def cores_s() -> float:
    """CPU seconds of this process and of all below it, so far."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    mine, found = {os.getpid()}, True
    while found:
        found = {pid for pid, parent in parents.items() if parent in mine} - mine
        mine |= found
    return sum(ticks.get(pid, 0) for pid in mine) / os.sysconf("SC_CLK_TCK")


def timed(batches: Batches) -> dict[str, float]:
    for _ in batches():
        pass
    images, cores, began = 0, cores_s(), time.perf_counter()
    for batch in batches():
        images += BATCH
        last = batch
    seconds, cores = time.perf_counter() - began, cores_s() - cores
    if last is not None:
        pixels = last[0] if isinstance(last, (tuple, list)) else last["image"]
        assert pixels.shape[1] == 3 and pixels.shape[0] <= BATCH, pixels.shape
    return {"images_s": images / seconds, "core_ms": cores / images * 1000}


def main(words: list[str]) -> None:
    import sharding.torchvision_cpu  # noqa: F401, before a peer imports torchvision by itself

    name, folder = words[0], Path(words[1])
    if words[2:] == ["prepare"]:
        there, prepare = PREPARE[name]
        if not (folder / f"{there}.made").exists():
            shutil.rmtree(folder / there, ignore_errors=True)
            prepare(folder)
            (folder / f"{there}.made").touch()
        return
    print(json.dumps(timed(MAKERS[name][1](folder, int(words[2])))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
