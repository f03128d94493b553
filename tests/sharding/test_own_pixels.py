"""A small split's images, kept by the process that reads them, change no pixel, are decoded once and are bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ifl.setup import views
from recipes.resolve import resolve
from sharding.cache import own_pixels
from sharding.cache.decoded_images import PixelCache
from sharding.cache.own_pixels import OwnPixels
from sharding.format.dataset import Split
from sharding.images.decoders import available
from sharding.open import open_dataset
from sharding.plan.ranks import rank_draws
from sharding.reader import Batch, EvalView, MicroBatches, Reader, TrainView, evaluation_draws
from tests.helpers.nodes import assert_equal
from tests.helpers.plans import micro_batches, plan_epoch

VIEWS = {
    "training": TrainView(24, (0.3, 1.0), hflip=True, randaug=True),
    "made small": TrainView(24, (0.3, 1.0), hflip=True, short_side=20),
    "not resized": TrainView(32, hflip=True),
    "test": EvalView(24, 28),
}


@pytest.fixture(scope="module")
def split(tiny_root: Path) -> Split:
    return open_dataset(tiny_root, "digits_glt").split("glt", "train")


def epochs(crops: MicroBatches, number: int = 2) -> list[Batch]:
    """All batches of some epochs, in order; training's, or the evaluation again and again."""
    reader, size, rows = Reader(crops, 0), len(crops.split), micro_batches(24, 6, 0, 1)
    if not isinstance(crops.view, TrainView):
        return [batch for _ in range(number) for batch in reader.read(evaluation_draws(size, 0, 1, 50))]
    plans = [plan_epoch([None], size, batch=24, group=6, seed=1, epoch=epoch) for epoch in range(number)]
    return [batch for plan in plans for batch in reader.read(rank_draws(plan, rows, 1))]


@pytest.mark.parametrize("decoder", available())
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_batches_are_those_without_it(
    split: Split, monkeypatch: pytest.MonkeyPatch, decoder: str, view: TrainView | EvalView
) -> None:
    """Bit for bit, in the epoch that fills it and in those after it, which read and decode nothing."""
    plain = epochs(MicroBatches(split, view, decoder=decoder))
    crops = MicroBatches(split, view, decoder=decoder, cache=OwnPixels(split))
    assert_equal(epochs(crops), plain)
    monkeypatch.setattr(Split, "read", lambda self, i: pytest.fail(f"sample {i} was read again"))
    assert_equal(epochs(crops), plain)


def test_what_is_kept_cannot_be_changed(split: Split) -> None:
    """It is a copy, and read-only: no later stage can write into another epoch's pixels."""
    cache, picture = OwnPixels(split), np.zeros((9, 9, 3), np.uint8)
    cache.put(3, picture[2:5])
    picture[:] = 1
    kept = cache.get(3)
    assert kept.shape == (3, 9, 3) and not kept.any() and kept.base is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1


def test_it_keeps_within_its_bytes(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many bytes of pixels as are said for each byte of the files; the rest is decoded each time, and the
    batches are the same.
    """
    plain = epochs(MicroBatches(split, VIEWS["training"]))
    monkeypatch.setattr(own_pixels, "PER_FILE_BYTE", 1)
    cache = OwnPixels(split)
    assert_equal(epochs(MicroBatches(split, VIEWS["training"], cache=cache)), plain)
    kept = [found for sample in range(len(split)) if (found := cache.get(sample)) is not None]
    most = int(split.index.size.sum())
    assert not cache.takes_more and most - kept[0].nbytes < sum(pixels.nbytes for pixels in kept) <= most


def test_whose_images_are_kept(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of small splits, by a rank that reads by itself; workers would each have them once more, and a node's cache
    is another one.
    """

    def kept(*words: str, splits: int = 2) -> list[type]:
        recipe = resolve(["recipe=glt_baseline", "data=digits_glt", *words])
        found = views(recipe, "pillow", {name: split for name in ("train", "val", "test_cbl")[:splits]})
        caches = [crops.cache for crops in found.values()]
        assert len({id(cache) for cache in caches if cache is not None}) in (0, splits), "each split has its own"
        return [type(cache) for cache in caches]

    none = type(None)
    assert kept() == [OwnPixels] * 2
    assert kept("data.workers=2") == [none] * 2
    assert kept("data.cache=decoded", f"data.cache_folder={tmp_path}") == [PixelCache] * 2
    monkeypatch.setattr(own_pixels, "SMALL", 2 * int(split.index.size.sum()))
    assert kept() == [OwnPixels] * 2 and kept(splits=3) == [none] * 3, "all splits of a process count together"
