"""GLT_PATH: recipes, data values, tables, methods and models in folders of the user's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.inputs.runs import load_run
from ifl.method import Output, Rows, Task, load_file, load_method
from ifl.saving import run_facts
from recipes.code.digest import code_digests, code_files
from recipes.common import search_path
from recipes.common.errors import RecipeError, RunError
from recipes.declarations import declaration, model_forms
from recipes.resolve import resolve
from recipes.table_layout import available
from slurm import code_snapshot, launch
from slurm.cluster.batch_job import setup_lines
from slurm.environment import clean
from slurm.planning.requested_runs import requested_runs
from slurm.run_folder import prepare
from slurm.site_file import Site
from tests.helpers import toy
from tests.helpers.launching import launch as launch_command
from tests.helpers.paths import PROJECT
from tests.recipes.test_own_files import OWN


def filled(folder: Path, files: dict[str, str] = OWN) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture()
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's own with one file of each kind, which GLT_PATH names."""
    folder = filled(tmp_path / "own")
    monkeypatch.setenv("GLT_PATH", str(folder))
    return folder


def test_each_kind_of_file_is_found(own: Path, tmp_path: Path) -> None:
    """Recipe, data values, method, model and table of a user's folder count as those in the project do."""
    recipe = resolve(["recipe=my_row", "preset=corrected", f"data.root={tmp_path}"])
    assert (recipe.data.name, recipe.data.image_size, recipe.method.name) == ("my_data", 16, "my_method")
    assert declaration("my_method").REFUSES and model_forms("my_model") == ("plain", "twin")
    assert "build" in vars(load_file("models", "my_model"))
    assert available()["my_table"] == own / "recipes/tables/my_table.yaml"
    runs = requested_runs(["table=my_table", "cluster=dry", f"data.root={tmp_path}"], Site()).runs
    assert [run.recipe.recipe for run in runs] == ["my_twin", "my_row"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipe=my_rwo"], "did you mean my_row?"),
        (["data=my_dtaa"], "did you mean my_data?"),
        (["method.name=my_methd", "data=digits_glt"], "did you mean my_method?"),
        (["model.name=my_modl", "data=digits_glt"], "did you mean my_model?"),
    ],
)
def test_a_slip_is_told_with_the_users_names(own: Path, words: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(words)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["recipes/glt_ifl.yaml", "recipes/data/digits_glt.yaml", "ifl/methods/ce.py"])
def test_a_shipped_name_is_refused_with_both_files(own: Path, name: str) -> None:
    (own / name).write_text("")
    with pytest.raises(RecipeError, match="comes with the suite") as caught:
        resolve(["recipe=glt_ifl", "data=digits_glt"])
    assert str(own / name) in str(caught.value) and str(PROJECT / name) in str(caught.value)


def test_the_first_folder_wins(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = filled(tmp_path / "first", {"recipes/my_row.yaml": "schedule: {epochs: 3}\n"})
    for text, epochs in ((f"{first}:{own}", 3), (f"{own}:{first}", 2)):
        monkeypatch.setenv("GLT_PATH", text)
        assert resolve(["recipe=my_row", "data=my_data", "data.root=/nowhere"]).schedule.epochs == epochs


def test_wrong_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is relative, absent or has none of the sub-folders is refused in a sentence of its own."""
    for text, said in (
        ("own", "is a relative folder"),
        (f"{tmp_path}/absent", "does not exist"),
        (str(tmp_path), "has none of the sub-folders recipes, recipes/data, recipes/tables, ifl/methods, ifl/models"),
    ):
        monkeypatch.setenv("GLT_PATH", text)
        with pytest.raises(RecipeError, match=r"^[^\n]+$") as caught:
            resolve(["data=digits_glt"])
        assert f"GLT_PATH={text}" in str(caught.value) and said in str(caught.value)


def test_a_users_module_clashes_with_none(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method called as an installed package is itself, and its neighbours are imported by `from . import`."""
    filled(own, {"ifl/methods/numpy.py": "from . import _scale\nscale = _scale.scale\n"})
    filled(own, {"ifl/methods/_scale.py": "scale = 3\n"})
    import numpy

    assert load_file("methods", "numpy").scale == 3 and sys.modules["numpy"] is numpy
    (own / "ifl/models/broken.py").write_text("\n1 / 0\n")
    with pytest.raises(RunError, match=f"{own}/ifl/models/broken.py, line 2: it cannot be imported"):
        load_file("models", "broken")


def test_digests_are_those_of_a_copy_in_the_project(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests of method, model and recipe follow their content and not their place, and what a method imports from
    beside it counts.
    """
    recipe = resolve(["recipe=my_row", "data.root=/nowhere"])
    there = code_digests(recipe)
    assert set(there) == {"method", "model", "recipe"} and code_files(recipe)["method"][0].is_absolute()
    project = filled(tmp_path / "project")
    monkeypatch.setattr("recipes.code.digest.PROJECT", project)
    assert code_files(recipe)["method"] == [Path("ifl/methods/my_method.py")] and code_digests(recipe) == there
    monkeypatch.undo()
    monkeypatch.setenv("GLT_PATH", str(own))
    (own / "ifl/methods/my_method.py").write_text("from ._scale import scale\n" + OWN["ifl/methods/my_method.py"])
    (own / "ifl/methods/_scale.py").write_text("scale = 3\n")
    before = code_digests(recipe)["method"]
    (own / "ifl/methods/_scale.py").write_text("scale = 4\n")
    assert code_digests(recipe)["method"] != before


def git(folder: Path, *words: str) -> None:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", *words]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_meta_json_names_the_folders_and_what_is_in_no_commit(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """meta.json has each folder with its commit and its uncommitted files, and the run's own among them by their whole
    names; without GLT_PATH it says nothing of it.
    """
    recipe = resolve(["recipe=my_row", "data.root=/nowhere"])
    assert run_facts.code(recipe)["glt_path"] == [{"folder": str(own), "commit": "unknown", "uncommitted": {}}]
    git(own.parent, "init")
    git(own.parent, "add", "own/recipes", "own/ifl/models")
    git(own.parent, "commit", "-m", "x")
    (own / "ifl/models/my_model.py").write_text(OWN["ifl/models/my_model.py"] + "\n")
    found = run_facts.code(recipe)
    states = {"ifl/methods/my_method.py": "untracked", "ifl/models/my_model.py": "changed"}
    assert len(found["glt_path"][0]["commit"]) == 40 and found["glt_path"][0]["uncommitted"] == states
    assert {f"{own}/{name}": state for name, state in states.items()}.items() <= found["uncommitted"].items()
    monkeypatch.delenv("GLT_PATH")
    assert set(run_facts.code(recipe)) == {"code", "uncommitted"}


def test_a_jobs_copy_holds_the_folders_and_needs_no_variable(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of the code holds the user's files; a process that has only what the batch script sets finds them, with
    the digests of here and the folders' own names, after the folder itself is gone.
    """
    second = filled(tmp_path / "second", {"recipes/data/bare.yaml": "{}\n"})
    monkeypatch.setenv("GLT_PATH", f"{own}:{second}")
    recipe = resolve(["recipe=my_row", "data.root=/nowhere"])
    here = run_facts.code(recipe)
    code = code_snapshot.snapshot_code(tmp_path / "runs")
    assert code_snapshot.snapshot_code(tmp_path / "runs") == code == code_snapshot.place(tmp_path / "runs")
    assert (code / "glt_path/0/ifl/methods/my_method.py").read_text() == OWN["ifl/methods/my_method.py"]
    lines = "\n".join(setup_lines([], [], code))
    (own / "ifl/methods/my_method.py").unlink()
    script = (
        "import json; from recipes.resolve import resolve; from ifl.saving.run_facts import code\n"
        "print(json.dumps(code(resolve(['recipe=my_row', 'data.root=/nowhere']))))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("GLT_PATH", "PYTHONPATH")}
    done = subprocess.run(
        ["bash", "-c", f'{lines}\n"$0" -P -c "$1"', sys.executable, script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["code"] == here["code"] and said["glt_path"] == here["glt_path"]
    assert [entry["folder"] for entry in said["glt_path"]] == [str(own), str(second)]
    monkeypatch.delenv("GLT_PATH")
    assert "export GLT_PATH=" in setup_lines([], [], code)
    assert not (code_snapshot.snapshot_code(tmp_path / "runs") / "glt_path").exists()


def test_a_users_method_has_the_losses_of_a_copy_in_the_project(own: Path) -> None:
    """Every shipped method gives the same losses, to the bit, where its file lies in a user's folder."""
    logits, labels = torch.randn(8, 4, generator=torch.manual_seed(1)), torch.arange(8) % 4
    output, rows = Output(torch.zeros(8, 6), logits), Rows(labels, labels, torch.zeros_like(labels), 0, labels)
    for name in ("ce", "focal", "balanced_softmax", "logit_adjust"):
        shutil.copy(PROJECT / f"ifl/methods/{name}.py", own / f"ifl/methods/own_{name}.py")
        task = Task(np.array([9, 5, 3, 1]), 6, 10, declaration(name).args("paper"))
        assert declaration(f"own_{name}") == declaration(name)
        shipped, copied = load_method(name, task), load_method(f"own_{name}", task)
        assert type(copied).__module__ != type(shipped).__module__
        assert torch.equal(copied.losses(output, rows), shipped.losses(output, rows))


@pytest.mark.full
def test_a_run_of_the_users_files_is_that_of_the_shipped_ones(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes train a user's copy of a method, on data that bring their own values, as the shipped one; the run
    tells where its files lay. A job trains from its copy of them once they are gone, and the run is known as its
    recipe's own without them and without the data.
    """
    toy.build(tmp_path / "data", "birds", per_class=(16, 10, 8, 6))
    values = {
        "data": {"image_size": 32, "test_resize": 32, "workers": 0},
        "model": {"name": "small_resnet"},
        "schedule": {"epochs": 1},
        "batch": {"size": 16, "bn": 8},
    }
    toy.described(tmp_path / "data", "birds", values=values, kind="small")
    shutil.copy(PROJECT / "ifl/methods/ce.py", own / "ifl/methods/own_ce.py")
    (own / "recipes/own_row.yaml").write_text("method: {name: own_ce}\n")
    folders = []
    for recipe in ("own_row", "glt_baseline"):
        words = [f"recipe={recipe}", "data=birds", f"data.root={tmp_path}/data", f"runs={tmp_path}/runs", "nodes=2"]
        done = launch_command(*words, "cluster=local", "log.every=1", GLT_PATH=str(own))
        assert done.returncode == 0, done.stdout + done.stderr
        folders.append(next((tmp_path / "runs").glob(f"{recipe}-birds-*")))
    losses = [
        [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").open()) if line["kind"] == "train"]
        for folder in folders
    ]
    assert losses[0] and losses[0] == losses[1]
    meta = json.loads((folders[0] / "meta.json").read_text())
    assert (meta["data_values"], meta["data_kind"]) == (values, "small")
    assert [entry["folder"] for entry in meta["glt_path"]] == [str(own)]
    words = ["recipe=own_row", "data=birds", "seed=1", f"data.root={tmp_path}/data", f"runs={tmp_path}/runs"]
    recipe = resolve(words)
    prepare(recipe, recipe.run_folder)
    (recipe.run_folder / "log").mkdir()
    lines = "\n".join(setup_lines([], [], code_snapshot.snapshot_code(tmp_path / "runs")))
    shutil.rmtree(own)
    monkeypatch.delenv("GLT_PATH")
    job = ["bash", "-c", f'{lines}\nexec "$0" -P -m slurm.job "$1"', sys.executable, str(recipe.run_folder)]
    done = subprocess.run(job, env=clean(), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and (recipe.run_folder / "done").exists(), done.stdout + done.stderr
    shutil.rmtree(tmp_path / "data")
    assert load_run(folders[1]).departures() == load_run(folders[0]).departures() == []
    (folders[1] / "meta.json").write_text(json.dumps({**meta, "data_values": {**values, "schedule": {"epochs": 2}}}))
    assert load_run(folders[1]).departures() == ["schedule.epochs=1 (2)"]


def test_help_and_dry_show_the_folders(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLT_SITE", "")
    assert launch.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert f"\nGLT_PATH: {own}\n" in said and "my_row" in said
    words = ["recipe=my_row", "cluster=dry", f"runs={tmp_path}/runs", f"data.root={tmp_path}"]
    assert launch.main(words) == 0
    said = capsys.readouterr().out
    assert f"\n# GLT_PATH: {own}\n" in said and "/glt_path/0\n" in said
    monkeypatch.delenv("GLT_PATH")
    assert launch.main(["--help"]) == 0 and "\nGLT_PATH: not set\n" in capsys.readouterr().out


def test_dry_names_the_origin_of_a_data_sets_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run lists the values that came from dataset.json, and not those that something else set."""
    from tests.recipes.test_dataset_values import a_set

    monkeypatch.setenv("GLT_SITE", "")
    path = a_set(tmp_path)
    words = ["data=birds", "cluster=dry", f"runs={tmp_path}/runs", f"data.root={tmp_path}"]
    launch.main([*words, "schedule.epochs=2"])
    launch.main([*words, "seeds=0,1"])
    row = "{recipe: glt_baseline, label: A, group: G, set: {schedule.epochs: 2}}"
    column = "{train: glt, protocol: clt, subset: overall, metric: accuracy}"
    (tmp_path / "mine.yaml").write_text(f"{{preset: paper, seeds: [0], rows: [{row}], columns: [{column}]}}")
    launch.main([*words, f"table={tmp_path}/mine.yaml"])
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith(f"# from {path}: ")]
    assert len(lines) == 2  # of the command, and of a table's row that sets the same
    for line in lines:
        assert "data.mean, " in line and "model.name" in line and "schedule.epochs" not in line
    assert f"# values of birds are in {path}" in said
    assert search_path.folders() == ()
