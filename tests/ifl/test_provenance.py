"""What a run notes of values that lie outside of the project."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ifl.saving import run_facts
from recipes.layers import noted
from recipes.noted import noted_in
from recipes.resolve import resolve
from sharding.format.dataset import Dataset

GROUPS = {"thirds": [0, 1, 2], "shots": [0, 0, 2]}


def facts(**meta: Any) -> dict[str, Any]:
    dataset = SimpleNamespace(meta=meta, editions={"glt": {"val": "glt/val", "train": "glt/train"}})
    return run_facts.of_the_data(cast(Dataset, dataset))


def test_a_run_notes_what_its_data_say() -> None:
    """Splits always, and the groupings where dataset.json has them."""
    splits = {"editions": {"glt": ["train", "val"]}}
    assert facts(notes={"seed": 0}) == facts() == splits
    assert facts(notes={"groups": GROUPS}) == splits | {"groups": GROUPS}


def test_a_run_notes_recipes_of_a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of its recipe's file, and of its first stage's, where they lie in GLT_PATH; and none of the project's.
    What it notes is what `noted_in` reads.
    """
    recipe = resolve(["recipe=glt_crt", "data=digits_glt"])
    assert run_facts.own_recipes(recipe) == {}
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "theirs.yaml").write_text("method: {name: ce}\noptim: {lr: 0.3}\n")
    monkeypatch.setenv("GLT_PATH", str(tmp_path))
    values = {"theirs": {"method": {"name": "ce"}, "optim": {"lr": 0.3}}}
    recipe.method.init_from = "theirs-digits_glt-glt-s0-01234567"
    assert run_facts.own_recipes(recipe) == {"recipe_values": values}
    assert run_facts.own_recipes(recipe.model_copy(update={"recipe": "theirs"})) == {"recipe_values": values}
    of_data = noted("digits_glt", {"values": {"optim": {"lr": 0.2}}, "kind": "small"})
    read = noted_in({**run_facts.own_recipes(recipe), **of_data}, {"train": "glt"})
    assert (read.recipes, read.values, read.kind) == (values, {"optim": {"lr": 0.2}}, "small")


@pytest.mark.parametrize(
    "wrong", [{"data_values": 3}, {"data_values": {"lr": 1}}, {"recipe_values": [1]}, {"data_kind": 1}]
)
def test_notes_of_another_shape_are_none(wrong: dict[str, Any]) -> None:
    """A meta.json that was edited costs the comparison and never a table."""
    read = noted_in({"class_counts": [3, "x"], **wrong}, {"train": "glt"})
    assert (read.values, read.kind, read.recipes, read.counts) == (None, None, {}, {})
