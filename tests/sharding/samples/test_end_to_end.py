"""From labelled files to a trained run by words alone: images of IDX files, and Debian's fashion-mnist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recipes.resolve import resolve
from sharding.build import build_samples, run
from sharding.datasets.samples.values import suggested
from sharding.open import open_dataset
from sharding.verify import verify
from slurm.run_folder import prepare
from tests.helpers import forms
from tests.helpers.mini import IFL, lines, trained
from tests.helpers.paths import PROJECT
from tests.helpers.ranks import started

FASHION = Path("/usr/share/datasets/fashion-mnist")
needs_fashion = pytest.mark.skipif(not FASHION.is_dir(), reason="needs dataset-fashion-mnist (make system, as root)")


def test_idx_files_become_a_trained_run(tmp_path: Path) -> None:
    """300 images in IDX files are built with clusters; a recipe takes its values from dataset.json, with no file of the
    project for them, and trains with IFL to predictions on both test sets.
    """
    source = forms.idx(tmp_path / "idx")
    words = ["attributes=clusters", "clusters=3", "long_tail=3", "test_gbl=3", "workers=1"]
    run(["data=tiny", f"source={source}", f"out={tmp_path / 'data'}", *words])
    few = ["schedule.epochs=4", "batch.size=16", "batch.bn=8", "log.every=1", *IFL]
    where = [f"data.root={tmp_path / 'data'}", f"runs={tmp_path / 'runs'}", "cluster=local"]
    recipe = resolve(["recipe=glt_ifl", "data=tiny", *where, *few])
    meta = forms.meta(tmp_path / "data", "tiny")
    assert (recipe.data.image_size, recipe.data.test_resize, recipe.model.name) == (12, 12, "small_resnet")
    assert list(recipe.data.mean) == meta["statistics"]["glt"]["mean"] == meta["values"]["data"]["mean"]
    prepare(recipe, recipe.run_folder)
    assert started(1).run(trained, str(recipe.run_folder), timeout=300) == [True]
    assert (recipe.run_folder / "done").exists() and lines(recipe.run_folder, "train")
    with np.load(recipe.run_folder / "preds" / "last" / "test_gbl.npz") as found:
        assert len(found["label"]) == meta["splits"]["shared/test_gbl"]["samples"]


def test_images_of_a_program_are_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`build_samples` takes what an iterable yields and the command's words; of the same again nothing is made again,
    not the listing either.
    """
    rng = np.random.default_rng(0)
    samples = [(rng.integers(0, 256, (9, 9, 3), np.uint8), number % 2) for number in range(60)]
    more = {"license": "CC0-1.0", "preview": tmp_path / "sheet.png"}
    build_samples("mine", tmp_path, iter(samples), val=2, test_cbl=5, workers=1, **more)
    assert json.loads((tmp_path / "mine" / "croissant.json").read_bytes())["license"] == "CC0-1.0"
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*") if path.suffix != ".lock"}
    capsys.readouterr()
    build_samples("mine", tmp_path, iter(samples), val=2, test_cbl=5, workers=1)
    assert "mine is already in" in (said := capsys.readouterr().out) and "than recorded" not in said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert forms.meta(tmp_path, "mine")["splits"]["glt/train"]["per_class"] == [23, 23]


def test_a_program_without_a_guard_ends_with_a_sentence(tmp_path: Path) -> None:
    """Its worker processes import it and come to the build, too: they say what it lacks, and it ends instead of waiting
    for them.
    """
    (tmp_path / "flat.py").write_text(
        "import numpy as np\n"
        "from sharding.build import build_samples\n"
        "samples = [(np.full((9, 9), number, np.uint8), number % 2) for number in range(60)]\n"
        f"build_samples('flat', {str(tmp_path)!r}, samples, workers=2)\n"
    )
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "flat.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )
    assert ended.returncode == 1 and "under way" not in ended.stdout
    assert "DataError: data=flat: the program builds where its worker processes import it" in ended.stderr
    assert 'a build below if __name__ == "__main__": would be legal' in ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("what it printed before may say why; the same command goes on")


def test_a_channel_without_contrast_divides_by_one() -> None:
    """Networks divide by std: of a channel whose pixels are all the same, recipes start from 1."""
    flat = {"mean": [0.1, 0.0, 0.0], "std": [0.4, 0.0, 0.0]}
    values = {value.key: value for value in suggested({"least": 28, "most": 28, "longest": 28}, flat, 10).values}
    assert values["std"].value == [0.4, 1.0, 1.0] and values["mean"].value == [0.1, 0.0, 0.0]


def test_what_recipes_start_from() -> None:
    """Small images keep their size, on a small network without worker processes; larger ones get the paper's network.

    A stored size counts where images are made smaller; each value says where it comes from.
    """
    statistics = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    small = suggested({"least": 28, "most": 32, "longest": 40}, statistics, 1000)
    assert small.kind == "small" and small.nested()["data"] == {
        "image_size": 32,
        "test_resize": 32,
        "workers": 0,
        **statistics,
    }
    assert "data.image_size=32: images are 28 to 32 pixels" in map(str, small.values)
    assert small.nested()["augment"]["hflip"] and small.nested()["model"] == {"name": "small_resnet"}
    many = suggested({"least": 28, "most": 32, "longest": 40}, statistics, 10**6)
    assert "workers" not in many.nested()["data"]
    large = suggested({"least": 50, "most": 300, "longest": 400}, statistics, 1000)
    assert large.kind == "large" and large.nested()["model"] == {"name": "resnext50_32x4d"}
    assert (large.nested()["data"]["image_size"], large.nested()["data"]["test_resize"]) == (112, 128)
    assert (
        suggested({"least": 50, "most": 300, "longest": 300}, statistics, 1000, 48).nested()["data"]["image_size"] == 48
    )


def fashion(source: Path, out: Path) -> None:
    """Build fashion_glt by words alone, and check what it is."""
    run(["data=fashion_glt", f"source={source}", f"out={out}", "long_tail=20", "attributes=clusters", "workers=1"])
    dataset = open_dataset(out, "fashion_glt")
    assert set(dataset.editions) == {"glt", "cbl"} and dataset.num_classes == 10
    train = dataset.meta["splits"]["glt/train"]["per_class"]
    assert train == sorted(train, reverse=True) and train[0] // train[-1] == 20
    assert len(set(dataset.meta["splits"]["cbl/train"]["per_class"])) == 1
    groups = dataset.meta["splits"]["shared/test_gbl"]["per_class_attribute"]
    assert all(len(set(of_class)) == 1 for of_class in groups)


@needs_fashion
def test_a_tenth_of_fashion_mnist(tmp_path: Path) -> None:
    """A tenth of Debian's fashion-mnist becomes both editions."""
    fashion(forms.tenth_of_fashion(FASHION, tmp_path / "tenth"), tmp_path / "data")


@pytest.mark.full
@needs_fashion
def test_the_whole_of_fashion_mnist(tmp_path: Path) -> None:
    """All 70,000 images do, and `verify` finds no problem."""
    fashion(FASHION, tmp_path / "data")
    assert verify(tmp_path / "data" / "fashion_glt", workers=2).problems.count == 0
