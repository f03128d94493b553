"""A finished run used again: `eval=` finds the predictions that stand there, `export=` writes weights that others can load."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mini import recipe_of, trained
from ranks import started
from recipes.schema import Recipe
from test_launch import launch, refused
from test_methods import mini_root  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def run(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:  # noqa: F811
    recipe = recipe_of(mini_root, tmp_path_factory.mktemp("runs"), "recipe=glt_tde")
    assert started(1).run(trained, str(recipe.run_folder)) == [True]
    return recipe


def predictions(run: Recipe, select: str) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted((run.run_folder / "preds" / select).glob("*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.stem}/{name}": arrays[name] for name in arrays.files}
    return found


@pytest.mark.parametrize("select", ["last", "best"])
def test_judging_again_finds_what_stood_there(run: Recipe, select: str) -> None:
    """All splits, by the stored weights and the method's own rule: the same predictions; lost or changed files are made anew, and told."""
    before = predictions(run, select)
    folder = run.run_folder / "preds" / select
    (folder / "val.npz").unlink()
    with np.load(folder / "test_gbl.npz") as arrays:
        np.savez_compressed(folder / "test_gbl.npz", **{**arrays, "prediction": (arrays["prediction"] + 1) % 4})
    result = launch(f"eval={run.run_folder}", f"select={select}")
    assert result.returncode == 0, result.stderr
    said = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": accuracy" in line)
    assert said["val"].endswith("(new)") and said["test_gbl"].endswith("(12 of 12 predictions differ from before)") and said["test_cbl"].endswith("(as before)")
    after = predictions(run, select)
    assert before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before if not key.endswith("confidence"))
    assert all(np.allclose(before[key], after[key], atol=1e-6) for key in before)  # another number of threads adds up in another order


def test_exported_weights_are_the_runs(run: Recipe, tmp_path: Path) -> None:
    """Every parameter and buffer to the bit, and what they are."""
    file = tmp_path / "weights.safetensors"
    assert launch(f"export={run.run_name}", f"runs={run.run_folder.parent}", f"out={file}").returncode == 0
    name, _ = json.loads((run.run_folder / "done").read_text())["weights"]["last"]
    stored, exported = torch.load(run.run_folder / "ckpt" / name, weights_only=True), load_file(file)
    assert stored.keys() == exported.keys() and all(torch.equal(stored[key], exported[key]) for key in stored)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert about["run"] == run.run_name and about["method"] == "tde" and len(json.loads(about["class_names"])) == 4


@pytest.mark.parametrize("words, sentence", [(["eval=none"], "no run folder of that name"), (["eval="], "no run folder"), (["export=none"], "out= is missing"), (["eval=none", "select=lats"], "did you mean last"),
                                             (["eval=none", "nodes=2"], "nodes= does not go with eval="), (["export=x", "ot=y"], "did you mean out")])
def test_slips_are_one_sentence(words: list[str], sentence: str) -> None:
    """Before anything is loaded."""
    assert sentence in refused(*words)


def test_an_unfinished_run_is_refused(mini_root: Path, tmp_path: Path) -> None:  # noqa: F811
    recipe = recipe_of(mini_root, tmp_path)
    assert "is not finished" in refused(f"eval={recipe.run_folder}")
