"""Augmentation: pixels are a function of (seed, epoch, draw); crops, RandAug and decoding are as stated.

Statistical tests use fixed seeds, so they never flicker; 5 sigma is how far a true policy may lie.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
import random
import struct
import subprocess
import sys
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from sharding.images import decoders, randaug, transforms
from sharding.images.decoders import Picture, Pixels, decode, picture_of, whole
from sharding.images.dice import draw_rng
from sharding.images.randaug import LEVELS, POLICIES, apply_operation, apply_policy, draw_pair
from sharding.images.transforms import LONGEST, crop_box, eval_pixels, resized, shrunk, train_pixels
from tests.helpers.paths import PROJECT

OPERATIONS = POLICIES["own"]
ALL_NAMES = [f"{op.name}, {pixels}" for pixels, operations in POLICIES.items() for op in operations]
ALL_OPERATIONS = [op for operations in POLICIES.values() for op in operations]
NEUTRAL_AT_ZERO = {op.name for op in OPERATIONS} - {"AutoContrast", "Equalize", "Invert"}


def picture(width: int = 48, height: int = 40) -> Image.Image:
    """A smooth RGB test image that uses neither 0 nor 255, with a different ramp per channel."""
    x, y = np.arange(width) / width, np.arange(height)[:, None] / height
    channels = [20 + 200 * x + 0 * y, 60 + 150 * y + 0 * x, 30 + 90 * (x + y) * (1 + np.sin(9 * x)) / 2]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def photo(width: int = 48, height: int = 40) -> Picture:
    return picture_of(picture(width, height))


def encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def digest_of_draws(order: list[int]) -> str:
    """One digest of the training pixels of draws 0..n-1, computed in the given order."""
    pixels = {
        draw: train_pixels(
            photo(), draw_rng(3, 5, draw), size=32, crop_scale=(0.08, 1.0), hflip=True, randaug=True
        ).tobytes()
        for draw in order
    }
    return hashlib.sha256(b"".join(pixels[draw] for draw in sorted(pixels))).hexdigest()


def within_5_sigma(hits: int, trials: int, p: float) -> bool:
    return abs(hits - trials * p) <= 5 * math.sqrt(trials * p * (1 - p))


# --- the random stream


def philox_oracle(key: tuple[int, int], counter: list[int]) -> list[int]:
    """One block of Philox 4x64-10, written from Salmon et al., "Parallel random numbers", SC 2011."""
    mask = (1 << 64) - 1
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        low = 0xD2E7470EE14C6C93 * c0
        high = 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (high >> 64) ^ c1 ^ k0, high & mask, (low >> 64) ^ c3 ^ k1, low & mask
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
    return [c0, c1, c2, c3]


@pytest.mark.parametrize("triple", [(0, 0, 0), (7, 2, 12345), (2**32 - 1, 2**32 - 1, 2**63 - 1)])
def test_raw_stream_is_philox_of_the_triple(triple: tuple[int, int, int]) -> None:
    """The words of a draw are Philox 4x64-10 under key (seed|epoch, draw), from block 1 on."""
    seed, epoch, draw = triple
    rng = draw_rng(seed, epoch, draw)
    domain = int.from_bytes(b"augment", "big")
    for block in (1, 2, 3):
        expected = philox_oracle((seed << 32 | epoch, draw), [block, 0, 0, domain])
        assert [rng.word() for _ in range(4)] == expected


RAW_DIGEST = "5f501fa27a18d7a8f41829a15271b27050cee8841e5ade00e4b6eb4d8f5bb61f"


def test_raw_stream_known_answer() -> None:
    """The first 64 words of a draw never change, whatever numpy or we do."""
    rng = draw_rng(seed=1, epoch=2, draw=3)
    words = np.array([rng.word() for _ in range(64)], dtype="<u8").tobytes()
    assert hashlib.sha256(words).hexdigest() == RAW_DIGEST


def test_draws_that_are_used_in_turn_do_not_mix() -> None:
    """Each has the words of a numpy generator of its own, however many it takes and whatever draws, epochs or threads
    come between.
    """
    triples = [(1, 2, 3), (1, 2, 4), (1, 3, 3), (2**32 - 1, 2**32 - 1, 2**63 - 1)]
    counter = np.array([0, 0, 0, int.from_bytes(b"augment", "big")], dtype=np.uint64)
    keys = [np.array([seed << 32 | epoch, draw], dtype=np.uint64) for seed, epoch, draw in triples]
    expected = [np.random.Philox(key=key, counter=counter).random_raw(100).tolist() for key in keys]
    dice = [draw_rng(*triple) for triple in triples]
    found: list[list[int]] = [[] for _ in triples]
    for _ in range(100):
        for words, rng in zip(found, dice, strict=True):
            words.append(rng.word())
    assert found == expected
    with ThreadPoolExecutor(4) as threads:
        again = threads.map(lambda triple: [rng.word() for rng in [draw_rng(*triple)] for _ in range(100)], triples * 9)
    assert list(again) == expected * 9


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)),
        min_size=2,
        max_size=6,
        unique=True,
    )
)
def test_different_triples_give_different_streams(triples: list[tuple[int, int, int]]) -> None:
    """No two triples of the stated ranges share a stream."""
    assert len({draw_rng(*triple).word() for triple in triples}) == len(triples)


def test_neighbouring_triples_differ() -> None:
    """Seed, epoch and draw each count, also where they are small and could cancel out."""
    box = range(8)
    words = {draw_rng(s, e, d).word() for s in box for e in box for d in box}
    assert len(words) == 8**3


@pytest.mark.parametrize("triple", [(-1, 0, 0), (2**32, 0, 0), (0, 2**32, 0), (0, -1, 0), (0, 0, 2**63), (0, 0, -1)])
def test_triples_out_of_range_are_refused(triple: tuple[int, int, int]) -> None:
    """A seed, epoch or draw that would alias another one raises ValueError."""
    with pytest.raises(ValueError, match="outside its range"):
        draw_rng(*triple)


def test_dice_are_fair() -> None:
    """uniform, integer and coin stay in their ranges and have the stated probabilities."""
    rng, n = draw_rng(0, 0, 0), 20_000
    uniforms = np.array([rng.uniform(2.0, 5.0) for _ in range(n)])
    assert uniforms.min() >= 2 and uniforms.max() < 5
    assert abs(uniforms.mean() - 3.5) < 5 * 3 / math.sqrt(12 * n)
    assert abs(uniforms.std() - 3 / math.sqrt(12)) < 0.02
    faces = Counter(rng.integer(6) for _ in range(n))
    assert sorted(faces) == list(range(6))
    assert all(within_5_sigma(hits, n, 1 / 6) for hits in faces.values())
    assert within_5_sigma(sum(rng.coin(0.2) for _ in range(n)), n, 0.2)
    with pytest.raises(ValueError):
        rng.integer(0)


# --- determinism of pixels


def test_pixels_do_not_depend_on_the_order_of_calls() -> None:
    """Draws computed forwards, shuffled and again give the same pixels."""
    order = list(range(60))
    first = digest_of_draws(order)
    random.Random(0).shuffle(order)
    assert digest_of_draws(order) == first
    assert digest_of_draws(order[::-1]) == first


def test_pixels_do_not_depend_on_the_process() -> None:
    """Another process with other hash and numpy/random seeds gives the same pixels."""
    code = (
        "import random, numpy; random.seed(9); numpy.random.seed(9)\n"
        "from tests.sharding.test_augment import digest_of_draws; print(digest_of_draws(list(range(40))))"
    )
    env = os.environ | {"PYTHONHASHSEED": "4321", "PYTHONPATH": str(PROJECT)}
    other = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=PROJECT, check=True, capture_output=True, text=True
    )
    assert other.stdout.strip() == digest_of_draws(list(range(40)))


def test_seed_epoch_and_draw_all_change_the_pixels() -> None:
    """Two epochs, two seeds, two draws of one image give different views."""
    views = {
        train_pixels(photo(), draw_rng(*triple), size=32, crop_scale=(0.08, 1.0), hflip=True, randaug=False).tobytes()
        for triple in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    assert len(views) == 4


# --- random resized crop and flip


@settings(max_examples=400, deadline=None)
@given(
    width=st.integers(1, 600),
    height=st.integers(1, 600),
    draw=st.integers(0, 2**63 - 1),
    ends=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
def test_crop_boxes_are_legal(width: int, height: int, draw: int, ends: tuple[float, float]) -> None:
    """A crop lies inside the image, and its area and aspect lie in their ranges up to rounding.

    The fallback, the largest central box of legal aspect, may exceed the area range.
    """
    low, high = sorted(ends)
    left, top, right, bottom = crop_box(width, height, draw_rng(0, 0, draw), (low, high))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h, area = right - left, bottom - top, width * height
    central = (left, top) == ((width - w) // 2, (height - h) // 2)
    if central and (w == width or h == height):
        return
    slack = 1e-9 * area
    assert (w - 0.5) * (h - 0.5) <= high * area + slack and (w + 0.5) * (h + 0.5) >= low * area - slack
    assert (w - 0.5) / (h + 0.5) <= 4 / 3 + 1e-9 and (w + 0.5) / (h - 0.5) >= 3 / 4 - 1e-9


def test_crops_have_the_stated_distribution() -> None:
    """Area is uniform, log aspect uniform, place uniform (a square large enough to never reject)."""
    n, side = 20_000, 2000
    boxes = np.array([crop_box(side, side, draw_rng(1, 0, k), (0.1, 0.5)) for k in range(n)], float)
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    uniforms = {
        "area": (w * h / side**2 - 0.1) / 0.4,
        "aspect": (np.log(w / h) / math.log(4 / 3) + 1) / 2,
        "left": boxes[:, 0] / (side - w),
        "top": boxes[:, 1] / (side - h),
    }
    # Kolmogorov-Smirnov distance to the uniform; 5 sigma of a two-sided normal is p = 5.7e-7.
    bound = math.sqrt(-math.log(5.7e-7 / 2) / 2 / n) + 1e-3  # 1e-3: whole pixels
    for name, values in uniforms.items():
        values = np.sort(values)
        distance = np.abs(values - np.arange(n) / n).max()
        assert distance < bound, f"{name}: {distance:.4f}"


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 10), (493, 0, 506, 10)),  # 10 high: 13 wide at 4/3
        ((10, 1000), (0, 493, 10, 506)),  # 10 wide: 13 high at 3/4
    ],
)
def test_crop_falls_back_to_the_centre(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """Where no drawn shape fits, the largest central box of a legal aspect ratio is taken."""
    assert crop_box(*size, draw_rng(0, 0, 0), (1.0, 1.0)) == box


def test_crop_tries_ten_times() -> None:
    """Ten shapes, of two words each, are drawn before the fallback."""
    rng, words = draw_rng(0, 0, 0), draw_rng(0, 0, 0)
    crop_box(1000, 10, rng, (1.0, 1.0))
    assert rng.word() == [words.word() for _ in range(21)][-1]


def test_train_pixels_is_crop_then_resize() -> None:
    """The view is the drawn crop alone, resized bilinearly and antialiased; nothing outside leaks in."""
    image, seen = picture(200, 150), 0
    for draw in range(20):
        box = crop_box(*image.size, draw_rng(0, 0, draw), (0.08, 1.0))
        masked = Image.new("RGB", image.size, (255, 0, 0))
        masked.paste(image.crop(box), box[:2])
        views = [
            train_pixels(
                picture_of(im), draw_rng(0, 0, draw), size=24, crop_scale=(0.08, 1.0), hflip=False, randaug=False
            )
            for im in (image, masked)
        ]
        assert np.array_equal(*views)
        expected = image.crop(box).resize((24, 24), Image.Resampling.BILINEAR)
        assert np.abs(views[0].astype(int) - np.asarray(expected)).max() <= 1, "Pillow's, to within a grey level"
        seen += box != (0, 0, *image.size)
    assert seen > 10


def test_resize_is_antialiased() -> None:
    """A 1-pixel checkerboard shrunk by 4 becomes flat grey: every source pixel counts."""
    board = np.indices((128, 128)).sum(0) % 2 * 255
    image = Image.fromarray(np.stack([board] * 3, -1).astype(np.uint8))
    train = train_pixels(
        picture_of(image), draw_rng(0, 0, 0), size=32, crop_scale=(1.0, 1.0), hflip=False, randaug=False
    )
    test = eval_pixels(picture_of(image), size=32, resize=32)
    for pixels in (train, test):
        assert abs(pixels[2:-2, 2:-2].astype(int) - 128).max() <= 12


def test_resize_is_torch_s() -> None:
    """To the bit, for every size of small crops, also of a read-only picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    for height, width in itertools.product(range(1, 33, 3), range(1, 33, 2)):
        crop = pixels[32 - height :, :width]
        plain = torch.tensor(crop.copy()).permute(2, 0, 1)[None]
        for side in (28, 32):
            wanted = F.interpolate(plain, size=(side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
            assert np.array_equal(resized(crop, side, side), wanted.numpy())


def test_flip_is_fair_when_on_and_absent_when_off() -> None:
    """hflip=False never mirrors; hflip=True mirrors half of the draws and changes nothing else."""
    image, n, flips = photo(), 2000, 0
    for draw in range(n):
        off, on = (
            train_pixels(image, draw_rng(0, 0, draw), size=8, crop_scale=(0.5, 1.0), hflip=hflip, randaug=False).astype(
                int
            )
            for hflip in (False, True)
        )
        assert off[:, 0, 0].mean() < off[:, -1, 0].mean()  # red rises from left to right
        flipped = not np.array_equal(off, on)
        assert np.array_equal(off[:, ::-1] if flipped else off, on)
        flips += flipped
    assert within_5_sigma(flips, n, 0.5)
    after = []
    for hflip in (False, True):  # RandAug, which follows, must meet the same random numbers
        rng = draw_rng(0, 0, 0)
        train_pixels(image, rng, size=8, crop_scale=(0.5, 1.0), hflip=hflip, randaug=False)
        after.append(rng.word())
    assert after[0] == after[1]


def test_randaug_comes_last_and_leaves_crop_and_flip_alone() -> None:
    """With RandAug a view is the policy applied to the very view without it (the paper's order)."""
    image = photo()
    for draw in range(100):
        plain, full = (
            train_pixels(image, draw_rng(0, 0, draw), size=32, crop_scale=(0.08, 1.0), hflip=True, randaug=on)
            for on in (False, True)
        )
        rng = draw_rng(0, 0, draw)
        crop_box(*image.size, rng, (0.08, 1.0))
        rng.coin()
        assert np.array_equal(full, np.asarray(apply_policy(Image.fromarray(plain), rng)))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_pixels_are_uint8_rgb_whatever_comes_in(mode: str) -> None:
    """Every mode becomes uint8 [size, size, 3], in training and test views."""
    image = picture_of(picture().convert("L").convert(mode))
    train = train_pixels(image, draw_rng(0, 0, 0), size=16, crop_scale=(0.5, 1.0), hflip=True, randaug=True)
    for pixels in (train, eval_pixels(image, size=16, resize=20)):
        assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1)])
def test_impossible_crop_scales_are_refused(scale: tuple[float, float]) -> None:
    """A crop_scale outside 0 < low <= high <= 1 raises ValueError."""
    with pytest.raises(ValueError, match="crop_scale"):
        train_pixels(photo(), draw_rng(0, 0, 0), size=8, crop_scale=scale, hflip=False, randaug=False)


# --- test views


def test_test_pixels_is_a_plain_central_crop_when_nothing_is_resized() -> None:
    """Shorter side == resize: the result is the central slice of the input, no value changed."""
    rows = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    assert np.array_equal(eval_pixels(picture_of(Image.fromarray(rows)), size=32, resize=40), rows[4:36, 10:42])
    square = rows[:32, :32]
    assert np.array_equal(eval_pixels(picture_of(Image.fromarray(square)), size=32, resize=32), square)


@pytest.mark.parametrize(("size", "resized"), [((100, 60), (53, 32)), ((60, 100), (32, 53)), ((16, 16), (32, 32))])
def test_test_pixels_resizes_the_shorter_side(size: tuple[int, int], resized: tuple[int, int]) -> None:
    """The shorter side becomes ``resize``, the longer keeps the aspect (rounded down), then the centre."""
    image = picture(*size)
    left, top = round((resized[0] - 28) / 2), round((resized[1] - 28) / 2)
    whole = np.asarray(image.resize(resized, Image.Resampling.BILINEAR))
    view = eval_pixels(picture_of(image), size=28, resize=32)
    assert np.abs(view.astype(int) - whole[top : top + 28, left : left + 28]).max() <= 1


def cut_from_the_whole(picture: Picture, size: int, resize: int) -> np.ndarray:
    """The test view as it is of a picture that is resized as a whole."""
    short = min(picture.size)
    width, height = (resize * side // short for side in picture.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return resized(whole(picture), width, height)[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [(500, 375), (37, 211), (28, 28), (640, 10), (3, 192), (33, 32)])
def test_test_pixels_of_ordinary_pictures_are_cut_from_the_whole_picture(size: tuple[int, int]) -> None:
    """Up to LONGEST times as long as wide they are, to the bit, what resizing the whole picture gives."""
    seen = Pixels(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    for side, resize in ((28, 32), (112, 128), (256, 260)):
        assert np.array_equal(eval_pixels(seen, size=side, resize=resize), cut_from_the_whole(seen, side, resize))


@pytest.mark.parametrize("size", [(65500, 1), (1, 65500), (20000, 10), (10, 20000)])
def test_views_of_extreme_pictures_take_no_more_memory_than_their_size_allows(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test view makes at most LONGEST squares of `resize` pixels, where the whole picture would take gigabytes; the
    training view makes no more than itself, and a picture made small no more than it was."""
    made: list[int] = []

    def noted(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
        made.append(width * height)
        return resized(pixels, width, height)

    monkeypatch.setattr(transforms, "resized", noted)
    seen = Pixels(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    assert eval_pixels(seen, size=112, resize=128).shape == (112, 112, 3)
    assert made.pop() <= (LONGEST + 1) * 128**2
    train_pixels(seen, draw_rng(0, 0, 0), size=112, crop_scale=(0.08, 1.0), hflip=True, randaug=False)
    assert made.pop() == 112**2
    assert math.prod(shrunk(seen, 8).size) <= math.prod(size)


def test_test_pixels_of_a_very_long_picture_are_its_middle() -> None:
    """What is cut out before the resizing has its centre where the whole picture has it."""
    for size in ((2000, 10), (65500, 300)):
        x = np.linspace(0, 40 * np.pi, size[0])[None, :, None]
        seen = Pixels(np.broadcast_to(127 + 120 * np.sin(x), (size[1], size[0], 3)).astype(np.uint8))
        difference = eval_pixels(seen, size=28, resize=32).astype(int) - cut_from_the_whole(seen, 28, 32)
        assert np.abs(difference).max() <= 1


def test_test_pixels_refuses_a_crop_beyond_the_image() -> None:
    """resize < size raises instead of padding with black."""
    with pytest.raises(ValueError, match="smaller than the crop"):
        eval_pixels(photo(), size=32, resize=31)


# --- RandAug


@pytest.mark.parametrize("op", ALL_OPERATIONS, ids=ALL_NAMES)
@pytest.mark.parametrize("size", [(32, 32), (112, 112), (17, 9)])
def test_operations_keep_size_and_mode(op: randaug.Operation, size: tuple[int, int]) -> None:
    """Every operation at every level maps RGB to RGB of the same size and leaves its input as it was."""
    image = picture(*size)
    before = image.tobytes()
    for level in LEVELS:
        result = apply_operation(image, op, level, draw_rng(0, 0, level))
        assert (result.mode, result.size, image.tobytes()) == ("RGB", size, before)


@pytest.mark.parametrize("op", ALL_OPERATIONS, ids=ALL_NAMES)
def test_operations_are_neutral_at_level_0_and_bite_at_level_9(op: randaug.Operation) -> None:
    """Level 0 is the image itself for all operations with a strength; level 9 changes it, both signs."""
    image = picture(32, 32)
    for draw in range(8):
        if op.name in NEUTRAL_AT_ZERO:
            assert apply_operation(image, op, 0, draw_rng(0, 0, draw)).tobytes() == image.tobytes()
        assert apply_operation(image, op, 9, draw_rng(0, 0, draw)).tobytes() != image.tobytes()


def test_ranges_are_those_of_the_policy() -> None:
    """Names, ends, signs and the linear level rule, written out by hand from the published ranges."""
    ends = {op.name: (op.magnitude(0), op.magnitude(9), op.mirrored) for op in OPERATIONS}
    none = (0, 0, False)
    assert ends == {
        "ShearX": (0, 0.3, True),
        "ShearY": (0, 0.3, True),
        "TranslateX": (0, 150 / 331, True),
        "TranslateY": (0, 150 / 331, True),
        "Rotate": (0, 30, False),
        "Color": (0, 0.9, True),
        "Contrast": (0, 0.9, True),
        "Brightness": (0, 0.9, True),
        "Sharpness": (0, 0.9, True),
        "Posterize": (8, 4, False),
        "Solarize": (256, 0, False),
        "Cutout": (0, 20, False),
        "AutoContrast": none,
        "Equalize": none,
        "Invert": none,
    }
    assert list(LEVELS) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    solarize = next(op for op in OPERATIONS if op.name == "Solarize")
    assert solarize.magnitude(3) == pytest.approx(256 * 2 / 3)


def results(name: str, image: Image.Image, level: int, n: int = 40, pixels: str = "own") -> list[np.ndarray]:
    """The distinct results of an operation over n draws, most frequent first."""
    op = next(op for op in POLICIES[pixels] if op.name == name)
    found = Counter(apply_operation(image, op, level, draw_rng(0, 1, k)).tobytes() for k in range(n))
    shape = (image.height, image.width, 3)
    return [np.frombuffer(raw, np.uint8).reshape(shape) for raw, _ in found.most_common()]


def same_set(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return {a.tobytes() for a in found} == {np.asarray(a, np.uint8).tobytes() for a in expected}


def test_pixel_operations_against_hand_made_arrays() -> None:
    """Invert, solarize, posterize, brightness and translate do what the table says, sign by sign."""
    image = picture(32, 32)
    x = np.asarray(image).astype(int)
    assert same_set(results("Invert", image, 4), [255 - x])
    assert same_set(results("Solarize", image, 6), [np.where(x >= 256 / 3, 255 - x, x)])
    assert same_set(results("Posterize", image, 9), [x & 0xF0])
    assert same_set(results("Posterize", image, 1), [x])
    dark, bright = sorted(results("Brightness", image, 9), key=np.mean)
    assert np.abs(dark - 0.1 * x).max() <= 1 and np.abs(bright - np.minimum(1.9 * x, 255)).max() <= 1
    shift = 6  # level 4 of 150/331 of 32 px is 6.45 px
    grey = np.full_like(x, 128)
    left, right = grey.copy(), grey.copy()
    left[:, :-shift], right[:, shift:] = x[:, shift:], x[:, :-shift]
    assert same_set(results("TranslateX", image, 4), [left, right])
    up, down = grey.copy(), grey.copy()
    up[:-shift], down[shift:] = x[shift:], x[:-shift]
    assert same_set(results("TranslateY", image, 4), [up, down])


def test_rotation_is_one_sided() -> None:
    """Rotate at level 9 is 30 degrees counter-clockwise, never the other way."""
    image = picture(32, 32)
    expected = image.rotate(30, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))
    assert same_set(results("Rotate", image, 9), [np.asarray(expected)])


def test_shear_moves_rows_by_a_tenth_of_0_3_per_level() -> None:
    """ShearX at level 9 moves the edge of row y by 0.3 y, to either side, and leaves the top row."""
    step = np.zeros((100, 100, 3), np.uint8)
    step[:, 50:] = 255
    edges = sorted(
        (a[40, :, 0] == 255).argmax() if (a[40, :, 0] == 255).any() else -1
        for a in results("ShearX", Image.fromarray(step), 9)
    )
    assert len(edges) == 2 and abs(edges[0] - 38) <= 1 and abs(edges[1] - 62) <= 1


def test_cutout_hides_a_grey_square_of_20_pixels() -> None:
    """At level 9 a square of 20 px (less where the edge clips it) turns grey, anywhere, at 32 px too."""
    image = Image.new("RGB", (32, 32), (255, 255, 255))
    sides, tops = Counter(), set()
    for result in results("Cutout", image, 9, n=600):
        hidden = (result == 128).all(-1)
        assert ((result == 255).all(-1) | hidden).all()
        rows, columns = hidden.any(1).nonzero()[0], hidden.any(0).nonzero()[0]
        assert hidden.sum() == len(rows) * len(columns)  # a filled rectangle
        assert 10 <= len(rows) <= 20 and 10 <= len(columns) <= 20
        sides[len(rows), len(columns)] += 1
        tops.add(int(rows[0]))
    assert sides[20, 20] > 0 and tops == set(range(22))


OWN_DIGESTS = (
    "1110e321abfe4ce1e5eeae303d00a8cb993eab58dead6b5635931aeb916eac5b",
    "47649aa169393ec5ab6a3237f107d36136b571cf2f74f411323900afc6d9d39c",
)


def test_own_pixels_are_those_of_older_runs() -> None:
    """Every operation at every level, and 300 draws of the policy, bit for bit: a run that began with them goes on."""
    image = picture(32, 32)
    one_by_one = b"".join(
        apply_operation(image, op, level, draw_rng(0, 0, draw)).tobytes()
        for op in OPERATIONS
        for level in LEVELS
        for draw in range(4)
    )
    drawn = b"".join(apply_policy(image, draw_rng(3, 5, draw)).tobytes() for draw in range(300))
    assert tuple(hashlib.sha256(raw).hexdigest() for raw in (one_by_one, drawn)) == OWN_DIGESTS


def test_package_differs_in_shear_rotation_and_cutout_alone() -> None:
    """Ranges, signs and all other pixels are the same, translations too, which take the nearest of fractions."""
    image, differ = picture(32, 32), set()
    for own, package in zip(OPERATIONS, POLICIES["package"], strict=True):
        assert own[:-1] == package[:-1]
        for level in LEVELS:
            for draw in range(4):
                mine, theirs = (apply_operation(image, op, level, draw_rng(0, 0, draw)) for op in (own, package))
                if mine.tobytes() != theirs.tobytes():
                    differ.add(own.name)
    assert differ == {"ShearX", "ShearY", "Rotate", "Cutout"}


def test_package_pairs_are_those_of_own() -> None:
    """A draw applies the same operations at the same levels, whose pixels alone differ."""
    for draw in range(50):
        own, package = (
            [(c.operation.name, c.level, c.applied) for c in draw_pair(draw_rng(0, 0, draw), POLICIES[pixels])]
            for pixels in ("own", "package")
        )
        assert own == package


@pytest.mark.parametrize(
    ("level", "side"), [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12), (7, 16), (8, 18), (9, 20)]
)
def test_package_cutout_has_an_even_side(level: int, side: int) -> None:
    """The square of colour (125, 122, 113) has these sides, half on either side of its place, clipped at the edge."""
    image = Image.new("RGB", (32, 32), (255, 255, 255))
    for draw in range(20):
        rng = draw_rng(0, 1, draw)
        x, y = rng.integer(32), rng.integer(32)
        expected = np.full((32, 32, 3), 255)
        expected[max(0, y - side // 2) : y + side // 2, max(0, x - side // 2) : x + side // 2] = (125, 122, 113)
        op = next(op for op in POLICIES["package"] if op.name == "Cutout")
        assert np.array_equal(np.asarray(apply_operation(image, op, level, draw_rng(0, 1, draw))), expected)


def test_package_rotation_takes_the_nearest_pixel() -> None:
    """At level 9 each pixel is the one that lies 30 degrees clockwise about the centre, or grey; none is blended."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    (found,) = results("Rotate", image, 9, pixels="package")
    y, x = np.indices((32, 32)) - 15.5
    sine, cosine = math.sin(math.pi / 6), math.cos(math.pi / 6)
    from_x, from_y = cosine * x - sine * y + 16, sine * x + cosine * y + 16
    clear = (np.abs(from_x - from_x.round()) > 1e-3) & (np.abs(from_y - from_y.round()) > 1e-3)  # of two pixels' border
    inside = (from_x > 0) & (from_x < 32) & (from_y > 0) & (from_y < 32)
    expected = np.full((32, 32, 3), 128)
    expected[inside] = np.asarray(image)[from_y[inside].astype(int), from_x[inside].astype(int)]
    assert clear.mean() > 0.95 and np.array_equal(found[clear], expected[clear])


def test_package_shear_is_bicubic() -> None:
    """ShearX at level 9 reads row y at x +- 0.3 (y + 1/2) by the cubic through four pixels that has slope
    (next - last) at each: p(d) = b + d (c - a) + d^2 (2 (a - b) + c - e) + d^3 (b - a - c + e) of a, b, c, e."""
    row = np.random.default_rng(1).integers(60, 190, 64)
    image = Image.fromarray(np.repeat(np.tile(row.astype(np.uint8), (20, 1))[..., None], 3, axis=2))
    x, y = np.arange(20, 44), 12
    expected = []
    for sign in (1, -1):
        place = x + sign * 0.3 * (y + 0.5)
        first = np.floor(place).astype(int)
        d = place - first
        a, b, c, e = (row[first + k].astype(float) for k in (-1, 0, 1, 2))
        expected.append(b + d * (c - a) + d**2 * (2 * (a - b) + c - e) + d**3 * (b - a - c + e))
    found = results("ShearX", image, 9, pixels="package")
    assert len(found) == 2
    for wanted in expected:
        assert min(np.abs(shear[y, x, 0] - wanted.clip(0, 255)).max() for shear in found) <= 1


def test_policy_frequencies() -> None:
    """Pairs are uniform: ops 1/15, levels 1/9, applied 1/2, the halves independent (20,000 draws)."""
    n = 20_000
    pairs = [draw_pair(draw_rng(0, 0, k)) for k in range(n)]
    for half in (0, 1):
        names = Counter(pair[half].operation.name for pair in pairs)
        levels = Counter(pair[half].level for pair in pairs)
        assert len(names) == 15 and sorted(levels) == list(range(1, 10))
        assert all(within_5_sigma(hits, n, 1 / 15) for hits in names.values())
        assert all(within_5_sigma(hits, n, 1 / 9) for hits in levels.values())
        assert within_5_sigma(sum(pair[half].applied for pair in pairs), n, 1 / 2)
    ordered = Counter((a.operation.name, b.operation.name) for a, b in pairs)
    assert len(ordered) == 15**2 and all(within_5_sigma(hits, n, 1 / 15**2) for hits in ordered.values())
    assert within_5_sigma(sum(a.applied and b.applied for a, b in pairs), n, 1 / 4)
    assert within_5_sigma(sum(a.level == b.level for a, b in pairs), n, 1 / 9)


def test_policy_applies_what_was_drawn_in_order() -> None:
    """apply_policy equals the applied halves of draw_pair, first then second; none applied: unchanged."""
    image, kinds = picture(32, 32), Counter()
    for draw in range(200):
        rng = draw_rng(0, 2, draw)
        expected, pair = image, draw_pair(rng)
        for choice in pair:
            if choice.applied:
                expected = apply_operation(expected, choice.operation, choice.level, rng)
        kinds[sum(choice.applied for choice in pair)] += 1
        assert apply_policy(image, draw_rng(0, 2, draw)).tobytes() == expected.tobytes()
        assert any(choice.applied for choice in pair) or expected is image
    assert set(kinds) == {0, 1, 2}


# --- decoding


def test_decode_returns_the_image_as_rgb() -> None:
    """PNG decodes to its exact pixels, JPEG closely; grey and transparent files become RGB."""
    image = picture()
    assert decode(encoded(image, "PNG")).tobytes() == image.tobytes()
    jpeg = np.asarray(decode(encoded(image, "JPEG"))).astype(int)
    assert np.abs(jpeg - np.asarray(image)).mean() < 4
    for mode in ("L", "RGBA", "P", "1"):
        assert decode(encoded(image.convert(mode), "PNG")).mode == "RGB"
    for mode in ("L", "CMYK"):
        assert decode(encoded(image.convert(mode), "JPEG")).mode == "RGB"


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "WEBP"])
def test_decode_refuses_other_formats(form: str) -> None:
    """Only JPEG and PNG are opened, whatever else Pillow could read."""
    with pytest.raises(ValueError, match="not a whole JPEG or PNG"):
        decode(encoded(picture(), form))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_decode_refuses_truncated_files(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file cut anywhere before its last pixel is refused, even where a library has switched that off."""
    data = encoded(picture(), form)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for length in [*range(0, len(data) - 40, 37), len(data) - 40]:
        with pytest.raises(ValueError, match=rf"not a whole JPEG or PNG image \({length} bytes\): "):
            decode(data[:length])


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels that never come."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_001, 10_000, 60_000])
def test_decode_refuses_bombs_before_decoding(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many pixels are refused from the header alone, under and over Pillow's own limits."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded a bomb"))
    with pytest.raises(ValueError, match="exceeds"):
        decode(bomb(side, side))


def test_decode_limit_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of exactly the limit passes, one more row does not."""
    monkeypatch.setattr(decoders, "MAX_PIXELS", 48 * 40)
    assert decode(encoded(picture(48, 40), "PNG")).size == (48, 40)
    with pytest.raises(ValueError, match="48x41 pixels exceeds the limit"):
        decode(encoded(picture(48, 41), "PNG"))


@settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from(["JPEG", "PNG"]),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
)
@pytest.mark.filterwarnings("ignore")
def test_decode_of_damaged_bytes_is_an_image_or_a_value_error(form: str, edits: list[tuple[int, int]]) -> None:
    """Whatever bytes are flipped, the outcome is an RGB image or ValueError, nothing else."""
    data = bytearray(encoded(picture(), form))
    for place, value in edits:
        data[place % len(data)] = value
    try:
        assert decode(bytes(data)).mode == "RGB"
    except ValueError as error:
        assert "\n" not in str(error)
