"""One loader in a process of its own, timed whenever it is asked.

    python -m tests.bench.loader.pipelines NAME ROOT/SET SIZE
    python -m tests.bench.loader.pipelines PEER ROOT prepare

ROOT holds the sets `full` and `short256` of `data.py`, SIZE is the crop's side. After an epoch to warm up it says its
batches' shape and type, and then, for each line on standard input, an epoch's images/s and core-ms an image (JSON).
Each peer is used as its documentation says: two workers, shuffled, random resized crop and flip, uint8 [128, 3, SIZE,
SIZE] out of the loader unless its name says otherwise. `prepare` writes the peer's own form of both sets, once.
"""

from __future__ import annotations

import atexit
import io
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.loader.data import SETS
from tests.bench.loader.measure import cores_s, voice

WORKERS, BATCH = 2, 128
Batches = Callable[[], Iterable]
"""Gives an epoch each time it is called."""


# ------------------------------------------------------------------------------------------------------------ the suite
def ours(
    folder: Path,
    size: int,
    decoder: str = "pillow",
    cache: str = "",
    ifl: bool = False,
    batch: int = BATCH,
    workers: int = WORKERS,
) -> Batches:
    """`cache`: the shorter side of what is kept, "full" for all pixels. `ifl`: the input of glt_randaug_ifl, two
    environments in batches of 2 x 128.
    """
    from sharding.cache.decoded_images import PixelCache
    from sharding.format.dataset import Split
    from sharding.format.index import load_index
    from sharding.plan.ranks import rank_draws
    from sharding.reader import MicroBatches, Reader, TrainView
    from tests.helpers.plans import micro_batches, plan_epoch

    split = Split(folder / "glt" / "train", load_index(folder / "glt" / "train"))
    kept = PixelCache(_scratch(folder), f"{decoder} {cache}", len(split)) if cache else None
    crops = MicroBatches(
        split,
        TrainView(size, (0.08, 1.0), True, ifl, int(cache) if cache.isdigit() else None),
        decoder=decoder,
        cache=kept,
    )
    reader, epochs = Reader(crops, workers), iter(range(10**6))
    weights = [None, 1 / np.bincount(split.index.label)[split.index.label]] if ifl else [None]

    def epoch() -> Iterable:
        plan = plan_epoch(
            weights,
            len(split),
            batch=batch * len(weights),
            group=batch,
            draws_per_epoch=1 / len(weights),
            seed=0,
            epoch=next(epochs),
        )
        return reader.read(rank_draws(plan, micro_batches(batch * len(weights), batch, 0, 1), 0))

    return epoch


def _scratch(folder: Path) -> Path:
    """A folder that is gone when this process has ended."""
    path = Path(tempfile.mkdtemp(dir=folder, prefix="cache-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


# ---------------------------------------------------------------------------------------------------------------- peers
def usual(size: int, form: str = "") -> Callable:
    """torchvision's transforms of a Pillow image, as its documentation writes them, on tensors from the first.
    `pillow`: on Pillow images, as many still write them; `float`: to normalised float32; `randaug`: RandAugment on
    Pillow images, to float32, as in torchvision's reference recipes."""
    import sharding.images.torchvision_cpu  # noqa: F401, before torchvision

    # isort: split
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    crop = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    normal = [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
    return v2.Compose(
        {
            "": [v2.ToImage(), *crop],
            "float": [v2.ToImage(), *crop, *normal],
            "pillow": [*crop, v2.ToImage()],
            "randaug": [*crop, v2.RandAugment(2, 9), v2.ToImage(), *normal],
        }[form]
    )


def webdataset(folder: Path, size: int, form: str = "", batch: int = BATCH, workers: int = WORKERS) -> Batches:
    import webdataset as wds

    urls = [str(path) for path in sorted((folder / "glt" / "train").glob("*.tar"))]
    samples = (
        wds.WebDataset(urls, shardshuffle=100)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(usual(size, form), int)
        .batched(batch)
    )
    loader = wds.WebLoader(samples, batch_size=None, num_workers=workers, persistent_workers=True)
    return lambda: loader


def imagefolder(folder: Path, size: int, batch: int = BATCH, workers: int = WORKERS) -> Batches:
    import torch

    from sharding.images.torchvision_cpu import torchvision

    images = torchvision.datasets.ImageFolder(folder / "tree", usual(size))
    loader = torch.utils.data.DataLoader(images, batch, shuffle=True, num_workers=workers, persistent_workers=True)
    return lambda: loader


def streaming(folder: Path, size: int) -> Batches:
    import sharding.images.torchvision_cpu  # noqa: F401, before torchvision

    # isort: split
    import torch
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()  # of a bench that was killed
    transform = usual(size)

    class Images(StreamingDataset):
        def __getitem__(self, index: int) -> tuple:
            sample = super().__getitem__(index)
            return transform(sample["image"].convert("RGB")), sample["label"]

    images = Images(local=str(folder / "mds"), shuffle=True, batch_size=BATCH)
    loader = torch.utils.data.DataLoader(images, BATCH, num_workers=WORKERS, persistent_workers=True)
    return lambda: loader


def streaming_prepare(folder: Path) -> None:
    import sharding.images.torchvision_cpu  # noqa: F401, before torchvision

    # isort: split
    from PIL import Image
    from streaming import MDSWriter

    with MDSWriter(out=str(folder / "mds"), columns={"image": "jpeg", "label": "int"}) as writer:
        for path in sorted(folder.glob("tree/*/*.jpg")):
            writer.write(
                {"image": Image.open(path), "label": int(path.parent.name)}
            )  # a JPEG file's own bytes are kept


def _litdata_sample(path: str) -> dict:
    return {"image": Path(path).read_bytes(), "label": int(Path(path).parent.name)}


def litdata(folder: Path, size: int) -> Batches:
    import sharding.images.torchvision_cpu  # noqa: F401, before torchvision

    # isort: split
    from litdata import StreamingDataLoader, StreamingDataset
    from PIL import Image

    transform = usual(size)

    class Images(StreamingDataset):
        def __getitem__(self, index: int) -> tuple:
            sample = super().__getitem__(index)
            return transform(Image.open(io.BytesIO(sample["image"])).convert("RGB")), sample["label"]

    loader = StreamingDataLoader(
        Images(str(folder / "litdata"), shuffle=True), batch_size=BATCH, num_workers=WORKERS, persistent_workers=True
    )
    return lambda: loader


def litdata_prepare(folder: Path) -> None:
    import sharding.images.torchvision_cpu  # noqa: F401, before torchvision

    # isort: split
    from litdata import optimize

    optimize(
        fn=_litdata_sample,
        inputs=[str(path) for path in sorted(folder.glob("tree/*/*.jpg"))],
        output_dir=str(folder / "litdata"),
        chunk_bytes="32MB",
        num_workers=1,
    )


def ffcv(folder: Path, size: int, form: str) -> Batches:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

    image = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), ToTensor(), ToTorchImage()]
    loader = Loader(
        str(folder / "ffcv" / f"{form}.beton"),
        batch_size=BATCH,
        num_workers=WORKERS,
        order=OrderOption.RANDOM,
        drop_last=True,
        os_cache=True,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )
    return lambda: loader


def ffcv_prepare(folder: Path) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    from sharding.images.torchvision_cpu import torchvision

    (folder / "ffcv").mkdir()
    images = torchvision.datasets.ImageFolder(folder / "tree")
    for form in (
        "jpg",
        "raw",
    ):  # encoded again at its default quality, 90; a raw one of full size is not what anybody keeps
        if form == "jpg" or folder.name == "short256":
            DatasetWriter(
                str(folder / "ffcv" / f"{form}.beton"),
                {"image": RGBImageField(write_mode=form), "label": IntField()},
                num_workers=1,
            ).from_indexed_dataset(images)


def dali(folder: Path, size: int) -> Batches:
    """On CPUs, as its documentation trains on ImageNet: it decodes the crop's region alone."""
    import sharding.images.torchvision_cpu  # noqa: F401, before torch's plugin

    # isort: split
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)
    def crops() -> tuple:
        files, labels = fn.readers.file(file_root=str(folder / "tree"), random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(files, random_area=(0.08, 1), random_aspect_ratio=(3 / 4, 4 / 3))
        images = fn.resize(images, size=(size, size))
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    loader = DALIGenericIterator(
        [crops()], ["image", "label"], reader_name="files", last_batch_policy=LastBatchPolicy.PARTIAL, auto_reset=True
    )
    return lambda: ((batch["image"].permute(0, 3, 1, 2), batch["label"]) for (batch,) in loader)


def spdl(folder: Path, size: int, files: list[str] | None = None) -> Batches:
    """Threads of one process, with Pillow and torchvision's transforms: a DataLoader that was moved to it. `files`:
    instead of the folder's, as CLASS/NAME.
    """
    import sharding.images.torchvision_cpu  # noqa: F401, before torchvision

    # isort: split
    import torch
    from PIL import Image

    transform = usual(size)

    def crop(path: str) -> tuple:
        with Image.open(path) as image:
            return transform(image.convert("RGB")), int(path.split("/")[-2])

    def batch(crops: list[tuple]) -> tuple:
        images, labels = zip(*crops, strict=True)
        return torch.stack(images), torch.tensor(labels)

    return _threads(files or _files(folder), crop, batch)


def spdl_ffmpeg(folder: Path, size: int) -> Batches:
    """The same with its own decoder, FFmpeg, which crops, resizes and flips too. (Debian's FFmpeg must be there.)"""
    import sharding.images.torchvision_cpu  # noqa: F401, before torchvision

    # isort: split
    import spdl.io
    import torch
    from torchvision.transforms import v2

    draw = v2.RandomResizedCrop(size)

    def crop(path: str) -> tuple:
        packets = spdl.io.demux_image(path)
        shape = torch.empty(1).expand(3, packets.codec.height, packets.codec.width)
        box = draw.make_params([shape])
        flip = "hflip," if torch.rand(1) < 0.5 else ""
        steps = "crop={width}:{height}:{left}:{top}:exact=1".format(**box)
        steps += f",scale={size}:{size}:flags=bilinear,{flip}format=rgb24"
        return spdl.io.decode_packets(packets, filter_desc=steps), int(path.split("/")[-2])

    def batch(crops: list[tuple]) -> tuple:
        frames, labels = zip(*crops, strict=True)
        images = spdl.io.to_torch(spdl.io.convert_frames(list(frames)))
        return images.permute(0, 3, 1, 2), torch.tensor(labels)

    return _threads(_files(folder), crop, batch)


def _files(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("tree/*/*.jpg")))


def _threads(files: list[str], crop: Callable[[str], tuple], batch: Callable[[list], tuple]) -> Batches:
    from spdl.pipeline import PipelineBuilder

    rng = np.random.default_rng(0)

    def epoch() -> Iterator[tuple]:
        builder = PipelineBuilder().add_source(files[i] for i in rng.permutation(len(files)))
        builder = builder.pipe(crop, concurrency=WORKERS).aggregate(BATCH).pipe(batch).add_sink()
        pipeline = builder.build(num_threads=WORKERS)
        with pipeline.auto_stop():
            yield from pipeline

    return epoch


# ---------------------------------------------------------------------------------------------------------------- floor
class Crops:
    """Files in memory -> the pixels of their crops: nothing is read, assembled or sent. `size` None: decoded and no
    more, neither resized nor flipped.
    """

    def __init__(self, folder: Path, decoder: str, size: int | None) -> None:
        from sharding.images import decoders

        self.files, self.opened, self.size = (
            [path.read_bytes() for path in sorted(folder.glob("tree/*/*.jpg"))],
            decoders.decoder(decoder).opened,
            size,
        )

    def __call__(self, task: tuple[int, int]) -> int:
        """Makes the crops of up to BATCH files from the `first` on in an `epoch`; returns their number."""
        from sharding.images.dice import draw_rng
        from sharding.images.transforms import crop_box, train_pixels

        epoch, first = task
        for number, data in enumerate(self.files[first : first + BATCH], first):
            picture, rng = self.opened(data), draw_rng(0, epoch, number)
            if self.size is None:
                picture.region(crop_box(*picture.size, rng, (0.08, 1.0)))
            else:
                train_pixels(picture, rng, size=self.size, crop_scale=(0.08, 1.0), hflip=True, randaug=False)
        return len(self.files[first : first + BATCH])


_crops: Crops  # of this process; a fork inherits it


def _made(task: tuple[int, int]) -> int:
    return _crops(task)


def alone(folder: Path, decoder: str, size: int | None, processes: int) -> Batches:
    """`Crops` in this process, or in so many others."""
    import torch

    global _crops
    torch.set_num_threads(1)
    _crops, epochs = Crops(folder, decoder, size), iter(range(10**6))
    in_turn = map if processes == 1 else multiprocessing.get_context("fork").Pool(processes).imap_unordered

    def epoch() -> Iterator[int]:
        number = next(epochs)
        return in_turn(_made, [(number, first) for first in range(0, len(_crops.files), BATCH)])

    return epoch


# -------------------------------------------------------------------------------------------------------------- by name
MAKERS: dict[str, tuple[str, Callable[[Path, int], Batches]]] = {
    "floor: TurboJPEG's region decode alone, 1 process": ("", lambda folder, size: alone(folder, "turbojpeg", None, 1)),
    "floor, 2 processes": ("", lambda folder, size: alone(folder, "turbojpeg", None, 2)),
    "our decode and crop alone, turbojpeg, 2 processes": ("", lambda folder, size: alone(folder, "turbojpeg", size, 2)),
    **{
        f"ours, {name}": ("", lambda folder, size, name=name: ours(folder, size, name))
        for name in ("turbojpeg", "simplejpeg", "pillow")
    },
    **{
        f"ours, cache {kind}": ("", lambda folder, size, kind=kind: ours(folder, size, "simplejpeg", kind))
        for kind in ("full", "256", "160")
    },
    **{
        f"ours, RandAug + IFL, {name}": ("", lambda folder, size, name=name: ours(folder, size, name, ifl=True))
        for name in ("turbojpeg", "simplejpeg")
    },
    "ours, RandAug + IFL, cache 256": ("", lambda folder, size: ours(folder, size, "simplejpeg", "256", ifl=True)),
    "webdataset + Pillow": ("", webdataset),
    "webdataset + Pillow, its resize too": ("", lambda folder, size: webdataset(folder, size, "pillow")),
    "webdataset + Pillow, float32": ("", lambda folder, size: webdataset(folder, size, "float")),
    "webdataset + Pillow + RandAugment, float32": ("", lambda folder, size: webdataset(folder, size, "randaug")),
    "ImageFolder + DataLoader": ("", imagefolder),
    "mosaicml-streaming": ("streaming", streaming),
    "litdata": ("litdata", litdata),
    "DALI on CPUs": ("dali", dali),
    "SPDL, Pillow": ("spdl", spdl),
    "SPDL, FFmpeg": ("spdl", spdl_ffmpeg),
    "ffcv, jpg": ("ffcv", lambda folder, size: ffcv(folder, size, "jpg")),
    "ffcv, raw 256": ("ffcv", lambda folder, size: ffcv(folder.parent / "short256", size, "raw")),
}
"""By name: the peer whose environment is used (the project's own where empty), and how it is made from a set's folder
and the crop's side.
"""
PREPARE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "streaming": ("mds", streaming_prepare),
    "litdata": ("litdata", litdata_prepare),
    "ffcv": ("ffcv", ffcv_prepare),
}
"""By peer: the folder of its own form of a set, and what writes it."""


def prepare(peer: str, root: Path) -> None:
    if peer not in PREPARE:  # it reads the files as they are
        return
    name, write = PREPARE[peer]
    for folder in (root / kind for kind in SETS):
        if not (folder / f"{name}.made").exists():
            shutil.rmtree(folder / name, ignore_errors=True)
            write(folder)
            (folder / f"{name}.made").touch()


# --------------------------------------------------------------------------------------------------------------- timing
def images_of(batch: Any) -> Any:
    """The images of a batch of any loader; the floor gives their number alone."""
    return batch["image"] if isinstance(batch, dict) else batch if isinstance(batch, int) else batch[0]


def epoch(batches: Batches) -> tuple[int, Any]:
    """The images of an epoch, and the first batch's."""
    count, first = 0, None
    for batch in batches():
        images = images_of(batch)
        first = images if first is None else first
        count += images if isinstance(images, int) else len(images)
    return count, first


def serve(batches: Batches) -> None:
    say = voice()
    _, images = epoch(batches)
    say([None, None] if isinstance(images, int) else [list(images.shape), str(images.dtype)])
    del images
    for _ in sys.stdin:
        cores, began = cores_s(), time.perf_counter()
        count, _ = epoch(batches)
        seconds = time.perf_counter() - began
        say({"images_s": count / seconds, "core_ms": (cores_s() - cores) / count * 1000})


def main(name: str, folder: str, size: str) -> None:
    if size == "prepare":
        prepare(name, Path(folder))
    else:
        serve(MAKERS[name][1](Path(folder), int(size)))


if __name__ == "__main__":
    main(*sys.argv[1:])
