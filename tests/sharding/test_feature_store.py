"""Arrays of features on the disk: parts, joining, damage, and batches read from them."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.common.errors import DataError
from sharding.features import store
from sharding.features.batches import FeatureBatches
from sharding.features.store import FeatureArray, can_write
from sharding.open import open_dataset
from sharding.plan.ranks import Draws


@pytest.fixture
def array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureArray:
    """An array of 10 samples in 3 parts."""
    monkeypatch.setattr(store, "PART", 4)
    return FeatureArray(tmp_path / "train-x.npy", samples=10, dim=3)


FEATURES_ND = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)


def fill(array: FeatureArray, *parts: int) -> None:
    for part in parts or range(array.parts):
        array.put_part(part, FEATURES_ND[array.ids(part)])


def test_parts_are_joined_and_read_by_numpy(array: FeatureArray) -> None:
    """Parts may come in any order and twice; the joined file is an ordinary .npy file, and nothing else stays."""
    assert not array.is_whole() and array.lacking() == [0, 1, 2]
    fill(array, 2, 0)
    assert array.has_part(0) and not array.has_part(1) and array.lacking() == [1]
    fill(array, 1, 0)
    array.join()
    assert array.is_whole() and array.lacking() == [] and array.has_part(1)
    assert np.array_equal(np.load(array.path), FEATURES_ND) and np.array_equal(array.open(), FEATURES_ND)
    assert not array.open().flags.writeable and [path.name for path in array.path.parent.iterdir()] == ["train-x.npy"]
    array.join()  # as another run does that was as far
    assert array.is_whole()


def test_damage_is_noticed(array: FeatureArray, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit, a cut file and another shape are no array, with a word that names the file; a damaged part is
    computed again."""
    for harm in ("flip", "cut", "shape"):
        fill(array)
        if harm == "flip":
            part = array.path.with_suffix(".parts") / "00001.npy"
            part.write_bytes(part.read_bytes()[:-40] + bytes(40))
            assert array.lacking() == [1] and "00001.npy is not what was written" in capsys.readouterr().out
            fill(array, 1)
        array.join()
        data = bytearray(array.path.read_bytes())
        data[200] ^= harm == "flip"
        array.path.write_bytes(data[:-1] if harm == "cut" else data)
        other = FeatureArray(array.path, 10, 4) if harm == "shape" else array
        assert not other.is_whole() and not array.path.exists()
        assert capsys.readouterr().out == f"{array.path} is not what was written and is computed again\n"


def test_a_part_that_comes_late_harms_nothing(array: FeatureArray) -> None:
    """Another run may join the array while this one still writes a part of it."""
    fill(array)
    array.join()
    fill(array, 1)
    assert array.is_whole() and array.lacking() == []


def test_a_full_disk_is_told_in_one_sentence(array: FeatureArray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a part and of the whole array; what was there before stays."""

    def refuses(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill(array, 0, 1)
    monkeypatch.setattr(store, "_write", refuses)
    for action in (lambda: fill(array, 2), array.join):
        with pytest.raises(DataError, match=r"train-x\.npy: no space left on device, the same command goes on when"):
            action()
    assert array.lacking() == [2]


def test_folders_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    """A file in the way stands for a disk that refuses."""
    (tmp_path / "features").write_text("")
    assert not can_write(tmp_path / "features" / "key") and can_write(tmp_path / "other" / "key")


def test_a_draw_takes_one_view_by_seed_epoch_and_draw(digits_root: Path) -> None:
    """Rows come from the samples that were drawn; which of the views is the same however a batch is cut, another in
    another epoch, and each is taken as often."""
    split = open_dataset(digits_root, "digits_glt").split("glt", "train")
    views = [np.full((len(split), 2), view, np.float32) for view in range(4)]
    for view in views:
        view[:, 1] = np.arange(len(split))
    ids = np.random.default_rng(1).integers(0, len(split), 600)
    streams = np.arange(600) % 2

    def batch(where: slice, epoch: int) -> torch.Tensor:
        draws = Draws(ids[where], np.arange(600)[where] + 70, streams[where], 5, epoch)
        given = FeatureBatches(split, views)[draws]
        assert np.array_equal(given.images[:, 1].numpy(), ids[where]) and given.images.dtype == torch.float32
        assert np.array_equal(given.labels.numpy(), split.index.label[ids[where]])
        assert np.array_equal(given.ids.numpy(), ids[where]) and np.array_equal(given.streams.numpy(), streams[where])
        return given.images[:, 0]

    whole = batch(slice(0, 600), 0)
    assert torch.equal(torch.cat([batch(slice(0, 77), 0), batch(slice(77, 600), 0)]), whole)
    assert (batch(slice(0, 600), 1) != whole).float().mean() > 0.5
    assert all(abs(int((whole == view).sum()) - 150) < 45 for view in range(4))
    alone = FeatureBatches(split, views[2:3])[Draws(ids, ids, streams, 0, -1)]
    assert (alone.images[:, 0] == 2).all()
