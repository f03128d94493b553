"""A data set's own values: dataset.json in the data root comes before the data files, and needs none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.common import search_path
from recipes.common.errors import RecipeError
from recipes.dataset_values import Described
from recipes.identity import departures
from recipes.resolve import dump, merge, resolve

VALUES = {
    "data": {"image_size": 32, "test_resize": 32, "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1], "workers": 0},
    "augment": {"crop_scale": [0.6, 1.0], "hflip": False},
    "model": {"name": "small_resnet"},
    "schedule": {"epochs": 60},
    "batch": {"size": 128, "bn": 32},
    "log": {"every": 10},
}
COUNTS = {"glt": [100, 10, 4], "cbl": [38, 38, 38]}


def a_set(root: Path, name: str = "birds", **more: Any) -> Path:
    """The dataset.json of a data set with `VALUES`, and with the entries of `more` instead; None leaves one out."""
    editions = {edition: {"train": f"{edition}/train"} for edition in COUNTS}
    splits = {f"{edition}/train": {"per_class": counts} for edition, counts in COUNTS.items()}
    entries = {"editions": editions, "splits": splits, "values": VALUES, **more}
    path = root / name / "dataset.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({key: value for key, value in entries.items() if value is not None}))
    return path


def refused(*words: str, **site: Mapping[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        resolve(words, site)
    return str(caught.value)


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture()
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's own that GLT_PATH names."""
    folder = tmp_path / "own"
    for kind in search_path.KINDS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("GLT_PATH", str(folder))
    return folder


def test_values_in_dataset_json_are_those_of_a_data_file(root: Path, tmp_path: Path, own: Path) -> None:
    """A data set that says its values needs no file in the project, and makes the same recipe, name and hash as a data
    file with these values does.
    """
    a_set(root)
    a_set(tmp_path / "bare", values=None)
    itself = resolve(["recipe=glt_ifl", "data=birds", f"data.root={root}"])
    (own / "recipes/data/birds.yaml").write_text(yaml.safe_dump(VALUES))
    by_file = resolve(["recipe=glt_ifl", "data=birds", f"data.root={tmp_path / 'bare'}"])
    assert itself.run_name == by_file.run_name and itself.schedule.epochs == 60
    assert dump(itself).replace(str(root), "") == dump(by_file).replace(str(tmp_path / "bare"), "")


def test_each_layer_beats_dataset_json(root: Path, own: Path) -> None:
    """schema < dataset.json < data file < preset < site < recipe < on: EDITION < on: small < on: NAME <
    on: NAME/EDITION < command."""
    a_set(root, values={"optim": {"momentum": 0.1, "lr": 0.1}, "schedule": {"epochs": 1}}, kind="small")
    words = [f"recipe={own / 'row.yaml'}", "data=birds", f"data.root={root}"]
    row: dict[str, Any] = {}
    (own / "row.yaml").write_text("{}")
    assert resolve(words).schedule.epochs == 1  # the schema says 100
    (own / "recipes/data/birds.yaml").write_text("schedule: {epochs: 2}\n")
    assert resolve(words).schedule.epochs == 2
    assert resolve(words).optim.momentum == 0.0  # the preset's
    for number, block in enumerate(("", "paper", "glt", "small", "birds", "birds/glt"), 3):
        row |= {"on": {**row.get("on", {}), block: {"schedule": {"epochs": number}}}} if block else {}
        row.setdefault("schedule", {"epochs": number})
        (own / "row.yaml").write_text(yaml.safe_dump(row))
        assert resolve(words).schedule.epochs == number
    assert resolve([*words, "schedule.epochs=99"]).schedule.epochs == 99


def test_the_root_is_the_one_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data root whose dataset.json is read is the command's, else the recipe's, else the site file's, else data/ in
    the project.
    """
    places = [tmp_path / name for name in ("default/data", "site", "recipe", "command")]
    for number, place in enumerate(places):
        a_set(place, values={"schedule": {"epochs": number + 1}})
    monkeypatch.setattr("recipes.layers.PROJECT", tmp_path / "default")
    (tmp_path / "plain.yaml").write_text("{}")
    (tmp_path / "rooted.yaml").write_text(f"data: {{root: {places[2]}}}\n")
    site = {"data": {"root": str(places[1])}}
    plain, rooted = (["data=birds", f"recipe={tmp_path / name}.yaml"] for name in ("plain", "rooted"))
    assert resolve(plain).schedule.epochs == 1
    assert resolve(plain, site).schedule.epochs == 2
    assert resolve(rooted, site).schedule.epochs == 3
    assert resolve([*rooted, f"data.root={places[3]}"], site).schedule.epochs == 4


def test_a_run_is_repeated_without_its_dataset_json(root: Path, tmp_path: Path) -> None:
    """`recipe=RUN` reads the written-out recipe alone: the data set may say other values by then, or be gone."""
    path = a_set(root)
    recipe = resolve(["data=birds", f"data.root={root}"])
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    a_set(root, "other")
    path.write_text(path.read_text().replace("60", "61"))
    assert resolve([f"recipe={tmp_path}"]) == recipe
    path.unlink()
    assert resolve([f"recipe={tmp_path}"]) == recipe
    assert "data=birds does not exist" in refused("data=birds", f"data.root={root}")


def test_a_missing_data_set_is_told_with_both_places(root: Path) -> None:
    """The sentence names the data root's file, the project's, and the nearest of both."""
    a_set(root)
    said = refused("data=brids", f"data.root={root}")
    assert f"neither {root}/brids/dataset.json nor recipes/data/brids.yaml is there" in said
    assert "did you mean birds?" in said and "digits_glt" in said
    a_set(root, "bare", values=None)
    assert f"{root}/bare/dataset.json holds no `values`" in refused("data=bare", f"data.root={root}")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"values": [1]}, "values=[1] is not legal: a mapping"),
        ({"values": {"data": 1}}, "values.data=1 is not legal"),
        ({"values": {"slurm": {"partition": "x"}}}, "values.slurm is not legal"),
        ({"values": {"data": {"root": "/x"}}}, "values.data.root is not legal"),
        ({"values": {"schedule": {"epoch": 3}}}, "did you mean schedule.epochs?"),
        ({"values": {"batch": {"size": "many"}}}, "batch.size=many"),
        ({"kind": "tiny"}, "kind='tiny' is not legal: small, large are"),
    ],
)
def test_illegal_values_are_named_by_file_and_key(root: Path, more: dict[str, Any], said: str) -> None:
    path = a_set(root, **more)
    sentence = refused("data=birds", f"data.root={root}")
    assert said in sentence and str(path) in sentence


def test_a_damaged_dataset_json_is_named(root: Path) -> None:
    path = a_set(root)
    path.write_text("{")
    assert f"{path} is damaged" in refused("data=birds", f"data.root={root}")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/data", "pipe:"])
def test_a_data_set_afar_needs_a_data_file(address: str, own: Path) -> None:
    """No dataset.json is fetched before a run: the values of a data set afar stand in a data file."""
    site = {"data": {"root": "pipe:secret {path}"}} if address == "pipe:" else {}
    words = ["data=birds", f"data.root={address}"]
    said = refused(*words, **site)
    assert f"an address ({address}) is not read before a run" in said and "secret" not in said
    (own / "recipes/data/birds.yaml").write_text(yaml.safe_dump(VALUES))
    assert resolve(words, site).schedule.epochs == 60


@pytest.mark.parametrize("name", ["small", "large", "paper", "corrected", "glt", "cbl"])
def test_names_of_blocks_are_no_names_of_data_sets(root: Path, name: str) -> None:
    a_set(root, name)
    assert f"data={name} is not legal" in refused(f"data={name}", f"data.root={root}")


def test_kind_is_the_data_files_first(root: Path, own: Path) -> None:
    """`on: small` counts for what dataset.json or the data file calls small; the file has the last word."""
    (own / "recipes/row.yaml").write_text("on: {small: {schedule: {epochs: 5}}}\n")
    words = ["recipe=row", "data=birds", f"data.root={root}"]
    path = a_set(root)
    assert resolve(words).schedule.epochs == 60
    path.unlink()
    path.parent.rmdir()
    a_set(root, kind="small")
    assert resolve(words).schedule.epochs == 5
    (own / "recipes/data/birds.yaml").write_text("kind: large\n")
    assert resolve(words).schedule.epochs == 60
    (own / "recipes/data/birds.yaml").write_text("kind: tiny\n")
    assert f"{own}/recipes/data/birds.yaml: kind=tiny is not legal" in refused(*words)


def test_blocks_of_data_sets_in_the_root_are_legal(root: Path, own: Path) -> None:
    """`on:` may name what lies in the data root; a slip in such a name is refused."""
    a_set(root)
    a_set(root, "fish")
    (own / "recipes/row.yaml").write_text("on: {fish: {}, birds/cbl: {schedule: {epochs: 7}}}\n")
    words = ["recipe=row", "data=birds", f"data.root={root}", "train=cbl"]
    assert resolve(words).schedule.epochs == 7
    (own / "recipes/row.yaml").write_text("on: {fihs: {}}\n")
    assert "on=fihs does not exist; did you mean fish?" in refused(*words)
    (own / "recipes/row.yaml").write_text("on: {small/cbl: {}}\n")
    assert "small/cbl" in refused(*words)


@pytest.mark.parametrize(("train", "draws"), [("glt", 300 / 114), ("cbl", 1.0)])
@pytest.mark.parametrize("recipe", ["glt_crt", "glt_lws", "glt_crt_ifl", "glt_lws_ifl"])
def test_class_aware_draws_follow_from_the_counts(root: Path, recipe: str, train: str, draws: float) -> None:
    """A second stage on a data set that its recipe does not name draws min(K max n_c, 4 N) samples an epoch."""
    a_set(root)
    words = [f"recipe={recipe}", "data=birds", f"data.root={root}", f"train={train}"]
    assert resolve(words).batch.draws_per_epoch == draws
    assert merge(words)[1]["batch.draws_per_epoch"] == f"the counts in {root}/birds/dataset.json"


def test_class_aware_draws_need_counts(own: Path, root: Path) -> None:
    """Without counts the sentence says what is legal; at most four epochs' worth is drawn."""
    (own / "recipes/data/birds.yaml").write_text(yaml.safe_dump(VALUES))
    words = ["recipe=glt_crt", "data=birds", f"data.root={root}"]
    assert "batch.draws_per_epoch=class_aware" in refused(*words) and "a number is legal" in refused(*words)
    assert resolve([*words, "batch.draws_per_epoch=2"]).batch.draws_per_epoch == 2
    said = Described("noted", VALUES, None, {"glt": [100, 1, 1, 1, 1, 1]})
    assert resolve(words, said=said).batch.draws_per_epoch == 4


def test_noted_values_need_no_data_root(root: Path) -> None:
    """With what a run noted of its data set its recipe is resolved where the data are not."""
    a_set(root, kind="small")
    words = ["recipe=glt_crt", "data=birds"]
    here = resolve([*words, f"data.root={root}"])
    assert departures(resolve(words, said=Described("a run", VALUES, "small", COUNTS)), here) == []
