"""Users' own recipes, data files, tables, methods and models beside the shipped ones: each is tested by what every
legal file keeps, and none turns a test of the shipped ones red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.common.errors import RecipeError
from recipes.declarations import declaration, model_forms
from recipes.resolve import dump, resolve
from recipes.schema import Recipe
from tests.helpers.paths import PROJECT
from tests.helpers.shipped import FOLDERS, NEED_A_FILE, files, layout_of

OWN = {
    "recipes/my_row.yaml": "data: my_data\nmethod: {name: my_method}\nmodel: {name: my_model}\n"
    "batch: {size: 30, bn: 30}\nifl: {environments: 3, milestones: [1], alpha: [0.1]}\n",
    "recipes/my_twin.yaml": "method: {name: ce}\nmodel: {name: my_model}\n",
    "recipes/data/my_data.yaml": "data: {image_size: 16, test_resize: 16}\nschedule: {epochs: 2}\n"
    "batch: {size: 6, bn: 6}\nmodel: {name: my_model}\n",
    "recipes/tables/my_table.yaml": "preset: corrected\nseeds: [3]\n"
    "rows: [{recipe: my_twin, label: A, group: G}, {recipe: my_row, label: B, group: G, twin: my_twin}]\n"
    "columns: [{data: my_data, train: glt, protocol: clt, subset: overall, metric: accuracy}]\n",
    "ifl/methods/my_method.py": "import torch.nn.functional as F\nfrom ifl.method import BaseMethod\n"
    'REFUSES = {"mixup": "Not tried yet."}\nNEEDS = {"environments": "it compares two"}\n'
    "class Method(BaseMethod):\n    def losses(self, output, rows):\n"
    '        return F.cross_entropy(output.logits_BK, rows.labels, reduction="none")\n',
    "ifl/models/my_model.py": "from torch import nn\ndef build():\n"
    "    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 8), nn.ReLU())\n"
    "    network.feature_dim = 8\n    return network\n",
}
"""Legal files that break every rule which only shipped ones keep: their own batch, network, data and style."""
AFFECTED = (
    "recipes/test_recipes.py",
    "recipes/test_own_files.py",
    "slurm/test_requested_runs.py",
    "ifl/test_recipes_train.py",
    "ifl/test_mixup.py",
    "ifl/test_stages.py",
    "house/test_imports.py",
    "house/test_readability.py",
    "analysis/test_analysis.py",
)
"""Files of tests that go through the folders where users' files lie."""


def names(pattern: str) -> list[str]:
    return [path.stem for path in files(pattern)]


@pytest.mark.parametrize("pattern", FOLDERS)
def test_the_shipped_files_are_there(pattern: str) -> None:
    """All shipped files lie where they are looked for; in CI, where there are no others, their list is whole."""
    found = set(names(pattern))
    assert set(FOLDERS[pattern]) <= found
    if os.environ.get("CI"):
        assert found == set(FOLDERS[pattern])


@pytest.mark.parametrize("name", names("recipes/*.yaml"))
def test_every_recipe_resolves_and_repeats(tmp_path: Path, name: str) -> None:
    """Every recipe, a user's too, can be run on some data set, and what it writes down is the same run again."""
    files = [f"{key}={PROJECT / 'LICENSE'}" for key in ("method.text", "model.weights") if name in NEED_A_FILE]
    recipe = _somewhere([f"recipe={name}", *files], *(f"data={data}" for data in names("recipes/data/*.yaml")))
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    again = resolve([f"recipe={tmp_path / 'recipe.yaml'}"])
    assert again == recipe and again.run_name == recipe.run_name and recipe.recipe == name


@pytest.mark.parametrize("name", names("recipes/data/*.yaml"))
def test_every_data_file_can_be_trained_on(name: str) -> None:
    """For every data file, a user's too, there is a recipe that runs on it."""
    recipe = _somewhere([f"data={name}"], *(f"recipe={other}" for other in names("recipes/*.yaml")))
    assert recipe.data.name == name


def _somewhere(words: list[str], *others: str) -> Recipe:
    """The recipe of the words as it is, or with the first other word with which it can be run."""
    for more in ((), *((other,) for other in others)):
        try:
            return resolve([*words, *more])
        except RecipeError as error:
            last = error
    raise last


@pytest.mark.parametrize("name", names("recipes/tables/*.yaml"))
def test_every_table_has_rows_and_columns_that_are_there(name: str) -> None:
    """Every table, a user's too, names recipes and data sets that there are, and each row runs on each of its data."""
    layout = layout_of(name)
    for row in layout.rows:
        for data, train in layout.sources:
            words = [f"recipe={row.recipe}", f"data={data}", f"train={train}", f"preset={layout.preset}"]
            assert resolve([*words, f"batch.budget={row.budget}"]).recipe == row.recipe


@pytest.mark.parametrize("name", names("ifl/methods/[!_]*.py"))
def test_every_methods_literals_are_legal(name: str) -> None:
    """Every method, a user's too, declares what the launcher understands."""
    assert declaration(name).STREAMS


@pytest.mark.parametrize("name", names("ifl/models/[!_]*.py"))
def test_every_models_forms_are_legal(name: str) -> None:
    """Every model, a user's too, says forms that there are."""
    assert "twin" in model_forms(name)


@pytest.mark.full
def test_a_users_files_turn_no_test_red(tmp_path: Path) -> None:
    """In a copy of the project with a user's recipes, data file, table, method and model all affected tests pass."""
    copy = tmp_path / "project"
    for folder in ("recipes", "sharding", "ifl", "slurm", "analysis", "tests", "docs", "examples", ".ci"):
        shutil.copytree(PROJECT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in PROJECT.iterdir():
        if file.is_file() and file.name != ".git":
            shutil.copy(file, copy)
    (copy / ".venv").symlink_to(PROJECT / ".venv")
    for file_name, text in OWN.items():
        (copy / file_name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in AFFECTED)],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=600,
        env={key: value for key, value in os.environ.items() if key != "CI"} | {"PYTHONPATH": str(copy)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
