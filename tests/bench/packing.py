"""Images written a second, by the clock and by the cores' time (on a machine that does other work), beside plain
`webdataset.ShardWriter` in the same run, and what the stored size does to size, writing and reading.

    python -m tests.bench.packing [images=2000] [workers=2] [crops=4000] [views=40]

Pictures of ILSVRC's usual size (500 x 375, quality 96, about 110 kB) are made from noise of a photograph's spectrum,
since no photographs are here; they compress alike, no more can be said for them. Reading is the suite's decoding with
the training view (random resized crop to 112 x 112, flip), one process. Of `crops` random resized crops of what is
stored, the share that is enlarged in a direction; and of `views` pictures, how far the test view (128, centre 112) of
what is stored is from the original's.
"""

from __future__ import annotations

import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sharding.building.packing import Copies, Planned, finish, pack
from sharding.building.raw_files import Place
from sharding.format.dataset import Split
from sharding.images.decoders import available, decoder
from sharding.images.dice import draw_rng
from sharding.images.encoding import StoredSize
from sharding.images.transforms import crop_box, eval_pixels, train_pixels
from tests.bench.words import values_of

PICTURES = 100
"""So many are different."""
CROP, SCALE = 112, (0.08, 1.0)


def picture(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A JPEG of noise whose spectrum falls as 1/f, in colour."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = 1 / np.maximum(np.hypot(fy, fx), 1 / width)
    gray = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * fall, (height, width))
    tint = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, height, width))) * fall**1.3, (height, width))
    image = gray / gray.std() * 45 + 12 * tint / tint.std((1, 2), keepdims=True) + 115
    buffer = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def enlarged(split: Split, crops: int) -> float:
    """The share of the crops that have fewer pixels than the training view in at least one direction."""
    opened, small = decoder(available()[0]).opened, 0
    sizes = [opened(split.read(i)).size for i in range(min(PICTURES, len(split)))]
    for draw in range(crops):
        left, top, right, bottom = crop_box(*sizes[draw % len(sizes)], draw_rng(0, 0, draw), SCALE)
        small += min(right - left, bottom - top) < CROP
    return small / crops


def apart(files: list[bytes], stored: StoredSize) -> float:
    """Grey levels a pixel, on average, by which test views of the files as they are stored differ from their own."""
    opened = decoder(available()[0]).opened

    def view(data: bytes) -> np.ndarray:
        return eval_pixels(opened(data), size=CROP, resize=128).astype(np.int16)

    return float(np.mean([np.abs(view(stored(data)[0]) - view(data)) for data in files]))


def cpu() -> float:
    """Seconds of all cores that this process and its ended children took."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def main(words: list[str]) -> None:
    values = values_of(words, {"images": 2000, "workers": 2, "crops": 4000, "views": 40})
    count, workers = values["images"], values["workers"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = [picture(seed) for seed in range(min(PICTURES, count))]
        print(
            f"{count} images ({len(files)} different ones) of {np.mean([len(data) for data in files]) / 1000:.0f} kB, "
            f"{workers} workers"
        )
        for i in range(count):
            (root / f"{i}.JPEG").write_bytes(files[i % len(files)])
        plan = {
            "glt/train": [Planned(f"k{i}", f"s{i}", Place(str(root / f"{i}.JPEG")), i % 10, 0, 0) for i in range(count)]
        }

        from webdataset.writer import ShardWriter

        (root / "peer").mkdir()
        start, used = time.perf_counter(), cpu()
        with ShardWriter(str(root / "peer" / "shard-%06d.tar"), maxcount=250, verbose=0) as writer:
            for planned in plan["glt/train"]:
                writer.write(
                    {
                        "__key__": planned.key,
                        "jpg": planned.where.read(),
                        "cls": str(planned.label),
                        "json": {"label": planned.label},
                    }
                )
        print(
            "peer: webdataset.ShardWriter, 1 process, no check, no digest: "
            f"{count / (time.perf_counter() - start):.0f} images/s written, {count / (cpu() - used):.0f} a second of "
            "a core"
        )
        for stored in (
            StoredSize(),
            StoredSize(resize_short=256),
            StoredSize(resize_short=160),
            StoredSize(resize_short=256, quality=75),
        ):
            out, rates = root / f"out-{stored.resize_short}-{stored.quality}", []
            for _ in ("written", "checked and kept"):
                start, used = time.perf_counter(), cpu()
                indices = pack(out, plan, Copies(stored), options=stored.options, workers=workers, shard_samples=250)
                rates += [count / (time.perf_counter() - start), count / (cpu() - used)]
            finish(out, indices)
            split = Split(out / "glt/train", indices["glt/train"])
            start = time.process_time()
            for i in range(min(200, count)):
                train_pixels(
                    decoder(available()[0]).opened(split.read(i)),
                    draw_rng(0, 0, i),
                    size=CROP,
                    crop_scale=SCALE,
                    hflip=True,
                    randaug=False,
                )
            read = min(200, count) / (time.process_time() - start)
            name = " ".join(f"{key}={value}" for key, value in stored.options.items()) or "original bytes"
            print(
                f"{name:26}{indices['glt/train'].size.mean() / 1000:6.1f} kB an image; {rates[0]:6.0f} images/s "
                f"written ({rates[1]:.0f} a second of a core), {rates[2]:6.0f} checked and kept ({rates[3]:.0f}); "
                f"read and augmented {read:.0f} a second of a core; {100 * enlarged(split, values['crops']):.1f} % of "
                f"{values['crops']} crops have a side under {CROP} pixels; test views differ by "
                f"{apart(files[: values['views']], stored):.1f} of 255",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
