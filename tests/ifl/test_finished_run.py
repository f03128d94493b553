"""A finished run used again: `eval=` finds the predictions that stand there, `export=` writes weights that others can
load.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ifl import exported, finished_run, post_hoc
from ifl.evaluator import source_numbers
from ifl.finished_run import _changed
from recipes.common.errors import RecipeError, RunError
from recipes.schema import PROJECT, Recipe
from sharding.format.index import load_index
from sharding.images.decoders import decode
from sharding.open import open_dataset
from slurm import reuse
from slurm.site_file import Site
from tests.helpers.launching import launch, refused
from tests.helpers.mini import recipe_of, trained
from tests.helpers.ranks import started
from tests.helpers.remote_server import Server


@pytest.fixture(scope="module")
def run(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = recipe_of(mini_root, tmp_path_factory.mktemp("runs"), "recipe=glt_tde")
    assert started(1).run(trained, str(recipe.run_folder)) == [True]
    return recipe


def test_the_last_predictions_are_kept_as_the_best_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`done`, which follows, is on the disk at once, so a node that loses its power then may not leave them empty."""
    last, best, synced, sync = tmp_path / "preds" / "last", tmp_path / "preds" / "best", set(), os.fsync
    for folder in (last, best):
        folder.mkdir(parents=True)
    (best / "val.npz").write_bytes(b"of an earlier start")
    for name in ("val.npz", "test_cbl.npz"):
        (last / name).write_bytes(name.encode() * 100)

    def noted(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    post_hoc.last_is_best(tmp_path)
    assert {file.name: file.read_bytes() for file in best.iterdir()} == {
        file.name: file.read_bytes() for file in last.iterdir()
    }
    assert {file.stat().st_ino for file in (best, *best.iterdir())} <= synced


def test_damaged_predictions_are_told_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What stood there cannot be compared: it counts as nothing, with a line that names the file."""
    file = tmp_path / "val.npz"
    assert _changed(file, np.arange(3)) == -1
    np.savez(file, prediction=np.array([0, 1, 5]))
    assert _changed(file, np.arange(3)) == 1 and _changed(file, np.arange(4)) == 4
    file.write_bytes(file.read_bytes().replace(b"NUMPY", b"NUMPZ"))
    assert _changed(file, np.arange(3)) == -1
    assert capsys.readouterr().out.startswith(f"{file} is damaged (")


def predictions(run: Recipe, select: str) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted((run.run_folder / "preds" / select).glob("*.npz")):
        with np.load(path) as arrays:
            found |= {f"{path.stem}/{name}": arrays[name] for name in arrays.files}
    return found


def test_predictions_say_of_what_source_a_sample_is(run: Recipe, mini_root: Path) -> None:
    """Numbers from 0 in the order in which sources occur, the same for samples of one source, as the index has them."""
    assert source_numbers(np.array(["b", "a", "b", "c", "a"])).tolist() == [0, 1, 0, 2, 1]
    for split in ("val", "test_cbl", "test_gbl"):
        sources = open_dataset(mini_root, run.data.name).split(run.train, split).index.source
        stored = predictions(run, "last")[f"{split}/source"]
        first = {source: place for place, source in reversed(list(enumerate(sources.tolist())))}
        order = sorted(first, key=first.__getitem__)
        assert stored.dtype == np.int32 and [order[number] for number in stored] == sources.tolist()


@pytest.mark.parametrize("select", ["last", "best"])
def test_judging_again_finds_what_stood_there(run: Recipe, select: str) -> None:
    """All splits, by the stored weights and the method's own rule: the same predictions; lost or changed files are made
    anew, and told.
    """
    before = predictions(run, select)
    folder = run.run_folder / "preds" / select
    (folder / "val.npz").unlink()
    with np.load(folder / "test_gbl.npz") as arrays:
        np.savez_compressed(folder / "test_gbl.npz", **{**arrays, "prediction": (arrays["prediction"] + 1) % 4})
    result = launch(f"eval={run.run_folder}", f"select={select}")
    assert result.returncode == 0, result.stderr
    said = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": accuracy" in line)
    assert (
        said["val"].endswith("(new)")
        and said["test_gbl"].endswith("(12 of 12 predictions differ from before)")
        and said["test_cbl"].endswith("(as before)")
    )
    after = predictions(run, select)
    assert before.keys() == after.keys() and all(
        np.array_equal(before[key], after[key]) for key in before if not key.endswith("confidence")
    )
    assert all(
        np.allclose(before[key], after[key], atol=1e-6) for key in before
    )  # another number of threads adds up in another order


def test_judging_needs_nothing_of_the_run_s_nodes(run: Recipe, mini_root: Path, tmp_path: Path) -> None:
    """Neither its cache folder nor its bytes there, nor its data's place: `data.root=` names another, also one afar;
    and one that older code trained is judged, and told.
    """
    server = Server(mini_root)
    folder = tmp_path / run.run_name
    shutil.copytree(run.run_folder, folder)
    recipe, meta = yaml.safe_load((folder / "recipe.yaml").read_text()), json.loads((folder / "meta.json").read_text())
    recipe["data"] |= {
        "root": "/elsewhere/data",
        "cache": "decoded",
        "cache_folder": "/dev/null/node",
        "cache_gb": 1e-6,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "meta.json").write_text(json.dumps({**meta, "decoder": "pillow 13.0.0 libjpeg 6.2"}))
    (tmp_path / "site.yaml").write_text(f"data: {{cache_folder: {tmp_path / 'here'}, cache_gb: 1}}")
    result = launch(f"eval={folder}", "select=last", f"data.root={server.url}", GLT_SITE=str(tmp_path / "site.yaml"))
    server.server.shutdown()
    server.server.server_close()
    assert result.returncode == 0, result.stderr
    assert (
        f"{folder.name} was decoded by pillow 13.0.0 libjpeg 6.2, which is not here" in result.stdout
        and result.stdout.count("(as before)") == 4
    ), result.stdout
    assert list((tmp_path / "here").rglob("*.tar")), "kept where this machine's site file says"


@pytest.mark.full
def test_damaged_data_end_a_job_with_one_sentence(mini_root: Path, tmp_path: Path) -> None:
    """On the stderr of a rank and in the run's events, without a traceback, though a loader worker found it."""
    shutil.copytree(mini_root, tmp_path / "data")
    recipe = recipe_of(tmp_path / "data", tmp_path / "runs", "data.workers=1")
    shard = next((tmp_path / "data" / "digits_glt" / "glt" / "train").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    index = load_index(shard.parent)
    for begin in index.offset.tolist():
        data[begin + 9] ^= 1
    shard.write_bytes(data)
    job = subprocess.run(
        [sys.executable, "-m", "slurm.job", str(recipe.run_folder)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    sentence = [line for line in job.stderr.splitlines() if str(shard) in line]
    assert (
        job.returncode == 1 and len(sentence) == 1 and "is damaged" in sentence[0] and "Traceback" not in job.stderr
    ), job.stderr
    assert sentence[0] in (recipe.run_folder / "log" / "events.jsonl").read_text()


def test_exported_weights_are_the_runs(run: Recipe, tmp_path: Path) -> None:
    """Every parameter and buffer to the bit, and what they are; the model card lies beside."""
    file = tmp_path / "weights.safetensors"
    assert launch(f"export={run.run_name}", f"runs={run.run_folder.parent}", f"out={file}").returncode == 0
    name, _ = json.loads((run.run_folder / "done").read_text())["weights"]["last"]
    stored, exported = torch.load(run.run_folder / "ckpt" / name, weights_only=True), load_file(file)
    assert stored.keys() == exported.keys() and all(torch.equal(stored[key], exported[key]) for key in stored)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    card = (tmp_path / "weights.safetensors.md").read_text()
    assert f"Weights of the run `{run.run_name}`, last epoch." in card
    assert about["run"] == run.run_name and about["method"] == "tde" and len(json.loads(about["class_names"])) == 4
    assert about["test_resize"] == str(run.data.test_resize) and "uint8" in about["input"] and "slurm" not in str(about)


def test_an_exported_file_predicts_as_the_run_did(
    run: Recipe,
    mini_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`load(FILE).predict(IMAGE)` is the run's own evaluation of each image, from its bytes, its file, its pixels or a
    Pillow image, and docs/run-folder.md shows how.
    """
    file = tmp_path / "weights.safetensors"
    finished_run.export(run.run_folder, "last", file)
    capsys.readouterr()
    drawn = torch.get_rng_state()
    model = exported.load(file)
    assert torch.equal(torch.get_rng_state(), drawn)  # a program's own random numbers go on
    split, stored = open_dataset(mini_root, "digits_glt").split(run.train, "test_gbl"), predictions(run, "last")
    for sample, label, confidence in zip(
        range(len(split)), stored["test_gbl/prediction"], stored["test_gbl/confidence"], strict=True
    ):
        found = model.predict(split.read(sample))
        assert found.label == label and abs(found.confidence - confidence) < 1e-5
        assert found.name == model.class_names[label] and abs(found.probabilities_K.sum() - 1) < 1e-5
    (tmp_path / "image").write_bytes(split.read(0))
    image = decode(split.read(0))
    first = model.predict(split.read(0)).probabilities_K
    (tmp_path / "photo.jpg").write_bytes(split.read(0))
    monkeypatch.chdir(tmp_path)
    (page,) = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "run-folder.md").read_text(), re.S)
    exec(page, {})
    assert capsys.readouterr().out.startswith(f"{first.argmax()} {model.class_names[first.argmax()]} ")
    for same in (tmp_path / "image", str(tmp_path / "image"), image, np.array(image)):
        assert np.allclose(model.predict(same).probabilities_K, first, atol=1e-2)  # Pillow decodes a little otherwise
    with pytest.raises(ValueError, match="uint8 \\[H, W, 3\\] is"):
        model.predict(np.zeros((3, 8, 8), np.float32))


def test_a_file_that_cannot_be_loaded_is_one_sentence(run: Recipe, tmp_path: Path) -> None:
    """No such file, another one, one of older code, and one whose method is not here."""
    (tmp_path / "text").write_text("none")
    about = exported.description(run, json.loads((run.run_folder / "meta.json").read_text()))
    save_file({}, tmp_path / "old", {key: value for key, value in about.items() if key != "science"})
    save_file({}, tmp_path / "own", about | {"science": about["science"].replace('"tde"', '"mine"')})
    for name, said in (
        ("missing", "cannot be read"),
        ("text", "cannot be read"),
        ("old", "does not say its science: older code wrote it"),
        ("own", "mine"),
    ):
        with pytest.raises(RunError, match=said):
            exported.load(tmp_path / name)


def test_a_copied_run_is_judged_where_its_data_are(
    run: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run folder from another machine takes `data.root=`, else the site file's root, and says so; its own root is
    used where the data are there, and where they are nowhere the sentence says what would be legal.
    """
    folder, here = tmp_path / run.run_name, tmp_path / "here"
    shutil.copytree(run.run_folder, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    own = recipe["data"]["root"]

    def root(*words: str, site: dict[str, str] | None = None) -> str:
        chosen = Site(slurm={"data": site}) if site else Site()
        return json.loads(reuse.parse([f"eval={folder}", *words], chosen).job[-1])["root"]

    assert root() == own and root(site={"root": str(here)}) == own and root(f"data.root={here}") == str(here)
    recipe["data"]["root"] = "/elsewhere/data"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=r"not in /elsewhere/data, .* data.root=DIR says where digits_glt is here"):
        root(site={"root": str(here)})
    (here / "digits_glt").mkdir(parents=True)
    assert root(site={"root": str(here)}) == str(here) and "/elsewhere/data" in capsys.readouterr().out
    assert root("data.root=https://there/data") == "https://there/data"
    for illegal, said in (("", "has no value"), ("pipe:cat {path}", "only the site file"), ("s3://x", "a folder or")):
        with pytest.raises(RecipeError, match=rf"data\.root=.*{said}"):
            root(f"data.root={illegal}")
    assert reuse.parse([f"export={folder}", "out=x", "data.root=y"], Site()).job[0] == "export"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["eval=none"], "no run folder of that name"),
        (["eval="], "eval= has no value"),
        (["export=none"], "out= is missing"),
        (["eval=none", "select=lats"], "did you mean last"),
        (["eval=none", "nodes=2"], "nodes= does not go with eval="),
        (["export=x", "ot=y"], "did you mean out"),
    ],
)
def test_slips_are_one_sentence(words: list[str], sentence: str) -> None:
    """Before anything is loaded."""
    assert sentence in refused(*words)


def test_an_unfinished_run_is_refused(mini_root: Path, tmp_path: Path) -> None:
    recipe = recipe_of(mini_root, tmp_path)
    assert "is not finished" in refused(f"eval={recipe.run_folder}")
