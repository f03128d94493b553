"""What a build says for recipes in dataset.json: the values that they start from, and the data set's kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes.common.errors import DataError
from sharding.format.dataset import digest_of, read_dataset
from tests.helpers import toy
from tests.helpers.toy import described

VALUES = {"data": {"image_size": 32, "mean": [0.1, 0.2, 0.3]}, "schedule": {"epochs": 60}}


def test_values_and_kind_are_kept_and_optional(tmp_path: Path) -> None:
    """dataset.json holds the values and the kind as given, under its digest and not its fingerprint; without them it
    has the bytes of before.
    """
    folder = toy.build(tmp_path)
    before = (folder / "dataset.json").read_bytes()
    assert not {"values", "kind"} & json.loads(before).keys()
    meta = described(tmp_path, values=VALUES, kind="small")
    assert (meta["values"], meta["kind"]) == (VALUES, "small")
    assert meta["fingerprint"] == json.loads(before)["fingerprint"] and meta["digest"] != json.loads(before)["digest"]
    assert read_dataset(tmp_path, "toy").meta == meta
    described(tmp_path)
    assert (folder / "dataset.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"values": [1]}, "values=[1] is not legal"),
        ({"values": {"slurm": {}}}, "values.slurm is not legal"),
        ({"values": {"data": 3}}, "values.data=3 is not legal"),
        ({"values": {"data": {"root": "/elsewhere"}}}, "values.data.root is not legal"),
        ({"kind": "tiny"}, "kind='tiny' is not legal"),
    ],
)
def test_values_that_are_none_are_named(tmp_path: Path, more: dict[str, object], said: str) -> None:
    """A dataset.json whose values or kind are not legal is refused by the reader, with the key."""
    path = toy.build(tmp_path) / "dataset.json"
    meta = json.loads(path.read_text()) | more
    path.write_text(json.dumps({**meta, "digest": digest_of({k: meta[k] for k in meta if k != "digest"})}))
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path, "toy")
    assert said in str(caught.value) and str(path) in str(caught.value)
