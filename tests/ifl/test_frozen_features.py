"""Runs on features that were computed once: the same as on images, on any number of ranks, and shared by runs."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.schema import Recipe
from sharding.features.store import FeatureArray
from tests.helpers import mini
from tests.helpers.ranks import started
from tests.helpers.tuned import WORDS, last_weights, network_of, run, write_models

HEAD = (*WORDS, "model.name=tiny_vit", "model.train=head", "optim.lr=0.5", "data.workers=0")
ONCE = (*HEAD, "data.features=once")
IFL = ("ifl.environments=2", "ifl.milestones=[0]", "ifl.alpha=[0.01]", "preset=corrected")


@pytest.fixture(autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of GLT_PATH with tiny networks of timm."""
    folder = write_models(tmp_path_factory.mktemp("own"))
    monkeypatch.setenv("GLT_PATH", str(folder))
    return folder


@pytest.fixture
def root(mini_root: Path, tmp_path: Path) -> Path:
    """A data root whose data set is the mini one's, with a place of its own for features."""
    (tmp_path / "data" / "digits_glt").mkdir(parents=True)
    for path in (mini_root / "digits_glt").iterdir():
        (tmp_path / "data" / "digits_glt" / path.name).symlink_to(path)
    return tmp_path / "data"


def arrays(root: Path) -> dict[str, bytes]:
    """Return the files of features by name; all have one key."""
    (folder,) = (root / "digits_glt" / "features").iterdir()
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def train(root: Path, runs: Path, *words: str, ranks: int = 2, stop_at: int | None = None) -> Recipe:
    recipe = mini.recipe_of(root, runs, *words)
    if stop_at:
        assert run(recipe, ranks, stop_at) is False
    assert run(recipe, ranks) is True
    return recipe


def losses(recipe: Recipe) -> list[float]:
    return [line["loss"] for line in mini.lines(recipe.run_folder, "train")]


def test_a_run_on_features_is_the_run_on_images(root: Path, tmp_path: Path) -> None:
    """With IFL: the same batches, so the same losses, head and predictions within the rounding of a forward pass in
    other batches; the features do not depend on the number of ranks to the bit, a resume has the same bits, and the
    exported weights are those of the whole network."""
    live = train(root, tmp_path / "live", *HEAD, *IFL)
    assert not (root / "digits_glt" / "features").exists()
    once = train(root, tmp_path / "once", *ONCE, *IFL)
    two = arrays(root)
    assert sorted(name.partition("-")[0] for name in two) == ["test_cbl", "test_gbl", "test_glt", "train", "val"]
    np.testing.assert_allclose(losses(once), losses(live), rtol=1e-5)
    weights = last_weights(once)
    assert weights.keys() == last_weights(live).keys()
    for name, value in last_weights(live).items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for name in ("val", "test_gbl"):
        ours, theirs = (np.load(recipe.run_folder / "preds" / "last" / f"{name}.npz") for recipe in (once, live))
        np.testing.assert_allclose(ours["confidence"], theirs["confidence"], rtol=1e-4)

    for path in (root / "digits_glt" / "features").glob("*/*.npy"):
        path.unlink()
    one = train(root, tmp_path / "one", *ONCE, *IFL, ranks=1)
    assert arrays(root) == two
    np.testing.assert_allclose(losses(one), losses(once), rtol=1e-5)
    broken = train(root, tmp_path / "broken", *ONCE, *IFL, stop_at=3)
    assert mini.same_bits(mini.final(broken.run_folder), mini.final(once.run_folder)) == []


def test_damaged_features_are_computed_again(root: Path, tmp_path: Path) -> None:
    """An array with a flipped bit is noticed at the next start and made anew, with the same bits; whole ones are read
    as they are. The folder says what its features depend on."""
    train(root, tmp_path / "first", *ONCE, ranks=1)
    (folder,) = (root / "digits_glt" / "features").iterdir()
    before, times = arrays(root), {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    about = json.loads((folder / "about.json").read_text())
    assert about["model"]["name"] == "tiny_vit" and about["device"] == "cpu" and len(about["weights"]) == 64
    (damaged,) = folder.glob("val-*.npy")
    data = bytearray(damaged.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    train(root, tmp_path / "second", *ONCE, ranks=1)
    assert arrays(root) == before
    now = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name in now if now[name] != times[name]} == {damaged.name}


def test_parts_of_a_run_that_was_killed_are_used(root: Path, tmp_path: Path) -> None:
    """What lies there of an array is not computed again: a part with other values ends in it."""
    train(root, tmp_path / "first", *ONCE, ranks=1)
    (path,) = (root / "digits_glt" / "features").glob("*/train-*.npy")
    features_ND = np.load(path)
    array = FeatureArray(path, *features_ND.shape)
    assert array.parts == 1
    path.unlink()
    array.put_part(0, features_ND + 1)
    train(root, tmp_path / "second", *ONCE, ranks=1)
    assert np.array_equal(np.load(path), features_ND + 1) and not path.with_suffix(".parts").exists()


@pytest.mark.full
def test_two_runs_at_once_harm_each_other_nothing(root: Path, tmp_path: Path) -> None:
    """Runs of one and of two ranks that begin in the same moment on a data set without features both end, and leave
    the arrays that one alone makes."""
    train(root, tmp_path / "alone", *ONCE)
    alone = arrays(root)
    shutil.rmtree(root / "digits_glt" / "features")
    recipes = [mini.recipe_of(root, tmp_path / str(ranks), *ONCE) for ranks in (1, 2)]
    started(1), started(2)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(run, recipes, (1, 2))) == [True, True]
    assert arrays(root) == alone


@pytest.mark.full
def test_other_weights_or_pixels_are_other_features(root: Path, tmp_path: Path) -> None:
    """Another seed of a network that is drawn, mean or std is another key; another crop is another array under the
    same key; another method, schedule, or number of ranks is the same features."""

    def keys(*words: str) -> dict[str, set[str]]:
        train(root, tmp_path / str(len(list(tmp_path.iterdir()))), *ONCE, *words, ranks=1)
        folders = (root / "digits_glt" / "features").iterdir()
        return {folder.name: {path.name for path in folder.glob("*.npy")} for folder in folders}

    first = keys()
    assert keys("method.name=balanced_softmax", "schedule.epochs=1", *IFL) == first
    resized = keys("data.image_size=32", "data.test_resize=40")
    assert resized.keys() == first.keys() and len(*resized.values()) == 2 * len(*first.values())
    assert len(keys("seed=1")) == 2 and len(keys("data.mean=[0.1,0.1,0.1]")) == 3


@pytest.mark.full
def test_views_are_functions_of_view_and_sample(root: Path, tmp_path: Path) -> None:
    """Augmented views differ from each other, are the same for runs of all ranks, and are what the backbone makes of
    the training crop of that view."""
    words = (*ONCE, "data.feature_views=2", "augment.crop_scale=[0.3,1]", "augment.randaug=true")
    recipe = train(root, tmp_path / "one", *words, ranks=1)
    found = arrays(root)
    views = sorted(name for name in found if name.startswith("train-"))
    assert [name[-6:-4] for name in views] == ["00", "01"]
    (folder,) = (root / "digits_glt" / "features").iterdir()
    first, second = (np.load(folder / name) for name in views)
    assert (np.abs(first - second).max(axis=1) > 1e-4).mean() > 0.9
    crops = _train_crops(recipe, root)
    with torch.no_grad():
        wanted = network_of(recipe).eval().features(crops).numpy()
    np.testing.assert_allclose(second, wanted, rtol=1e-4, atol=1e-5)
    for path in folder.glob("*.npy"):
        path.unlink()
    train(root, tmp_path / "two", *words, ranks=2)
    assert arrays(root) == found


def _train_crops(recipe: Recipe, root: Path) -> torch.Tensor:
    """Return the crops of view 1: those of epoch 1 of seed 0, by sample in the place of the draw."""
    from sharding.open import open_dataset
    from sharding.plan.ranks import Draws
    from sharding.reader import MicroBatches, TrainView

    split = open_dataset(root, "digits_glt").split("glt", "train")
    ids = np.arange(len(split))
    options: dict[str, Any] = {"hflip": recipe.augment.hflip, "randaug": True}
    view = TrainView(recipe.data.image_size, recipe.augment.crop_scale, **options)
    decoder = json.loads((recipe.run_folder / "meta.json").read_text())["decoder"]
    return MicroBatches(split, view, decoder=decoder)[Draws(ids, ids, 0 * ids, 0, 1)].images


@pytest.mark.full
def test_where_the_data_cannot_be_written_the_node_keeps_them(root: Path, tmp_path: Path) -> None:
    """A file in the way of the folder stands for a disk that refuses: the run goes on with the cache folder. Here
    loader workers read the images."""
    (root / "digits_glt" / "features").write_text("")
    kept = tmp_path / "cache"
    train(root, tmp_path / "runs", *ONCE, f"data.cache_folder={kept}", "data.workers=2")
    assert len(list(kept.glob("features/*/*.npy"))) == 5


@pytest.mark.full
def test_a_second_stage_reads_the_features_of_its_first(root: Path, tmp_path: Path) -> None:
    """cRT on features: stopped and resumed it has the bits of one that was not, and the first stage's arrays serve."""
    first = train(root, tmp_path, *ONCE)
    before = arrays(root)
    words = (*ONCE, "method.name=crt", f"method.init_from={first.run_name}")
    whole = train(root, tmp_path, *words)
    broken = train(root, tmp_path, *words, "recipe=glt_crt", stop_at=3)
    assert mini.same_bits(mini.final(broken.run_folder), mini.final(whole.run_folder)) == []
    assert arrays(root) == before
