"""Runs with `data.decoder=nvjpeg`, on the CPU: Pillow stands in for the one call that needs a GPU."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from recipes.common.errors import UserError
from recipes.resolve import resolve
from tests.helpers import mini
from tests.helpers.ranks import started
from tests.helpers.stand_in_nvjpeg import stand_in

WORDS = ("recipe=glt_randaug_ifl", "schedule.epochs=2", "ifl.milestones=[1]", "ifl.alpha=[0.001]")
VIEWS = ("augment.crop_scale=[0.3,1]", "augment.hflip=true")


def trained(folder: str, stop_at: int | None = None) -> bool | str:
    """As `mini.trained`, in a rank; what nvJPEG would decode, Pillow does."""
    with stand_in():
        return mini.trained(folder, stop_at)


def test_a_run_on_device_images_is_the_run_on_the_hosts_to_the_bit(mini_root: Path, tmp_path: Path) -> None:
    """With RandAug and IFL, stopped in the midst of an epoch and gone on: checkpoint and predictions are those of a run
    whose images the host makes, given the same decoded pixels; by workers as well as without. The name is another, for
    on a GPU the pixels are."""
    host = mini.recipe_of(mini_root, tmp_path, *WORDS, *VIEWS, "data.decoder=pillow")
    device = mini.recipe_of(mini_root, tmp_path, *WORDS, *VIEWS, "data.decoder=nvjpeg", "data.workers=1")
    assert len({host.hash8, device.hash8, mini.recipe_of(mini_root, tmp_path, *WORDS, *VIEWS).hash8}) == 3
    assert started(1).run(trained, str(host.run_folder)) == [True]
    assert started(1).run(trained, str(device.run_folder), 3) == [False]
    assert started(1).run(trained, str(device.run_folder)) == [True]
    assert json.loads((device.run_folder / "meta.json").read_text())["decoder"] == "nvjpeg"
    assert mini.same_bits(mini.final(host.run_folder), mini.final(device.run_folder)) == []


def test_without_a_gpu_it_is_refused_in_a_sentence(mini_root: Path, tmp_path: Path) -> None:
    """With the rank, the reason, and what there is."""
    recipe = mini.recipe_of(mini_root, tmp_path, "data.decoder=nvjpeg")
    sentence = (
        r"DataError: data.decoder=nvjpeg is asked for \(it decodes on a GPU, and this run has none\), and rank 0 of 1 "
        "lacks it; all ranks have .*pillow"
    )
    (said,) = started(1).run(mini.trained, str(recipe.run_folder))
    assert re.fullmatch(sentence, said), said


@pytest.mark.parametrize("other", ["data.cache=decoded", "data.cache_short_side=160", "data.features=once"])
def test_what_does_not_go_together_is_refused(other: str) -> None:
    """In a sentence that names both keys."""
    with pytest.raises(UserError, match=rf"data.decoder=nvjpeg does not go with {other.split('=')[0]}"):
        resolve(["recipe=glt_baseline", "data=imagenet_glt", "data.decoder=nvjpeg", other])
