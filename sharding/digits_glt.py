"""digits_glt: the bundled data set. Scans of handwritten digits under six looks, long-tailed in class and attribute.

Made from the 1,797 scans of 8x8 pixels that scikit-learn brings along, so the generalised long tail exists for real on
a laptop without any download. An image shows one scan, enlarged and moved a little, under one of 6 looks. Each class
ranks the looks differently; the ranks (1,2), (3,4), (5,6) are the attribute groups 0 (many), 1 (medium), 2 (few), in
the proportion 7:2:1 everywhere but in Test-GBL, where they are equal. So looks tell classes in training, not there.

The same seed gives the same bytes on any machine: everything up to the JPEG encoder is integer arithmetic on numpy's
raw Philox stream (no BLAS, no libm, no float sums), and the encoder's settings are fixed.

The phenomenon, measured with plain cross-entropy (last epoch, accuracy in %, mean and standard deviation over three
seeds; `python slurm/launch.py recipe=glt_baseline data=digits_glt cluster=local nodes=2 train=glt|cbl seed=0|1|2`):

    trained on   Test-CBL   (many/medium/few class)   Test-GBL   (many/medium/few class)   Test-GBL Many_A/Med_A/Few_A
    Train-GLT    64.2+-0.1   91.1 / 64.2 / 10.1        53.7+-0.5   82.3 / 48.0 /  7.8        70.4 / 54.2 / 36.5
    Train-CBL    94.2+-0.8   91.8 / 95.2 / 97.2        86.3+-1.0   80.7 / 88.9 / 92.3        97.0 / 88.8 / 73.1

    Train-GLT: Test-GBL is 10.5 points under Test-CBL (11.1, 10.3, 10.0).
    Train-CBL: Few_A is 23.9 points under Many_A (25.1, 22.4, 24.1).

The difficulty was chosen by these two figures (8 and 15 points or more) and the run time alone, before any run with
IFL, and is frozen: VERSION, and a fingerprint recorded in the tests.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from sharding.dataset import Split
from sharding.index import load_index
from sharding.request import Request
from sharding.write import Sample, begin_dataset, finish_dataset, is_built, write_split

NAME = "digits_glt"
TAKES = ("seed", "preview")  # words of the build command, besides data= and out=
VERSION = 1  # raise it with any change of the bytes: it is part of the recorded build options
# class id -> digit: the easy shapes last, so that the few classes are not the hardest ones as well
DIGITS = (9, 3, 8, 1, 5, 7, 2, 4, 6, 0)
GROUPS = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2)  # class id -> frequency group
LOOKS = ("pen", "chalk", "neon", "hatch", "poster", "plate")
# class id -> looks by rank. Digits that are easily confused (3 and 8, 1 and 9, 4 and 9) have different frequent looks,
# and each has its rare ones where the other is frequent: what the look suggests there is wrong.
RANKS = (
    (0, 3, 5, 4, 2, 1),
    (4, 1, 0, 3, 5, 2),
    (2, 5, 3, 0, 1, 4),
    (1, 2, 4, 5, 3, 0),
    (5, 2, 3, 0, 4, 1),
    (5, 4, 0, 3, 2, 1),
    (3, 0, 5, 2, 1, 4),
    (4, 5, 2, 1, 0, 3),
    (4, 3, 1, 0, 5, 2),
    (1, 3, 4, 5, 0, 2),
)

SIDE = 32
SHARD_SAMPLES = 500
LONG_TAIL = (1500, 971, 629, 407, 264, 171, 111, 72, 46, 30)  # geometric, ratio 50; written out: no pow() to trust
MANY_FEW, EQUAL = (7, 2, 1), (1, 1, 1)
POOLS = {"test_gbl": 30, "test_cbl": 30, "test_glt": 16, "val": 14}  # scans of each class; the rest is for training
# folder -> (pool of scans, images of each class, proportion of the attribute groups)
SPLITS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "glt/train": ("train", LONG_TAIL, MANY_FEW),
    "glt/val": ("val", tuple(max(3, n // 10) for n in LONG_TAIL), MANY_FEW),
    "glt/test_glt": ("test_glt", tuple(n // 4 for n in LONG_TAIL), MANY_FEW),
    "cbl/train": ("train", (420,) * 10, MANY_FEW),
    "cbl/val": ("val", (40,) * 10, MANY_FEW),
    "shared/test_cbl": ("test_cbl", (240,) * 10, MANY_FEW),
    "shared/test_gbl": ("test_gbl", (240,) * 10, EQUAL),
}
EDITIONS = {
    "glt": {
        "train": "glt/train",
        "val": "glt/val",
        "test_glt": "glt/test_glt",
        "test_cbl": "shared/test_cbl",
        "test_gbl": "shared/test_gbl",
    },
    "cbl": {"train": "cbl/train", "val": "cbl/val", "test_cbl": "shared/test_cbl", "test_gbl": "shared/test_gbl"},
}


def build(request: Request) -> None:
    """Builds `out/digits_glt`; says so in one line and does nothing where the same build stands there already.

    `preview`: also draws a contact sheet of classes x looks to this PNG.
    """
    out, seed, preview = request.out, request.seed, request.preview
    options = {"builder": NAME, "version": VERSION, "seed": seed}
    built = is_built(out, NAME, options)
    if preview is None and built:
        print(f"{NAME} (seed {seed}) is already in {Path(out) / NAME}: nothing to do")
        return
    scans, pools = _load_scans(seed)
    if preview is not None:
        contact_sheet(scans, pools, seed).save(preview)
        print(f"contact sheet: {preview}")
    if built:
        print(f"{NAME} (seed {seed}) is already in {Path(out) / NAME}: nothing else to do")
        return
    folder = begin_dataset(out, NAME)
    total = sum(sum(per_class) for _, per_class, _ in SPLITS.values())
    with tqdm(total=total, desc=f"building {NAME}", unit="img", mininterval=0.5) as bar:
        for number, relative in enumerate(SPLITS):
            bar.set_postfix_str(relative)
            write_split(folder / relative, _counted(_samples(relative, number, scans, pools, seed), bar), SHARD_SAMPLES)
    statistics = {edition: _statistics(folder / splits["train"]) for edition, splits in EDITIONS.items()}
    finish_dataset(
        out,
        NAME,
        class_names=[f"digit {d}" for d in DIGITS],
        class_groups=GROUPS,
        editions=EDITIONS,
        statistics=statistics,
        options=options,
    )
    print(f"{NAME}: {total} images in {folder}")


def apportion(count: int, proportion: Sequence[int]) -> list[int]:
    """Splits `count` in whole numbers by `proportion`, largest remainders first, earlier parts first on ties."""
    whole = sum(proportion)
    parts = [count * p // whole for p in proportion]
    rest = sorted(range(len(parts)), key=lambda i: (-(count * proportion[i] % whole), i))
    for i in rest[: count - sum(parts)]:
        parts[i] += 1
    return parts


class Dice:
    """Integers from numpy's raw Philox stream, the same on any machine and numpy version."""

    def __init__(self, seed: int, stream: int) -> None:
        self._philox = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """int64 array of `shape`, uniform over low..high, both included."""
        raw = self._philox.random_raw(int(np.prod(shape, dtype=np.int64))) >> np.uint64(32)
        return ((raw * np.uint64(high - low + 1)) >> np.uint64(32)).astype(np.int64).reshape(shape) + low

    def permutation(self, count: int) -> np.ndarray:
        """int64 [count]: a random order of 0..count-1."""
        return np.argsort(self._philox.random_raw(count), kind="stable")


def _load_scans(seed: int) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
    """(scans [1797, 8, 8] int64 of 0..16, pool name -> for each class id the rows of its scans), pools disjoint."""
    from sklearn.datasets import load_digits  # slow to import, and `--help` needs none of it

    digits = load_digits()
    dice = Dice(seed, 1000)
    pools: dict[str, list[np.ndarray]] = {name: [] for name in (*POOLS, "train")}
    for digit in DIGITS:
        rows = np.flatnonzero(digits.target == digit)
        rows, start = rows[dice.permutation(len(rows))], 0
        for name, count in POOLS.items():
            pools[name].append(rows[start : start + count])
            start += count
        pools["train"].append(rows[start:])
    return digits.images.astype(np.int64), pools


def _samples(
    relative: str, number: int, scans: np.ndarray, pools: Mapping[str, list[np.ndarray]], seed: int
) -> Iterator[Sample]:
    """The samples of one split in a shuffled order; `number` gives each split its own random stream."""
    pool, per_class, proportion = SPLITS[relative]
    dice = Dice(seed, number)
    rows = []
    for label, count in enumerate(per_class):
        for attribute, wanted in enumerate(apportion(count, proportion)):
            scan = pools[pool][label]
            scan = np.resize(scan[dice.permutation(len(scan))], wanted)  # each scan equally often
            look = np.repeat(RANKS[label][2 * attribute : 2 * attribute + 2], apportion(wanted, (3, 2)))
            rows.append(np.stack([np.full(wanted, label), np.full(wanted, attribute), look, scan], 1))
    table = np.concatenate(rows)
    table = table[dice.permutation(len(table))]
    for start in range(0, len(table), 256):  # whole arrays are fast, a part at a time bounds the memory
        part = table[start : start + 256]
        images = render(scans[part[:, 3]], part[:, 2], dice)
        for i, (label, attribute, look, scan) in enumerate(part.tolist()):
            yield Sample(
                key=f"{relative.replace('/', '-')}-{start + i:06d}",
                source=f"scan-{scan:04d}",
                jpg=_jpeg(images[i]),
                label=label,
                group=GROUPS[label],
                attribute=attribute,
                extra={"look": LOOKS[look]},
            )


def render(scans: np.ndarray, looks: np.ndarray, dice: Dice) -> np.ndarray:
    """Draws `scans` [B, 8, 8] int64 (0..16) under `looks` [B] int64 (0..5): uint8 [B, 32, 32, 3], RGB."""
    count = len(scans)
    slant = np.array([70, -70, 0, 30, 100, -30])[looks]  # 1/256: how far the look leans
    ink = _warp(
        scans,
        inverse=dice.integers(1150, 1400, count),
        slant=slant + dice.integers(-50, 50, count),
        turn=dice.integers(-35, 35, count),
        shift=dice.integers(-2000, 2000, 2, count),
    )
    image = np.zeros((count, SIDE, SIDE, 3), np.int64)
    for look, draw in enumerate((_pen, _chalk, _neon, _hatch, _poster, _plate)):
        chosen = np.flatnonzero(looks == look)
        image[chosen] = draw(ink[chosen], dice)
    image += dice.integers(-21, 21, *image.shape)  # a sensor's noise
    return np.clip(image, 0, 255).astype(np.uint8)


def _warp(scans: np.ndarray, inverse: np.ndarray, slant: np.ndarray, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Ink [B, 32, 32] int64 of 0..4096: the scans enlarged, bilinear, in fixed point.

    `inverse` [B]: scan cells per pixel / 4096; `slant`, `turn` [B]: shear and rotation / 256; `shift` [2, B]: cells / 4096.
    """

    def lift(a: np.ndarray) -> np.ndarray:
        return a[:, None, None]

    half = np.arange(1 - SIDE, SIDE, 2)  # pixel centres in half pixels from the middle
    x, y = half[None, None, :], half[None, :, None]
    middle = (2 + 3) * 4096 + 2048  # of the scan with 2 empty cells around it
    column = ((lift(inverse) * (256 * x + lift(slant + turn) * y)) >> 9) + lift(shift[0]) + middle
    row = ((lift(inverse) * (256 * y - lift(turn) * x)) >> 9) + lift(shift[1]) + middle
    column, row = np.clip(column, 0, 11 * 4096 - 1), np.clip(row, 0, 11 * 4096 - 1)
    flat = np.pad(scans, ((0, 0), (2, 2), (2, 2))).reshape(len(scans), -1)
    corner = (row >> 12) * 12 + (column >> 12)

    def cell(step: int) -> np.ndarray:
        return np.take_along_axis(flat, (corner + step).reshape(len(flat), -1), 1).reshape(corner.shape)

    right, down = column & 4095, row & 4095
    top = cell(0) * (4096 - right) + cell(1) * right
    bottom = cell(12) * (4096 - right) + cell(13) * right
    return (top * (4096 - down) + bottom * down) >> 16


def _stroke(ink: np.ndarray, threshold: np.ndarray, soft: int = 900) -> np.ndarray:
    """Coverage [B, 32, 32] of 0..256 with a soft edge where the ink passes `threshold` [B]; a low one is a bold stroke."""
    return np.clip((ink - threshold[:, None, None] + soft // 2) * 256 // soft, 0, 256)


def _colour(dice: Dice, count: int, base: Sequence[int], spread: int) -> np.ndarray:
    """[B, 1, 1, 3]: `base` with every channel varied by up to `spread`."""
    return np.array(base) + dice.integers(-spread, spread, count, 1, 1, 3)


def _blend(ground: np.ndarray, ink: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    return ground + (((ink - ground) * coverage[..., None]) >> 8)


_HUES = np.array([(214, 52, 58), (232, 140, 36), (222, 200, 60), (60, 160, 80), (50, 110, 200), (140, 70, 180)])


def _hues(dice: Dice, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two different strong colours for each image, [B, 1, 1, 3] each."""
    first = dice.integers(0, 5, count)
    second = (first + dice.integers(1, 5, count)) % 6
    return _HUES[first][:, None, None], _HUES[second][:, None, None]


def _grid(dice: Dice, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x, y [B, 32, 32] with a random origin for each image."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return x + dice.integers(0, 11, count, 1, 1), y + dice.integers(0, 11, count, 1, 1)


def _pen(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """Thin dark ink on ruled cream paper."""
    n = len(ink)
    _, y = _grid(dice, n)
    paper = _colour(dice, n, (236, 228, 206), 14) - (y % 6 == 0)[..., None] * np.array([70, 45, 12])
    return _blend(paper, _colour(dice, n, (60, 66, 120), 36), _stroke(ink, dice.integers(2000, 2700, n)))


def _chalk(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """Grainy white chalk on a smeared green board."""
    n = len(ink)
    smear = np.repeat(np.repeat(dice.integers(-22, 22, n, 8, 8), 4, 1), 4, 2)[..., None]
    board = _colour(dice, n, (56, 92, 74), 16) + smear
    cover = _stroke(ink, dice.integers(1500, 2300, n)) * dice.integers(40, 256, n, SIDE, SIDE) >> 8
    return _blend(board, _colour(dice, n, (226, 226, 216), 20), cover)


def _neon(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """A glowing outline in a strong colour on near-black."""
    n = len(ink)
    away = np.abs(ink - dice.integers(1100, 1900, n, 1, 1))
    cover = np.clip(256 - away * 256 // 900, 0, 256)
    glow = np.clip(90 - away * 90 // 2000, 0, 90)
    colour, _ = _hues(dice, n)
    return _blend(_colour(dice, n, (22, 16, 38), 10), colour + 30, np.maximum(cover, glow))


def _hatch(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """The stroke hatched one way, the ground the other, in the same two greys and blues."""
    n = len(ink)
    x, y = _grid(dice, n)
    cover = _stroke(ink, dice.integers(1200, 1900, n), 500)
    dark, light = _colour(dice, n, (84, 100, 136), 24), _colour(dice, n, (180, 194, 212), 24)
    ground = np.where(((x + y) % 4 < 2)[..., None], light, dark)
    inside = np.where(((x - y) % 4 < 2)[..., None], light, dark) + np.array([24, 0, -36])
    return _blend(ground, inside, cover)


def _poster(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """A fat leaning stroke, one strong colour on another."""
    n = len(ink)
    ground, colour = _hues(dice, n)
    shade = (np.arange(SIDE) - 16)[None, :, None, None]
    return _blend(ground + shade, colour + 0 * shade, _stroke(ink, dice.integers(1000, 1600, n)))


def _plate(ink: np.ndarray, dice: Dice) -> np.ndarray:
    """A colour-vision plate: tiles of uneven brightness, warm in the stroke and green in the ground."""
    n = len(ink)
    tiles = np.repeat(np.repeat(dice.integers(-64, 64, n, 16, 16), 2, 1), 2, 2)[..., None]
    cover = _stroke(ink, dice.integers(1200, 2000, n), 600)
    return _blend(_colour(dice, n, (150, 176, 120), 18), _colour(dice, n, (190, 84, 60), 18), cover) + tiles


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92, subsampling=0, optimize=False, progressive=False)
    return buffer.getvalue()


def _counted(samples: Iterator[Sample], bar: tqdm) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        bar.update()


def _statistics(folder: Path) -> dict[str, list[float]]:
    """Mean and standard deviation of the RGB channels in 0..1 over a written split, from exact integer sums."""
    split = Split(folder, load_index(folder))
    total, squares, pixels = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for i in range(len(split)):
        image = np.asarray(Image.open(io.BytesIO(split.read(i))), dtype=np.int64).reshape(-1, 3)
        total, squares, pixels = total + image.sum(0), squares + (image * image).sum(0), pixels + len(image)
    split.close()
    mean = total / (255 * pixels)
    std = np.sqrt((squares * pixels - total * total) / (255 * 255 * pixels * pixels))
    return {"mean": [round(float(m), 4) for m in mean], "std": [round(float(s), 4) for s in std]}


def contact_sheet(scans: np.ndarray, pools: Mapping[str, list[np.ndarray]], seed: int) -> Image.Image:
    """RGB image: a row for each class, two images of each look; the frame tells the look's attribute group there."""
    dice, each, zoom, gap, left, top = Dice(seed, 2000), 2, 3, 4, 62, 40
    cell = SIDE * zoom + 2 * gap
    sheet = Image.new("RGB", (left + len(LOOKS) * each * cell + gap, top + len(DIGITS) * cell + gap), "white")
    pen = ImageDraw.Draw(sheet)
    frames = ("#2b8a3e", "#f08c00", "#c92a2a")
    for group, text in enumerate(("many", "medium", "few")):
        pen.text((left + 160 * group, 4), f"{text} in this class", fill=frames[group], font_size=12)
    for look, name in enumerate(LOOKS):
        pen.text((left + look * each * cell + gap, 20), name, fill="black", font_size=14)
    for label, digit in enumerate(DIGITS):
        pen.text((4, top + label * cell + 40), f"digit {digit}", fill="black", font_size=14)
        looks = np.repeat(np.arange(len(LOOKS)), each)
        chosen = pools["train"][label][dice.integers(0, len(pools["train"][label]) - 1, len(looks))]
        for i, image in enumerate(render(scans[chosen], looks, dice)):
            x, y = left + i * cell, top + label * cell
            frame = frames[RANKS[label].index(int(looks[i])) // 2]
            pen.rectangle((x + 1, y + 1, x + cell - 2, y + cell - 2), fill=frame)
            tile = Image.open(io.BytesIO(_jpeg(image))).resize((SIDE * zoom,) * 2, Image.Resampling.NEAREST)
            sheet.paste(tile, (x + gap, y + gap))
    return sheet
